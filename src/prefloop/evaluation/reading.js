"use strict";
// One item at a time, its two answers side by side. #item=3&verdict=tie&blind behind the address opens that state.

const LISTED = 50;
const $ = (id) => document.getElementById(id);
const filters = ["words", "verdict", "category", "length", "marked"].map($);
const telling = new Map([...document.querySelectorAll("option.open")].map((option) => [option, option.textContent]));
const other = { a: "b", b: "a" };
let fits = []; // indices of the rows that the filters let through
let at = 0; // place in fits
let blind = false, flipped = false, listed = LISTED;

const say = (text) => ($("status").textContent = text);
const kind = (row) => (row.verdict !== "unscored" && row.inconsistent ? "inconsistent" : row.verdict);
const leftOf = (row) => (flipped !== (blind && row.swapped) ? "b" : "a");
const VERDICTS = { tie: "tie", inconsistent: "orders disagree", unscored: "unscored" };
const verdictText = (row) => VERDICTS[kind(row)] ?? `${names[row.verdict]} wins`;

// Filters

let texts = null; // lower-cased once, at the first search
const holds = (i, words) => {
  texts ??= rows.map((row) => [...row.prompt.map((turn) => turn.content), row.a, row.b].join("\n").toLowerCase());
  return words.every((word) => texts[i].includes(word));
};
const PASSES = {
  words: (row, value, i) => holds(i, value.toLowerCase().split(/\s+/).filter(Boolean)),
  verdict: (row, value) => kind(row) === value,
  category: (row, value) => row.category === value,
  length: ({ tokens: { a, b } }, value) =>
    ({ longer: b > a, shorter: b < a, apart: a !== b && Math.max(a, b) >= 1.5 * Math.min(a, b) })[value],
  marked: (row, value) =>
    ({ no: !marks.has(row.id), yes: marks.has(row.id), disagreed: marks.has(row.id) && agrees(row) === false })[value],
};

const select = () => {
  const current = fits[at];
  const asked = filters.filter((field) => field.value.trim());
  const all = [...rows.keys()];
  fits = all.filter((i) => asked.every((field) => PASSES[field.id](rows[i], field.value, i)));
  at = Math.max(0, fits.indexOf(current));
  show();
};

// A filter that would tell which side is which is let go where blind mode begins.
const conceal = () => {
  for (const field of filters) if (blind && field.selectedOptions?.[0].classList.contains("open")) field.value = "";
};

// The item

const tags = (row) => {
  const found = [element("span", "tag", spelled(row.category))];
  if (row.a === row.b) found.push(element("span", "tag", "same text"));
  if (blind) return found;
  found.push(element("span", "badge", verdictText(row)));
  if (row.probability !== null && row.probability !== 0.5) {
    const likelier = row.probability >= 0.5 ? "b" : "a";
    const value = Math.max(row.probability, 1 - row.probability);
    found.push(element("span", "tag", `the judge gives ${names[likelier]} ${share(value)}`));
  }
  const mark = marks.get(row.id);
  const known = { true: " (agreed)", false: " (disagreed)" };
  if (mark) found.push(element("span", "tag", `you: ${names[mark.choice] ?? "tie"}${known[agrees(row)] ?? ""}`));
  return found;
};

const turn = ({ role, content }, _, all) => {
  const node = element("div", "turn"), body = element("div");
  if (all.length > 1 || role !== "user") node.append(element("p", "role", spelled(role)));
  node.append(body);
  fill(body, content);
  return node;
};

const side = (row, where, model) => {
  const node = $(where), badge = $(`${where}-badge`);
  const marked = blind && marks.get(row.id)?.choice === model;
  node.dataset.side = blind ? "" : model;
  node.classList.toggle("marked", marked);
  $(`${where}-name`).textContent = blind ? `Answer ${where === "left" ? 1 : 2}` : names[model];
  const tokens = row.tokens[model];
  $(`${where}-tokens`).textContent = tokens ? counted(tokens, "token") : ""; // answers from elsewhere have none
  badge.hidden = !marked && (blind || kind(row) !== model);
  badge.textContent = marked ? "✓ your choice" : "✓ the judge's choice";
  fill($(`${where}-text`), row[model]);
};

