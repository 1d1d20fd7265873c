// Binary output: gathered from its pieces, and given as a download. It is never opened here: a page that an agent made
// would have this page's rights.

import { element } from "./elements.js";

export class Artifact {
  #pieces = [];
  #bytes = 0;
  #url = "";

  constructor({ name }) {
    this.name = name || "artifact";
    this.box = element("p", { class: "step artifact", "data-state": "running" });
  }

  add({ data, is_last, mime_type }) {
    const piece = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    this.#pieces.push(piece);
    this.#bytes += piece.length;
    const size = `${mime_type ? `${mime_type}, ` : ""}${sized(this.#bytes)}`;
    if (!is_last) {
      this.box.replaceChildren(element("span", { class: "name" }, this.name), ` ${size} so far …`);
      return;
    }
    this.#url = URL.createObjectURL(new Blob(this.#pieces, { type: "application/octet-stream" }));
    this.#pieces = [];
    this.box.dataset.state = "done";
    const link = element("a", { href: this.#url, download: this.name }, `Download ${this.name}`);
    this.box.replaceChildren(link, element("span", { class: "outcome" }, size));
  }

  leave() {
    if (this.box.dataset.state !== "running") return;
    this.box.dataset.state = "left";
    this.box.append(" – it did not come whole");
  }

  forget() {
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#pieces = [];
  }
}

export function sized(bytes) {
  if (bytes < 1_000) return `${bytes} bytes`;
  if (bytes < 1_000_000) return `${(bytes / 1_000).toFixed(1)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}
