"""Agents of the simulation that ask: other agents, several at once, somebody who has to allow it, and people, for whom
some of them wait without a slot."""

from dataclasses import dataclass, field
from functools import partial
from random import Random

from southwest.ai.agent.v1 import agent_pb2

from commander.rerun import Rerun, Withdrawn
from simulation.agent import Agent

# The agents that ask, and what they do with a session that another has lost; and those of them that park.
ASKING = {
    "chief": agent_pb2.ON_RESTART_RESTART,
    "boss": agent_pb2.ON_RESTART_CONTINUE,
    "form": agent_pb2.ON_RESTART_RESTART,
    "wizard": agent_pb2.ON_RESTART_NEVER,
}
PARKING = frozenset({"form", "wizard"})
# Whom they ask. A desk is an agent that is offered as a tool, and whoever pays has to be allowed to.
ASKED = ("echo", "saga", "chief", "boss", "form", "form", "wizard", "nobody")
DESK, DESK_AGENT = "desk", "form"
PAY = "pay"
# How often somebody who asks waits a while, and then no longer.
GIVES_UP_SHARE = 0.2


@dataclass
class Asker(Agent):
    """Asks much, and says little."""

    def begin(self) -> None:
        super().begin()
        self.steps = self.rng.choice((1, 3, 8))

    def ask(self, *, question: bool) -> None:
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            draw = self.rng.random()
            if draw < 0.5:
                asked_id = self.open_call(self.rng.choice(ASKED), to_agent=True)
            elif draw < 0.6:
                asked_id = self.open_call(DESK)
            elif draw < 0.75:
                asked_id = self.open_call(PAY)
            elif draw < 0.9:
                asked_id = self.open_question("well?")
            else:
                super().ask(question=question)
                continue
            if self.rng.random() < GIVES_UP_SHARE:
                self.later(self.rng.expovariate(1.0), partial(self.tire, asked_id))


@dataclass
class Wizard(Agent):
    """Does the same whenever it is run, so it can be run again: what it got before it gets again, and is silent until
    it has all answers that there are."""

    script: list[tuple[str, str]] = field(default_factory=list)
    rerun: Rerun | None = None

    def begin(self) -> None:
        super().begin()
        self.script = script_of(self.turn.session_id)
        self.rerun = Rerun(self.request.rerun) if self.request.rerun is not None else None

    @property
    def is_silent(self) -> bool:
        return self.rerun is not None and self.rerun.is_silent

    def act(self) -> bool:
        if not self.script:
            assert self.rerun is None or self.rerun.unfinished() is None, f"{self.turn!r} was told of more"
            return False
        kind, what = self.script.pop(0)
        if kind == "say":
            if not self.is_silent:
                self.say(what)
        elif kind == "ask":
            for text in what.split():
                if self.rerun is None or self.rerun.answer(text, ()) is None:
                    self.open_question(text)
        elif kind == "hasty":
            known = self.rerun.answer(what, ()) if self.rerun is not None else None
            if known is None:
                self.give_up(self.open_question(what))
            self._check_withdrawn(known)
        elif kind == "hasty call":
            result = self.rerun.result("look", what) if self.rerun is not None else None
            if result is None:
                self.give_up(self.open_call("look", what))
            self._check_withdrawn(result)
        else:
            tool, arguments_json = what.split(maxsplit=1)
            if self.rerun is None or self.rerun.result(tool, arguments_json) is None:
                self.open_call(tool, arguments_json, to_agent=kind == "agent")
        return True

    def _check_withdrawn(self, known: object) -> None:
        """It had given up at once: an answer is too late, unless nothing was heard of that, or of what followed."""
        is_heard = isinstance(known, Withdrawn) or known is None
        assert is_heard or not self.is_silent, f"{self.turn!r} is given {known} for which it has not waited"

    def _mint(self, kind: str) -> str:
        asked_id = super()._mint(kind)
        self.waiting.discard(asked_id)
        # Of another attempt than those before.
        prefix = self.request.id_prefix
        asked_id = f"{prefix}{self.turn.attempt}.{asked_id.removeprefix(prefix)}"
        self.waiting.add(asked_id)
        return asked_id


def script_of(session_id: str) -> list[tuple[str, str]]:
    """What a wizard does in this session, whichever attempt it is. Two questions of it may have the same words."""
    rng = Random(session_id)
    script = [("say", "Once;")]
    for number in range(rng.choice((1, 3, 6))):
        match rng.choice(("ask", "ask", "call", "agent", "say", "hasty", "hasty call")):
            case "hasty":
                script.append(("hasty", rng.choice(("now?", "who?"))))
            case "hasty call":
                script.append(("hasty call", f'"hasty {number}"'))
            case "ask":
                script.append(("ask", rng.choice(("who?", "what? why?", "who? who?"))))
            case "agent":
                script.append(("agent", f'{rng.choice(ASKED)} "{number}"'))
            case "call":
                script.append(("call", f'{rng.choice(("look", PAY, DESK))} "{number}"'))
        # What ends with a blank is held back: it may become what is looked for.
        script.append(("say", f"{number};{rng.choice(('', '', ' '))}"))
    return script


def all_said(session_id: str) -> str:
    """What viewers have of a wizard that is done."""
    return "".join(what for kind, what in script_of(session_id) if kind == "say")
