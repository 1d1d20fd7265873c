"""An agent of the simulation: says a script, and obeys its stop at once, late, or never."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from southwest.ai.agent.v1 import agent_pb2

from commander.conversation import Request
from commander.core.outbox import Sealed, Text
from commander.core.turn import Outcome, Turn

# A tool that answers with what it is asked.
REPEAT = "repeat"
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
    request: Request
    steps: int = 0
    said: str = ""
    results: dict[str, str] = field(default_factory=dict)
    # The user's messages: those that wait, with the number of their signal, and those it took.
    inbox: list[tuple[int, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    asked: int = 0
    waiting: set[str] = field(default_factory=set)
    cancelled: bool = False
    dead: bool = False
    completed: bool = False
    obedience: str = "at once"
    pace_s: float = 0.05

    @property
    def published(self) -> str:
        """What it is told that viewers have of earlier attempts."""
        told = self.request.published or self.request.rerun
        return told.content if told else ""

    @property
    def is_silent(self) -> bool:
        """It runs the same again, and what it says was said before."""
        return False

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

    def called(self, result: agent_pb2.ToolCallResult) -> None:
        """A call has come to something."""
        died = result.error.code == agent_pb2.TOOL_ERROR_CODE_UNKNOWN_OUTCOME
        denied = result.error.code == agent_pb2.TOOL_ERROR_CODE_DENIED
        is_own = result.result_json == f'"{result.call_id}"'
        assert result.tool_name != REPEAT or died or denied or is_own, result
        self.answered(result.call_id, result.result_json)

    def answered(self, asked_id: str, result: str) -> None:
        """A result or an answer came."""
        assert asked_id not in self.results, f"{asked_id} was answered twice"
        self.results[asked_id] = result
        if asked_id in self.waiting:
            self.waiting.discard(asked_id)
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
        if self.inbox and not self.is_silent and self.rng.random() < 0.3:
            sequence, message_id = self.inbox.pop(0)
            self.taken.append(message_id)
            self.turn.read(sequence)
        if not self.act():
            self.completed = True
            self.turn.finish(Outcome.COMPLETED)
            self.wake(self.turn)
            self.over(self.turn, Outcome.COMPLETED)
            return
        self.wake(self.turn)
        if not self.waiting:
            self._soon()

    def act(self) -> bool:
        """Does the next thing; False: there is none."""
        if self.steps == 0:
            return False
        self.steps -= 1
        draw = self.rng.random()
        if draw < 0.7:
            self.say(f"{self.turn.attempt}.{self.steps} " * self.rng.choice((1, 1, 1, 40)))
        elif draw < 0.8:
            self.turn.offer(Text("hm ", step="thinking"))
        else:
            self.ask(question=draw > 0.95)
        return True

    def say(self, text: str) -> None:
        self.said += text
        self.turn.offer_text(text)

    def ask(self, *, question: bool) -> None:
        if question:
            self.open_question("well?")
        else:
            self.open_call(REPEAT)

    def open_question(self, text: str) -> str:
        asked_id = self._mint("q")
        wire = agent_pb2.Question(question_id=asked_id, text=text)
        self.turn.open_question(asked_id, self, Sealed(wire, wire.ByteSize()))
        return asked_id

    def open_call(self, tool: str, arguments_json: str = "", *, to_agent: bool = False) -> str:
        """Without other arguments, with its own id."""
        asked_id = self._mint("c")
        call = agent_pb2.ToolCallRequest(
            call_id=asked_id,
            tool_name=tool,
            arguments_json=arguments_json or f'"{asked_id}"',
            to_agent=to_agent,
        )
        self.turn.open_call(asked_id, self, Sealed(call, call.ByteSize()))
        return asked_id

    def tire(self, asked_id: str) -> None:
        """It has waited long enough for this, where it still does."""
        if not (self.dead or self.cancelled or self.completed) and asked_id in self.waiting:
            self.give_up(asked_id)
            self.wake(self.turn)
            self._soon()

    def give_up(self, asked_id: str) -> None:
        """It waits no longer for this."""
        assert self.turn.abandon(asked_id), f"{asked_id} is waited for, and not open"
        of = asked_id.removeprefix(self.request.id_prefix).lstrip("0123456789.")[0]
        wire = agent_pb2.Withdrawal(**{"call_id" if of == "c" else "question_id": asked_id})
        self.turn.withdraw(Sealed(wire, wire.ByteSize()))
        self.waiting.discard(asked_id)

    def _mint(self, kind: str) -> str:
        """Another id than any of sessions above."""
        self.asked += 1
        asked_id = f"{self.request.id_prefix}{kind}{self.asked}"
        self.waiting.add(asked_id)
        return asked_id
