// The one script of the annotation app: keys, drafts, sending that survives a lost network. No library, no build step.

const API = "/api/v1";
const RETRY_S = [1, 2, 5, 10, 30, 60];
const HEARTBEAT_MS = 60_000;
const IDLE_MS = 5 * 60_000;

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const PERSON = document.body.dataset.person; // what one person left here is not for the next
const stored = (key, otherwise) => {
  try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
};
const store = (key, value) => {
  try { value === null ? localStorage.removeItem(key) : localStorage.setItem(key, JSON.stringify(value)); } catch { /* private mode */ }
};

function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function say(text) {
  const banner = $("#banner");
  banner.textContent = text;
  banner.hidden = !text;
}

// --- Sending: an answer waits here until the server has acknowledged it --------------------------------

class NoNetwork extends Error {}

async function post(path, body) {
  let response;
  try {
    response = await fetch(API + path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), redirect: "error",
    });
  } catch {
    throw new NoNetwork();
  }
  if (response.status >= 500 || response.status === 429) throw new NoNetwork();
  const content = await response.json().catch(() => null);
  if (response.ok && content !== null) return content;
  if (!content?.error?.reason) throw new NoNetwork(); // a proxy or a sign-in page of somebody else answered
  const error = new Error(content.error.reason);
  error.status = response.status;
  throw error;
}

const OUTBOX = `outbox:${PERSON}`;
const REFUSED = `refused:${PERSON}`; // said on the next page, too
const outbox = () => stored(OUTBOX, []);
const queue = (verdict) => store(OUTBOX, [...outbox().filter((kept) => kept.client_id !== verdict.client_id), verdict]);
const acknowledged = (verdict) => store(OUTBOX, outbox().filter((kept) => kept.client_id !== verdict.client_id));

async function send(verdict) {
  const receipt = await post("/judgements", verdict);
  if (!Number.isInteger(receipt.seq)) throw new NoNetwork();
  acknowledged(verdict);
  return receipt;
}

let tries = 0;
let retrying = null;
let leaving = false; // signing out: nothing else may lead to another page now

async function flush() {
  clearTimeout(retrying);
  for (const verdict of outbox()) {
    try {
      await send(verdict);
      tries = 0;
    } catch (error) {
      if (error instanceof NoNetwork || error.status === 401) {
        const waiting = outbox().length;
        say(error.status === 401
          ? `You are signed out. ${waiting} answer(s) wait here and are sent once you have signed in again.`
          : `No connection. ${waiting} answer(s) wait here and are sent when it is back.`);
        retrying = setTimeout(flush, 1000 * RETRY_S[Math.min(tries++, RETRY_S.length - 1)]);
        return false;
      }
      acknowledged(verdict); // refused for good: said, and not sent for ever
      store(REFUSED, error.message);
    }
  }
  return true;
}

// --- The item -------------------------------------------------------------------------------------------

