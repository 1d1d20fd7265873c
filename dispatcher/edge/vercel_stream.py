"""A session as the UI message stream of Vercel's AI SDK, protocol v1: server-sent parts of one assistant message.

Ids are made of the session's and of what its events tell, so whoever is shown the session again is shown the same
parts. What a lost attempt said is taken back by `reset-step`: each attempt that begins anew stands in the message's one
step.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core.endings import Ending, traits_of
from dispatcher.core.packets import Ended, SessionEvent, ToolCall, ToolResult, Usage, UserMessage
from dispatcher.edge.native import NOTICES, SAFE_INTEGER_MAX, embedded, json_bytes
from dispatcher.edge.rendering import GoAway, Notice, Slow
from dispatcher.journal import Entry
from dispatcher.record import plain
from dispatcher.rpc import codec

HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}
# Whose the `providerMetadata` of parts is.
PROVIDER: Final = "chatstream"
_DONE: Final = b"data: [DONE]\n\n"
_FINISH_REASONS: Final = {Ending.POLICY_BLOCKED: "content-filter", Ending.LIMIT_EXCEEDED: "length"}
# Endings on purpose: an abort, and no failure.
_ABORTED: Final = frozenset({Ending.STOPPED, Ending.DETACHED})

Part = dict[str, Any]


class _Block(NamedTuple):
    """Text of one kind that a speaker goes on with; `step` is that of thoughts."""

    kind: str
    id: str
    step: object


class MessageStream:
    """One session's answer. `thoughts`: whether it is shown them; those that it isn't must not part its text."""

    way = "vercel"
    # What is written depends on which blocks are open, so no two viewers share it.
    key = None
    heartbeat = b": still here\n\n"

    def __init__(self, session_id: str, epoch: str, *, thoughts: bool) -> None:
        self._session_id = session_id
        self._epoch = epoch
        self._thoughts = thoughts
        # Without the thoughts between them two texts are one, so of those none is left out.
        self.is_exact = thoughts
        self._blocks: dict[str, _Block] = {}
        # How many there have been. Offsets are no names for them: to one that lags several pieces are one.
        self._blocks_begun = 0
        # Calls that have no result yet, questions as they were asked, pieces of artifacts that are not whole.
        self._calls: set[str] = set()
        self._questions: dict[str, Part] = {}
        self._pieces: dict[str, int] = {}
        # What the user has added, which no reset takes back.
        self._added: list[Part] = []
        self._parts: Mapping[str, Callable[[Entry], list[Part]]] = {
            "opened": self._opened,
            "thought": self._thought,
            "content": self._content,
            "tool_call": self._tool_call,
            "tool_result": self._tool_result,
            "progress": self._progress,
            "question": self._question,
            "answer": self._answer,
            "agent_event": self._agent_event,
            "artifact": self._artifact,
            "embedding": self._embedding,
            "error": self._error,
            "reset": self._reset,
            "user_message": self._user_message,
            "ended": self._ended,
        }

    def events(self, entries: Sequence[Entry]) -> bytes:
        return b"".join([self._event(entry) for entry in entries])

    def recall(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self._thoughts or entry.event.kind != "thought":
                self._made(entry)

    def notice(self, notice: Notice) -> bytes:
        name = NOTICES[type(notice)]
        parts: list[Part] = [{"type": f"data-{name}", "data": notice._asdict(), "transient": True}]
        if isinstance(notice, GoAway):
            parts.append(_failure(f"{notice.reason}, and the answer goes on: resume the chat"))
        elif isinstance(notice, Slow):
            parts.append(
                _failure("too little was taken for too long, and the answer goes on: resume the chat")
            )
        return b"".join([b"data: %b\n\n" % json_bytes(part) for part in parts])

    def _event(self, entry: Entry) -> bytes:
        """Its parts; the last bears the cursor, as only then all of it was told."""
        parts = self._made(entry)
        if not parts:
            return b""
        told = [b"data: %b\n\n" % json_bytes(part) for part in parts]
        told[-1] = b"id: %b:%d\n%b" % (self._epoch.encode(), entry.event.offset, told[-1])
        if entry.event.kind == "ended":
            told.append(_DONE)
        return b"".join(told)

    def _made(self, entry: Entry) -> list[Part]:
        make = self._parts.get(entry.event.kind)
        return [] if make is None else make(entry)

    # --- text ------------------------------------------------------------------------------------------------

    def _thought(self, entry: Entry) -> list[Part]:
        return self._text(entry.event, "reasoning", entry.event.body)

    def _content(self, entry: Entry) -> list[Part]:
        return self._text(entry.event, "text", None)

    def _text(self, event: SessionEvent, kind: str, step: object) -> list[Part]:
        block = self._blocks.get(event.agent)
        parts: list[Part] = []
        if block is None or (block.kind, block.step) != (kind, step):
            parts = self._closed(event.agent)
            self._blocks_begun += 1
            block = self._blocks[event.agent] = _Block(kind, f"{self._session_id}:{self._blocks_begun}", step)
            begin: Part = {"type": f"{kind}-start", "id": block.id}
            parts.append(begin | self._of(event.agent, **({"step": step} if step else {})))
        parts.append({"type": f"{kind}-delta", "id": block.id, "delta": event.text})
        return parts

    def _closed(self, agent: str) -> list[Part]:
        """Ends what the speaker was saying: what it says next stands behind what comes now."""
        block = self._blocks.pop(agent, None)
        return [] if block is None else [{"type": f"{block.kind}-end", "id": block.id}]

    def _all_closed(self) -> list[Part]:
        return [part for agent in list(self._blocks) for part in self._closed(agent)]

    def _of(self, agent: str, **more: object) -> Part:
        """Whose it is, where it isn't the root agent's."""
        told = {"agent": agent, **more} if agent else more
        return {"providerMetadata": {PROVIDER: told}} if told else {}

    # --- tools and questions ---------------------------------------------------------------------------------

    def _tool_call(self, entry: Entry) -> list[Part]:
        event = entry.event
        call = event.body
        assert isinstance(call, ToolCall)
        call_id = self._call_id(event.attempt, call.call_id)
        self._calls.add(call_id)
        return [
            *self._closed(event.agent),
            {
                "type": "tool-input-available",
                "toolCallId": call_id,
                "toolName": call.tool_name,
                "input": embedded(call.arguments_json or "{}"),
                # It runs in the dispatcher: no client is to run it.
                "dynamic": True,
                "providerExecuted": True,
            }
            | self._of(event.agent),
        ]

    def _tool_result(self, entry: Entry) -> list[Part]:
        result = entry.event.body
        assert isinstance(result, ToolResult)
        call_id = self._call_id(entry.event.attempt, result.call_id)
        if call_id not in self._calls:
            # Its call was taken back.
            return []
        self._calls.discard(call_id)
        failure = result.outcome.failure
        if failure is not None:
            return [_failed_call(call_id, f"{failure.code}: {failure.message}")]
        output = embedded(result.outcome.result_json)
        return [_of_call("tool-output-available", call_id) | {"output": output}]

    def _call_id(self, attempt: int, call_id: str) -> str:
        return f"{self._session_id}:{attempt}:{call_id}"

    def _question(self, entry: Entry) -> list[Part]:
        wire = self._wire(entry)
        question_id = wire.question.question_id
        where = f"/v1/sessions/{self._session_id}/answers/{quote(question_id, safe='')}"
        data = self._said(wire) | {
            "session_id": self._session_id,
            "state": "open",
            "links": {"answer": where},
        }
        self._questions[question_id] = data
        return [*self._closed(entry.event.agent), self._asked(question_id, data)]

    def _answer(self, entry: Entry) -> list[Part]:
        answer = self._wire(entry).answer
        asked = self._questions.pop(answer.question_id, None)
        if asked is None:
            return []
        if answer.WhichOneof("result") == "value_json":
            outcome: Part = {"state": "answered", "value": embedded(answer.value_json)}
        else:
            outcome = {"state": "cancelled", "why": answer.cancelled.why}
        return [self._asked(answer.question_id, asked | outcome)]

    def _asked(self, question_id: str, data: Part) -> Part:
        return {
            "type": "data-question",
            "id": f"{self._session_id}:{data['attempt']}:{question_id}",
            "data": data,
        }

    # --- what else is told -----------------------------------------------------------------------------------

    def _opened(self, entry: Entry) -> list[Part]:
        opened = self._wire(entry).opened
        metadata = {"sessionId": self._session_id, "agent": opened.agent}
        return [
            {"type": "start", "messageId": self._session_id, "messageMetadata": metadata},
            {"type": "start-step"},
        ]

    def _progress(self, entry: Entry) -> list[Part]:
        # The latest stands in the place of those before.
        return [self._data("progress", entry, entry.event.agent or "root")]

    def _agent_event(self, entry: Entry) -> list[Part]:
        part = self._data("agent", entry, f"{entry.event.attempt}:{entry.event.agent}")
        # Only one of the three is set.
        part["data"] = {key: value for key, value in part["data"].items() if value is not None}
        return [*self._closed(entry.event.agent), part]

    def _artifact(self, entry: Entry) -> list[Part]:
        event = entry.event
        artifact = self._wire(entry).artifact
        key = f"{event.attempt}:{event.agent}:{artifact.artifact_id}"
        piece = self._pieces.pop(key, 0)
        if not artifact.is_last:
            self._pieces[key] = piece + 1
        if piece or not artifact.is_last:
            part = self._data("artifact", entry, str(event.offset))
            part["data"]["piece"] = piece
            return [part]
        media_type = artifact.mime_type or "application/octet-stream"
        url = f"data:{media_type};base64,{b64encode(artifact.data).decode()}"
        name = {"name": artifact.name} if artifact.name else {}
        return [
            *self._closed(event.agent),
            {"type": "file", "url": url, "mediaType": media_type} | self._of(event.agent, **name),
        ]

    def _embedding(self, entry: Entry) -> list[Part]:
        # Not for the message, which goes back and forth with the conversation.
        return [self._data("embedding", entry, str(entry.event.offset)) | {"transient": True}]

    def _error(self, entry: Entry) -> list[Part]:
        if self._wire(entry).error.scope == agent_pb2.ERROR_SCOPE_SESSION:
            # The ending tells.
            return []
        return [self._data("error", entry, str(entry.event.offset))]

    def _user_message(self, entry: Entry) -> list[Part]:
        message = entry.event.body
        assert isinstance(message, UserMessage)
        text = {"type": "text", "text": message.text}
        part: Part = {"type": "steering-message", "id": message.message_id, "parts": [text]}
        self._added.append(part)
        return [*self._all_closed(), part]

    def _reset(self, entry: Entry) -> list[Part]:
        for each in (self._blocks, self._calls, self._questions, self._pieces):
            each.clear()
        return [{"type": "reset-step"}, *self._added]

    def _data(self, name: str, entry: Entry, key: str) -> Part:
        """The event's fields, as our own JSON has them. A part of the same id takes its place."""
        return {
            "type": f"data-{name}",
            "id": f"{self._session_id}:{key}",
            "data": self._said(self._wire(entry)),
        }

    def _said(self, wire: chat_pb2.SessionEvent) -> Part:
        kind = wire.WhichOneof("event")
        assert kind is not None
        told = plain(getattr(wire, kind))
        return {"agent": wire.agent, "attempt": wire.attempt, **told}

    def _wire(self, entry: Entry) -> chat_pb2.SessionEvent:
        return codec.session_event(self._session_id, self._epoch, entry)

    # --- the end ---------------------------------------------------------------------------------------------

    def _ended(self, entry: Entry) -> list[Part]:
        ended = entry.event.body
        assert isinstance(ended, Ended)
        ending = Ending(ended.ending)
        parts = self._all_closed()
        parts += [_failed_call(call_id, "the session ended first") for call_id in sorted(self._calls)]
        self._calls.clear()
        metadata = _metadata(ending, ended)
        told = ended.message or ending.traits.advice
        finished: Part = {"type": "finish", "finishReason": "stop", "messageMetadata": metadata}
        if ending is Ending.COMPLETED:
            return [*parts, {"type": "finish-step"}, finished]
        # A client that is told of a failure reads no further.
        parts.append({"type": "message-metadata", "messageMetadata": metadata})
        if ending in _ABORTED:
            return [*parts, {"type": "abort", "reason": told}]
        reason = _FINISH_REASONS.get(ending, "error")
        return [*parts, _failure(told), {"type": "finish-step"}, finished | {"finishReason": reason}]


def _metadata(ending: Ending, ended: Ended) -> Part:
    """What the message's metadata has to say of its end, in the words of the SDK where it has some."""
    metadata: Part = {"ending": ending.value, "usage": _usage(ended.usage)}
    if ended.unread:
        metadata["unreadMessageIds"] = list(ended.unread)
    if ending is not Ending.COMPLETED:
        traits = traits_of(ended)
        metadata["retryable"] = traits.retryable
        if traits.retry_after_s is not None:
            metadata["retryAfterMs"] = round(traits.retry_after_s * 1000)
    return metadata


def _usage(usage: Usage) -> Part:
    counts = {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "reasoningTokens": usage.reasoning_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
    }
    told: Part = {name: min(count, SAFE_INTEGER_MAX) for name, count in counts.items()}
    return told | {"model": usage.model} if usage.model else told


def _failure(told: str) -> Part:
    return {"type": "error", "errorText": told}


def _failed_call(call_id: str, told: str) -> Part:
    return _of_call("tool-output-error", call_id) | {"errorText": told}


def _of_call(kind: str, call_id: str) -> Part:
    return {"type": kind, "toolCallId": call_id, "dynamic": True, "providerExecuted": True}
