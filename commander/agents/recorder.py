"""Makes recordings of what agents really said, from a session's events. Pure."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from commander.agents.recording import AFTER_MS_MAX, JsonObject, RecordingError


def recorded(events: Iterable[Mapping[str, Any]]) -> Iterator[JsonObject]:
    """The recording's lines that play what the agent said in a session's events.

    The events are those that `dispatcher chat --json` and `dispatcher watch --json` print. What others said
    (results, answers, messages) is left out, and so is the time it took; what a reset discarded was never said.
    Sub-agents speak as the root. RecordingError for what is no such event.
    """
    recorder = _Recorder()
    for number, event in enumerate(events, 1):
        try:
            recorder.take(event)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RecordingError(
                f"line {number}: it is no event; lines as `dispatcher chat --json` prints them are needed"
            ) from None
    last_at_ms: int | None = None
    for moment in recorder.moments:
        if moment.line is not None:
            after_ms = 0 if last_at_ms is None else max(0, moment.at_ms - last_at_ms)
            yield {"after_ms": min(after_ms, int(AFTER_MS_MAX)), **moment.line}
        last_at_ms = moment.at_ms


@dataclass(frozen=True, slots=True)
class _Moment:
    """An event that moves the clock: with what the agent said, or with what it was told."""

    offset: int
    at_ms: int
    line: JsonObject | None


class _Recorder:
    def __init__(self) -> None:
        self.moments: list[_Moment] = []
        # By call id; each is the "tool_call" of a line.
        self._open_calls: dict[str, JsonObject] = {}
        self._artifacts: dict[str, bytes] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        kind, fields, at_ms = str(event["event"]), event["fields"], int(event["timestamp"])
        offset = _offset(event["cursor"])
        if kind == "reset":
            kept_up_to = _offset(fields["discard_after"])
            self.moments = [moment for moment in self.moments if moment.offset <= kept_up_to]
            self._open_calls.clear()
            self._artifacts.clear()
            return
        line = self._artifact(fields) if kind == "artifact" else _as_line(kind, fields)
        if line is not None and kind not in ("usage", "progress"):
            # It was said before these calls had results, so the agent had not waited for them.
            for call in self._open_calls.values():
                call["wait"] = False
        if kind == "tool_call" and line is not None:
            self._open_calls[str(fields["call_id"])] = line["tool_call"]
        elif kind == "tool_result":
            self._open_calls.pop(str(fields["call_id"]), None)
        if line is not None or kind in ("started", "tool_result", "answer"):
            self.moments.append(_Moment(offset, at_ms, line))

    def _artifact(self, fields: Mapping[str, Any]) -> JsonObject | None:
        """The artifact as a line, with its last piece."""
        artifact_id = str(fields["artifact_id"])
        content = self._artifacts.pop(artifact_id, b"") + base64.b64decode(str(fields["data"]))
        if not fields["is_last"]:
            self._artifacts[artifact_id] = content
            return None
        encoded = base64.b64encode(content).decode()
        return {"artifact": {**_set(fields, "name", "mime_type"), "base64": encoded}}


def _offset(cursor: object) -> int:
    """The number in "epoch:offset"; 0 for no cursor."""
    return int(str(cursor or "0").rpartition(":")[2])


def _as_line(kind: str, fields: Mapping[str, Any]) -> JsonObject | None:
    """What an event says of the agent, as a line; None for what the agent did not say."""
    match kind:
        case "content":
            return {"content": str(fields["text"])} if fields["text"] else None
        case "thought":
            return {"thought": [str(fields["step_name"]), str(fields["delta"])]}
        case "tool_call":
            arguments = json.loads(fields["arguments_json"] or "{}")
            return {"tool_call": {"name": str(fields["tool_name"]), "arguments": arguments, "wait": True}}
        case "progress":
            return {"progress": _set(fields, "text", "current", "total", "percent")}
        case "question":
            question = _set(fields, "text", "options", "expires_in_s")
            if fields["response_schema_json"]:
                question["schema"] = json.loads(fields["response_schema_json"])
            return {"question": question}
        case "embedding":
            return {"embedding": _set(fields, "values", "name", "model")}
        case "usage":
            return {"usage": _set(fields, "input_tokens", "output_tokens", "reasoning_tokens", "model")}
        case "ended" if fields["name"] == "agent_failed" and fields["error"]:
            error = fields["error"]
            line = _set(error, "code", "message", "retryable")
            if error["retry_after_ms"] is not None:
                line["retry_after_s"] = error["retry_after_ms"] / 1000
            return {"error": line}
        case _:
            return None


def _set(fields: Mapping[str, Any], *names: str) -> JsonObject:
    return {name: fields[name] for name in names if fields[name] is not None}
