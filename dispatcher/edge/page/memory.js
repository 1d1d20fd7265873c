// What the dispatcher doesn't tell and a reload would lose: what was asked. Kept in this tab alone.

import { kept } from "./token.js";

const PREFIX = "chatstream.asked.";
const STOPPED = "chatstream.stopped";
const KEPT_MAX = 50;

// The conversation that a session was opened with: [{role, content}], the user's words last. Null where unknown.
export function asked(sessionId) {
  const text = kept(() => sessionStorage.getItem(PREFIX + sessionId));
  return text ? kept(() => JSON.parse(text).messages) : null;
}

export function keepAsked(sessionId, messages) {
  const all = kept(() => Object.keys(sessionStorage).filter((key) => key.startsWith(PREFIX))) || [];
  if (all.length >= KEPT_MAX) {
    const oldest = all.sort((one, other) => keptAt(one) - keptAt(other));
    oldest.slice(0, all.length - KEPT_MAX + 1).forEach((key) => sessionStorage.removeItem(key));
  }
  kept(() => sessionStorage.setItem(PREFIX + sessionId, JSON.stringify({ at: Date.now(), messages })));
}

export function forgetAsked(sessionId) {
  kept(() => sessionStorage.removeItem(PREFIX + sessionId));
}

// Which sessions were stopped here, so that nobody is told that somebody did it.
export function stoppedHere(sessionId) {
  return ownStops().includes(sessionId);
}

export function keepStopped(sessionId, isStopped = true) {
  const others = ownStops().filter((each) => each !== sessionId);
  const all = isStopped ? [...others, sessionId].slice(-KEPT_MAX) : others;
  kept(() => sessionStorage.setItem(STOPPED, JSON.stringify(all)));
}

function ownStops() {
  return kept(() => JSON.parse(sessionStorage.getItem(STOPPED))) || [];
}

export function lastWords(messages) {
  return messages && messages.length ? messages[messages.length - 1].content : "";
}

function keptAt(key) {
  return kept(() => JSON.parse(sessionStorage.getItem(key)).at) || 0;
}

// What people choose stays for the next time.
export function chosen(name, otherwise = "") {
  return kept(() => localStorage.getItem(`chatstream.${name}`)) ?? otherwise;
}

export function choose(name, value) {
  kept(() => localStorage.setItem(`chatstream.${name}`, value));
}
