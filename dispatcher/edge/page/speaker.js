// One agent's part of a session, in its order: what it thinks, says, calls, asks and makes. A sub-agent's stands apart.

import { element } from "./elements.js";
import { Prose } from "./markdown.js";

export class Speaker {
  #parts = element("div", { class: "parts" });
  #foot = element("div", { class: "progress", hidden: true });
  #outcome = null;
  #open = null;
  #step = null;
  #finished;

  // `path`: empty for the root. `finished` is told each paragraph once it is whole.
  constructor(path, finished) {
    this.path = path;
    this.#finished = finished;
    this.said = "";
    if (!path) {
      this.box = element("div", { class: "speaker" }, this.#parts, this.#foot);
      return;
    }
    const name = path.slice(path.lastIndexOf("/") + 1);
    this.#outcome = element("span", { class: "outcome" }, "works …");
    this.box = element(
      "section",
      { class: "speaker sub", "aria-label": `Sub-agent ${name}`, "data-state": "running" },
      element("h3", {}, element("span", { class: "name" }, name), this.#outcome),
      this.#parts,
      this.#foot,
    );
  }

  say(text) {
    if (!(this.#open instanceof Prose)) {
      this.pause();
      this.#open = new Prose(this.#finished);
      this.#parts.append(this.#open.box);
    }
    this.said += text;
    this.#open.append(text);
  }

  think({ step_name, delta }) {
    if (this.#open === null || this.#step !== step_name) {
      this.pause();
      this.#step = step_name;
      this.#open = new Thought(step_name);
      this.#parts.append(this.#open.box);
    }
    this.#open.append(delta);
  }

  // Anything else that has its place in the order.
  add(box) {
    this.pause();
    this.#parts.append(box);
  }

  // Only the latest; it has no place in the order, so that text goes on around it.
  progress({ text, current, total, percent }) {
    const isCounted = current !== null && total !== null && total > 0;
    const share = percent !== null ? percent / 100 : isCounted ? current / total : null;
    const bar = element("progress", { "aria-label": text || "Progress", max: "1", value: share });
    const told = isCounted ? `${current} of ${total}` : share === null ? "" : `${Math.round(share * 100)} %`;
    const parts = [element("span", {}, text), bar, element("span", { class: "outcome" }, told)];
    this.#foot.replaceChildren(...parts);
    this.#foot.hidden = false;
  }

  // A sub-agent's start, its end, or its failure.
  became({ started, completed, failed }) {
    if (started?.description) this.add(element("p", { class: "hint" }, started.description));
    if (completed) this.#close("done", "done", completed.summary);
    if (failed) this.#close("failed", "failed", failed.error?.message);
  }

  draw() {
    return this.#open === null || this.#open.draw();
  }

  // What is open goes on no more.
  pause() {
    this.#open?.finish();
    this.#open = null;
    this.#step = null;
  }

  leave() {
    this.pause();
    this.#foot.hidden = true;
    if (this.box.dataset.state === "running") this.#close("left", "ended", "");
  }

  #close(state, text, more) {
    if (more) this.add(element("p", { class: "hint" }, more));
    this.pause();
    this.#foot.hidden = true;
    this.box.dataset.state = state;
    if (this.#outcome) this.#outcome.textContent = text;
  }
}

// Folded away; open on demand.
class Thought {
  #text = document.createTextNode("");
  #waiting = "";

  constructor(step) {
    this.box = element(
      "details",
      { class: "step thought" },
      element("summary", {}, element("span", { class: "name" }, "Thought"), element("span", {}, step)),
      element("div", { class: "folded" }, this.#text),
    );
  }

  append(text) {
    this.#waiting += text;
  }

  draw() {
    if (this.#waiting) this.#text.appendData(this.#waiting);
    this.#waiting = "";
    return true;
  }

  finish() {
    this.draw();
  }
}
