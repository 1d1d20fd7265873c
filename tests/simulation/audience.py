"""Who watches what, as a dispatcher was told: what it does about sessions that nobody watches is judged by this."""

from dataclasses import dataclass

from dispatcher.core import events as e

# Sums of floats are not exact.
_EXACT_S = 1e-6


@dataclass
class _Watching:
    """A session that is to end when nobody watches it for so long. `unwatched_since` counts while there is nobody."""

    stop_after_s: float
    unwatched_since: float
    viewers: int = 0


class Audience:
    """Of the sessions that are asked for with `stop_when_unwatched_s`, in one life of a dispatcher after the other."""

    def __init__(self, grace_s: float) -> None:
        # How long viewers have to come back after a restart.
        self._grace_s = grace_s
        self._sessions: dict[str, _Watching] = {}
        # Time in which the dispatcher stood still.
        self._stood_still_s = 0.0

    def opened(self, requested: e.SessionRequested, now: float) -> None:
        if requested.stop_when_unwatched_s is not None:
            self._sessions[requested.session_id] = _Watching(requested.stop_when_unwatched_s, now)

    def heard(self, event: e.Event, now: float) -> None:
        """What the dispatcher takes up now."""
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

    def ended(self, session_id: str, ending: str, now: float) -> None:
        """AssertionError when nobody's watching has ended it too early, or too late, or without being asked to."""
        watching = self._sessions.get(session_id)
        if watching is None:
            assert ending != "detached", f"{session_id}: detached, and nobody wanted that"
            return
        unwatched_s = 0.0 if watching.viewers else now - watching.unwatched_since
        told = f"{session_id}: {ending}, {watching.viewers} watch it, nobody for {unwatched_s:.3f} s"
        if ending == "detached":
            assert not watching.viewers, told
            assert unwatched_s >= watching.stop_after_s - _EXACT_S, told
        late_s = unwatched_s - watching.stop_after_s
        assert late_s <= self._stood_still_s + _EXACT_S, f"{told}; it was to be {watching.stop_after_s:g} s"
