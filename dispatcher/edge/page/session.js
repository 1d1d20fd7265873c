// One session that is watched: all its events, so that what a reset takes back can be taken back, and that at the end
// the answer can be held against the sum that comes with it.

import { announce } from "./announcer.js";
import { sessionPath } from "./api.js";
import { adds } from "./checksum.js";
import { Transcript } from "./transcript.js";
import { Watch } from "./stream.js";

export class Session {
  #api;
  #box;
  #asked;
  #deeds;
  #changed;
  #watch = null;
  #events = [];
  #head = Infinity;
  #isRead = false;
  #isTwice = false;
  #frame = 0;
  #thoughts;

  // `asked`: the messages it was opened with, or null. `changed` is called after whatever happens.
  constructor(api, sessionId, { box, asked, thoughts, deeds, changed }) {
    this.#api = api;
    this.#box = box;
    this.#asked = asked || [];
    this.#deeds = deeds;
    this.#changed = changed;
    this.#thoughts = thoughts;
    this.id = sessionId;
    this.agent = "";
    this.connection = { state: "opening" };
    this.lag = "";
    this.transcript = this.#fresh();
  }

  get isOver() {
    return this.transcript.isOver || this.connection.state === "lost";
  }

  // There is nothing to be seen of it.
  get isGone() {
    return this.connection.state === "lost" && this.#events.length === 0;
  }

  get turns() {
    return this.transcript.turns;
  }

  // `isNew`: it was opened here, now, so all of it is news.
  async open(isNew) {
    if (isNew) this.#head = 0;
    try {
      const state = await this.#api.json(sessionPath(this.id));
      this.agent = state.agent;
      if (!isNew) this.#head = offset(state.cursor);
    } catch (error) {
      if (error.status) {
        this.#connected(error.code === "unknown_session" ? "lost" : "over", error);
        return;
      }
    }
    this.#read();
  }

  close() {
    this.#watch?.stop();
    this.#watch = null;
    cancelAnimationFrame(this.#frame);
    this.transcript.clear();
  }

  // The network may be back, or somebody wants to see.
  now() {
    if (this.connection.state === "off") this.#watch?.now();
    else if (this.connection.state === "over") this.open(false);
  }

  show(thoughts) {
    if (thoughts === this.#thoughts) return;
    this.#thoughts = thoughts;
    if (this.#watch !== null) this.#read();
  }

  // From the first event on.
  #read() {
    this.#watch?.stop();
    this.#begin();
    const watch = new Watch(
      this.#api,
      this.id,
      this.#thoughts,
      (name, record) => this.#watch === watch && this.#take(name, record),
      (state, detail) => this.#watch === watch && this.#connected(state, detail),
    );
    this.#watch = watch;
    watch.run();
  }

  #begin() {
    this.#events = [];
    this.transcript.clear();
    this.transcript.show(this.#asked);
  }

  #fresh() {
    return new Transcript(this.#box, this.#deeds);
  }

  #take(name, record) {
    if (name === "gap") this.#gap(record.fields);
    else if (name === "lag") this.#lags(record.fields.stage);
    else if (name === "goaway" || name === "slow") this.connection = { state: "on", why: name };
    else if (name === "reset") this.#reset(record);
    else if (record.cursor) this.#append(record);
    this.#draw();
  }

  #append(record) {
    this.#events.push(record);
    if (record.event === "opened") this.agent = record.fields.agent;
    this.transcript.take(record, offset(record.cursor) > this.#head);
    if (record.event === "ended") this.#check(record.fields);
  }

  // Text that is joined is no loss, so only what is left out is told; at once, as it may be over soon.
  #lags(stage) {
    this.lag = stage === "thinned" ? stage : "";
    this.#changed();
  }

  // What came after a cursor is taken back, but for what the user has said.
  #reset(record) {
    const last = offset(record.fields.discard_after);
    const kept = this.#events.filter((each) => offset(each.cursor) <= last || each.event === "user_message");
    this.#begin();
    this.#events = kept;
    for (const each of kept) this.transcript.take(each, false);
    this.#append(record);
  }

  #gap({ reason, available_from }) {
    if (offset(available_from) === 0) {
      this.#connected("lost", { message: "The dispatcher no longer keeps this session." });
      return;
    }
    this.#begin();
    if (reason === "trimmed") this.transcript.note("The beginning is no longer kept.");
    else announce("The dispatcher began a new journal. This session is shown anew.");
  }

  // Whether what was shown is the whole answer, and the same.
  #check({ content_chars, content_crc32 }) {
    const isWhole = this.#events[0]?.event === "opened";
    const texts = this.#events.filter(({ event }) => event === "content").map(({ fields }) => fields.text);
    if (!isWhole || adds(texts, content_chars, content_crc32)) return;
    if (!this.#isTwice) {
      this.#isTwice = true;
      queueMicrotask(() => this.#read());
      return;
    }
    this.transcript.note("What is shown is not the whole answer, and reading it again did not help.");
  }

  #connected(state, detail) {
    const before = this.connection;
    // There is nothing more to come.
    if (before.state === "lost") return;
    if (state === "over" && detail === null) this.connection = { state: "ended" };
    else if (state === "over" && detail.code === "unknown_session") this.connection = { state: "lost", detail };
    else this.connection = { state, detail, why: state === "off" ? before.why : "" };
    // A connection that is new has everything to come.
    if (state === "on") this.lag = "";
    const back = before.state === "off" && state === "on";
    if (back) announce("Connected again.");
    else if (state === "off" && before.state !== "off") announce("The connection is lost. Reconnecting.");
    else if (state === "lost") announce(detail.message);
    this.#changed();
  }

  // Once for all that came between two pictures on the screen.
  #draw() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.transcript.draw();
      this.#changed();
    });
  }
}

function offset(cursor) {
  return Number(cursor.slice(cursor.lastIndexOf(":") + 1));
}
