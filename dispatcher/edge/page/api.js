// Calling the dispatcher: with the token where one is needed, and problems as they are told.

export class Problem extends Error {
  constructor(status, record) {
    super(plain(record) || record.title || `The dispatcher answered ${status}.`);
    this.status = status;
    this.code = record.code || "";
    this.field = record.field || "";
    this.title = record.title || "";
    this.retryAfterMs = record.retry_after_ms || 0;
  }
}

// People have not written the field that a program would have to mend.
function plain({ detail = "", field = "" }) {
  const text = field && detail.startsWith(`${field}: `) ? detail.slice(field.length + 2) : detail;
  const words = text.replace(/^\$: /, "").trim();
  return words && `${words[0].toUpperCase()}${words.slice(1)}${/[.!?…]$/.test(words) ? "" : "."}`;
}

export class Unreachable extends Error {
  constructor() {
    super("The dispatcher can't be reached.");
  }
}

export class Api {
  #token;

  // `token`: where tokens are kept, and asked for.
  constructor(token) {
    this.#token = token;
  }

  // `background`: nobody waits for it, so it doesn't ask for a token either.
  async call(path, { method = "GET", body, headers = {}, signal, background = false } = {}) {
    for (;;) {
      const used = this.#token.text;
      const response = await this.#fetch(path, {
        method,
        signal,
        headers: {
          ...headers,
          ...(used ? { authorization: `Bearer ${used}` } : {}),
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      if (response.ok) return response;
      const problem = new Problem(response.status, await told(response));
      const isOver = response.status !== 401 || !(await this.#token.wanted(used, background));
      if (isOver) throw problem;
    }
  }

  async json(path, options) {
    const response = await this.call(path, options);
    try {
      return await response.json();
    } catch {
      throw new Unreachable();
    }
  }

  post(path, body, headers = {}) {
    return this.json(path, { method: "POST", body, headers });
  }

  async #fetch(path, options) {
    try {
      return await fetch(path, { ...options, cache: "no-store", credentials: "same-origin", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable();
    }
  }
}

async function told(response) {
  try {
    const record = await response.json();
    return record && typeof record === "object" ? record : {};
  } catch {
    return {};
  }
}

export function sessionPath(sessionId, rest = "") {
  return `/v1/sessions/${encodeURIComponent(sessionId)}${rest}`;
}

// So that an ask which is sent again, because its answer was lost, opens no second session. Not `randomUUID`, which
// pages that came without TLS have not.
export function freshKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