const line = (label, values) => {
  const made = element("tr"), head = element("th", "model", label);
  head.scope = "row";
  made.append(head, ...values.map(([text, className]) => element("td", className, text)));
  return made;
};

const scores = (row, left) => {
  $("scores").hidden = blind || !row.scores.length;
  if ($("scores").hidden) return;
  const right = other[left];
  $("scores").querySelector("summary").textContent = `Scores (${row.scores.length})`;
  $("left-head").textContent = names[left];
  $("right-head").textContent = names[right];
  const strong = (score, model) => (score[model] !== null && score[model] > (score[other[model]] ?? Infinity) ? "n more" : "n");
  const lines = row.scores.map((score) => line(spelled(score.name), [left, right].map((model) => [figure(score[model]), strong(score, model)])));
  $("scores").querySelector("tbody").replaceChildren(...lines);
};

const pressed = (row, left) => {
  const choice = marks.get(row.id)?.choice;
  const chosen = { [left]: "left", [other[left]]: "right", tie: "tie" }[choice];
  for (const button of document.querySelectorAll("[data-mark]")) button.setAttribute("aria-pressed", String(button.dataset.mark === chosen));
};

const item = (row) => {
  const left = leftOf(row);
  $("place").textContent = `Item ${fits[at] + 1}`;
  $("tags").replaceChildren(...tags(row));
  $("prompt").replaceChildren(...row.prompt.map(turn));
  side(row, "left", left);
  side(row, "right", other[left]);
  scores(row, left);
  pressed(row, left);
  if (!blind) learn([row]);
};

const learn = (shown) => {
  const before = seen.size;
  for (const row of shown) seen.add(row.id);
  if (seen.size > before) remember();
};

// The rest of the page

const modes = () => {
  for (const node of document.querySelectorAll(".open")) node.hidden = blind;
  for (const [option, label] of telling) {
    option.disabled = blind; // some browsers show hidden options
    option.textContent = blind ? "not while blind" : label;
  }
  for (const node of document.querySelectorAll(".concealed")) node.hidden = !blind;
  document.title = blind ? "Blind reading" : document.querySelector("h1.open").textContent;
  $("blind").setAttribute("aria-pressed", String(blind));
  $("flip").setAttribute("aria-pressed", String(flipped));
  $("clear").hidden = !filters.some((field) => field.value);
};

const moves = (row) => {
  $("item").hidden = $("list").hidden = !row;
  $("none").hidden = Boolean(row);
  $("none").textContent = rows.length ? "No item passes these filters." : "There is nothing to read: no prompt was answered by both.";
  $("count").textContent = row ? `${(at + 1).toLocaleString("en")} of ${fits.length.toLocaleString("en")}` : "0 of 0";
  $("previous").disabled = !row || at === 0;
  $("next").disabled = !row || at === fits.length - 1;
};

const agreement = () => {
  $("agreement").hidden = blind || !marks.size;
  if ($("agreement").hidden) return;
  const found = agreementCounts();
  $("agreed").textContent = agreementText(found.both, found.table);
  $("apart").textContent = agreementNotes(found);
  $("table").hidden = !found.both;
  const lines = found.table.map((counts, i) => line(names[ORDER[i]] ?? "tie", counts.map((n, j) => [n, i === j ? "n same" : "n"])));
  $("table").querySelector("tbody").replaceChildren(...lines);
};

const listLine = (i, n) => {
  const made = element("li"), button = element("button");
  const asked = spelled((rows[i].prompt.at(-1)?.content ?? "").slice(0, 200));
  const known = blind ? (marks.has(rows[i].id) ? "marked" : "") : verdictText(rows[i]);
  button.type = "button";
  button.append(element("span", "soft", i + 1), element("span", "model", asked), element("span", "tag", known));
  button.setAttribute("aria-current", String(n === at));
  button.addEventListener("click", () => {
    go(n);
    $("place").focus();
    $("item").scrollIntoView();
  });
  made.append(button);
  return made;
};

const list = () => {
  if (!$("list").open) return;
  const shown = fits.slice(0, listed);
  $("list").querySelector("ol").replaceChildren(...shown.map(listLine));
  $("more").hidden = listed >= fits.length;
  if (!blind) learn(shown.map((i) => rows[i]));
};

