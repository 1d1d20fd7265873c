"""What is left when nobody does anything any more: nothing."""

from dispatcher.core import events as e
from dispatcher.core.router import Router

STEPS_MAX = 10_000


def check_silence(router: Router, now: float) -> None:
    """All links and viewers go, and all deadlines are met. The router is at its end after that."""
    for link_id in list(router.fleet.links):
        router.step(e.LinkLost(link_id, half_closed=False, why="gone"), now)
    for session in list(router.sessions.values()):
        for _ in range(session.viewers):
            router.step(e.ViewerLeft(session.session_id), now)
    for _ in range(STEPS_MAX):
        due = router.next_deadline()
        if due is None:
            break
        now = max(now, due)
        effects = router.step(e.TimePassed(), now)
        told = [effect for effect in effects if isinstance(effect, e.Append | e.Send | e.RunTool)]
        assert not told, f"all is quiet, and there is {told}"
    assert router.next_deadline() is None, f"a deadline is left: {router!r}"
    assert not router.sessions, f"sessions are left: {router.sessions}"
    assert not router.fleet.commanders, f"commanders are left: {router!r}"
    assert (router.live, router.queued, router.kept_bytes) == (0, 0, 0), f"something is left: {router!r}"
