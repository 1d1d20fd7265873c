"""An agent of the simulation: says a script, and obeys its stop at once, late, or never."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from southwest.ai.agent.v1 import agent_pb2

from commander.core.outbox import Sealed, Text
from commander.core.turn import Outcome, Turn

OBEDIENCE = ("at once", "at once", "late", "too late", "never")


@dataclass
class Agent:
    """One turn's agent. `later` plans in its process's own time, `wake` tells the link that there is something,
    `over` that the agent has really ended."""

    later: Callable[[float, Callable[[], None]], None]
    rng: Random
    turn: Turn
    wake: Callable[[Turn], None]
    over: Callable[[Turn, Outcome | None], None]
    # What it is told that viewers have of earlier attempts.
    published: str
    steps: int = 0
    said: str = ""
    results: dict[str, str] = field(default_factory=dict)
    # The user's messages: those that wait, with the number of their signal, and those it took.
    inbox: list[tuple[int, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    asked: int = 0
    waiting: str = ""
    cancelled: bool = False
    dead: bool = False
    completed: bool = False
    obedience: str = "at once"
    pace_s: float = 0.05

    def begin(self) -> None:
        self.steps = self.rng.choice((0, 3, 20, 60))
        self.pace_s = self.rng.choice((0.001, 0.05, 0.3))
        self.obedience = self.rng.choice(OBEDIENCE)
        self._soon()

    def cancel(self) -> None:
        """The stop reaches it."""
        if self.cancelled or self.completed:
            return
        self.cancelled = True
        late_s = {"at once": 0.001, "late": self.rng.uniform(0.1, 2.0), "too late": 8.0}.get(self.obedience)
        if late_s is not None:
            self.later(late_s, self._end_cancelled)

    def answered(self, call_id: str, result: str) -> None:
        """A result or an answer came."""
        assert call_id not in self.results, f"{call_id} was answered twice"
        self.results[call_id] = result
        if self.waiting == call_id:
            self.waiting = ""
            self._soon()

    def _end_cancelled(self) -> None:
        if not self.dead:
            self.over(self.turn, None)

    def _soon(self) -> None:
        self.later(self.rng.expovariate(1 / self.pace_s), self._step)

    def _step(self) -> None:
        if self.dead or self.cancelled or self.waiting or self.completed:
            return
        if not self.turn.has_room:
            self._soon()
            return
        if self.steps == 0:
            self.completed = True
            self.turn.finish(Outcome.COMPLETED)
            self.wake(self.turn)
            self.over(self.turn, Outcome.COMPLETED)
            return
        self.steps -= 1
        if self.inbox and self.rng.random() < 0.3:
            sequence, message_id = self.inbox.pop(0)
            self.taken.append(message_id)
            self.turn.read(sequence)
        draw = self.rng.random()
        if draw < 0.7:
            text = f"{self.turn.attempt}.{self.steps} " * self.rng.choice((1, 1, 1, 40))
            self.said += text
            self.turn.offer_text(text)
        elif draw < 0.8:
            self.turn.offer(Text("hm ", step="thinking"))
        else:
            self._ask(question=draw > 0.95)
        self.wake(self.turn)
        if not self.waiting:
            self._soon()

    def _ask(self, *, question: bool) -> None:
        self.asked += 1
        asked_id = f"{'q' if question else 'c'}{self.asked}"
        self.waiting = asked_id
        if question:
            wire = agent_pb2.Question(question_id=asked_id, text="well?")
            self.turn.open_question(asked_id, self, Sealed(wire, wire.ByteSize()))
        else:
            call = agent_pb2.ToolCallRequest(
                call_id=asked_id, tool_name="echo", arguments_json=f'"{asked_id}"'
            )
            self.turn.open_call(asked_id, self, Sealed(call, call.ByteSize()))
