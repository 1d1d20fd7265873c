// What is read out: whole paragraphs, questions, endings, trouble. Never a token, and nothing that was over before
// somebody came.

import { byId, element } from "./elements.js";

const KEPT_MAX = 20;

export function announce(text) {
  const log = byId("announcer");
  log.append(element("p", {}, text));
  while (log.children.length > KEPT_MAX) log.firstElementChild.remove();
}
