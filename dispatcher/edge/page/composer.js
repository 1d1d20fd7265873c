// Where people write: a request, or, while a session runs, something to add to it.

import { byId, element } from "./elements.js";
import { choose, chosen } from "./memory.js";

const PLACEHOLDERS = {
  fresh: "Ask an agent …",
  further: "Go on from here …",
  running: "Add something while it works …",
};

export class Composer {
  #form = byId("composer");
  #field = byId("message");
  #agents = byId("agent");
  #thoughts = byId("thoughts");
  #send = byId("send");
  #stop = byId("stop");
  #trouble = byId("composer-trouble");
  #isBusy = false;
  #listed = "";

  // `sent(text)` and `stopped()` may fail, with what is wrong; `thoughts(wanted)` and
  // `chosen()` hear of the switch and of another agent.
  constructor({ sent, stopped, thoughts, chosen: hear }) {
    this.#thoughts.checked = chosen("thoughts", "on") === "on";
    this.#thoughts.addEventListener("change", () => {
      choose("thoughts", this.#thoughts.checked ? "on" : "off");
      thoughts(this.#thoughts.checked);
    });
    this.#agents.addEventListener("change", () => {
      choose("agent", this.#agents.value);
      hear();
    });
    this.#field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#form.requestSubmit();
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(sent);
    });
    this.#stop.addEventListener("click", () => this.#try(stopped, this.#stop));
    // Browsers that can't let a field grow by themselves.
    if (!CSS.supports("field-sizing", "content")) this.#field.addEventListener("input", () => this.#grow());
    this.mode = "fresh";
  }

  get wantsThoughts() {
    return this.#thoughts.checked;
  }

  // [name, version]; both empty where none was chosen.
  get agent() {
    return this.#agents.value ? JSON.parse(this.#agents.value) : ["", ""];
  }

  set mode(mode) {
    const isRunning = mode === "running";
    this.#field.placeholder = PLACEHOLDERS[mode];
    byId("message-label").textContent = isRunning ? "Add a message" : "Message";
    byId("agent-field").hidden = isRunning;
    this.#send.textContent = isRunning ? "Add" : "Send";
    if (this.#stop.hidden === isRunning) {
      const hadFocus = document.activeElement === this.#stop;
      this.#stop.hidden = !isRunning;
      this.#stop.textContent = "Stop";
      this.#stop.disabled = false;
      if (hadFocus) this.focus();
    }
  }

  focus() {
    this.#field.focus({ preventScroll: true });
  }

  // Puts words back, before what may stand there already.
  putBack(text) {
    this.#field.value = [text, this.#field.value].filter((each) => each.trim()).join("\n\n");
    this.#grow();
    this.focus();
  }

  fail(message) {
    this.#trouble.textContent = message;
  }

  // `agents` as the dispatcher lists them.
  list(agents) {
    const listed = JSON.stringify(agents.map(({ offer }) => [offer.name, offer.version]));
    if (listed === this.#listed) return;
    this.#listed = listed;
    const before = this.#agents.value || chosen("agent");
    const options = agents.map(({ offer }) => {
      const value = JSON.stringify([offer.name, offer.version]);
      return element("option", { value }, `${offer.name} ${offer.version}`.trim());
    });
    this.#agents.replaceChildren(...options);
    if (options.some((option) => option.value === before)) this.#agents.value = before;
    this.#agents.disabled = options.length === 0;
  }

  async #submit(sent) {
    const text = this.#field.value;
    if (this.#isBusy || !text.trim()) return;
    const isSent = await this.#try(() => sent(text), this.#send);
    // Nothing that was typed meanwhile is lost.
    if (isSent && this.#field.value === text) this.#field.value = "";
    this.#grow();
  }

  async #try(deed, control) {
    this.#isBusy = true;
    control.setAttribute("aria-disabled", "true");
    this.#trouble.textContent = "";
    try {
      await deed();
      return true;
    } catch (error) {
      this.#trouble.textContent = error.message;
      return false;
    } finally {
      this.#isBusy = false;
      control.removeAttribute("aria-disabled");
    }
  }

  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.#field.setAttribute("rows", String(Math.min(8, this.#field.value.split("\n").length)));
  }
}
