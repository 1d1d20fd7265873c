// The sessions there are: those that run, and those that have ended. It looks again while somebody can see it.

import { byId, element } from "./elements.js";
import { words } from "./call.js";
import { kind } from "./ending.js";
import { asked, lastWords } from "./memory.js";

const AGAIN_MS = 4_000;
const STEP = 30;
const SHOWN_MAX = 990;
const PHASES = {
  waiting_tool: "waits for a tool",
  waiting_answer: "waits for an answer",
};

export class Shelf {
  #api;
  #look;
  #timer = 0;
  #limit = STEP;
  #current = "";
  #rows = new Map();
  #panel = byId("shelf");
  #opener = byId("shelf-open");

  // `look()` is called each time as well, for whatever else is to be looked at again.
  constructor(api, look) {
    this.#api = api;
    this.#look = look;
    byId("older").addEventListener("click", () => {
      this.#limit = Math.min(SHOWN_MAX, this.#limit + STEP);
      this.refresh();
    });
    this.#opener.addEventListener("click", () => this.#open(!this.#isOpen));
    byId("shelf-close").addEventListener("click", () => this.#open(false));
    this.#panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#open(false);
    });
    // Whoever turns to the rest of the page is done here.
    this.#panel.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !this.#panel.contains(relatedTarget)) this.#open(false, false);
    });
    document.addEventListener("pointerdown", ({ target }) => {
      if (!this.#panel.contains(target) && !this.#opener.contains(target)) this.#open(false, false);
    });
    document.addEventListener("visibilitychange", () => this.refresh());
    addEventListener("online", () => this.refresh());
  }

  set current(sessionId) {
    this.#current = sessionId;
    this.#rows.forEach(({ link }, id) => mark(link, id === sessionId));
    if (this.#isOpen) this.#open(false);
    this.refresh();
  }

  async refresh() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const turn = (this.#timer = setTimeout(() => this.refresh(), AGAIN_MS));
    this.#look();
    const trouble = byId("shelf-trouble");
    try {
      const { sessions, next_before } = await this.#api.json(`/v1/sessions?limit=${this.#limit}`, { background: true });
      // An older answer than the latest question's.
      if (turn !== this.#timer) return;
      this.#show(sessions);
      byId("older").hidden = !next_before || this.#limit >= SHOWN_MAX;
      trouble.hidden = true;
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
  }

  get #isOpen() {
    return this.#opener.getAttribute("aria-expanded") === "true";
  }

  // On a narrow screen it lies over the rest.
  #open(isOpen, movesFocus = true) {
    if (isOpen === this.#isOpen) return;
    this.#opener.setAttribute("aria-expanded", String(isOpen));
    this.#panel.classList.toggle("open", isOpen);
    if (!movesFocus) return;
    if (isOpen) byId("new").focus();
    else this.#opener.focus();
  }

  #show(sessions) {
    const ids = new Set(sessions.map(({ session_id }) => session_id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      row.item.remove();
      this.#rows.delete(id);
    }
    this.#fill("running", sessions.filter(({ ended }) => ended === null));
    this.#fill("recent", sessions.filter(({ ended }) => ended !== null));
  }

  #fill(name, sessions) {
    const list = byId(name);
    sessions.forEach((session, at) => {
      const row = this.#row(session);
      // Moved only where it isn't there yet, so that what has the focus keeps it.
      if (list.children[at] !== row.item) list.insertBefore(row.item, list.children[at] || null);
    });
    byId(`${name}-none`).hidden = sessions.length > 0;
  }

  #row(session) {
    const id = session.session_id;
    let row = this.#rows.get(id);
    if (!row) {
      const title = element("span", { class: "what" });
      const state = element("span", { class: "how" });
      const link = element("a", { href: `#/${id}` }, title, state);
      row = { item: element("li", {}, link), link, title, state };
      this.#rows.set(id, row);
      mark(link, id === this.#current);
    }
    const name = lastWords(asked(id)).trim().slice(0, 80) || session.agent;
    if (row.title.textContent !== name) row.title.textContent = name;
    row.state.textContent = [name === session.agent ? "" : session.agent, state(session)].filter(Boolean).join(" · ");
    row.link.dataset.state = session.ended === null ? "running" : kind(session.ended.name);
    return row;
  }
}

function mark(link, isCurrent) {
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function state(session) {
  if (session.ended !== null) return `${words(session.ended.name).toLowerCase()} · ${ago(session.ended_ago_s)}`;
  if (session.open_questions.length) return PHASES.waiting_answer;
  return `${PHASES[session.phase] || session.state}, ${lasting(session.age_s)}`;
}

function ago(seconds) {
  return seconds < 60 ? "just now" : `${lasting(seconds)} ago`;
}

function lasting(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