function startWork(work) {
  const { item, kind, revises, calibration } = work.dataset;
  const form = $("[data-verdict]", work);
  const confirm = $("[data-confirm]", work);
  const draftKey = `draft:${PERSON}:${item}:${revises}`;
  const channel = "BroadcastChannel" in window ? new BroadcastChannel("prefloop") : null;
  let sent = false;
  let active = Date.now();
  let focused = null;

  const ranks = () => $$("[data-rank]", work);
  const edits = () => Object.fromEntries($$("[data-edit]", work)
    .filter((area) => area.value !== area.dataset.original && area.value.trim())
    .map((area) => [area.dataset.edit, area.value]));
  const objectives = () => Object.fromEntries($$("[data-objective]", work)
    .map((set) => [set.dataset.objective, $("input:checked", set)?.value]).filter(([, value]) => value));
  const strength = () => $("input[name=strength]:checked", form)?.value;

  function tiers() {
    const places = new Map();
    for (const select of ranks()) {
      if (select.value) places.set(+select.value, [...(places.get(+select.value) ?? []), +select.dataset.rank]);
    }
    return [...places.keys()].sort((a, b) => a - b).map((place) => places.get(place));
  }

  const complete = () => (kind === "ranking" ? tiers().length > 0 : strength() !== undefined);

  function verdict(changes = {}) {
    const base = {
      client_id: uuid(), item_id: item, kind: kind === "ranking" ? "ranking" : "choice",
      objectives: objectives(), comment: $("#comment").value, edits: edits(),
    };
    if (kind === "ranking") base.ranking = tiers(); else base.strength = +strength();
    if (revises) base.revises = +revises;
    return { ...base, ...changes };
  }

  function draft() {
    const areas = Object.fromEntries($$("[data-edit]", work).map((area) => [area.dataset.edit, area.value]));
    store(draftKey, {
      strength: strength(), ranks: ranks().map((select) => select.value), areas, comment: $("#comment").value,
      reading: $("#reading").value, objectives: objectives(), at: Date.now(),
    });
  }

  function restore() {
    const kept = stored(draftKey, null);
    if (!kept) return;
    const radio = kept.strength !== undefined && $(`input[name=strength][value="${+kept.strength}"]`, form);
    if (radio) radio.checked = true;
    ranks().forEach((select, i) => { select.value = kept.ranks?.[i] ?? ""; });
    for (const area of $$("[data-edit]", work)) {
      const text = kept.areas?.[area.dataset.edit];
      if (typeof text === "string" && text !== area.value) {
        area.value = text;
        area.closest("details").open = true;
      }
    }
    for (const set of $$("[data-objective]", work)) {
      for (const input of $$("input", set)) input.checked = kept.objectives?.[set.dataset.objective] === input.value;
    }
    $("#reading").value = kept.reading ?? $("#reading").value;
    if (kept.comment) {
      $("#comment").value = kept.comment;
      $("#comment").closest("details").open = true;
    }
  }

  function refresh() {
    confirm.disabled = sent || !complete();
    const error = $("[data-error]", form);
    error.hidden = true;
  }

  async function submit(changes) {
    if (sent) return;
    sent = true;
    refresh();
    const body = changes ? { ...bare(), ...changes } : verdict();
    queue(body); // kept before it is sent: a closed tab or a lost network loses nothing
    try {
      const receipt = await send(body);
      store(draftKey, null);
      channel?.postMessage({ judged: item });
      if (receipt.feedback && calibration) explain(receipt.feedback); else location.assign("/judge");
    } catch (error) {
      if (error instanceof NoNetwork || error.status === 401) {
        await waitForNetwork();
        return;
      }
      acknowledged(body);
      sent = false;
      refresh();
      const place = $("[data-error]", form);
      place.textContent = error.message;
      place.hidden = false;
    }
  }

  function reading(button) { // kept in place of a comment
    const texts = [$("#reading").value, $("#comment").value].filter((text) => text.trim());
    return button.dataset.reason === "ambiguous" ? { comment: texts.join("\n\n") } : {};
  }

  function bare() {
    const base = { client_id: uuid(), item_id: item, comment: $("#comment").value };
    return revises ? { ...base, revises: +revises } : base;
  }

  async function waitForNetwork() {
    confirm.textContent = "Waiting for the connection";
    if (await flush()) location.assign("/judge");
    else setTimeout(async function again() {
      if (leaving) return;
      if (outbox().length === 0) location.assign("/judge"); else setTimeout(again, 300);
    }, 300);
  }

  async function tryOut(button) {
    const place = $(`[data-tried="${button.dataset.try}"]`, work);
    button.disabled = true;
    try {
      const found = await post(`/items/${item}/run`, { text: $(`[data-edit="${button.dataset.try}"]`, work).value });
      place.replaceChildren(...resultTable(found));
    } catch (error) {
      place.replaceChildren(element("p", error.message || "The server does not answer.", "result error"));
    }
    button.disabled = false;
  }

  function explain(feedback) {
    const panel = $("[data-feedback]", work);
    const title = document.createElement("h2");
    title.className = feedback.right ? "good" : "error";
    title.textContent = feedback.right ? "As expected." : "The project sees it otherwise.";
    const text = document.createElement("p");
    text.textContent = feedback.explanation || "";
    const next = document.createElement("button");
    next.className = "primary";
    next.textContent = "Next";
    next.addEventListener("click", () => location.assign("/judge"));
    panel.replaceChildren(title, text, next);
    panel.hidden = false;
    form.hidden = true;
    next.focus();
  }

  const back = () => location.assign(revises ? `/judge/last?before=${revises}` : "/judge/last");

  function choose(article) {
    focused?.classList.remove("chosen");
    focused = article;
    focused?.classList.add("chosen");
    focused?.focus();
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const typing = event.target.closest("textarea, select, input:not([type=radio])");
    if (event.key === "Escape" && typing) { typing.blur(); return; }
    if (typing) return;
    const skipping = $("[data-skip]", form).open;
    const pressed = event.key.toLowerCase();
    if (skipping && /^[1-3]$/.test(pressed)) $$("[data-reason]", form)[pressed - 1].click();
    else if (kind === "pairwise" && /^[0-5]$/.test(pressed)) {
      const radio = $(`input[name=strength][value="${pressed}"]`, form);
      radio.checked = true;
      radio.focus({ preventScroll: true });
      draft();
      refresh();
    } else if (kind === "ranking" && /^[a-i]$/.test(pressed) && !skipping && $$(".answer", work)["abcdefghi".indexOf(pressed)]) {
      choose($$(".answer", work)["abcdefghi".indexOf(pressed)]);
    } else if (kind === "ranking" && focused && /^[0-9]$/.test(pressed)) {
      const select = $("[data-rank]", focused);
      select.value = pressed === "0" ? "" : pressed;
      draft();
      refresh();
    } else if (pressed === "enter" && !event.target.closest("a, button, summary") && complete()) submit();
    else if (pressed === "backspace") back();
    else if (pressed === "s") $("[data-skip]", form).open = !skipping;
    else if (pressed === "c" && kind === "pairwise" || pressed === "#") {
      $("#comment").closest("details").open = true;
      $("#comment").focus();
    } else return;
    event.preventDefault();
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); if (complete()) submit(); });
  for (const name of ["input", "change"]) work.addEventListener(name, () => { draft(); refresh(); });
  for (const button of $$("[data-reason]", form)) {
    button.addEventListener("click", () => submit({ kind: "skip", reason: button.dataset.reason, ...reading(button) }));
  }
  for (const button of $$("[data-try]", work)) button.addEventListener("click", () => tryOut(button));
  $("[data-back]", form).addEventListener("click", back);
  $("[data-withdraw]", form)?.addEventListener("click", () => submit({ kind: "withdrawn" }));
  document.addEventListener("keydown", key);
  for (const name of ["keydown", "pointerdown", "scroll"]) document.addEventListener(name, () => { active = Date.now(); }, { passive: true });
  channel?.addEventListener("message", ({ data }) => {
    if (data.judged === item && !sent && !revises) {
      say("You have judged this item in another tab.");
      sent = true;
      refresh();
      setTimeout(() => location.assign("/judge"), 1500);
    }
  });
  if (!revises) setInterval(() => {
    if (Date.now() - active < IDLE_MS) post(`/items/${item}/renew`, {}).catch(() => {});
  }, HEARTBEAT_MS);
  restore();
  refresh();
  suggestBreak(+work.dataset.break);
}

