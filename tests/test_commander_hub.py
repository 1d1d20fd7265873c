"""When the writer of a link may pause: never over what somebody waits for."""

import asyncio
from collections.abc import Callable

import pytest
from asynchronous import asynchronous

from commander.core.batch import MESSAGE_PACKETS_MAX, Rotation
from commander.core.slots import Slots
from commander.core.turn import Bounds, Credit, Turn
from commander.crossing import CrossingBounds
from commander.doorbell import Doorbell
from commander.hub import Hub
from commander.metrics import Metrics

BOUNDS = Bounds(100, 1_000_000, 16_384)


def hub_of(rotation: Rotation) -> Hub:
    loop = asyncio.get_running_loop()
    slots = Slots((("echo", ""),), 1, BOUNDS, stop_grace_s=1.0, unlinked_keep_s=1.0)
    bounds = CrossingBounds(BOUNDS, 1_000_000, 8)
    return Hub(slots, rotation, Doorbell(loop), bounds, Metrics(), loop, lambda: None)


def say(rotation: Rotation, turns: int = 1) -> None:
    for number in range(turns):
        turn = Turn(f"s-{number}", 1, BOUNDS, Credit(10, 10_000))
        turn.offer_text("token")
        rotation.mark(turn)


def signal(rotation: Rotation) -> None:
    rotation.signal("a stop's acknowledgement")


def hurry(rotation: Rotation) -> None:
    turn = Turn("in a hurry", 1, BOUNDS, Credit(10, 10_000))
    rotation.mark(turn)
    rotation.hurry(turn)


def fill(rotation: Rotation) -> None:
    say(rotation, MESSAGE_PACKETS_MAX)


@pytest.mark.parametrize(("waiting", "is_urgent"), [(signal, True), (hurry, True), (fill, False)])
@asynchronous
async def test_it_does_not_pause_over_what_is_urgent_or_much(
    waiting: Callable[[Rotation], None], is_urgent: bool
) -> None:
    rotation = Rotation(1_048_576)
    hub = hub_of(rotation)
    say(rotation)
    assert hub.has_something
    assert (hub.may_pause, hub.has_urgent) == (True, False)
    waiting(rotation)
    assert (hub.may_pause, hub.has_urgent) == (False, is_urgent)
