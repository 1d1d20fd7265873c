// A tool's call: what was asked of it, and what came of it.

import { element, sheet } from "./elements.js";

export class Call {
  #name;
  #asked;
  #state = element("span", { class: "outcome" }, "running …");
  #body;

  constructor({ tool_name, arguments_json }) {
    this.#name = tool_name;
    this.#asked = pretty(arguments_json || "{}");
    this.#body = element("div", { class: "folded" }, element("h4", {}, "Asked with"));
    this.#body.append(sheet(this.#asked, `What ${tool_name} was asked with`));
    this.box = element(
      "details",
      { class: "step call", "data-state": "running" },
      element("summary", {}, element("span", { class: "name" }, tool_name), this.#state),
      this.#body,
    );
  }

  get name() {
    return this.#name;
  }

  get asked() {
    return this.#asked;
  }

  answered({ result_json, error }) {
    const told = error ? `${words(error.code)}: ${error.message}` : "";
    this.#close(error ? "failed" : "done", error ? words(error.code) : "done");
    this.#body.append(element("h4", {}, error ? "Failed" : "Answered"));
    if (error) this.#body.append(element("p", {}, told));
    else this.#body.append(sheet(pretty(result_json), `What ${this.#name} answered`));
  }

  // The session is over, and nobody waits for it any more.
  leave() {
    if (this.box.dataset.state === "running") this.#close("left", "not answered");
  }

  #close(state, text) {
    this.box.dataset.state = state;
    this.#state.textContent = text;
  }
}

export function pretty(json) {
  try {
    const value = JSON.parse(json);
    // Digits that JavaScript's numbers have not would be lost.
    return /\d{16}/.test(json) ? json : JSON.stringify(value, null, 2);
  } catch {
    return json;
  }
}

// "invalid_arguments" as people say it.
export function words(name) {
  const text = String(name || "unknown").replaceAll("_", " ");
  return text[0].toUpperCase() + text.slice(1);
}
