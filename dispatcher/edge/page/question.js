// A question to the user: options as buttons, anything else as a field that fits its schema as far as a field can.

import { button, element, sheet } from "./elements.js";
import { pretty, words } from "./call.js";

let numbered = 0;

export class Question {
  #send;
  #fields;
  #call;
  #form;
  #controls;
  #trouble;
  #isOpen = true;
  #hadFocus = false;

  // `send(body)` gives the answer, and fails with what is wrong with it. `call`: what is asked is whether this may run.
  constructor(fields, timestamp, attempt, send, call = null) {
    this.#fields = fields;
    this.#call = call;
    this.#send = (body) => send({ ...body, attempt });
    const id = `question-${(numbered += 1)}`;
    this.#trouble = element("p", { class: "trouble", role: "alert", id: `${id}-trouble` });
    this.#controls = element("div", { class: "controls" });
    this.#form = element(
      "form",
      { class: "card question", "aria-labelledby": id, onsubmit: (event) => event.preventDefault() },
      element("p", { class: "asks", id }, fields.text || "?"),
      this.#controls,
      this.#trouble,
    );
    this.#fill(id);
    if (fields.expires_in_s !== null) this.#form.append(element("p", { class: "hint" }, until(timestamp, fields)));
  }

  get box() {
    return this.#form;
  }

  get spoken() {
    const options = this.#fields.options.length ? ` Options: ${this.#fields.options.join(", ")}.` : "";
    return `Question: ${this.#fields.text}${options}`;
  }

  get isOpen() {
    return this.#isOpen;
  }

  // What became of it, whoever answered.
  answered({ value_json, cancelled }) {
    if (cancelled) this.#close(`No answer: ${words(cancelled.why).toLowerCase()}`);
    else this.#close(`Answered: ${said(parsed(value_json))}`);
  }

  leave() {
    if (this.#isOpen) this.#close("Not answered");
  }

  #close(text) {
    this.#isOpen = false;
    const hadFocus = this.#hadFocus || this.#form.contains(document.activeElement);
    this.#form.replaceChildren(this.#form.firstChild, element("p", { class: "given" }, text));
    this.#form.classList.add("closed");
    if (hadFocus) document.getElementById("message").focus({ preventScroll: true });
  }

  #fill(id) {
    const schema = parsed(this.#fields.response_schema_json);
    const choices = this.#fields.options.length ? this.#fields.options : offered(schema);
    if (choices.length) {
      const text = (choice) => (this.#fields.approves_call_id ? words(choice) : said(choice));
      choices.forEach((choice) => this.#controls.append(button(text(choice), () => this.#give({ value: choice }))));
    } else {
      this.#field(id, schema);
    }
    if (this.#fields.approves_call_id) {
      if (this.#call) this.#change(id);
      return;
    }
    this.#controls.append(button("Decline", () => this.#give({ decline: true }), { class: "quiet" }));
    if (schema !== null && !choices.length && !["string", "number", "integer"].includes(schema.type)) {
      const told = sheet(pretty(this.#fields.response_schema_json), "The answer's JSON Schema");
      this.#controls.append(element("details", { class: "step" }, element("summary", {}, "What it must fit"), told));
    }
  }

  // A call may run with other arguments than those it was asked with.
  #change(id) {
    const field = element("textarea", { rows: "4", spellcheck: "false", "aria-label": "Arguments, as JSON" });
    field.setAttribute("aria-describedby", `${id}-trouble`);
    field.value = this.#call.asked;
    const give = () => {
      const value = parsed(field.value.trim());
      if (value === null) this.#trouble.textContent = "This is no JSON.";
      else this.#give({ value: { approve: value } });
    };
    const told = element("div", { class: "controls" }, field, button("Approve with these", give));
    this.#controls.append(element("details", { class: "step" }, element("summary", {}, "Change the arguments"), told));
  }

  #field(id, schema) {
    const kind = schema === null ? "string" : schema.type;
    const isNumber = kind === "number" || kind === "integer";
    const isText = kind === "string";
    const field = isNumber
      ? element("input", { inputmode: kind === "integer" ? "numeric" : "decimal", autocomplete: "off" })
      : element("textarea", { rows: isText ? "1" : "4", spellcheck: isText ? null : "false" });
    field.setAttribute("aria-labelledby", id);
    field.setAttribute("aria-describedby", `${id}-trouble`);
    if (!isText && !isNumber) field.setAttribute("placeholder", "An answer as JSON");
    const give = () => {
      const value = isText ? field.value : parsed(field.value.trim());
      if (!isText && value === null && field.value.trim() !== "null") {
        this.#trouble.textContent = isNumber ? "A number is wanted." : "This is no JSON.";
        return;
      }
      this.#give({ value });
    };
    field.addEventListener("keydown", (event) => {
      const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && (isText || isNumber);
      if (!sends) return;
      event.preventDefault();
      give();
    });
    this.#controls.append(field, button("Answer", give, { class: "send" }));
  }

  async #give(body) {
    const controls = [...this.#controls.querySelectorAll("button, input, textarea")];
    const focused = document.activeElement;
    // What is disabled has no focus any more.
    this.#hadFocus = this.#form.contains(focused);
    controls.forEach((each) => (each.disabled = true));
    this.#trouble.textContent = "";
    try {
      await this.#send(body);
    } catch (error) {
      this.#trouble.textContent = error.message;
      this.#hadFocus = false;
      controls.forEach((each) => (each.disabled = false));
      if (controls.includes(focused)) focused.focus();
    }
  }
}

// Answers that a schema has few of.
function offered(schema) {
  if (schema === null) return [];
  if (Array.isArray(schema.enum) && schema.enum.length <= 20) return schema.enum;
  return schema.type === "boolean" ? [true, false] : [];
}

function parsed(json) {
  try {
    return json ? JSON.parse(json) : null;
  } catch {
    return null;
  }
}

function said(value) {
  if (value === true) return "Yes";
  if (value === false) return "No";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function until(timestamp, { expires_in_s }) {
  const time = new Date(timestamp + expires_in_s * 1000).toLocaleTimeString();
  return `It waits for an answer until ${time}.`;
}
