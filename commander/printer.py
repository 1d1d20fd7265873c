"""What `commander ask` shows of a turn, for people or for scripts."""

import json
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.conversation import UserAnswer
from commander.core.outbox import Text
from commander.core.turn import Done


class Printer:
    """What the agent says: its answer on `out`, all else on `err`; or, as JSON, one object a line on `out`."""

    def __init__(self, out: TextIO, err: TextIO, *, as_json: bool) -> None:
        self._out = out
        self._err = err
        self._as_json = as_json
        self._is_dim = err.isatty() and not as_json
        self._last = ""

    def show(self, packet: pb.UpstreamPacket, payload: object) -> None:
        """One packet, as it is sent."""
        if self._as_json:
            self._line(_as_object(packet))
        elif isinstance(payload, Text) and payload.step is None:
            self._begin(f"content {packet.agent}", f"{packet.agent}: " if packet.agent else "")
            self._out.write(payload.text)
            self._out.flush()
        elif isinstance(payload, Text):
            step = " ".join(filter(None, (packet.agent, payload.step)))
            self._begin(f"thought {step}", f"{step}: ")
            self._aside(payload.text)
        elif packet.HasField("agent_event"):
            self._note(packet.agent, _told_of(packet.agent_event))
        elif packet.HasField("tool_call"):
            self._note("call", f"{packet.tool_call.tool_name} {packet.tool_call.arguments_json}")
        elif packet.HasField("progress"):
            self._note("progress", packet.progress.text)
        elif packet.HasField("artifact") and packet.artifact.is_last:
            self._note("artifact", f"{packet.artifact.name} ({packet.artifact.mime_type})")
        elif packet.HasField("error"):
            self._note("error", packet.error.message)
        elif isinstance(payload, Done):
            self._begin("")

    def tell(self, text: str) -> None:
        """A sentence of the program's own."""
        self._begin("")
        self._err.write(f"{text}\n")
        self._err.flush()

    def ask(self, question: pb.Question, answered: Callable[[UserAnswer], None]) -> None:
        """Asks whoever types or is piped in: a line is an answer, the end of the input declines. In a thread,
        because it takes as long as it takes."""
        if self._as_json:
            told = {
                "question_id": question.question_id,
                "text": question.text,
                "options": list(question.options),
            }
            self._line({"type": "question", **told})
        else:
            options = f" [{' / '.join(question.options)}]" if question.options else ""
            self.tell(f"{question.text}{options}")
        threading.Thread(target=self._read_answer, args=(question, answered), daemon=True).start()

    def result(self, result: pb.ToolCallResult, tool: str) -> None:
        """What came of a tool call; a bare result doesn't say of which."""
        if self._as_json:
            told = {"call_id": result.call_id, "tool_name": tool, "result_json": result.result_json}
            self._line({"type": "tool_result", **told})
        else:
            self._note("result", f"{tool} {result.result_json}".strip())

    def ended(self, outcome: str, why: str = "") -> None:
        """The last word. People are told what went wrong; scripts get an object in any case."""
        if self._as_json:
            self._line({"type": "ended", "outcome": outcome, **({"message": why} if why else {})})
        elif why:
            self.tell(f"{outcome}: {why}" if outcome == "stopped" else why)

    def _read_answer(self, question: pb.Question, answered: Callable[[UserAnswer], None]) -> None:
        prompt = "> " if sys.stdin.isatty() and not self._as_json else ""
        try:
            answered(UserAnswer(json.dumps(input(prompt))))
        except (EOFError, OSError):
            if not self._as_json and not sys.stdin.isatty():
                self.tell(f"asked, and nobody is here to answer: {question.text}")
            answered(UserAnswer("", "declined" if sys.stdin.isatty() else "nobody_to_ask"))

    def _note(self, what: str, text: str) -> None:
        self._begin("")
        self._begin(what, f"{what}: ")
        self._aside(text)
        self._begin("")

    def _begin(self, part: str, prefix: str = "") -> None:
        """Another part than the last begins on a line of its own."""
        if part == self._last:
            return
        if self._last:
            stream = self._out if self._last.startswith("content") else self._err
            stream.write("\n")
            stream.flush()
        self._last = part
        if prefix:
            self._aside(prefix)

    def _aside(self, text: str) -> None:
        self._err.write(f"\x1b[2m{text}\x1b[0m" if self._is_dim else text)
        self._err.flush()

    def _line(self, told: dict[str, object]) -> None:
        self._out.write(json.dumps(told, ensure_ascii=False) + "\n")
        self._out.flush()


def _told_of(event: pb.AgentEvent) -> str:
    """What became of a sub-agent, in a line."""
    match event.WhichOneof("event"):
        case "started":
            return " – ".join(filter(None, ("started", event.started.description)))
        case "completed":
            return " – ".join(filter(None, ("completed", event.completed.summary)))
        case _:
            return f"failed – {event.failed.error.message}"


def _as_object(packet: pb.UpstreamPacket) -> dict[str, object]:
    kind = packet.WhichOneof("payload") or ""
    payload = getattr(packet, kind)
    told: dict[str, object] = {"type": kind, **({"agent": packet.agent} if packet.agent else {})}
    if kind == "agent_event":
        return told | {"event": payload.WhichOneof("event"), "text": _told_of(payload)}
    for field, value in payload.ListFields():
        if isinstance(value, str | int | float | bool):
            told[field.name] = value
        elif isinstance(value, bytes):
            told[f"{field.name}_bytes"] = len(value)
        elif kind == "embedding":
            told[field.name] = list(value)
    return told
