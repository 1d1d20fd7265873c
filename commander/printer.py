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
            self._begin("content")
            self._out.write(payload.text)
            self._out.flush()
        elif isinstance(payload, Text):
            self._begin(f"thought {payload.step}", f"{payload.step}: ")
            self._aside(payload.text)
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
        """Asks whoever sits at the terminal, in a thread, because typing takes as long as it takes."""
        if self._as_json or not sys.stdin.isatty():
            self.tell(f"asked, and nobody is here to answer: {question.text}")
            answered(UserAnswer("", "nobody_to_ask"))
            return
        options = f" [{' / '.join(question.options)}]" if question.options else ""
        self.tell(f"{question.text}{options}")
        threading.Thread(target=_type_answer, args=(answered,), daemon=True).start()

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
            stream = self._out if self._last == "content" else self._err
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


def _as_object(packet: pb.UpstreamPacket) -> dict[str, object]:
    kind = packet.WhichOneof("payload") or ""
    payload = getattr(packet, kind)
    told: dict[str, object] = {"type": kind}
    for field, value in payload.ListFields():
        if isinstance(value, str | int | float | bool):
            told[field.name] = value
        elif isinstance(value, bytes):
            told[f"{field.name}_bytes"] = len(value)
        elif kind == "embedding":
            told[field.name] = list(value)
    return told


def _type_answer(answered: Callable[[UserAnswer], None]) -> None:
    try:
        answered(UserAnswer(json.dumps(input("> "))))
    except EOFError:
        answered(UserAnswer("", "declined"))
