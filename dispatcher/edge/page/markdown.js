// A small, safe part of Markdown, as it arrives: paragraphs, headings, lists, quotes, code, bold, italic. A link is
// shown with where it leads and is none. Elements are made one by one and hold text: nothing here reads markup.

import { button, element } from "./elements.js";

const FENCE = /^ {0,6}(`{3,}|~{3,})[ \t]*([\w+#.-]*)/;
// With `s`, so that what follows the spaces always fits: else each of many spaces would be tried as the last one.
const ITEM = /^( *)([-*+]|\d{1,9}[.)])[ \t]+(.*)$/s;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/s;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTED = /^ {0,3}> ?/;
const DEPTH_MAX = 6;
// Of unfinished text this long, redrawing waits a little between two times.
const LONG_CHARS = 20_000;
const LONG_MS = 250;

// Text that grows. What is finished stays as it is; only the last block is made again.
export class Prose {
  #box;
  #tail = "";
  #open = [];
  #drawnAt = 0;
  #finished;

  // `finished` is told each block's text once it is whole.
  constructor(finished = () => {}) {
    this.#finished = finished;
    this.#box = element("div", { class: "prose" });
  }

  get box() {
    return this.#box;
  }

  append(text) {
    this.#tail += text;
  }

  // Whether all is shown; where not, it has to be called again.
  draw() {
    if (this.#tail.length > LONG_CHARS && performance.now() - this.#drawnAt < LONG_MS) return false;
    this.#drawnAt = performance.now();
    this.#settle(wholeUpTo(this.#tail));
    this.#open = made(this.#tail);
    this.#show(this.#open);
    return true;
  }

  finish() {
    this.#settle(this.#tail.length);
  }

  #settle(end) {
    this.#open.forEach((each) => each.remove());
    this.#open = [];
    if (end === 0) return;
    const whole = this.#tail.slice(0, end);
    this.#tail = this.#tail.slice(end);
    const blocks = made(whole);
    this.#show(blocks);
    if (blocks.length) this.#finished(blocks.map(spoken).join(" "));
  }

  #show(blocks) {
    // One by one: a call has room for so many arguments only.
    for (const block of blocks) this.#box.append(block);
  }
}

// As it is read out: code is better read where it stands.
function spoken(block) {
  return block.matches("figure") ? "A block of code." : block.textContent;
}

// Where the last block that nothing can change any more ends.
function wholeUpTo(text) {
  let whole = 0;
  let fence = "";
  let start = 0;
  for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", start)) {
    const line = text.slice(start, end);
    start = end + 1;
    if (fence) {
      if (closes(line, fence)) {
        fence = "";
        whole = start;
      }
    } else if (FENCE.test(line)) {
      fence = FENCE.exec(line)[1];
    } else if (!line.trim()) {
      whole = start;
    }
  }
  return whole;
}

function closes(line, fence) {
  const text = line.trim();
  return text.length >= fence.length && text === fence[0].repeat(text.length);
}

function made(text) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const [block, next] = FENCE.test(line)
      ? code(lines, at)
      : !line.trim()
        ? [null, at + 1]
        : HEADING.test(line)
          ? [heading(HEADING.exec(line)), at + 1]
          : RULE.test(line)
            ? [element("hr"), at + 1]
            : ITEM.test(line)
              ? list(lines, at)
              : QUOTED.test(line)
                ? quote(lines, at)
                : paragraph(lines, at);
    if (block) blocks.push(block);
    at = next;
  }
  return blocks;
}

function isParagraph(line) {
  return line.trim() && ![FENCE, HEADING, RULE, ITEM, QUOTED].some((other) => other.test(line));
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && isParagraph(lines[end])) end += 1;
  return [element("p", {}, inline(lines.slice(at, end).join("\n"))), end];
}

function heading([, signs, text]) {
  // Below the page's own.
  return element(`h${Math.min(6, signs.length + 2)}`, {}, inline(withoutClosing(text)));
}

// "A heading ##" is one of "A heading". By hand, as an expression would begin anew at each space.
function withoutClosing(text) {
  const signsEnd = endWithout(text, " ", text.length);
  const signsStart = endWithout(text, "#", signsEnd);
  const isClosed = signsStart < signsEnd && text[signsStart - 1] === " ";
  return isClosed ? text.slice(0, endWithout(text, " ", signsStart)) : text;
}

// Where `text` up to `end` ends without the signs that are its last.
function endWithout(text, sign, end) {
  let at = end;
  while (at > 0 && text[at - 1] === sign) at -= 1;
  return at;
}

function quote(lines, at) {
  let end = at;
  while (end < lines.length && QUOTED.test(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.replace(QUOTED, ""));
  return [element("blockquote", {}, element("p", {}, inline(text.join("\n")))), end];
}

function code(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], fence)) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  const label = language ? `Code, ${language}` : "Code";
  const block = element(
    "figure",
    { class: "code" },
    element("figcaption", {}, element("span", {}, language || "code"), copying(text)),
    element("pre", { tabindex: "0", role: "region", "aria-label": label }, element("code", {}, text)),
  );
  return [block, Math.min(lines.length, end + 1)];
}

function copying(text) {
  // Pages that came without TLS from another machine have no clipboard.
  if (!navigator.clipboard) return null;
  const copy = async (event) => {
    const pressed = event.currentTarget;
    try {
      await navigator.clipboard.writeText(text);
      pressed.textContent = "Copied";
    } catch {
      pressed.textContent = "Not allowed";
    }
  };
  return button("Copy", copy, { class: "quiet copy", "aria-label": "Copy the code" });
}

function list(lines, at) {
  const items = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const found = ITEM.exec(lines[end]);
    if (found) items.push({ indent: found[1].length, sign: found[2], text: found[3] });
    else if (isParagraph(lines[end])) items[items.length - 1].text += `\n${lines[end].trim()}`;
    else break;
  }
  return [nested(items, 0, items.length, 0), end];
}

function nested(items, from, to, depth) {
  const { sign, indent } = items[from];
  const isNumbered = /\d/.test(sign);
  const box = element(isNumbered ? "ol" : "ul", isNumbered ? { start: parseInt(sign, 10) } : {});
  let at = from;
  while (at < to) {
    let end = at + 1;
    if (depth < DEPTH_MAX) while (end < to && items[end].indent > indent + 1) end += 1;
    const item = element("li", {}, inline(items[at].text));
    if (end > at + 1) item.append(nested(items, at + 1, end, depth + 1));
    box.append(item);
    at = end;
  }
  return box;
}

// --- within a block --------------------------------------------------------------------------------------------------

const SPECIAL = /[\\`*_[]/g;

function inline(text, depth = 0) {
  const nodes = [];
  // What was looked for, from where, and where it is, so that no text of many openings is searched for each of them.
  const sought = new Map();
  let plain = 0;
  SPECIAL.lastIndex = 0;
  for (let found = SPECIAL.exec(text); found; found = SPECIAL.exec(text)) {
    const at = found.index;
    const [node, end] = span(text, at, depth, sought);
    SPECIAL.lastIndex = end;
    if (node === null) continue;
    if (at > plain) nodes.push(text.slice(plain, at));
    nodes.push(node);
    plain = end;
  }
  if (plain < text.length) nodes.push(text.slice(plain));
  return nodes;
}

// What begins at `at`, and where it ends; null where it is only text.
function span(text, at, depth, sought) {
  const sign = text[at];
  if (sign === "\\") {
    const isEscape = /[\\`*_[\](){}#+.!>~-]/.test(text[at + 1] || "");
    return isEscape ? [text[at + 1], at + 2] : [null, at + 1];
  }
  if (sign === "`") return ticks(text, at, sought);
  if (depth >= DEPTH_MAX) return [null, at + 1];
  if (sign === "[") return link(text, at, sought);
  return emphasis(text, at, depth, sought);
}

function seek(text, what, from, sought) {
  const before = sought.get(what);
  if (before && from >= before.from && (before.found < 0 || from <= before.found)) return before.found;
  const found = text.indexOf(what, from);
  sought.set(what, { from, found });
  return found;
}

function ticks(text, at, sought) {
  let open = at;
  while (text[open] === "`") open += 1;
  const fence = text.slice(at, open);
  const end = seek(text, fence, open, sought);
  if (end < 0) return [null, open];
  const inner = text.slice(open, end).replaceAll("\n", " ");
  const isPadded = inner.startsWith(" ") && inner.endsWith(" ") && /[^ ]/.test(inner);
  return [element("code", {}, isPadded ? inner.slice(1, -1) : inner), end + fence.length];
}

function emphasis(text, at, depth, sought) {
  const sign = text[at];
  const mark = text[at + 1] === sign ? sign + sign : sign;
  const from = at + mark.length;
  const isWordInside = sign === "_" && /\w/.test(text[at - 1] || "");
  if (isWordInside || !text[from] || /\s/.test(text[from])) return [null, from];
  let end = seek(text, mark, from + 1, sought);
  // "*a **b** c*": the pair inside is no end.
  while (mark.length === 1 && end >= 0 && text[end + 1] === sign) end = seek(text, mark, end + 2, sought);
  const closesWord = sign === "_" && /\w/.test(text[end + mark.length] || "");
  if (end < 0 || /\s/.test(text[end - 1]) || closesWord) return [null, from];
  const inner = inline(text.slice(from, end), depth + 1);
  return [element(mark.length === 2 ? "strong" : "em", {}, inner), end + mark.length];
}

function link(text, at, sought) {
  const middle = seek(text, "](", at + 1, sought);
  const end = middle < 0 ? -1 : seek(text, ")", middle + 2, sought);
  const label = text.slice(at + 1, middle);
  if (end < 0 || label.includes("[")) return [null, at + 1];
  const target = text.slice(middle + 2, end).trim();
  const told = element("span", { class: "target" }, ` (${target})`);
  return [element("span", { class: "link" }, label.replace(/^!/, ""), target === label ? "" : told), end + 1];
}
