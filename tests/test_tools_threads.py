"""The threads that blocking tools run in, and the places they run on. Real threads; nothing sleeps."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.tools.places import Places, PlacesClosedError, PlacesFullError
from dispatcher.tools.threads import Job, Raised, Returned, Threads, ThreadsClosedError, ThreadsFullError

PATIENCE_S = 60.0


class Ends:
    """What came of each job, in the order they ended."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Job, Returned | Raised]] = SimpleQueue()

    def deliver(self, job: Job, end: Returned | Raised) -> None:
        self._queue.put((job, end))

    def next(self) -> tuple[Job, Returned | Raised]:
        return self._queue.get(timeout=PATIENCE_S)


def holding(gate: threading.Event, begun: threading.Semaphore) -> Callable[[], bool]:
    def work() -> bool:
        begun.release()
        return gate.wait(PATIENCE_S)

    return work


def test_jobs_run_in_daemon_threads_within_the_bound_and_all_end() -> None:
    ends, gate, begun = Ends(), threading.Event(), threading.Semaphore(0)
    threads = Threads(3, 10, "test-bound")
    jobs = [threads.submit(holding(gate, begun), ends.deliver) for _ in range(13)]
    for _ in range(3):
        assert begun.acquire(timeout=PATIENCE_S)
    assert threads.busy == 3
    assert not begun.acquire(blocking=False)
    mine = [each for each in threading.enumerate() if each.name.startswith("test-bound")]
    assert len(mine) == 3
    assert all(each.daemon for each in mine)
    with pytest.raises(ThreadsFullError):
        threads.submit(gate.wait, ends.deliver)
    gate.set()
    assert {ends.next()[0] for _ in range(13)} == set(jobs)
    threads.close()
    for each in mine:
        each.join(PATIENCE_S)
        assert not each.is_alive()


def test_what_a_job_raises_is_told_and_the_thread_lives_on() -> None:
    ends = Ends()
    threads = Threads(1, 10)
    raised = [SystemExit(1), KeyboardInterrupt(), StopIteration(2), ValueError("x")]
    for each in raised:

        def work(each: BaseException = each) -> None:
            raise each

        threads.submit(work, ends.deliver)
    threads.submit(lambda: 7, ends.deliver)
    assert [ends.next()[1] for _ in range(5)] == [*(Raised(each) for each in raised), Returned(7)]
    threads.close()


def test_a_job_that_has_not_begun_can_be_withdrawn() -> None:
    ends, gate, begun = Ends(), threading.Event(), threading.Semaphore(0)
    threads = Threads(1, 10)
    first = threads.submit(holding(gate, begun), ends.deliver)
    second = threads.submit(lambda: "second", ends.deliver)
    third = threads.submit(lambda: "third", ends.deliver)
    assert begun.acquire(timeout=PATIENCE_S)
    assert not threads.withdraw(first)
    assert threads.withdraw(second)
    assert not threads.withdraw(second)
    gate.set()
    assert [ends.next()[0], ends.next()] == [first, (third, Returned("third"))]
    threads.close()


def test_a_job_sees_its_submitters_context() -> None:
    ends = Ends()
    threads = Threads(1, 10)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    token = variable.set("mine")
    threads.submit(variable.get, ends.deliver)
    variable.reset(token)
    threads.submit(variable.get, ends.deliver)
    assert [ends.next()[1], ends.next()[1]] == [Returned("mine"), Returned("unset")]
    threads.close()


def test_closed_threads_finish_what_waits_and_take_nothing_more() -> None:
    ends, gate, begun = Ends(), threading.Event(), threading.Semaphore(0)
    threads = Threads(1, 10)
    threads.submit(holding(gate, begun), ends.deliver)
    threads.submit(lambda: "waited", ends.deliver)
    threads.close()
    with pytest.raises(ThreadsClosedError):
        threads.submit(lambda: None, ends.deliver)
    gate.set()
    assert [ends.next()[1], ends.next()[1]] == [Returned(True), Returned("waited")]
    threads.close()


# --- places ----------------------------------------------------------------------------------------------


def test_places_are_given_first_come_first_served() -> None:
    async def scene() -> None:
        places = Places(1, 3)
        assert await places.take(PATIENCE_S)
        order: list[int] = []

        async def one(number: int) -> None:
            assert await places.take(PATIENCE_S)
            order.append(number)
            places.give_back()

        tasks = [asyncio.create_task(one(each)) for each in range(3)]
        await asyncio.sleep(0)
        assert repr(places) == "<Places 1 of 1 taken, 3 waiting>"
        with pytest.raises(PlacesFullError):
            await places.take(PATIENCE_S)
        places.give_back()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2]
        assert places.taken == places.waiting == 0

    asyncio.run(scene())


def test_no_place_in_time_holds_nothing() -> None:
    async def scene() -> None:
        places = Places(1, 3)
        assert await places.take(0)
        assert not await places.take(0.01)
        assert (places.taken, places.waiting) == (1, 0)

    asyncio.run(scene())


def test_closed_places_turn_everyone_away() -> None:
    async def scene() -> None:
        places = Places(1, 3)
        assert await places.take(PATIENCE_S)
        waiting = asyncio.create_task(places.take(PATIENCE_S))
        await asyncio.sleep(0)
        places.close()
        with pytest.raises(PlacesClosedError):
            await waiting
        with pytest.raises(PlacesClosedError):
            await places.take(PATIENCE_S)
        places.give_back()
        assert places.taken == 0

    asyncio.run(scene())


STEPS = st.lists(
    st.sampled_from(["come", "come", "give back", "cancel oldest", "cancel newest", "resize", "turn"]),
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(STEPS, st.integers(1, 3), st.integers(1, 4))
def test_law_places_are_neither_lost_nor_given_twice(steps: list[str], size: int, waiting_max: int) -> None:
    """A cancellation may meet a place that is being handed over; whoever is cancelled holds none."""

    async def scene() -> None:
        places = Places(size, waiting_max)
        tasks: list[asyncio.Task[bool]] = []
        held = 0
        largest = size

        def holders() -> int:
            return sum(each.done() and not each.cancelled() and not each.exception() for each in tasks) - held

        for step in steps:
            match step:
                case "come":
                    tasks.append(asyncio.create_task(places.take(PATIENCE_S)))
                case "give back" if holders():
                    held += 1
                    places.give_back()
                case "cancel oldest" if tasks:
                    next((each for each in tasks if not each.done()), tasks[0]).cancel()
                case "cancel newest" if tasks:
                    tasks[-1].cancel()
                case "resize":
                    largest = 3
                    places.resize(3, waiting_max)
                case _:
                    await asyncio.sleep(0)
            assert places.taken <= largest
            assert places.waiting <= waiting_max
        for _ in range(5):
            await asyncio.sleep(0)
        assert places.taken == holders()
        # With all holders gone, nobody who may have a place is left waiting.
        while any(not each.done() for each in tasks):
            held += 1
            places.give_back()
            for _ in range(3):
                await asyncio.sleep(0)
        assert places.taken == holders()
        assert places.waiting == 0

    asyncio.run(scene())
