// Watching a session: its events by fetch, which unlike EventSource can show a token; back by itself when a connection
// breaks, with the last cursor, so that exactly the rest comes.

import { Problem, sessionPath } from "./api.js";

// The dispatcher says something every 15 seconds unless it is told otherwise.
const SILENCE_MS = 40_000;
const BACK_FIRST_MS = 250;
const BACK_MAX_MS = 8_000;

// The messages of a `text/event-stream`, as {id, event, data}. `heard` is called for whatever comes.
export async function* messages(body, heard) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  let message = { id: null, event: "message", data: "" };
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      heard();
      const lines = (rest + decoder.decode(read.value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const text = line.endsWith("\r") ? line.slice(0, -1) : line;
        if (text) {
          take(message, text);
          continue;
        }
        if (message.data) yield message;
        message = { id: null, event: "message", data: "" };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function take(message, line) {
  const colon = line.indexOf(":");
  const field = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
  if (field === "data") message.data += (message.data ? "\n" : "") + value;
  else if (field === "event") message.event = value;
  else if (field === "id") message.id = value;
}

// `told(name, record)` gets every event and notice. `connection(state, detail)` is "on", "off" with when it will try
// again, or "over" with why it won't.
export class Watch {
  #api;
  #sessionId;
  #thoughts;
  #told;
  #connection;
  #cursor = "";
  #failures = 0;
  #backMs = 0;
  #isOver = false;
  #abort = new AbortController();
  #wake = () => {};

  constructor(api, sessionId, thoughts, told, connection) {
    this.#api = api;
    this.#sessionId = sessionId;
    this.#thoughts = thoughts;
    this.#told = told;
    this.#connection = connection;
  }

  async run() {
    while (!this.#isOver) {
      this.#abort = new AbortController();
      let why = "";
      try {
        await this.#read();
      } catch (error) {
        if (this.#isOver) return;
        if (error instanceof Problem && !isPassing(error)) {
          this.#end(error);
          return;
        }
        why = error.message;
        this.#backMs ||= error.retryAfterMs || 0;
      }
      if (!this.#isOver) await this.#pause(why);
    }
  }

  stop() {
    this.#isOver = true;
    this.#abort.abort();
    this.#wake();
  }

  // The network may be back.
  now() {
    this.#wake();
  }

  async #read() {
    const signal = this.#abort.signal;
    const response = await this.#api.call(this.#path(), {
      signal,
      headers: { accept: "text/event-stream", ...(this.#cursor ? { "last-event-id": this.#cursor } : {}) },
    });
    if (response.status === 204) {
      this.#end(null);
      return;
    }
    this.#connection("on");
    let timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#abort.abort(), SILENCE_MS);
    };
    heard();
    try {
      for await (const message of messages(response.body, heard)) {
        if (this.#isOver) return;
        this.#take(message);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #path() {
    return sessionPath(this.#sessionId, "/events") + (this.#thoughts ? "?include_thoughts=true" : "");
  }

  #take({ id, event, data }) {
    const record = JSON.parse(data);
    if (id) this.#cursor = id;
    this.#failures = 0;
    // What follows comes from the first event that is to be had.
    if (event === "gap") this.#cursor = "";
    if (event === "goaway") this.#backMs = record.fields.retry_after_ms;
    if (event === "ended") this.#isOver = true;
    this.#told(event, record);
    if (this.#isOver) this.#connection("over", null);
  }

  #end(problem) {
    this.#isOver = true;
    this.#connection("over", problem);
  }

  // Full jitter, so that a thousand pages don't come back in the same moment.
  async #pause(why) {
    const most = Math.min(BACK_MAX_MS, BACK_FIRST_MS * 2 ** this.#failures);
    const delay = this.#backMs || Math.random() * most;
    this.#backMs = 0;
    this.#failures += 1;
    this.#connection("off", { why, delay });
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, delay);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

// Trouble of the moment, after which the same request may succeed.
function isPassing(problem) {
  return problem.status === 408 || problem.status === 429 || problem.status >= 500;
}
