"""Who answers in the simulation: the right thing and others, in time, late, twice, to nobody, and by way of whichever
session shows the question; and what must have come of what was accepted."""

from random import Random

from dispatcher.core import events as e
from dispatcher.core.events import Reply
from dispatcher.core.packets import DECLINED, Answer
from simulation.dispatcher import SimulatedDispatcher
from simulation.journal import SimulatedJournal

APPROVALS = (
    '"approve"',
    '"approve"',
    '"approve"',
    '{"approve": "0"}',
    '{"approve": {"a": 1}}',
    '{"deny": "no"}',
    '"deny"',
    None,
)
ANSWERS = ('"yes"', '"yes"', '"no"', None)


class People:
    """Everybody who answers."""

    def __init__(self, rng: Random, dispatcher: SimulatedDispatcher, journal: SimulatedJournal) -> None:
        self._rng = rng
        self._dispatcher = dispatcher
        self._journal = journal
        self._given: list[e.AnswerGiven] = []
        # What was accepted: in which epoch, of which session that asked, and as which answer.
        self._accepted: list[tuple[int, str, Answer]] = []

    def answer(self) -> None:
        """Somebody looks at a session, and answers some of what it asks."""
        router, rng = self._dispatcher.router, self._rng
        for session in list(router.sessions.values()):
            for question_id in list(session.open_questions):
                asking = router.asking(session.session_id, question_id)
                assert asking is not None, f"{session!r}: nobody asks {question_id}"
                if rng.random() < 0.5:
                    continue
                is_approval = question_id in asking.approvals
                value = rng.choice(APPROVALS if is_approval else ANSWERS)
                attempt = rng.choice((None, session.attempt, session.attempt))
                self._give(e.AnswerGiven(session.session_id, question_id, value, attempt))

    def answer_wrongly(self) -> None:
        """Once more, too late, differently, or to nobody."""
        rng = self._rng
        if rng.random() < 0.2 or not self._given:
            known = list(self._dispatcher.router.sessions)
            whose = rng.choice(known) if known else "nobody"
            self._dispatcher.ask(e.AnswerGiven(whose, "nobody's", '"approve"'), _must_be_declined)
        else:
            again = rng.choice(self._given)
            self._give(
                e.AnswerGiven(again.session_id, again.question_id, rng.choice((again.value_json, '"other"')))
            )

    def _give(self, given: e.AnswerGiven) -> None:
        router = self._dispatcher.router
        asking = router.asking(given.session_id, given.question_id)
        whose = asking.session_id if asking is not None else given.session_id
        self._given.append(given)

        def told(reply: Reply | None) -> None:
            assert isinstance(reply, e.Accepted | e.Declined), reply
            if isinstance(reply, e.Accepted):
                why = "" if given.value_json is not None else DECLINED
                told = Answer(given.question_id, given.value_json, why)
                self._accepted.append((self._journal.epoch, whose, told))

        self._dispatcher.ask(given, told)

    def check(self) -> None:
        """What was accepted was told to everybody, and an answer counts once."""
        for epoch, session_id, answer in self._accepted:
            if epoch == self._journal.epoch:
                told = [event.body for event in self._journal.logs[session_id].events]
                assert answer in told, f"{session_id}: {answer} was accepted, and nobody knows"


def _must_be_declined(reply: Reply | None) -> None:
    assert isinstance(reply, e.Declined), reply
