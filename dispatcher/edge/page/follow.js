// The latest stays in sight as long as people don't scroll away from it.

import { byId } from "./elements.js";

const NEAR_PX = 96;

export class Follow {
  #isNear = true;
  #latest = byId("latest");

  constructor() {
    addEventListener("scroll", () => this.#look(), { passive: true });
    this.#latest.addEventListener("click", () => {
      this.jump();
      byId("message").focus({ preventScroll: true });
    });
  }

  jump() {
    this.#isNear = true;
    this.keep();
  }

  // After something was added.
  keep() {
    if (this.#isNear) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    this.#latest.hidden = this.#isNear;
  }

  #look() {
    const { scrollHeight } = document.documentElement;
    this.#isNear = scrollHeight - innerHeight - scrollY < NEAR_PX;
    this.#latest.hidden = this.#isNear;
  }
}
