// What a session's events look like: a fold of them. It keeps what one event means for a later one: who speaks, which
// calls and questions are open. Begun anew by `clear`, and told everything again.

import { announce } from "./announcer.js";
import { Artifact } from "./artifact.js";
import { Call, words } from "./call.js";
import { element } from "./elements.js";
import { ending } from "./ending.js";
import { Prose } from "./markdown.js";
import { Question } from "./question.js";
import { Speaker } from "./speaker.js";

export class Transcript {
  #box;
  #deeds;
  #speakers = new Map();
  #calls = new Map();
  #questions = new Map();
  #artifacts = new Map();
  #messages = new Map();
  #isLive = false;
  #isPaced = false;
  #turns = [];

  // `deeds`: what people can do from here: answer(questionId, body), again(), back(text); and isOwnStop().
  constructor(box, deeds) {
    this.#box = box;
    this.#deeds = deeds;
    this.clear();
  }

  clear() {
    this.#artifacts.forEach((artifact) => artifact.forget());
    [this.#speakers, this.#calls, this.#questions, this.#artifacts, this.#messages].forEach((map) => map.clear());
    this.#turns = [];
    this.isOver = false;
    this.hasStarted = false;
    this.#box.replaceChildren();
  }

  // Earlier turns of the conversation, and the words that this session was opened with.
  show(messages) {
    for (const { role, content } of messages) {
      if (role === "user") {
        this.#box.append(said(content));
        continue;
      }
      const prose = new Prose();
      prose.append(content);
      prose.finish();
      this.#box.append(element("div", { class: "speaker earlier" }, prose.box));
    }
  }

  // One event. `isLive`: it is news, and not what a viewer reads after.
  take(record, isLive) {
    this.#isLive = isLive;
    const taken = this[`_${record.event}`];
    if (taken) taken.call(this, record.fields, record);
  }

  note(text) {
    this.#speaker("").add(element("p", { class: "note" }, text));
  }

  draw() {
    const isWhole = [...this.#speakers.values()].map((speaker) => speaker.draw()).every(Boolean);
    if (isWhole || this.#isPaced) return;
    this.#isPaced = true;
    setTimeout(() => {
      this.#isPaced = false;
      this.draw();
    }, 100);
  }

  // What it waits for, as words; empty when it is over.
  get state() {
    if (this.isOver) return "";
    if ([...this.#questions.values()].some((question) => question.isOpen)) return "Waits for your answer";
    if (!this.hasStarted) return "Waits for a worker";
    const open = [...this.#calls.values()].filter((call) => call.box.dataset.state === "running");
    return open.length ? `Waits for ${open[open.length - 1].name}` : "Works";
  }

  // As the next request tells it: what the agent has said, and what the user has said in between.
  get turns() {
    const root = this.#speakers.get("");
    const turns = [...this.#turns, { role: "assistant", content: root ? root.said.slice(this.#told()) : "" }];
    return turns.filter(({ content }) => content.trim());
  }

  #told() {
    return this.#turns.filter(({ role }) => role === "assistant").reduce((sum, { content }) => sum + content.length, 0);
  }

  #speaker(path) {
    const known = this.#speakers.get(path);
    if (known) return known;
    const speaker = new Speaker(path, (text) => this.#isLive && announce(path ? `${path}: ${text}` : text));
    this.#speakers.set(path, speaker);
    if (path) this.#parent(path).add(speaker.box);
    else this.#box.append(speaker.box);
    return speaker;
  }

  // The nearest that there is: "team/insight" is within "team", where that speaks.
  #parent(path) {
    const above = path.slice(0, Math.max(0, path.lastIndexOf("/")));
    return above === "" || this.#speakers.has(above) ? this.#speaker(above) : this.#parent(above);
  }

  // --- events, by name -------------------------------------------------------------------------------------------

  _opened() {
    this.#speaker("");
  }

  _started() {
    this.hasStarted = true;
  }

  _content({ text }, { agent }) {
    this.hasStarted = true;
    this.#speaker(agent).say(text);
  }

  _thought(fields, { agent }) {
    this.#speaker(agent).think(fields);
  }

  _tool_call(fields, { agent, attempt }) {
    const call = new Call(fields);
    this.#calls.set(`${attempt}/${fields.call_id}`, call);
    this.#speaker(agent).add(call.box);
  }

  _tool_result(fields, { attempt }) {
    this.#calls.get(`${attempt}/${fields.call_id}`)?.answered(fields);
  }

  _progress(fields, { agent }) {
    this.#speaker(agent).progress(fields);
  }

  _question(fields, { agent, attempt, timestamp }) {
    const send = (body) => this.#deeds.answer(fields.question_id, body);
    const call = this.#calls.get(`${attempt}/${fields.approves_call_id}`);
    const question = new Question(fields, timestamp, attempt, send, call);
    this.#questions.set(`${attempt}/${fields.question_id}`, question);
    this.#speaker(agent).add(question.box);
    if (this.#isLive) announce(question.spoken);
  }

  _answer(fields, { attempt }) {
    this.#questions.get(`${attempt}/${fields.question_id}`)?.answered(fields);
  }

  _agent_event(fields, { agent }) {
    this.#speaker(agent).became(fields);
  }

  _artifact(fields, { agent, attempt }) {
    const key = `${attempt}/${fields.artifact_id}`;
    let artifact = this.#artifacts.get(key);
    if (!artifact) {
      artifact = new Artifact(fields);
      this.#artifacts.set(key, artifact);
      this.#speaker(agent).add(artifact.box);
    }
    artifact.add(fields);
  }

  _embedding({ name, values }, { agent }) {
    const told = `${name || "An embedding"}: ${values.length} numbers`;
    this.#speaker(agent).add(element("p", { class: "note" }, told));
  }

  _error({ scope, code, message }, { agent }) {
    if (scope === "session") return;
    const box = element("p", { class: "note failed" }, `${words(code)}: ${message}`);
    this.#speaker(agent).add(box);
  }

  _user_message({ text, message_id }) {
    const box = said(text);
    this.#messages.set(message_id, { box, text });
    const root = this.#speaker("");
    this.#turns.push({ role: "assistant", content: root.said.slice(this.#told()) }, { role: "user", content: text });
    root.add(box);
  }

  _reset({ reason }) {
    const told = `The worker was lost${reason ? ` (${words(reason).toLowerCase()})` : ""}; another began anew.`;
    this.note(`${told} What the first one had said is taken back.`);
    if (this.#isLive) announce(told);
  }

  _ended(fields) {
    this.isOver = true;
    [this.#speakers, this.#calls, this.#questions, this.#artifacts].forEach((all) => {
      all.forEach((each) => each.leave());
    });
    for (const id of fields.unread_message_ids) this.#giveBack(this.#messages.get(id));
    const box = ending(fields, this.#deeds.again, this.#deeds.isOwnStop());
    this.#speaker("").add(box);
    if (this.#isLive) announce(box.dataset.spoken);
  }

  #giveBack(message) {
    if (!message) return;
    message.box.classList.add("unread");
    const back = element("button", { type: "button", class: "quiet" }, "Take it back");
    back.addEventListener("click", () => this.#deeds.back(message.text));
    message.box.append(element("p", { class: "hint" }, "The agent has not read this. ", back));
  }
}

function said(text) {
  return element("div", { class: "said" }, element("p", { class: "words" }, text));
}
