"""Sessions that sessions ask for: what must be true of them and of those that asked, after each step and at the end."""

import json

from asking_laws import judge_below, judge_parked

from dispatcher.core.fleet import SlotState
from dispatcher.core.packets import AgentTold, Answer, Ended, SessionEvent, ToolCall, ToolResult
from dispatcher.core.router import Router
from dispatcher.core.session import State
from simulation.journal import Log


def check_kin(router: Router) -> None:
    """After a step: sessions and those they have asked for know of each other, and each that runs has one slot."""
    busy = {
        (slot.session_id, slot.attempt): commander.commander_id
        for commander in router.fleet.commanders.values()
        for slot in commander.slots.values()
        if slot.state is SlotState.BUSY
    }
    for session in router.sessions.values():
        if session.state is not State.ENDED:
            judge_below(router, session)
            judge_parked(session)
            holds = busy.pop((session.session_id, session.attempt), "")
            assert holds == session.commander_id, f"{session!r} holds a slot of {holds!r}"
    assert not busy, f"nobody's slots are busy: {busy}"


def check_log(session_id: str, log: Log, logs: dict[str, Log]) -> None:
    """At the end: what was asked has one outcome, and what was asked of others is told here too, once."""
    calls: dict[tuple[int, str], int] = {}
    results: dict[tuple[int, str], ToolResult] = {}
    last = log.events[-1].attempt
    for event in log.events:
        match event.body:
            case ToolCall(session_id="") as call:
                key = event.attempt, call.call_id
                assert key not in calls, f"{session_id}: {event} is told twice"
                calls[key] = event.offset
            case ToolResult(session_id="") as result:
                key = event.attempt, result.call_id
                assert key not in results, f"{session_id}: {event} is a second outcome"
                assert key in calls, f"{session_id}: {event} of nothing"
                results[key] = result
    unanswered = {key for key in calls if key not in results and key[0] < last}
    assert not unanswered, f"{session_id}: {unanswered} of attempts that are over have no outcome"
    ended = log.events[-1].body
    if isinstance(ended, Ended) and ended.ending == "completed":
        assert results.keys() == calls.keys(), (
            f"{session_id}: completed, and {calls.keys() - results.keys()} wait"
        )
    for below_id, below in logs.items():
        asked = below.requested.delegated
        if asked is not None and asked.session_id == session_id:
            outcome = results.get((asked.attempt, asked.call_id))
            _check_below(session_id, log.events, below_id, below, outcome)
            # In one step: with its call's outcome, or with the session that asked.
            told = [entry for entry in log.entries if entry[1].body is outcome is not None] or log.entries
            at, event = told[-1]
            assert below.entries[-1][0] == at, f"{below_id} has ended, and {event} came later or sooner"


def _check_below(
    session_id: str, told: list[SessionEvent], below_id: str, below: Log, result: ToolResult | None
) -> None:
    asked = below.requested.delegated
    assert asked is not None
    here = [each for each in told if f"{each.agent}/".startswith(f"{asked.path}/")]
    ended = below.events[-1].body
    assert isinstance(ended, Ended), below
    last = told[-1].attempt
    if result is None:
        assert asked.attempt == last, (
            f"{below_id}: the attempt that asked for it is over, and nobody was told"
        )
    assert here[0].body == AgentTold("started"), f"{below_id}: {here[0]}"
    assert all(each.attempt == asked.attempt for each in here), f"{below_id}: told by another attempt"
    own = [
        (event.kind, f"{asked.path}/{event.agent}" if event.agent else asked.path, event.text)
        for event in below.events
        if event.kind in ("content", "thought", "question")
    ]
    above = [
        (each.kind, each.agent, each.text) for each in here if each.kind in ("content", "thought", "question")
    ]
    assert above == own, f"{below_id} has told {own}, and {session_id} of it {above}"
    ends = [each.body for each in here if each.agent == asked.path and isinstance(each.body, AgentTold)][1:]
    if result is None or (result.outcome.failure is not None and not ends):
        return
    assert len(ends) == 1, f"{below_id}: its end is told as {ends}"
    failure = result.outcome.failure
    assert (failure is None) == (ended.ending == "completed"), f"{below_id}: {ended.ending}, and {failure}"
    if failure is None:
        text = "".join(event.text for event in below.events if event.kind == "content" and not event.agent)
        answer = json.loads(result.outcome.result_json)
        assert answer == {"text": text, "session_id": below_id}, f"{below_id} has said {text!r}, and {answer}"


def check_questions(session_id: str, events: list[SessionEvent]) -> None:
    """Each question is answered once, unless the session ended first."""
    answers = [event.body.question_id for event in events if isinstance(event.body, Answer)]
    questions = sum(event.kind == "question" for event in events)
    assert len(answers) <= questions, f"{session_id}: {questions} questions, and {answers}"
    ended = events[-1].body
    if isinstance(ended, Ended) and ended.ending == "completed":
        assert len(answers) == questions, f"{session_id}: completed with open questions"
