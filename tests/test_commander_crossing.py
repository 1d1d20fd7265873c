"""What somebody waits for goes ahead: of other turns' content, and of a writer that pauses."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from asynchronous import asynchronous, soon
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.conversation import Published, PublishedAnswer, PublishedCall, Request, ToolAnswer, UserAnswer
from commander.core.batch import Rotation
from commander.core.outbox import Text
from commander.core.turn import Bounds, Credit, Done, Numbered, Outcome, Turn
from commander.crossing import Crossing, CrossingBounds
from commander.doorbell import Doorbell
from commander.errors import Stopped
from commander.outputs import Progress

BOUNDS = CrossingBounds(Bounds(1_000, 1_000_000, 16_384), 1_000_000, 8)
NEIGHBOURS = 20
SAID = 3
NEVER_S = 3_600.0


def call(crossing: Crossing) -> None:
    crossing.call("search", {}, None, "")


def ask(crossing: Crossing) -> None:
    crossing.ask("Which?", (), None, None)


def finish(crossing: Crossing) -> None:
    crossing.finish(Outcome.COMPLETED)


AWAITED: list[tuple[Callable[[Crossing], None], type[Any]]] = [
    (call, pb.ToolCallRequest),
    (ask, pb.Question),
    (finish, Done),
]


def crossings(count: int) -> tuple[Rotation, Doorbell, list[Crossing]]:
    rotation, doorbell = Rotation(1_048_576), Doorbell(asyncio.get_running_loop())
    made = []
    for number in range(count):
        turn = Turn(f"s-{number}", 1, BOUNDS.turn, Credit(1_000, 1_000_000))
        made.append(Crossing(turn, Request(turn.session_id, 1, ()), rotation, doorbell, BOUNDS))
    return rotation, doorbell, made


def nothing() -> bool:
    return False


@pytest.mark.parametrize(("awaited", "payload"), AWAITED)
@asynchronous
async def test_what_somebody_waits_for_overtakes_the_content_of_others(
    awaited: Callable[[Crossing], None], payload: type[Any]
) -> None:
    rotation, _, (*neighbours, one) = crossings(NEIGHBOURS + 1)
    for _ in range(SAID):
        for crossing in (*neighbours, one):
            crossing.put(Progress("on the way"))
    awaited(one)
    gathered = [each for each in rotation.gather() if isinstance(each, Numbered)]
    place = next(place for place, each in enumerate(gathered) if isinstance(each.packet.payload, payload))
    # After what it said itself, every other time: not after a round of all for each.
    assert place <= 2 * (SAID + 1)


@pytest.mark.parametrize("awaited", [each for each, _ in AWAITED])
@asynchronous
async def test_what_somebody_waits_for_ends_the_pause_of_the_writer(
    awaited: Callable[[Crossing], None],
) -> None:
    _, doorbell, (one,) = crossings(1)
    writer = asyncio.ensure_future(doorbell.pause(NEVER_S, nothing))
    await asyncio.sleep(0)
    one.put(Progress("no hurry"))
    awaited(one)
    await soon(writer)


def withdrawn(rotation: Rotation) -> list[pb.Withdrawal]:
    said = [each.packet.payload for each in rotation.gather() if isinstance(each, Numbered)]
    return [payload for payload in said if isinstance(payload, pb.Withdrawal)]


@asynchronous
async def test_what_nobody_waits_for_is_told_once() -> None:
    rotation, _, (one,) = crossings(1)
    call_id, _ = one.call("search", {}, None, "")
    question_id, _ = one.ask("Which?", (), None, None)
    for _ in range(2):
        one.withdraw(call_id=call_id)
        one.withdraw(question_id=question_id)
    assert withdrawn(rotation) == [pb.Withdrawal(call_id=call_id), pb.Withdrawal(question_id=question_id)]


@asynchronous
async def test_nothing_is_withdrawn_that_was_answered_or_after_the_end() -> None:
    rotation, _, (one,) = crossings(1)
    call_id, _ = one.call("search", {}, None, "")
    question_id, _ = one.ask("Which?", (), None, None)
    assert one.tell_result(call_id, ToolAnswer("1"))
    one.withdraw(call_id=call_id)
    finish(one)
    one.withdraw(question_id=question_id)
    assert withdrawn(rotation) == []


@asynchronous
async def test_run_again_it_waits_in_vain_for_what_it_has_not_waited_for() -> None:
    """Neither is asked again; and it ends well though it asks nothing more of that."""
    rotation, doorbell, _ = crossings(0)
    rerun = Published(
        "",
        (PublishedCall("search", "{}", None), PublishedCall("search", "{}", "1")),
        answers=tuple(
            PublishedAnswer(text, (), UserAnswer(value, unanswered))
            for text, value, unanswered in (
                ("One?", "", "withdrawn"),
                ("Two?", "2", None),
                ("Three?", "", "withdrawn"),
            )
        ),
    )
    turn = Turn("s", 2, BOUNDS.turn, Credit(1_000, 1_000_000))
    crossing = Crossing(turn, Request("s", 2, (), rerun=rerun), rotation, doorbell, BOUNDS)
    waiting: list[Future[Any]] = [
        crossing.call("search", {}, None, "")[1],
        crossing.ask("One?", (), None, None)[1],
    ]
    assert not any(each.done() for each in waiting)
    assert crossing.call("search", {}, None, "")[1].result() == ToolAnswer("1")
    crossing.say("said before")
    assert crossing.ask("Two?", (), None, None)[1].result() == UserAnswer("2")
    assert not rotation
    crossing.say("new")
    finish(crossing)
    assert all(isinstance(each.exception(), Stopped) for each in waiting)
    text, done = (each.packet.payload for each in rotation.gather() if isinstance(each, Numbered))
    assert isinstance(text, Text)
    assert text.text == "new"
    assert isinstance(done, Done)
    assert done.outcome is Outcome.COMPLETED
