"""What somebody waits for goes ahead: of other turns' content, and of a writer that pauses."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asynchronous import asynchronous, soon
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.conversation import Request
from commander.core.batch import Rotation
from commander.core.turn import Bounds, Credit, Done, Numbered, Outcome, Turn
from commander.crossing import Crossing, CrossingBounds
from commander.doorbell import Doorbell
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
