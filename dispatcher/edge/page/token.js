// The token: kept in this tab alone, asked for when the dispatcher wants one.

import { byId } from "./elements.js";

const KEPT_AS = "chatstream.token";

export class Token {
  #dialog = byId("token");
  #field = byId("token-text");
  #trouble = byId("token-trouble");
  #asking = null;
  #isDeclined = false;
  #given = () => {};

  constructor() {
    byId("token-form").addEventListener("submit", (event) => this.#submit(event));
    byId("token-cancel").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => this.#closed());
  }

  get text() {
    return kept(() => sessionStorage.getItem(KEPT_AS)) || "";
  }

  // Whether there is another token now than `used`, which was not taken.
  async wanted(used, background) {
    if (this.text !== used) return true;
    // It was closed, and the event that says so is yet to come.
    if (this.#asking !== null && !this.#dialog.open) this.#end(false);
    if (this.#asking === null) {
      if (background && this.#isDeclined) return false;
      this.#asking = new Promise((resolve) => {
        this.#given = resolve;
      });
      this.#trouble.textContent = used ? "This token was not accepted." : "";
      this.#field.value = "";
      this.#dialog.showModal();
      this.#field.focus();
    }
    return this.#asking;
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(text)) {
      this.#trouble.textContent = "A token has letters, digits and signs of ASCII alone, without spaces.";
      return;
    }
    kept(() => sessionStorage.setItem(KEPT_AS, text));
    this.#end(true);
    this.#dialog.close();
  }

  #closed() {
    this.#field.value = "";
    if (this.#asking !== null) this.#end(false);
  }

  #end(isGiven) {
    this.#isDeclined = !isGiven;
    this.#asking = null;
    this.#given(isGiven);
  }
}

// Browsers may refuse to keep anything.
export function kept(what) {
  try {
    return what();
  } catch {
    return null;
  }
}
