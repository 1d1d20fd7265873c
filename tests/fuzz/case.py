"""A case: what is done on which stream, one step a line. Lines that begin with # say why it is here.

    open NAME METHOD            a stream: ChatStream, Converse, Subscribe, WatchSession; the last two with a request
    send NAME PACKET            one message, in protobuf's text format
    mangle NAME EDITS; PACKET   the same, with its bytes edited (see `edits.py`)
    bytes NAME HEX              bytes as they are
    half_close NAME             no more will be sent
    cancel NAME                 the caller goes
    settle all                  waits until what was sent has been read
    end NAME [STATUS]           waits for the stream's end, which has to be with this status
    call METHOD REQUEST         a unary call; `call METHOD! EDITS; REQUEST` with its bytes edited,
                                `call METHOD# HEX` with bytes as they are

In any text of a packet, `$s0` stands for the first session that the case has brought about, `$e` for the journal's
epoch, `$p0` for the first page token that was given, `$x0` for the first stop's id.
"""

from dataclasses import dataclass
from typing import Self

VERBS = ("open", "send", "mangle", "bytes", "half_close", "cancel", "settle", "end", "call")


@dataclass(frozen=True, slots=True)
class Step:
    """`what` is the stream's name, or the method of a call."""

    verb: str
    what: str
    rest: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.what} {self.rest}".rstrip()


@dataclass(frozen=True, slots=True)
class Case:
    steps: tuple[Step, ...]
    why: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for a line that is no step."""
        steps, why = [], []
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("#"):
                why.append(line.removeprefix("#").strip())
            elif line.strip():
                verb, what, rest = [*line.split(" ", 2), "", ""][:3]
                if verb not in VERBS or not what:
                    raise ValueError(f"line {number}: {line[:60]!r} should be one of {', '.join(VERBS)}")
                steps.append(Step(verb, what, rest))
        return cls(tuple(steps), "\n".join(why))

    def __str__(self) -> str:
        lines = [f"# {line}" for line in self.why.splitlines()]
        return "\n".join([*lines, *map(str, self.steps)]) + "\n"
