"""Services of the simulation that judge what agents and tools say: each question is answered, late or soon, in any
order. AssertionError where anything is told or run that was not judged."""

from random import Random

from southwest.ai.agent.v1 import agent_pb2

from dispatcher.core import events as e
from dispatcher.core.holdback import Matcher
from dispatcher.core.packets import SessionEvent, ToolResult
from dispatcher.core.rules import Judged, Judges, Kind, RuleBook, Service, said_by_agents
from simulation.journal import SimulatedJournal

_JUDGED: tuple[Kind, ...] = ("content", "thought", "tool_call", "tool_result", "question")
# How long a judge thinks, and how often it says no to a call.
THINKS_S = (0.001, 0.05, 1.0)
DENIED_SHARE = 0.1
DENIED = "simulated"
# Whose text: session, attempt, kind.
_Whose = tuple[str, int, str]


def rule_book(rng: Random, deny: Matcher | None) -> RuleBook:
    """One or two services on what agents and tools say."""
    hold_chars, fails_open = rng.choice((0, 4, 64)), rng.random() < 0.5
    services = (
        Service("one", fails_open, hold_chars, rng.choice((0, 6)), rng.choice((0.0, 0.1, 1.0))),
        Service("other", fails_open=True, hold_chars=3, before_chars=9, gather_s=0.05),
    )[: rng.randint(1, 2)]
    kinds = [kind for kind in _JUDGED if rng.random() < 0.7] or ["content"]
    judges: dict[Kind, Judges] = dict(said_by_agents(Judges(stop=deny)))
    for kind in kinds:
        judges[kind] = judges[kind]._replace(services=services)
    return RuleBook("simulated", of_others=judges)


class Judging:
    """Of one dispatcher, in all its lives."""

    def __init__(self, rng: Random, book: RuleBook, journal: SimulatedJournal) -> None:
        self._rng = rng
        self._journal = journal
        self._kinds = {kind for kind in _JUDGED if book.judges("")[kind].services}
        self._thinks_s = rng.choice(THINKS_S)
        # What was asked, by question; what was let pass whole; and of what comes in pieces, all that was judged.
        self._passed: set[tuple[_Whose, str]] = set()
        self._judged: dict[_Whose, str] = {}
        self._shown: dict[_Whose, str] = {}
        self._under_way: set[_Whose] = set()

    def begin_life(self) -> None:
        """What was under way is answered to nobody, and what was told and not kept was told to nobody."""
        self._under_way.clear()
        self._shown.clear()
        for session_id, log in self._journal.logs.items():
            for event in log.events:
                self._tell(session_id, event)

    def asked(self, effect: e.JudgeText) -> tuple[float, e.TextJudged]:
        """What services say, and after how long."""
        whose = (effect.session_id, effect.attempt, effect.kind)
        if effect.kind in ("content", "thought"):
            assert whose not in self._under_way, f"asked twice at once: {effect}"
            self._under_way.add(whose)
            before = self._shown.get(whose, "")
            assert effect.attempt > 1 or before.endswith(effect.before), f"{effect}: {before!r} came before"
        action = "pass"
        if effect.kind == "tool_call" and self._rng.random() < DENIED_SHARE:
            action = "deny"
        elif self._rng.random() < 0.1:
            action = "observe"
        told = [Judged(service, "pass") for service in effect.services]
        told[-1] = Judged(told[-1].service, action, DENIED)  # type: ignore[arg-type]
        if action == "pass" and told[-1].service.fails_open and self._rng.random() < 0.1:
            told[-1] = Judged(told[-1].service, "failed", "it is away")
        think_s = self._rng.expovariate(1 / self._thinks_s)
        return think_s, e.TextJudged(effect.session_id, effect.attempt, effect.review_id, tuple(told))

    def answered(self, effect: e.JudgeText, event: e.TextJudged) -> None:
        """Now it is judged."""
        whose = (effect.session_id, effect.attempt, effect.kind)
        if effect.kind in ("content", "thought"):
            self._under_way.discard(whose)
            self._judged[whose] = self._shown.get(whose, "") + effect.text
        elif not any(each.action == "deny" for each in event.judged):
            self._passed.add((whose, effect.text))

    def told(self, session_id: str, event: SessionEvent) -> None:
        """AssertionError for what nobody has judged. What others say below is judged as theirs."""
        if event.agent:
            return
        self._tell(session_id, event)
        whose = (session_id, event.attempt, event.kind)
        if event.kind not in self._kinds:
            return
        text = ""
        match event.body:
            case _ if event.kind in ("content", "thought"):
                shown = self._shown[whose]
                assert self._judged.get(whose, "").startswith(shown), f"{session_id}: {event} was not judged"
                return
            case ToolResult(session_id="") as result if result.outcome.failure is None:
                text = result.outcome.result_json
                if '"session_id"' in text:
                    # Of another agent, whose words were judged as they came.
                    return
            case bytes() as question:
                asked = agent_pb2.Question.FromString(question)
                if asked.approves_call_id:
                    return
                text = asked.text
        assert self._has_passed(whose, text), f"{session_id}: {event} was not judged"

    def _has_passed(self, whose: _Whose, text: str) -> bool:
        """Of a question, other things that people read may stand beside it."""
        return not text or any(of == whose and text in said.splitlines() for of, said in self._passed)

    def runs(self, effect: e.RunTool) -> None:
        """AssertionError for a call that was not let pass."""
        if "tool_call" in self._kinds and not effect.is_approved:
            whose = (effect.session_id, effect.attempt, "tool_call")
            asked = effect.call.arguments_json or "{}"
            assert (whose, asked) in self._passed, f"{effect} was not let pass"

    def _tell(self, session_id: str, event: SessionEvent) -> None:
        if event.kind in ("content", "thought") and not event.agent:
            whose = (session_id, event.attempt, event.kind)
            self._shown[whose] = self._shown.get(whose, "") + event.text
