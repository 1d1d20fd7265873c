"""Who watches what, as a dispatcher was told: what it does about sessions that nobody watches is judged by this."""

from dataclasses import dataclass, field
from math import inf

from southwest.ai.agent.v1 import agent_pb2

from dispatcher.core import events as e
from dispatcher.core.packets import Answer, SessionEvent

# Sums of floats are not exact.
_EXACT_S = 1e-6


@dataclass
class _Watching:
    """A session that is to end when nobody watches it for so long. `unwatched_since` counts while there is nobody."""

    stop_after_s: float
    unwatched_since: float
    viewers: int = 0
    # While a question is open that its viewers may answer, nobody needs to watch it where that was asked for.
    is_held_by_questions: bool = False
    questions: set[str] = field(default_factory=set)

    @property
    def is_held(self) -> bool:
        return self.is_held_by_questions and bool(self.questions)

    @property
    def is_left(self) -> bool:
        return not self.viewers and not self.is_held


class Audience:
    """Of the sessions that are asked for with `stop_when_unwatched_s`, in one life of a dispatcher after the other."""

    def __init__(self, grace_s: float) -> None:
        # How long viewers have to come back after a restart.
        self._grace_s = grace_s
        self._sessions: dict[str, _Watching] = {}
        self._detached: set[str] = set()
        # Those that have ended so though nobody wanted that, by who had asked for them.
        self._inherited: dict[str, str] = {}
        # Time in which the dispatcher stood still.
        self._stood_still_s = 0.0

    def opened(self, requested: e.SessionRequested, now: float) -> None:
        if requested.stop_when_unwatched_s is not None:
            self._sessions[requested.session_id] = _Watching(
                requested.stop_when_unwatched_s, now, is_held_by_questions=requested.held_by_questions
            )

    def heard(self, event: e.Event, now: float) -> None:
        """What the dispatcher takes up now."""
        alone = {below for above, below in self._inherited.items() if above not in self._detached}
        assert not alone, f"{alone}: detached, and nobody wanted that"
        self._inherited.clear()
        match event:
            case e.ViewerCame(session_id):
                if session_id in self._sessions:
                    self._sessions[session_id].viewers += 1
            case e.ViewerLeft(session_id):
                if session_id in self._sessions:
                    watching = self._sessions[session_id]
                    watching.viewers -= 1
                    watching.unwatched_since = now
            case e.TimePassed(late_s):
                self._stood_still_s += late_s
            case e.Restored(sessions):
                self._stood_still_s = 0.0
                self._sessions.clear()
                for kept in sessions:
                    self.opened(kept.requested, now + self._grace_s)
                    for _, told in kept.entries:
                        if told.kind in ("question", "answer"):
                            self.asked(kept.requested.session_id, told, now + self._grace_s)

    def asked(self, session_id: str, event: SessionEvent, now: float) -> None:
        """A question is open, or is so no more."""
        watching = self._sessions.get(session_id)
        if watching is None:
            return
        was_held = watching.is_held
        if isinstance(event.body, Answer):
            watching.questions.discard(event.body.question_id)
        else:
            assert isinstance(event.body, bytes), event
            watching.questions.add(agent_pb2.Question.FromString(event.body).question_id)
        if was_held and not watching.is_held:
            # Whoever was asked by an attempt that is lost does not know, and may answer.
            is_lost = (
                isinstance(event.body, Answer) and event.body.why == "commander_lost" and not event.agent
            )
            watching.unwatched_since = inf if is_lost else now

    def ended(self, session_id: str, ending: str, now: float) -> None:
        """AssertionError when nobody's watching has ended it too early, or too late, or without being asked to."""
        watching = self._sessions.get(session_id)
        if watching is None:
            if ending == "detached":
                # So has, in this step, the one that had asked for it.
                self._inherited[session_id.rpartition(".")[0]] = session_id
            self._detached.update({session_id} if ending == "detached" else ())
            return
        unwatched_s = now - watching.unwatched_since if watching.is_left else 0.0
        held = f", and {watching.questions} are open" if watching.is_held else ""
        told = f"{session_id}: {ending}, {watching.viewers} watch it, nobody for {unwatched_s:.3f} s{held}"
        if ending == "detached":
            assert watching.is_left, told
            self._detached.add(session_id)
            assert unwatched_s >= watching.stop_after_s - _EXACT_S, told
        late_s = unwatched_s - watching.stop_after_s
        assert late_s <= self._stood_still_s + _EXACT_S, f"{told}; it was to be {watching.stop_after_s:g} s"
