"use strict";
// Puts what a model wrote on the page: as text, never as markup; long texts behind a button.

const LONG = 5000, LINES = 120;

const element = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// Control and format characters, which hide or reorder others, are spelled out; joiners and direction marks, which
// emoji and right-to-left scripts are written with, are not.
const spelled = (text) =>
  text
    .replace(/\r\n/g, "\n")
    .replace(/(?![\n\t\u200c-\u200f])[\p{Cc}\p{Cf}\p{Cs}]/gu, (found) => {
      const code = found.codePointAt(0).toString(16).toUpperCase();
      return `⟨U+${code.padStart(4, "0")}⟩`;
    });

// Prose and fenced code, in order.
const blocks = (text) => {
  const found = [{ lines: [] }];
  let fence = "";
  for (const line of text.split("\n")) {
    const [, mark, language] = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})\s*(\S*)/.exec(line) ?? [];
    if (!fence && mark) {
      fence = mark;
      found.push({ code: true, language, lines: [] });
    } else if (fence && mark?.startsWith(fence) && !language) {
      fence = "";
      found.push({ lines: [] });
    } else found.at(-1).lines.push(line);
  }
  return found.filter((block) => block.code || block.lines.some((line) => line.trim()));
};

const block = ({ code, language, lines }) => {
  if (!code) return element("p", "prose", lines.join("\n").replace(/^(\s*\n)+|\s+$/g, ""));
  const made = element("pre");
  if (language) made.dataset.language = language;
  made.append(element("code", "", lines.join("\n")));
  return made;
};

const beginning = (text) => {
  let end = Math.min(LONG, text.length);
  for (let line = 0, from = -1; line < LINES; line++) {
    from = text.indexOf("\n", from + 1);
    if (from < 0 || from > end) break;
    if (line === LINES - 1) end = from;
  }
  return text.slice(0, end).replace(/[\ud800-\udbff]$/, ""); // not half of a pair
};

const fill = (node, text) => {
  const body = element("div", "text");
  node.replaceChildren(body);
  if (!text.trim()) {
    body.append(element("p", "void", text ? `only white space (${text.length} characters)` : "empty"));
    return;
  }
  const whole = spelled(text), short = beginning(whole);
  const put = (shown) => body.replaceChildren(...blocks(shown).map(block));
  put(short);
  if (short.length === whole.length) return;
  const label = `Show all ${whole.length.toLocaleString("en")} characters`;
  const button = element("button", "", label);
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "false";
    put(open ? whole : short);
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Show less" : label;
  });
  node.append(button);
};

const figure = (value) =>
  value === null ? "–" : String(Math.abs(value) >= 1000 ? Math.round(value) : Number(value.toFixed(3))).replace("-", "−");
const share = (value) => `${(100 * value).toFixed(0)}%`;
const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