const show = () => {
  const row = rows[fits[at]];
  modes();
  moves(row);
  if (row) item(row);
  agreement();
  list();
  address(row);
};

// What the reader does

const go = (where) => {
  if (where < 0 || where >= fits.length) return;
  at = where;
  show();
  const { top } = $("item").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) $("item").scrollIntoView();
  const row = rows[fits[at]];
  const known = blind ? (marks.has(row.id) ? "marked" : "not marked") : verdictText(row);
  say(`Item ${fits[at] + 1}, ${at + 1} of ${fits.length}: ${known}.`);
};

const choose = (where) => {
  const row = rows[fits[at]];
  if (!blind || !row) return;
  const left = leftOf(row);
  const choice = { left, right: other[left], tie: "tie" }[where];
  const again = marks.get(row.id)?.choice === choice;
  if (again) marks.delete(row.id);
  else marks.set(row.id, { choice, left, seen: seen.has(row.id) });
  remember();
  show();
  say(again ? "Mark taken back." : { left: "Marked: answer 1 is better.", right: "Marked: answer 2 is better.", tie: "Marked: tie." }[where]);
};

const toggleBlind = () => {
  blind = !blind;
  conceal();
  select();
  say(`Blind mode is ${blind ? "on" : "off"}. ${$("agreement").hidden ? "" : $("agreed").textContent}`);
  scrollTo(0, 0);
};

const toggleFlip = () => {
  flipped = !flipped;
  show();
  say("Sides flipped.");
};

const forget = () => {
  if (!confirm(`Delete ${counted(marks.size, "mark")}?`)) return;
  marks.clear();
  remember();
  select();
};

const clear = () => {
  for (const field of filters) field.value = "";
  select();
  $("words").focus();
};

// The address holds the state, so that a view can be linked to and opened.

const address = (row) => {
  const state = new URLSearchParams();
  if (row) state.set("item", fits[at] + 1);
  for (const field of filters) if (field.value) state.set(field.id, field.value);
  history.replaceState(null, "", `#${[String(state), flipped && "flip", blind && "blind"].filter(Boolean).join("&")}`);
};

const restore = () => {
  const asked = new URLSearchParams(location.hash.slice(1));
  blind = asked.has("blind");
  flipped = asked.has("flip");
  for (const field of filters) {
    field.value = asked.get(field.id) ?? "";
    if (field.selectedIndex < 0) field.value = "";
  }
  conceal();
  fits = [Number(asked.get("item") ?? 1) - 1];
  at = 0;
  select();
};

const previous = () => go(at - 1);
const next = () => go(at + 1);
const KEYS = {
  j: next, ArrowRight: next, k: previous, ArrowLeft: previous, f: toggleFlip, b: toggleBlind, "/": () => $("words").focus(),
  1: () => choose("left"), 2: () => choose("right"), 0: () => choose("tie"),
};

const press = (event) => {
  if (event.key === "Escape" && document.activeElement === $("words")) $("words").blur();
  const action = $("keys").checked && Object.hasOwn(KEYS, event.key) && KEYS[event.key];
  const typing = event.target.closest("input:not([type=checkbox]), select");
  if (!action || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat && action !== next && action !== previous) return;
  event.preventDefault();
  action();
};

const filtered = () => {
  listed = LISTED;
  select();
  say(`${fits.length} of ${counted(rows.length, "item")}.`);
};

const CLICKS = { previous, next, flip: toggleFlip, blind: toggleBlind, download, forget, clear };
for (const [id, action] of Object.entries(CLICKS)) $(id).addEventListener("click", action);
for (const button of document.querySelectorAll("[data-mark]")) button.addEventListener("click", () => choose(button.dataset.mark));
for (const node of document.querySelectorAll("[data-name]")) node.textContent = names[node.dataset.name];
for (const field of filters) field.addEventListener("input", filtered);
$("more").addEventListener("click", () => {
  listed += LISTED;
  list();
});
$("list").addEventListener("toggle", list);
document.addEventListener("keydown", press);
addEventListener("hashchange", restore);
recall();
restore();