function element(name, text, style = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = style;
  return made;
}

// As the server draws the results of the answers; cells are hostile text.
function resultTable({ columns, rows, count, error }) {
  if (error) return [element("p", error, "result error")];
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of columns) head.append(element("th", name));
  const body = table.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    for (const cell of cells) {
      const place = row.insertCell();
      place.className = typeof cell === "number" ? "number" : "";
      place.append(cell === null ? element("span", "NULL", "null") : `${cell}`);
    }
  }
  const said = `${count} ${count === 1 ? "row" : "rows"}${rows.length < count ? `, the first ${rows.length} shown` : ""}`;
  const box = element("div", "", "result");
  box.append(table, element("p", said, "count"));
  return [box];
}

function suggestBreak(minutes) {
  const now = Date.now();
  const last = stored("seen", 0);
  if (now - last > 15 * 60_000) store("began", now);
  store("seen", now);
  if (minutes && now - stored("began", now) > minutes * 60_000) {
    say(`You have worked for more than ${minutes} minutes. A short break keeps verdicts sharp.`);
  }
}

// --- Other pages ----------------------------------------------------------------------------------------

function startJoin(form) {
  const token = location.hash.slice(1);
  if (token) {
    form.token.value = token;
    form.token.closest("label").hidden = true;
    history.replaceState(null, "", location.pathname); // the invitation does not stay in the address bar
    if ("alone" in form.dataset) form.requestSubmit();
  }
}

// Signing out leaves nothing of this person in the browser, and throws nothing unsent away unasked.
function startSignOut(form) {
  let asked = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (outbox().length && !asked && !(await flush())) {
      asked = true;
      say(`${outbox().length} answer(s) could not be sent yet. Sign out once more to throw them away.`);
      return;
    }
    leaving = true;
    clearTimeout(retrying);
    for (const key of Object.keys(localStorage)) {
      if (key.includes(`:${PERSON}`) || key === "seen" || key === "began") store(key, null);
    }
    form.submit();
  });
}

const work = $(".work");
const join = $("[data-join]");
const nothing = $("[data-nothing]");
if (work) startWork(work);
if (join) startJoin(join);
if (nothing?.dataset.nothing === "held") setTimeout(() => location.reload(), 15_000);
if ($("[data-live]")) {
  setInterval(() => { // not under somebody's hands
    if (!$("details[open]") && !document.activeElement.closest("form")) location.reload();
  }, 20_000);
}
if (PERSON && stored(REFUSED, "")) {
  say(`An answer was not taken: ${stored(REFUSED, "")}`);
  store(REFUSED, null);
}
if (PERSON) startSignOut($("form[action='/logout']"));
if (PERSON) window.addEventListener("online", flush);
if (PERSON && outbox().length) flush().then((empty) => { if (empty && work) location.reload(); });
document.documentElement.dataset.ready = "yes";
