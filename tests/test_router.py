"""The router as a whole: its laws whatever happens, every event and effect, and what attacks have found.

What it does about each event is in `transcripts/`.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from laws import REPLIES, REPLY_TYPES, Witness
from unruly import Unruly

from dispatcher.core import events
from dispatcher.core.endings import Ending
from dispatcher.core.events import Effect, Event
from dispatcher.core.intake import FENCED_TOLD_MAX, PATHS_MAX
from dispatcher.core.limits import Limits
from dispatcher.core.packets import (
    SEQUENCED,
    AgentOffer,
    Detail,
    Done,
    ErrorReport,
    Heartbeat,
    Hello,
    Origin,
    Packet,
    Question,
    Refused,
    Scope,
    Start,
    ToolCall,
    ToolOutcome,
    Usage,
    Withdrawal,
)
from dispatcher.core.policy import PolicyLimits
from dispatcher.core.router import Router
from dispatcher.core.rules import Judges, RuleBook
from dispatcher.hub import Hub
from dispatcher.limits import core_limits
from dispatcher.patterns import compile_patterns
from dispatcher.settings import Settings


def test_the_laws_hold_whatever_happens() -> None:
    run_state_machine_as_test(
        Unruly,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_laws_hold_for_long(progress: Callable[[str], None]) -> None:
    until = time.monotonic() + float(os.environ.get("SLOW_SECONDS", "300"))
    while (left_s := until - time.monotonic()) > 0:
        progress(f"laws of the router: {left_s:.0f} s left")
        run_state_machine_as_test(
            Unruly,
            settings=settings(
                max_examples=100,
                stateful_step_count=100,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


# --- every event, effect, kind and limit -----------------------------------------------------------------


def bare(event_type: type[Any]) -> Event:
    """An event about nobody, with whatever fits its fields."""
    hello = Hello("c1", "i1", "test/1", (AgentOffer("echo"),), {}, 1, 0, ())
    known: dict[str, object] = {
        "hello": hello,
        "packets": [],
        "limits": Limits(),
        "selector": events.Selector(),
        "outcome": ToolOutcome("1"),
        "labels": {},
        "commander_labels": {},
        "budgets": None,
        "delegated": None,
        "asked": events.Delegated("x", 1, "x"),
        "requested": events.SessionRequested("x", "x", b"x"),
        "body": b"x",
        "question": Question("x", None, b"x"),
    }
    simple: dict[Any, object] = {
        str: "x",
        int: 1,
        float: 1.0,
        bool: False,
        float | None: None,
        str | None: None,
    }
    hints = get_type_hints(event_type)
    fitting = {name: known.get(name, simple.get(hint, "")) for name, hint in hints.items()}
    made: Event = event_type(**fitting)
    return made


@pytest.mark.parametrize("event_type", get_args(Event), ids=lambda each: each.__name__)
def test_every_event_is_stepped_over_though_it_is_about_nobody(event_type: type[Any]) -> None:
    witness = Witness(Limits())
    event = bare(event_type)
    assert event_type.__name__.endswith(
        (
            "Opened",
            "Received",
            "Lost",
            "Requested",
            "Given",
            "Finished",
            "Progressed",
            "Judged",
            "Dropped",
            "Came",
            "Left",
            "Changed",
            "Restored",
            "Passed",
        )
    )
    witness.step(event, 0.0)
    witness.step(event if event_type is not events.LinkOpened else events.TimePassed(), 1.0)


def test_every_event_that_asks_is_answered() -> None:
    assert {each for each in get_args(Event) if "Answered by" in (each.__doc__ or "")} == set(REPLIES) - {
        events.ShutdownRequested
    }
    assert set(get_args(events.Reply)) == set(REPLY_TYPES)


def test_the_hub_performs_every_effect() -> None:
    """By the annotations of what performs them: a hub needs a loop, and this needs none."""
    performed = {
        effect
        for method in vars(Hub).values()
        if callable(method) and "effect" in getattr(method, "__annotations__", {})
        for effect in get_args(get_type_hints(method)["effect"]) or [get_type_hints(method)["effect"]]
    }
    assert performed == set(get_args(Effect))


DETAILS: dict[str, Detail] = {
    "tool_call": ToolCall("x", "add", "{}"),
    "error": ErrorReport("broken", "", "call", "it broke"),
    "usage": Usage(1, 1),
    "question": Question("q1", None, b""),
    "withdrawal": Withdrawal("", "q1"),
    "done": Done(True, 0, 0, None, None),
}


BEAT = Heartbeat(0, 0.0, 0, 0)


def scene(limits: Limits | None = None, commanders: int = 1, slots: int = 1) -> Router:
    """A router with commanders c1, c2 … on links l1, l2 …"""
    router = Router(limits or Limits())
    for number in range(1, commanders + 1):
        link(router, number, slots=slots)
    return router


def link(router: Router, number: int, slots: int = 1, now: float = 0.0) -> list[Effect]:
    router.step(events.LinkOpened(f"l{number}", "peer", f"m{number}"), now)
    hello = Hello(f"c{number}", "i1", "test/1", (AgentOffer("echo"),), {}, slots, 0, ())
    return router.step(events.HelloReceived(f"l{number}", hello), now)


def packet(kind: str, who: str = "s1", attempt: int = 1, sequence: int = 0, detail: Detail = None) -> Packet:
    body = "plan" if kind == "thought" else b""
    return Packet(kind, who, attempt, sequence, "", "", False, 0, 1, detail, body)


def say(router: Router, link_id: str, *packets: Packet, now: float = 1.0) -> list[Effect]:
    return router.step(events.PacketsReceived(link_id, list(packets)), now)


@pytest.mark.parametrize("kind", sorted(SEQUENCED))
def test_every_kind_of_content_is_taken(kind: str) -> None:
    router = scene()
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    say(router, "l1", packet(kind, sequence=1, detail=DETAILS.get(kind)))
    session = router.sessions["s1"]
    assert session.received == session.safe == 1
    assert session.live == (kind != "done")


def test_every_limit_is_a_setting() -> None:
    """And each setting of that name arrives: all differ from each other, so that no two can be mixed up."""
    names = [one.name for one in fields(Limits) if one.name != "policy"]
    numbers: dict[str, Any] = {name: 1_000 + number for number, name in enumerate(names)}
    # With room in a message for what was published.
    numbers["max_message_bytes"] = 1_000_000
    told = Settings.model_construct(**numbers, request_bytes_max=0)
    assert set(names) <= set(Settings.model_fields)
    given = core_limits(told, None)
    assert {name: getattr(given, name) for name in names} == {name: getattr(told, name) for name in names}


def sends(effects: list[Effect]) -> Iterator[tuple[str, str]]:
    """To which link what kind of signal goes, for which session."""
    for effect in effects:
        if isinstance(effect, events.Send):
            yield type(effect.signal.body).__name__, effect.signal.session_id


# --- what attacks have found ------------------------------------------------------------------------------


def test_one_that_refused_for_want_of_a_slot_is_asked_again_when_it_has_one() -> None:
    """A commander may hold a slot that we believe free, e.g. while it still stops an agent after a new link."""
    router = scene()
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    say(router, "l1", packet("refused", detail=Refused("no_slot", "still stopping another")))
    router.step(events.SessionRequested("s2", "echo", None), 2.0)
    say(router, "l1", packet("done", "s2", sequence=1, detail=DETAILS["done"]), now=3.0)
    assert router.sessions["s1"].state.value == "starting"


def test_sessions_of_a_lost_commander_keep_their_order() -> None:
    router = scene(Limits(queue_wait_s=100.0), slots=2)
    for session_id in ("s1", "s2"):
        router.step(events.SessionRequested(session_id, "echo", None), 0.0)
    router.step(events.LinkLost("l1", half_closed=False, why="gone"), 1.0)
    router.step(events.TimePassed(), 50.0)
    assert ("Start", "s1") in sends(link(router, 2, now=51.0))


def test_sessions_of_a_lost_commander_go_to_the_least_loaded() -> None:
    router = scene(Limits(detach_grace_s=1.0), slots=4)
    for number in range(4):
        router.step(events.SessionRequested(f"s{number}", "echo", None), 0.0)
    link(router, 2, slots=4)
    link(router, 3, slots=4)
    router.step(events.LinkLost("l1", half_closed=False, why="gone"), 1.0)
    router.step(events.TimePassed(), 2.0)
    taken = [session.commander_id for session in router.sessions.values()]
    assert sorted(taken) == ["c2", "c2", "c3", "c3"]


@pytest.mark.parametrize("how", ["refuses", "says so"])
def test_a_commander_that_drains_gets_no_more_sessions(how: str) -> None:
    router = scene(slots=2)
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    said = (
        packet("refused", detail=Refused("draining", "it goes"))
        if how == "refuses"
        else packet("heartbeat", who="", attempt=0, detail=Heartbeat(0, 0.0, 1, 0, draining=True))
    )
    say(router, "l1", said)
    assert router.fleet.commanders["c1"].state.value == "draining"
    router.step(events.SessionRequested("s2", "echo", None), 1.0)
    say(router, "l1", packet("heartbeat", who="", attempt=0, detail=Heartbeat(0, 0.0, 0, 0)))
    assert router.sessions["s2"].state.value == "queued"


def test_one_that_is_refused_again_and_again_waits_no_longer_for_that() -> None:
    router = scene(Limits(queue_wait_s=10.0))
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    for number in range(1, 30):
        session = router.sessions["s1"]
        refused = packet("refused", attempt=session.attempt, detail=Refused("no_slot", "full"))
        say(router, "l1", refused, packet("heartbeat", who="", attempt=0, detail=BEAT), now=float(number))
        router.step(events.TimePassed(), float(number))
    assert router.sessions["s1"].ending is Ending.QUEUE_TIMEOUT


def test_a_flawed_packet_ends_its_session_alone() -> None:
    router = scene(slots=2)
    for session_id in ("s1", "s2"):
        router.step(events.SessionRequested(session_id, "echo", None), 0.0)
    say(router, "l1", packet("progress", sequence=1)._replace(flaw="agent: up to 256 are right"))
    assert router.sessions["s1"].ending is Ending.PROTOCOL_ERROR
    assert router.sessions["s2"].live


def test_so_many_sub_agents_may_speak_and_no_more() -> None:
    router = scene(Limits(credit_packets=5_000))
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    for number in range(1, PATHS_MAX + 2):
        assert router.sessions["s1"].live
        say(router, "l1", packet("progress", sequence=number)._replace(agent=f"sub/{number}"))
    assert router.sessions["s1"].ending is Ending.PROTOCOL_ERROR


def test_messages_find_room_in_the_journal_or_are_declined() -> None:
    router = scene(Limits(journal_session_bytes=20_000))
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    codes = [
        getattr(reply, "code", "accepted")
        for number in range(4)
        for reply in router.step(events.MessageGiven("s1", f"m{number}", "x" * 9_000), 1.0)
        if isinstance(reply, events.Accepted | events.Declined)
    ]
    assert codes == ["accepted", "accepted", "accepted", "journal_full"]


def test_waiting_for_a_slot_is_no_silence_of_an_agent() -> None:
    limits = Limits(queue_wait_s=30.0, heartbeat_interval_s=100.0, policy=PolicyLimits(first_token_s=5.0))
    router = scene(limits)
    for session_id in ("s1", "s2"):
        router.step(events.SessionRequested(session_id, "echo", None), 0.0)
    say(router, "l1", packet("content", sequence=1)._replace(text="x"))
    router.step(events.TimePassed(), 20.0)
    assert router.sessions["s2"].live
    say(router, "l1", packet("done", sequence=2, detail=Done(True, 0, 0, None, None)), now=20.0)
    assert router.sessions["s2"].state.value == "starting"
    router.step(events.TimePassed(), 24.9)
    assert router.sessions["s2"].live
    router.step(events.TimePassed(), 25.0)
    assert router.sessions["s2"].ending is Ending.DEADLINE_EXCEEDED


def test_an_agent_is_told_the_time_that_is_enforced() -> None:
    """A limit that is changed later is for sessions that are opened later."""
    router = scene(Limits(policy=PolicyLimits(total_time_s=100.0)), slots=1)
    for session_id in ("s1", "s2"):
        router.step(events.SessionRequested(session_id, "echo", None), 0.0)
    router.step(events.LimitsChanged(Limits(policy=PolicyLimits(total_time_s=8.0))), 1.0)
    effects = router.step(
        events.PacketsReceived("l1", [packet("done", sequence=1, detail=Done(True, 0, 0, None, None))]), 2.0
    )
    sent = [effect.signal.body for effect in effects if isinstance(effect, events.Send)]
    (start,) = [body for body in sent if isinstance(body, Start)]
    assert start.time_left_s == 98.0


@pytest.mark.parametrize("origin", ["llm", "commander"])
def test_whose_error_it_was_says_how_a_minimal_commanders_session_ends(origin: Origin) -> None:
    router = Router(Limits())
    router.step(events.LinkOpened("l1", "peer", "m1"), 0.0)
    error = packet("error", who="", attempt=0, detail=ErrorReport("broken", origin, "", "it broke"))
    say(router, "l1", error)
    router.step(events.LinkLost("l1", half_closed=True, why="it half-closed"), 2.0)
    assert router.sessions["m1"].ending is (Ending.MODEL_FAILED if origin == "llm" else Ending.AGENT_FAILED)


@pytest.mark.parametrize(
    ("scope", "ending"),
    [("", "agent_failed"), ("session", "agent_failed"), ("call", "incomplete"), ("agent", "incomplete")],
)
def test_an_error_of_a_call_is_no_end_of_a_minimal_commanders_session(scope: Scope, ending: str) -> None:
    router = Router(Limits())
    router.step(events.LinkOpened("l1", "peer", "m1"), 0.0)
    error = packet("error", who="", attempt=0, detail=ErrorReport("broken", "", scope, "it broke"))
    say(router, "l1", packet("content", who="", attempt=0), error)
    router.step(events.LinkLost("l1", half_closed=True, why="it half-closed"), 2.0)
    ended = router.sessions["m1"].ended
    assert ended is not None
    assert ended.ending == ending


def test_a_link_on_which_nobody_speaks_has_a_deadline() -> None:
    router = Router(Limits(policy=PolicyLimits(first_token_s=7.0)))
    router.step(events.LinkOpened("l1", "peer", "m1"), 0.0)
    assert router.next_deadline() == 7.0
    closed = [each for each in router.step(events.TimePassed(), 7.0) if isinstance(each, events.CloseLink)]
    assert [each.status for each in closed] == ["DEADLINE_EXCEEDED"]
    assert not router.fleet.links


def test_one_that_gets_no_credit_can_not_go_on_in_tiny_packets() -> None:
    """The bound of the journal would be none: bytes alone say nothing of how many packets there are."""
    router = scene(Limits(credit_packets=4, journal_session_bytes=1_000))
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    session, sequence = router.sessions["s1"], 0
    while session.starved is None:
        sequence += 1
        say(router, "l1", packet("content", sequence=sequence)._replace(text="x"))
        assert session.live
    for more in range(sequence + 1, session.allowed + 1):
        say(router, "l1", packet("content", sequence=more)._replace(text="x"))
        assert session.live
    say(router, "l1", packet("content", sequence=session.allowed + 1)._replace(text="x"))
    assert session.ending is Ending.PROTOCOL_ERROR


def test_a_deadline_in_the_past_makes_nobody_heard() -> None:
    """How late this process is, its clock knows: what a peer asks for says nothing of it."""
    router = scene(Limits(heartbeat_interval_s=2.0, heartbeats_missed=3), commanders=2)
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    for number in range(1, 7):
        asked = Question(f"q{number}", -1_000.0, b"")
        say(router, "l1", packet("question", sequence=number, detail=asked), now=float(number))
        router.step(events.TimePassed(), float(number))
    assert "l1" in router.fleet.links
    assert "l2" not in router.fleet.links, "it was silent for 6 s"


def test_time_in_which_this_process_stood_still_is_nobodys_silence() -> None:
    router = scene(Limits(heartbeat_interval_s=2.0, heartbeats_missed=3))
    router.step(events.TimePassed(late_s=18.0), 20.0)
    assert "l1" in router.fleet.links
    router.step(events.TimePassed(), 25.0)
    assert "l1" not in router.fleet.links


def test_strays_are_told_of_up_to_a_bound() -> None:
    router = scene()
    strays = [packet("content", who=f"x{number}", sequence=1) for number in range(FENCED_TOLD_MAX + 50)]
    sent = [each for each in say(router, "l1", *strays) if isinstance(each, events.Send)]
    assert len(sent) == FENCED_TOLD_MAX
    assert not [each for each in say(router, "l1", *strays) if isinstance(each, events.Send)]


def test_affinities_are_remembered_up_to_a_bound() -> None:
    def asked(number: int, key: str) -> str:
        session_id = f"s{number}"
        router.step(events.SessionRequested(session_id, "echo", None, affinity_key=key), 0.0)
        commander_id = router.sessions[session_id].commander_id
        link_id = commander_id.replace("c", "l")
        say(router, link_id, packet("done", who=session_id, sequence=1, detail=Done(True, 0, 0, None, None)))
        return commander_id

    router = scene(Limits(sessions_max=2), commanders=2)
    assert [asked(number, key) for number, key in enumerate("abca")] == ["c1", "c2", "c1", "c2"]
    assert [asked(number + 10, key) for number, key in enumerate("ac")] == ["c2", "c1"]


def test_a_call_without_an_id_never_gets_one_that_is_taken() -> None:
    router = scene()
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    say(
        router,
        "l1",
        packet("tool_call", sequence=1, detail=ToolCall("call-2", "add", "{}")),
        packet("tool_call", sequence=2, detail=ToolCall("", "sub", "{}")),
    )
    assert router.sessions["s1"].live


@pytest.mark.parametrize(
    "first", [packet("content"), Hello("c1", "i2", "", (AgentOffer("echo"),), {}, 1, 0, ())]
)
def test_a_link_ends_with_a_status_that_the_contract_lists(first: Packet | Hello) -> None:
    router = scene()
    router.step(events.LinkOpened("l2", "peer", "m2"), 1.0)
    event: Event = (
        events.PacketsReceived("l2", [first])
        if isinstance(first, Packet)
        else events.HelloReceived("l2", first)
    )
    closed = [effect.status for effect in router.step(event, 1.0) if isinstance(effect, events.CloseLink)]
    contract = Path(__file__).parent.parent / "proto" / "southwest" / "ai" / "agent" / "v1" / "agent.proto"
    listed = contract.read_text().partition("Status codes:")[2].partition("rpc ChatStream")[0]
    assert len(closed) == 1
    assert closed[0] in listed


def test_no_limit_is_without_effect() -> None:
    assert "owed_signals_max" not in {one.name for one in fields(Limits)}


def test_one_that_refused_is_asked_again_when_its_heartbeat_says_that_it_has_room() -> None:
    """After a new link it may still stop an agent whose slot is free here, and nothing here will free another."""
    router = scene()
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    say(router, "l1", packet("refused", detail=Refused("no_slot", "still stopping another")))
    say(router, "l1", packet("heartbeat", who="", attempt=0, detail=Heartbeat(0, 0.0, 0, 0)), now=3.0)
    assert router.sessions["s1"].state.value == "starting"


def test_what_the_user_says_is_judged_and_kept_nowhere() -> None:
    stop = Judges(stop=compile_patterns({"word": "secret"}))
    router = scene(
        Limits(policy=PolicyLimits(rules=RuleBook(names=frozenset({"word"}), of_others={"user": stop})))
    )
    out = router.step(events.SessionRequested("s1", "echo", b"", said=("fine", "a secret")), 0.0)
    (opened,) = (effect for effect in out if isinstance(effect, events.Open))
    assert opened.requested.said == ()
    (told,) = (effect for effect in out if isinstance(effect, events.Audit))
    assert (told.session_id, told.rule, told.action, told.kind, told.position) == (
        "s1",
        "word",
        "stop",
        "user",
        2,
    )
    assert "secret" not in repr(out)
    session = router.sessions["s1"]
    assert (session.ending, session.attempt) == (Ending.POLICY_BLOCKED, 0)
    assert not [effect for effect in out if isinstance(effect, events.Send)]
