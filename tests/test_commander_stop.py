"""The commander's side of the stop ladder, rung by rung, with agents that obey and agents that don't."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from commander_here import PATIENCE_S, Told, serving
from scripted_dispatcher import ScriptedDispatcher, ScriptedLink, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import BlockingTurn, Stopped, Turn, agent
from commander.agent import AnyAgent

RECEIVED, APPLIED, ABANDONED = pb.STOP_PHASE_RECEIVED, pb.STOP_PHASE_APPLIED, pb.STOP_PHASE_ABANDONED


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


class Seen:
    """What became of an agent, told from inside it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._news = threading.Condition()

    def __call__(self, event: str) -> None:
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def wait_for(self, event: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: event in self.events, PATIENCE_S), f"{event}: {self.events}"


def stopped_session(link: ScriptedLink, name: str = "s", grace_ms: int = 0) -> ScriptedSession:
    """A session that has said something and was stopped then."""
    session = ScriptedSession(link, name)
    session.next()
    session.stop(grace_ms=grace_ms)
    return session


def nothing_after(link: ScriptedLink, session: ScriptedSession) -> bool:
    """No content of the session has come since its stop was acknowledged."""
    return not link.seen(lambda each: each.session_id == session.session_id and each.sequence > 0)


# ---- agents that obey ----


def test_an_agent_may_clean_up_before_its_slot_is_free(dispatcher: ScriptedDispatcher) -> None:
    seen, may_end = Seen(), threading.Event()

    @agent("tidy")
    async def tidy(turn: Turn) -> Any:
        try:
            yield "begin "
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen("cancelled")
            with pytest.raises(Stopped):
                await turn.call_tool("anything")
            with pytest.raises(Stopped):
                await turn.emit("too late")
            await asyncio.to_thread(may_end.wait)
            seen("cleaned up")
            raise
        finally:
            seen("finally")

    with serving(dispatcher.address, tidy, slots=1):
        link = dispatcher.accept()
        session = stopped_session(link)
        received = session.stop_ack(RECEIVED)
        assert received.stop_ack.stop_id == "stop-1"
        assert (received.attempt, received.sequence) == (1, 0)
        seen.wait_for("cancelled")
        # Its slot is taken until it has really ended.
        ScriptedSession(link, "early")
        assert link.expect_payload("refused", "early").refused.code == "no_slot"
        may_end.set()
        applied = session.stop_ack(APPLIED)
        assert applied.stop_ack.last_sequence == 1
        assert seen.events == ["cancelled", "cleaned up", "finally"]
        assert nothing_after(link, session)
        ScriptedSession(link, "next").next()


def test_usage_is_told_with_the_end_of_a_stop(dispatcher: ScriptedDispatcher) -> None:
    @agent("costly")
    async def costly(turn: Turn) -> Any:
        yield turn.usage(input_tokens=3, output_tokens=4, model="small")
        await asyncio.Event().wait()

    with serving(dispatcher.address, costly):
        usage = stopped_session(dispatcher.accept()).stop_ack(APPLIED).stop_ack.usage
    assert (usage.input_tokens, usage.output_tokens, usage.model) == (3, 4, "small")


