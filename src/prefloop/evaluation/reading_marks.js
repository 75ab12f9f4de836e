"use strict";
// What the reader marked, kept in this browser's storage where it gives any, else in the open page; and how often the
// judge agrees.

const { page, names, rows } = JSON.parse(document.getElementById("data").textContent);
const KEPT = `prefloop-reading-${page}`;
const ORDER = ["a", "tie", "b"];
const marks = new Map(); // id -> { choice: "a" | "b" | "tie", left: "a" | "b", seen: the verdict was known before }
const seen = new Set(); // ids whose verdict this reader has seen
const notice = (text) => (document.getElementById("kept").textContent = ` ${text}`);

const remember = () => {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ marks: [...marks], seen: [...seen] }));
    notice("Your marks stay in this browser.");
  } catch {
    notice("This browser keeps nothing: download your marks before you close the page.");
  }
};

const recall = () => {
  const ids = new Set(rows.map((row) => row.id));
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    for (const [id, mark] of found.marks ?? []) if (ids.has(id) && ORDER.includes(mark.choice)) marks.set(id, mark);
    for (const id of found.seen ?? []) if (ids.has(id)) seen.add(id);
  } catch {
    notice("Earlier marks, if any, could not be read.");
  }
};

const agrees = (row) => (row.verdict === "unscored" ? null : marks.get(row.id).choice === row.verdict);

// Reader (lines) by judge (columns), each a, tie, b; without what was marked after its verdict had been seen.
const agreementCounts = () => {
  const marked = rows.filter((row) => marks.has(row.id));
  const fair = marked.filter((row) => !marks.get(row.id).seen);
  const both = fair.filter((row) => row.verdict !== "unscored");
  const table = ORDER.map((mine) =>
    ORDER.map((theirs) => both.filter((row) => marks.get(row.id).choice === mine && row.verdict === theirs).length),
  );
  const decided = fair.map((row) => marks.get(row.id)).filter((mark) => mark.choice !== "tie");
  const left = decided.filter((mark) => mark.choice === mark.left).length;
  return { marked: marked.length, fair: fair.length, both: both.length, table, decided: decided.length, left };
};

const sum = (values) => values.reduce((total, value) => total + value, 0);

// Share, Wilson's 95% interval and Cohen's kappa (null where chance alone would agree always).
const agreementFigures = (n, table) => {
  const same = sum(table.map((line, i) => line[i]));
  const p = same / n, zz = 1.959964 ** 2;
  const middle = (p + zz / (2 * n)) / (1 + zz / n);
  const reach = Math.sqrt((zz * p * (1 - p)) / n + (zz / (2 * n)) ** 2) / (1 + zz / n);
  const chance = sum(table.map((line, i) => sum(line) * sum(table.map((other) => other[i])))) / n ** 2;
  return { same, p, low: middle - reach, high: middle + reach, kappa: chance < 1 ? (p - chance) / (1 - chance) : null };
};

const agreementText = (n, table) => {
  if (!n) return "None of your marks can be held against the judge yet.";
  const { same, p, low, high, kappa } = agreementFigures(n, table);
  const beyond = kappa === null ? "" : `, Cohen's κ\u00a0${figure(Number(kappa.toFixed(2)))}`;
  return `The judge agreed with you on ${same} of ${counted(n, "item")}: ${share(p)} (95% interval ${share(low)} to ${share(high)}${beyond}).`;
};

const agreementNotes = ({ marked, fair, both, decided, left }) =>
  [
    `${marked} of ${counted(rows.length, "item")} marked.`,
    decided && `You chose the left answer in ${left} of ${decided}.`,
    fair > both && `${fair - both} left out: the judge could not score them.`,
    marked > fair && `${marked - fair} left out: you had seen the verdict before you marked them.`,
  ].filter(Boolean).join(" ");

const markLine = (row, i) => {
  const mark = marks.get(row.id);
  const judged = { judge: row.verdict, inconsistent: row.inconsistent, agreed: agrees(row) };
  const marked = { reader: mark.choice, left: mark.left, verdict_seen_before: mark.seen };
  return `${JSON.stringify({ id: row.id, item: i + 1, prompt: row.prompt, ...names, ...marked, ...judged })}\n`;
};

const download = () => {
  const lines = rows.flatMap((row, i) => (marks.has(row.id) ? [markLine(row, i)] : []));
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  link.download = `marks-${page}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
