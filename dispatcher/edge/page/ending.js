// How a session ended, in words: its name, what happened, and what can be done; and in one of three marks.

import { button, element } from "./elements.js";
import { words } from "./call.js";

// The one table's advice, by name of the ending.
let advices = {};

export async function loadEndings(api) {
  advices = await api.json("/page/endings.json");
}

// "done"; "left": by somebody's will; or "failed". Each has a shape and a colour of its own.
export function kind(name) {
  if (name === "completed") return "done";
  return name === "stopped" || name === "detached" ? "left" : "failed";
}

// `isOwn`: whoever reads it has stopped it.
export function ending(fields, again, isOwn = false) {
  const { name, message, retryable, error, stop, usage } = fields;
  const isWell = name === "completed";
  const title = words(name);
  const isOwnStop = isOwn && name === "stopped";
  const told = isOwnStop ? "" : stop ? stopped(stop) : error?.message || message;
  const advice = isOwnStop ? "You stopped it." : isWell ? "" : advices[name] || "";
  const box = element("footer", { class: "ending", "data-ending": name });
  box.append(element("p", {}, element("strong", {}, title), told && !isWell ? ` – ${told}` : ""));
  if (advice) box.append(element("p", { class: "advice" }, advice));
  const used = tokens(usage || {});
  if (used) box.append(element("p", { class: "hint" }, used));
  if (retryable || name === "stopped") box.append(button("Ask again", again));
  box.dataset.state = kind(name);
  box.dataset.spoken = [`${title}.`, ...(isWell ? [] : [told && `${told}.`, advice])].filter(Boolean).join(" ");
  return box;
}

function stopped({ actor, reason }) {
  return actor ? `${reason}, by ${actor}` : reason;
}

function tokens({ input_tokens = 0, output_tokens = 0, reasoning_tokens = 0, model = "" }) {
  if (!input_tokens && !output_tokens) return "";
  const parts = [`${input_tokens} tokens in`, `${output_tokens} out`];
  if (reasoning_tokens) parts.push(`${reasoning_tokens} of them to think`);
  return parts.join(", ") + (model ? ` – ${model}` : "");
}