def test_a_flood_is_stopped_at_its_yield(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()

    @agent("flood")
    async def flood(_: Turn) -> Any:
        try:
            while True:
                yield "token "
        except asyncio.CancelledError:
            seen("cancelled")
            raise

    with serving(dispatcher.address, flood):
        session = stopped_session(dispatcher.accept())
        session.stop_ack(RECEIVED)
        session.stop_ack(APPLIED)
    assert seen.events == ["cancelled"]


def test_a_stop_reaches_one_that_waits_for_credit(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()

    @agent("flood")
    async def flood(_: Turn) -> Any:
        try:
            while True:
                yield "token "
        except asyncio.CancelledError:
            seen("cancelled")
            raise

    with serving(dispatcher.address, flood, outbox_packets=4):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s", credit=1)
        session.next(acked=False)
        session.stop()
        session.stop_ack(APPLIED)
    assert seen.events == ["cancelled"]


def test_a_stop_reaches_one_that_waits_for_a_tool_and_its_helpers(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()

    async def helper(turn: Turn, name: str) -> None:
        try:
            await turn.call_tool(name)
        except asyncio.CancelledError:
            seen(name)
            raise

    @agent("caller")
    async def caller(turn: Turn) -> Any:
        stray = asyncio.create_task(helper(turn, "stray"))
        try:
            await helper(turn, "own")
        finally:
            await asyncio.wait([stray])
        yield "never"

    with serving(dispatcher.address, caller):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        session.next()
        session.stop()
        session.stop_ack(APPLIED)
    assert sorted(seen.events) == ["own", "stray"]


def test_an_agent_that_is_a_function_is_stopped_too(dispatcher: ScriptedDispatcher) -> None:
    @agent("function")
    async def function(turn: Turn) -> str:
        await turn.emit("begin ")
        await asyncio.Event().wait()
        return "never"

    with serving(dispatcher.address, function):
        link = dispatcher.accept()
        session = stopped_session(link)
        session.stop_ack(APPLIED)
        assert nothing_after(link, session)


def test_a_stop_right_after_the_start_is_obeyed(dispatcher: ScriptedDispatcher) -> None:
    @agent("any")
    async def anything(_: Turn) -> Any:
        await asyncio.Event().wait()
        yield "never"

    with serving(dispatcher.address, anything):
        link = dispatcher.accept()
        start = pb.Start(agent="any", credit=8, credit_bytes=800)
        stop = pb.StopSignal(stop_id="at once", reason="UserCancel")
        link.send(
            pb.DownstreamPacket(session_id="s", attempt=1, start=start),
            pb.DownstreamPacket(session_id="s", attempt=1, stop=stop),
        )
        link.expect(lambda each: each.stop_ack.phase == APPLIED and each.stop_ack.stop_id == "at once")


def test_a_stop_of_a_session_that_is_not_here_has_been_obeyed(dispatcher: ScriptedDispatcher) -> None:
    @agent("any")
    async def anything(_: Turn) -> Any:
        yield "hello"

    with serving(dispatcher.address, anything):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.done()
        # Done and acknowledged: forgotten, once the acknowledgement has been read.
        session.stop()
        session.stop_ack(APPLIED)


def test_a_stop_is_one_stop_however_often_it_comes(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()

    @agent("counting")
    async def counting(turn: Turn) -> Any:
        yield "begin "
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen("cancelled")
                await asyncio.sleep(0)
                break
        seen("end")

    with serving(dispatcher.address, counting):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        for _ in range(3):
            session.stop()
        for _ in range(3):
            session.link.expect(
                lambda each: each.session_id == "s" and each.stop_ack.phase in (RECEIVED, APPLIED)
            )
        seen.wait_for("end")
    assert seen.events == ["cancelled", "end"]


# ---- agents that don't ----


def test_one_that_swallows_its_stop_and_yields_again_is_closed(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()

    @agent("swallower")
    async def swallower(_: Turn) -> Any:
        try:
            while True:
                try:
                    yield "token "
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    seen("swallowed")
        finally:
            seen("finally")

    with serving(dispatcher.address, swallower):
        link = dispatcher.accept()
        session = stopped_session(link)
        session.stop_ack(APPLIED)
        assert nothing_after(link, session)
    assert seen.events == ["swallowed", "finally"]


def test_one_that_swallows_its_stop_and_waits_is_cancelled_once_more(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()

    @agent("waiter")
    async def waiter(_: Turn) -> Any:
        yield "begin "
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen("swallowed")
        await asyncio.Event().wait()

    with serving(dispatcher.address, waiter, slots=2):
        link = dispatcher.accept()
        session = stopped_session(link, grace_ms=50)
        session.stop_ack(ABANDONED)
        session.stop_ack(APPLIED)
    assert seen.events == ["swallowed"]


def test_one_that_swallows_its_closing_too_has_ended_with_a_warning(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)

    @agent("stubborn")
    async def stubborn(_: Turn) -> Any:
        try:
            yield "token "
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        with contextlib.suppress(GeneratorExit):
            yield "swallowed "
        yield "and again "

    with serving(dispatcher.address, stubborn):
        link = dispatcher.accept()
        session = stopped_session(link)
        session.stop_ack(APPLIED)
        told.wait_for("ignored its stop and its closing")
        assert nothing_after(link, session)


def test_one_that_fails_while_it_ends_has_ended(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)

    @agent("clumsy")
    async def clumsy(_: Turn) -> Any:
        try:
            yield "begin "
            await asyncio.Event().wait()
        finally:
            raise ValueError("in the cleanup")

    with serving(dispatcher.address, clumsy):
        link = dispatcher.accept()
        session = stopped_session(link)
        session.stop_ack(APPLIED)
        told.wait_for("failed while it ended")
        assert not link.seen(lambda each: each.HasField("done"))


def test_one_that_awaits_on_is_abandoned_and_its_slot_stuck_until_it_ends(
    dispatcher: ScriptedDispatcher,
) -> None:
    may_end = threading.Event()

    @agent("deaf")
    async def deaf(_: Turn) -> Any:
        yield "begin "
        while not may_end.is_set():
            try:
                await asyncio.to_thread(may_end.wait)
            except asyncio.CancelledError:
                continue

    with serving(dispatcher.address, deaf, slots=2) as here:
        link = dispatcher.accept()
        session = stopped_session(link, grace_ms=30)
        session.stop_ack(RECEIVED)
        session.stop_ack(ABANDONED)
        other = ScriptedSession(link, "other")
        other.next()
        ScriptedSession(link, "third")
        refused = link.expect_payload("refused", "third").refused
        assert refused.code == "no_slot"
        assert "1 of them by agents that ignored their stop" in refused.why
        may_end.set()
        session.stop_ack(APPLIED)
        other.done()
        ScriptedSession(link, "fourth").done()
        assert here.exit_code is None


def test_one_that_blocks_the_agents_loop_is_abandoned_though_it_cannot_even_be_told(
    dispatcher: ScriptedDispatcher,
) -> None:
    may_end = threading.Event()

    @agent("blocker")
    async def blocker(_: Turn) -> Any:
        yield "begin "
        await asyncio.sleep(0)
        may_end.wait()
        yield "end"

    with serving(dispatcher.address, blocker, slots=2):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        session.stop(grace_ms=30)
        session.stop_ack(RECEIVED)
        session.stop_ack(ABANDONED)
        # One that was started meanwhile has not begun, and is stopped without having run.
        waiting = ScriptedSession(link, "waiting")
        waiting.stop(grace_ms=60_000)
        waiting.stop_ack(RECEIVED)
        may_end.set()
        session.stop_ack(APPLIED)
        waiting.stop_ack(APPLIED)
        assert nothing_after(link, session)
        assert nothing_after(link, waiting)


def test_with_every_slot_stuck_it_says_so_and_leaves_with_a_code_of_its_own(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    told, may_end = Told(caplog), threading.Event()

    @agent("deaf")
    async def deaf(_: Turn) -> Any:
        yield "begin "
        while not may_end.is_set():
            try:
                await asyncio.to_thread(may_end.wait)
            except asyncio.CancelledError:
                continue

    with serving(dispatcher.address, deaf, slots=1) as here:
        link = dispatcher.accept()
        session = stopped_session(link, grace_ms=30)
        session.stop_ack(ABANDONED)
        assert "stuck" in link.expect_payload("goodbye").goodbye.reason
        told.wait_for("every slot")
        may_end.set()
        assert here.wait_left() == 70


# ---- sync agents ----


def sync_agents(seen: Seen, may_end: threading.Event) -> dict[str, AnyAgent]:
    @agent("s-yields")
    def yields(_: BlockingTurn) -> Any:
        try:
            while True:
                yield "token "
        except Stopped:
            seen("stopped")
            raise
        finally:
            seen("finally")

    @agent("s-calls")
    def calls(turn: BlockingTurn) -> Any:
        yield "begin "
        try:
            turn.call_tool("slow")
        except Stopped:
            seen("stopped")
            raise

    @agent("s-asks")
    def asks(turn: BlockingTurn) -> Any:
        yield "begin "
        try:
            turn.ask("Sure?")
        except Stopped:
            seen("stopped")
            raise

    @agent("s-listens")
    def listens(turn: BlockingTurn) -> Any:
        yield "begin "
        for _ in turn.messages():
            pass
        seen("stopped")

    @agent("s-swallows")
    def swallows(_: BlockingTurn) -> Any:
        try:
            while True:
                try:
                    yield "token "
                except Stopped:
                    seen("stopped")
        finally:
            seen("finally")

    @agent("s-blocks")
    def blocks(_: BlockingTurn) -> Any:
        yield "begin "
        may_end.wait()

    return {each.name: each for each in (yields, calls, asks, listens, swallows, blocks)}


@pytest.mark.parametrize("name", ["s-yields", "s-calls", "s-asks", "s-listens", "s-swallows"])
def test_a_sync_agent_is_stopped_at_its_next_yield_or_call(dispatcher: ScriptedDispatcher, name: str) -> None:
    seen = Seen()
    with serving(dispatcher.address, sync_agents(seen, threading.Event())[name]):
        link = dispatcher.accept()
        session = stopped_session(link)
        session.stop_ack(RECEIVED)
        session.stop_ack(APPLIED)
    assert seen.events[0] == "stopped"
    assert seen.events[1:] in ([], ["finally"])


def test_a_sync_agent_that_waits_for_something_else_is_abandoned(dispatcher: ScriptedDispatcher) -> None:
    may_end = threading.Event()
    with serving(dispatcher.address, sync_agents(Seen(), may_end)["s-blocks"], slots=2):
        link = dispatcher.accept()
        session = stopped_session(link, grace_ms=30)
        session.stop_ack(RECEIVED)
        session.stop_ack(ABANDONED)
        # Its neighbours have threads of their own.
        ScriptedSession(link, "other").next()
        may_end.set()
        session.stop_ack(APPLIED)


def test_a_sync_agent_that_waits_for_credit_is_stopped(dispatcher: ScriptedDispatcher) -> None:
    seen = Seen()
    with serving(dispatcher.address, sync_agents(seen, threading.Event())["s-yields"], outbox_packets=4):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s", credit=1)
        session.next(acked=False)
        session.stop()
        session.stop_ack(APPLIED)
    assert seen.events == ["stopped", "finally"]
