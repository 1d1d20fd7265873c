// The page: makes everything, and says who hears of what. The session that is shown is in the address, behind the #.

import { announce } from "./announcer.js";
import { Api, freshKey, sessionPath } from "./api.js";
import { Composer } from "./composer.js";
import { byId, element } from "./elements.js";
import { loadEndings } from "./ending.js";
import { Follow } from "./follow.js";
import { asked, choose, chosen, keepAsked, keepStopped, lastWords, stoppedHere } from "./memory.js";
import { Session } from "./session.js";
import { Shelf } from "./shelf.js";
import { Token } from "./token.js";

const TITLE_CHARS_MAX = 80;
const RECONNECTING = {
  goaway: "The dispatcher restarts. Reconnecting …",
  slow: "This page took nothing for too long, and was let go. Reconnecting, so that nothing is lost …",
};

class Page {
  #api = new Api(new Token());
  #follow = new Follow();
  #composer = new Composer({
    sent: (text) => (this.#runs ? this.#add(text) : this.#ask(this.#conversation(text))),
    stopped: () => this.#stop(),
    thoughts: (wanted) => this.#session?.show(wanted),
    chosen: () => this.#introduce(),
  });
  #shelf = new Shelf(this.#api, () => this.#lookForAgents());
  #session = null;
  #opened = "";
  #agents = null;
  #request = { body: "", key: "" };

  async begin() {
    addEventListener("hashchange", () => this.#route());
    addEventListener("online", () => this.#session?.now());
    byId("connection-now").addEventListener("click", () => this.#session?.now());
    byId("skip").addEventListener("click", (event) => {
      event.preventDefault();
      this.#composer.focus();
    });
    await loadEndings(this.#api).catch(() => {});
    this.#route();
  }

  get #runs() {
    return this.#session !== null && !this.#session.isOver;
  }

  // Nothing is shown that could be gone on from.
  get #isFresh() {
    return this.#session === null || this.#session.isGone;
  }

  #route() {
    const sessionId = decodeURIComponent(location.hash.replace(/^#\/?/, ""));
    this.#session?.close();
    this.#session = null;
    byId("transcript").replaceChildren();
    this.#composer.fail("");
    if (sessionId) {
      this.#session = new Session(this.#api, sessionId, {
        box: byId("transcript"),
        asked: asked(sessionId),
        thoughts: this.#composer.wantsThoughts,
        changed: () => this.#show(),
        deeds: {
          answer: (questionId, body) => this.#answer(sessionId, questionId, body),
          again: () => this.#again(sessionId),
          back: (text) => this.#composer.putBack(text),
          isOwnStop: () => stoppedHere(sessionId),
        },
      });
      this.#session.open(sessionId === this.#opened);
    }
    this.#shelf.current = sessionId;
    this.#follow.jump();
    this.#composer.focus();
    this.#show();
  }

  // --- what people do ----------------------------------------------------------------------------------------------

  #conversation(text) {
    const before = this.#isFresh ? null : asked(this.#session.id);
    const turns = before ? [...before, ...this.#session.turns] : [];
    return [...turns, { role: "user", content: text }];
  }

  async #ask(messages) {
    // Who is quicker than the list asks the agent that it would have shown.
    if (this.#agents === null) await this.#lookForAgents(false);
    const [agent, agent_version] = this.#composer.agent;
    const request = { agent, agent_version, messages, include_thoughts: this.#composer.wantsThoughts };
    // The same request under the same key, until it is answered: then it is another.
    const body = JSON.stringify(request);
    if (body !== this.#request.body) this.#request = { body, key: freshKey() };
    const headers = { prefer: "respond-async", "idempotency-key": this.#request.key };
    const { session_id } = await this.#api.post("/v1/sessions", request, headers);
    this.#request = { body: "", key: "" };
    keepAsked(session_id, messages);
    this.#opened = session_id;
    location.hash = `#/${session_id}`;
  }

  async #again(sessionId) {
    const messages = asked(sessionId);
    if (messages === null) {
      this.#composer.focus();
      return;
    }
    await this.#ask(messages).catch((error) => this.#composer.fail(error.message));
  }

  async #add(text) {
    await this.#api.post(sessionPath(this.#session.id, "/messages"), { text });
  }

  async #answer(sessionId, questionId, body) {
    await this.#api.post(sessionPath(sessionId, `/answers/${encodeURIComponent(questionId)}`), body);
  }

  async #stop() {
    byId("stop").textContent = "Stopping …";
    const sessionId = this.#session.id;
    // Before the answer, as the ending may be here first.
    keepStopped(sessionId);
    try {
      const { result } = await this.#api.post(sessionPath(sessionId, "/stop"), { reason: "on the page" });
      if (result !== "stopped") keepStopped(sessionId, false);
    } catch (error) {
      keepStopped(sessionId, false);
      byId("stop").textContent = "Stop";
      throw error;
    }
  }

  // --- what is seen ------------------------------------------------------------------------------------------------

  #show() {
    const session = this.#session;
    byId("hello").hidden = session !== null;
    byId("gone").hidden = !session?.isGone;
    this.#composer.mode = this.#isFresh ? "fresh" : this.#runs ? "running" : "further";
    const title = this.#title();
    byId("title").textContent = title;
    document.title = session === null ? "ChatStream" : `${title} – ChatStream`;
    const state = session === null ? "" : this.#runs ? session.transcript.state : "";
    byId("state").textContent = state;
    byId("state").hidden = !state;
    byId("pulse").hidden = !state;
    const isOver = session !== null && !this.#runs;
    if (isOver && !session.isShelved) {
      session.isShelved = true;
      this.#shelf.refresh();
    }
    this.#showConnection();
    this.#follow.keep();
  }

  #title() {
    if (this.#session === null) return "New conversation";
    if (this.#session.isGone) return "No such session";
    const text = lastWords(asked(this.#session.id)).trim() || this.#session.agent || "Session";
    return text.length > TITLE_CHARS_MAX ? `${text.slice(0, TITLE_CHARS_MAX)} …` : text;
  }

  #showConnection() {
    const { state, detail, why } = this.#session?.connection ?? { state: "ended" };
    const texts = {
      off: RECONNECTING[why] || "Reconnecting …",
      over: detail?.message,
      lost: this.#isFresh ? "" : detail?.message,
    };
    const lagging = "This page can't keep up, so thoughts and some progress are left out for now.";
    const text = texts[state] || (this.#runs && this.#session.lag ? lagging : "");
    const bar = byId("connection");
    bar.dataset.state = state;
    bar.hidden = !text;
    if (byId("connection-text").textContent !== text) byId("connection-text").textContent = text;
    byId("connection-now").hidden = state !== "off" && state !== "over";
  }

  async #lookForAgents(background = true) {
    if (this.#runs) return;
    try {
      const { agents } = await this.#api.json("/v1/agents", { background });
      this.#agents = agents;
      this.#composer.list(agents);
    } catch (error) {
      byId("hello-agent").textContent = error.message;
      return;
    }
    this.#introduce();
  }

  // Who is asked, in the agent's own words, and whether it has to be waited for.
  #introduce() {
    const [name, version] = this.#composer.agent;
    const chosenOne = this.#agents?.find(({ offer }) => offer.name === name && offer.version === version);
    const box = byId("hello-agent");
    if (!chosenOne) {
      box.replaceChildren("No agent is linked yet. Start one with ", element("code", {}, "commander run"), ".");
      return;
    }
    const { offer, slots_free } = chosenOne;
    const told = offer.description ? ` – ${offer.description}` : "";
    const wait = slots_free ? "" : " · busy now: what you ask would wait for its turn";
    box.replaceChildren(element("strong", {}, offer.name), told, element("span", { class: "hint" }, wait));
  }
}

function colours() {
  const theme = byId("theme");
  const set = (value) => (document.documentElement.dataset.theme = value);
  theme.value = chosen("theme");
  set(theme.value);
  theme.addEventListener("change", () => {
    choose("theme", theme.value);
    set(theme.value);
    announce(`Colours: ${theme.selectedOptions[0].textContent}`);
  });
}

colours();
await new Page().begin();
