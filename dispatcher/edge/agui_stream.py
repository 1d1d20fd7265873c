"""A session as a run of the AG-UI protocol, version 1.0: events of one run, from RUN_STARTED to its end.

A question ends the run with an interrupt, whose id says where in which session it was asked: the run that resumes goes
on from there. Clients that don't say their version are older, and are shown steps instead of sub-agents.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core.endings import Ending
from dispatcher.core.packets import Ended, SessionEvent, ToolCall, ToolResult, Usage, UserMessage
from dispatcher.edge.agui_bodies import Interrupt, Run
from dispatcher.edge.native import NOTICES, SAFE_INTEGER_MAX, embedded, json_bytes
from dispatcher.edge.rendering import GoAway, Notice, Slow
from dispatcher.journal import Entry
from dispatcher.record import plain, seconds
from dispatcher.rpc import codec

PROTOCOL_VERSION: Final = "1.0"
# Whose the metadata of events is.
METADATA: Final = "chatstream"
# Endings on purpose.
_CANCELLED: Final = frozenset({Ending.STOPPED, Ending.DETACHED})

Event = dict[str, Any]


class _Block(NamedTuple):
    """Text of one kind that a speaker goes on with; `step` is that of thoughts."""

    kind: str
    id: str
    step: object


class RunStream:
    """One run. `thoughts`: whether it is shown them; those that it isn't must not part its text.

    `interrupted` is where the question was asked that has ended it."""

    way = "agui"
    # What is written depends on which messages are open, so no two viewers share it.
    key = None
    is_exact = False
    heartbeat = b": still here\n\n"

    def __init__(self, session_id: str, epoch: str, run: Run, *, thoughts: bool) -> None:
        self._session_id = session_id
        self._epoch = epoch
        self._run = run
        self._thoughts = thoughts
        self.interrupted: Interrupt | None = None
        # Of this run.
        self._has_begun = False
        self._blocks: dict[str, _Block] = {}
        self._started: dict[str, str] = {}
        # Of the session: calls that have no result yet, how often each sub-agent has come to an end, what the user has
        # added, and what was used before this run and in it.
        self._calls: dict[str, str] = {}
        self._finished: dict[str, int] = {}
        # How many messages there have been. Offsets are no names for them: to one that lags several pieces are one.
        self._messages_begun = 0
        self._added: list[UserMessage] = []
        self._used_before = Usage()
        self._used = Usage()
        self._events: Mapping[str, Callable[[Entry], list[Event]]] = {
            "thought": self._thought,
            "content": self._content,
            "tool_call": self._tool_call,
            "tool_result": self._tool_result,
            "progress": self._custom,
            "question": self._question,
            "answer": self._custom,
            "agent_event": self._agent_event,
            "artifact": self._custom,
            "embedding": self._custom,
            "usage": self._usage,
            "error": self._error,
            "reset": self._reset,
            "user_message": self._user_message,
            "ended": self._ended,
        }

    def events(self, entries: Sequence[Entry]) -> bytes:
        return b"".join([self._written(self._made(entry)) for entry in entries])

    def recall(self, entries: Sequence[Entry]) -> None:
        """What runs before this one have shown: their messages are over, what goes on is remembered."""
        for entry in entries:
            if self._thoughts or entry.event.kind != "thought":
                self._made(entry)
        self._used_before = self._used_before.plus(self._used)
        self._used = Usage()
        self._blocks.clear()
        self._started.clear()
        self.interrupted = None

    def notice(self, notice: Notice) -> bytes:
        name = NOTICES[type(notice)]
        if isinstance(notice, GoAway):
            return self._written([_failed(f"{notice.reason}; the session goes on", name)])
        if isinstance(notice, Slow):
            return self._written([_failed("too little was taken for too long", name)])
        return self._written([{"type": "CUSTOM", "name": name, "value": notice._asdict()}])

    def _written(self, events: list[Event]) -> bytes:
        if not self._has_begun:
            self._has_begun = True
            events = [self._begun(), *events]
        return b"".join([b"data: %b\n\n" % json_bytes(event) for event in events])

    def _made(self, entry: Entry) -> list[Event]:
        make = self._events.get(entry.event.kind)
        return [] if make is None else make(entry)

    def _begun(self) -> Event:
        run = self._run
        begun = {"type": "RUN_STARTED", "threadId": run.thread_id, "runId": run.run_id}
        return begun | self._newer(
            protocolVersion=PROTOCOL_VERSION, metadata={METADATA: {"session_id": self._session_id}}
        )

    def _newer(self, **fields: Any) -> Event:
        """What only clients that say their version know."""
        return {} if self._run.is_older else fields

    # --- who speaks ------------------------------------------------------------------------------------------

    def _of(self, agent: str) -> Event:
        """Whose it is, where it isn't the root agent's."""
        return self._newer(subagentRunId=self._started[agent]) if agent else {}

    def _come(self, agent: str, description: str = "") -> list[Event]:
        """A sub-agent is there from the first that is heard of it."""
        if not agent or agent in self._started:
            return []
        run_id = f"{self._session_id}:{agent}:{self._finished.get(agent, 0)}"
        self._started[agent] = run_id
        if self._run.is_older:
            return [{"type": "STEP_STARTED", "stepName": agent}]
        event: Event = {"type": "SUBAGENT_STARTED", "subagentRunId": run_id, "name": agent}
        if description:
            event["description"] = description
        parent, _, _ = agent.rpartition("/")
        if parent in self._started:
            event["parentSubagentRunId"] = self._started[parent]
        return [event]

    def _gone(self, agent: str, how: Event) -> list[Event]:
        """`how` it came to its end: the fields of the event that tells."""
        run_id = self._started.pop(agent, None)
        if run_id is None:
            return []
        if how.get("outcome") != {"type": "suspended"}:
            self._finished[agent] = self._finished.get(agent, 0) + 1
        if self._run.is_older:
            return [{"type": "STEP_FINISHED", "stepName": agent}]
        kind = "SUBAGENT_ERROR" if "message" in how else "SUBAGENT_FINISHED"
        return [{"type": kind, "subagentRunId": run_id, **how}]

    def _all_gone(self, how: Event) -> list[Event]:
        # Helpers before those who called them.
        return [event for agent in reversed(self._started.copy()) for event in self._gone(agent, how)]

    def _agent_event(self, entry: Entry) -> list[Event]:
        agent = entry.event.agent
        wire = self._wire(entry).agent_event
        kind = wire.WhichOneof("event")
        if kind == "started":
            return self._come(agent, wire.started.description)
        events = [*self._come(agent), *self._closed(agent)]
        if kind == "failed":
            error = wire.failed.error
            return [*events, *self._gone(agent, {"message": error.message, "code": error.code or "failed"})]
        result = {"result": wire.completed.summary} if wire.completed.summary else {}
        return [*events, *self._gone(agent, {"outcome": {"type": "success"}, **result})]

    # --- text ------------------------------------------------------------------------------------------------

    def _thought(self, entry: Entry) -> list[Event]:
        return self._text(entry.event, "REASONING_MESSAGE", entry.event.body)

    def _content(self, entry: Entry) -> list[Event]:
        return self._text(entry.event, "TEXT_MESSAGE", None)

    def _text(self, event: SessionEvent, kind: str, step: object) -> list[Event]:
        agent = event.agent
        block = self._blocks.get(agent)
        events: list[Event] = []
        if not event.text:
            return events
        if block is None or (block.kind, block.step) != (kind, step):
            events = [*self._come(agent), *self._closed(agent)]
            self._messages_begun += 1
            block = self._blocks[agent] = _Block(kind, f"{self._session_id}:{self._messages_begun}", step)
            of = self._of(agent)
            role = "assistant"
            if kind == "REASONING_MESSAGE":
                named = self._newer(metadata={METADATA: {"step": step}}) if step else {}
                events.append({"type": "REASONING_START", "messageId": block.id, **of, **named})
                role = "reasoning"
            events.append({"type": f"{kind}_START", "messageId": block.id, "role": role, **of})
        events.append({"type": f"{kind}_CONTENT", "messageId": block.id, "delta": event.text})
        return events

    def _closed(self, agent: str) -> list[Event]:
        """Ends what the speaker was saying: what it says next is another message."""
        block = self._blocks.pop(agent, None)
        if block is None:
            return []
        ends = [f"{block.kind}_END"] + (["REASONING_END"] if block.kind == "REASONING_MESSAGE" else [])
        return [{"type": end, "messageId": block.id} for end in ends]

    def _all_closed(self) -> list[Event]:
        return [event for agent in list(self._blocks) for event in self._closed(agent)]

    def _user_message(self, entry: Entry) -> list[Event]:
        message = entry.event.body
        assert isinstance(message, UserMessage)
        self._added.append(message)
        of = {"messageId": message.message_id}
        return [
            *self._all_closed(),
            {"type": "TEXT_MESSAGE_START", "role": "user", **of},
            {"type": "TEXT_MESSAGE_CONTENT", "delta": message.text, **of},
            {"type": "TEXT_MESSAGE_END", **of},
        ]

    # --- tools -----------------------------------------------------------------------------------------------

    def _tool_call(self, entry: Entry) -> list[Event]:
        event = entry.event
        call = event.body
        assert isinstance(call, ToolCall)
        call_id = self._call_id(event.attempt, call.call_id)
        self._calls[call_id] = event.agent
        events = [*self._come(event.agent), *self._closed(event.agent)]
        of = {"toolCallId": call_id} | self._of(event.agent)
        return [
            *events,
            {"type": "TOOL_CALL_START", "toolCallName": call.tool_name, **of},
            {"type": "TOOL_CALL_ARGS", "delta": call.arguments_json or "{}", **of},
            {"type": "TOOL_CALL_END", **of},
        ]

    def _tool_result(self, entry: Entry) -> list[Event]:
        event = entry.event
        result = event.body
        assert isinstance(result, ToolResult)
        call_id = self._call_id(event.attempt, result.call_id)
        if self._calls.pop(call_id, None) is None:
            # Its call was taken back.
            return []
        return [_answered(call_id, f"{call_id}:result", result.outcome.result_json)]

    def _call_id(self, attempt: int, call_id: str) -> str:
        return f"{self._session_id}:{attempt}:{call_id}"

    def _unanswered(self) -> list[Event]:
        """Without results clients would take the calls for theirs to run."""
        told = '{"error": {"code": "cancelled", "message": "the session ended first"}}'
        events = [_answered(call_id, f"{call_id}:result", told) for call_id in self._calls]
        self._calls.clear()
        return events

    # --- questions -------------------------------------------------------------------------------------------

    def _question(self, entry: Entry) -> list[Event]:
        event = entry.event
        question = self._wire(entry).question
        self.interrupted = Interrupt(self._session_id, event.offset, event.attempt, question.question_id)
        interrupt_id = str(self.interrupted)
        come = self._come(event.agent)
        interrupt: Event = {"id": interrupt_id, "reason": "question", **self._of(event.agent)}
        if question.text:
            interrupt["message"] = question.text
        if schema := _schema(question):
            interrupt["responseSchema"] = schema
        if question.HasField("expires_in"):
            at = min(entry.unix_ms / 1000 + seconds(question.expires_in), 253_402_300_799)
            interrupt["expiresAt"] = datetime.fromtimestamp(at, UTC).isoformat()
        told = {"session_id": self._session_id, "attempt": event.attempt, **plain(question)}
        interrupt["metadata"] = {METADATA: told}
        outcome = {"type": "interrupt", "interrupts": [interrupt]}
        return [
            *come,
            *self._all_closed(),
            *self._all_gone({"outcome": {"type": "suspended"}}),
            self._over(outcome, self._used),
        ]

    # --- what else is told -----------------------------------------------------------------------------------

    def _custom(self, entry: Entry) -> list[Event]:
        """The event's fields, as our own JSON has them."""
        kind, agent = entry.event.kind, entry.event.agent
        told = {"agent": agent, "attempt": entry.event.attempt, **plain(getattr(self._wire(entry), kind))}
        return [*self._come(agent), {"type": "CUSTOM", "name": kind, "value": told, **self._of(agent)}]

    def _error(self, entry: Entry) -> list[Event]:
        # Of one that ends the session the ending tells.
        is_end = self._wire(entry).error.scope == agent_pb2.ERROR_SCOPE_SESSION
        return [] if is_end else self._custom(entry)

    def _usage(self, entry: Entry) -> list[Event]:
        wire = self._wire(entry).usage
        used = Usage(wire.input_tokens, wire.output_tokens, wire.reasoning_tokens, wire.model)
        self._used = self._used.plus(used)
        return []

    def _reset(self, entry: Entry) -> list[Event]:
        """What was said is taken back by telling all messages that count: the client's, and the user's since."""
        events = [*self._all_closed(), *self._all_gone({"message": "its attempt was lost", "code": "reset"})]
        self._calls.clear()
        own = f"{self._session_id}:"
        messages = [each for each in self._run.messages if not str(each.get("id")).startswith(own)]
        there = {each.get("id") for each in messages}
        messages += [
            {"id": each.message_id, "role": "user", "content": each.text}
            for each in self._added
            if each.message_id not in there
        ]
        return [*events, {"type": "MESSAGES_SNAPSHOT", "messages": messages}]

    def _wire(self, entry: Entry) -> chat_pb2.SessionEvent:
        return codec.session_event(self._session_id, self._epoch, entry)

    # --- the end ---------------------------------------------------------------------------------------------

    def _ended(self, entry: Entry) -> list[Event]:
        ended = entry.event.body
        assert isinstance(ended, Ended)
        ending = Ending(ended.ending)
        used = _less(ended.usage, self._used_before)
        events = [*self._all_closed(), *self._unanswered()]
        told = ended.message or ending.traits.advice
        if ending is Ending.COMPLETED:
            success: Event = {"type": "success"}
            return [*events, *self._all_gone({"outcome": success}), self._over(success, used)]
        if ending in _CANCELLED and not self._run.is_older:
            gone = self._all_gone({"message": told, "code": ending.value})
            return [*events, *gone, self._over({"type": "cancelled"}, used)]
        return [*events, _failed(told, ending.value) | self._used_by(used)]

    def _over(self, outcome: Event, used: Usage) -> Event:
        run = self._run
        over = {"type": "RUN_FINISHED", "threadId": run.thread_id, "runId": run.run_id, "outcome": outcome}
        return over | self._used_by(used)

    def _used_by(self, used: Usage) -> Event:
        """By this run alone, as the protocol counts."""
        counts = {
            "inputTokens": used.input_tokens,
            "outputTokens": used.output_tokens,
            "reasoningTokens": used.reasoning_tokens,
            "totalTokens": used.input_tokens + used.output_tokens,
        }
        if not any(counts.values()):
            return {}
        told: Event = {name: min(count, SAFE_INTEGER_MAX) for name, count in counts.items()}
        return self._newer(usage=[told | ({"model": used.model} if used.model else {})])


def _less(used: Usage, before: Usage) -> Usage:
    return Usage(
        max(0, used.input_tokens - before.input_tokens),
        max(0, used.output_tokens - before.output_tokens),
        max(0, used.reasoning_tokens - before.reasoning_tokens),
        used.model,
    )


def _schema(question: agent_pb2.Question) -> object:
    """What an answer has to fit, where that can be told: the protocol takes objects alone."""
    text = question.response_schema_json.strip()
    schema = embedded(text)
    if text.startswith("{") and not isinstance(schema, str):
        return schema
    return {"enum": list(question.options)} if question.options else None


def _answered(call_id: str, message_id: str, content: str) -> Event:
    return {
        "type": "TOOL_CALL_RESULT",
        "messageId": message_id,
        "toolCallId": call_id,
        "content": content,
        "role": "tool",
    }


def _failed(told: str, code: str) -> Event:
    return {"type": "RUN_ERROR", "message": told, "code": code}
