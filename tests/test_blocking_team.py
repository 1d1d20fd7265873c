"""Teams of sync agents: members of either kind beside each other, while the agent's own thread speaks and waits."""

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from asynchronous import asynchronous
from commander_here import serving
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import AgentError, BlockingTurn, Output, Turn, agent
from commander.testing import Event, run_agent, running_agent

WORDS = 1_000

Said = Iterator[str | Output]


async def fast(turn: Turn) -> AsyncIterator[str | Output]:
    yield turn.thought("Thinking", turn.text)
    yield f"{turn.path} {await turn.call_tool('find', q=turn.text)}"
    turn.summarize("found")


def slow(turn: BlockingTurn) -> Said:
    yield f"{turn.path} {turn.call_tool('find', q=turn.text)}"


def said(events: list[Event], path: str) -> str:
    return "".join(each.fields["text"] for each in events if each.agent == path and each.kind == "content")


@asynchronous
async def test_members_of_either_kind_run_beside_a_sync_agent() -> None:
    current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="unset")

    async def sees(turn: Turn) -> str:
        before = current.get()
        current.set("changed")
        return before

    @agent
    def root(turn: BlockingTurn) -> Said:
        current.set("root")
        with turn.team() as team:
            first = team.start("fast", fast, text="x")
            team.start("slow", slow, text="y")
            team.start("fast", fast, text="z", answer_as="kept")
            saw = team.start("sees", sees, answer_as="kept")
            assert [each.name for each in team.members] == ["fast", "slow", "fast-2", "sees"]
            result = first.wait()
            yield f"{result.text}, {result.summary}; "
            yield f"{saw.wait().text} {current.get()}; "
        yield "; ".join(result.text for result in team.results.values())
        yield f"; {first!r} {first.is_over} {first.path}"

    run = await run_agent(root, tools={"find": lambda q: q.upper()})
    assert run.outcome == "completed", run.failure
    assert run.text == (
        "fast X, found; root root; fast X; slow Y; fast-2 Z; root; <BlockingMember fast: completed> True fast"
    )
    assert (said(run.events, "fast"), said(run.events, "slow")) == ("fast X", "slow Y")


@asynchronous
async def test_one_that_fails_ends_alone_and_another_may_be_cancelled_or_told() -> None:
    async def fails(turn: Turn) -> str:
        raise AgentError("closed", code="closed")

    async def hears(turn: Turn) -> AsyncIterator[str]:
        async for message in turn.messages():
            yield f"<{message}>"
            return

    async def waits(turn: Turn) -> str:
        await asyncio.Event().wait()
        return "never"

    @agent
    def root(turn: BlockingTurn) -> Said:
        with turn.team() as team:
            broken, told, cancelled = (
                team.start("fails", fails),
                team.start("hears", hears),
                team.start("waits", waits),
            )
            told.tell("hello")
            cancelled.cancel()
        for member in (broken, told, cancelled):
            assert member.result is not None
            yield f"{getattr(member.result.error, 'code', member.result.text)} "

    run = await run_agent(root)
    assert run.text == "closed <hello> member_cancelled "


@asynchronous
async def test_leaving_the_block_by_an_exception_ends_the_members() -> None:
    ended = threading.Semaphore(0)
    began = threading.Event()

    async def waits(turn: Turn) -> str:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.release()
        return "never"

    @agent
    def root(turn: BlockingTurn) -> Said:
        try:
            with turn.team() as team:
                team.start("waits", waits)
                began.wait()
                raise KeyError
        except KeyError:
            yield str(ended.acquire(blocking=False))

    assert (await run_agent(root)).text == "True"


@pytest.mark.parametrize("where", ["block", "wait", "end"])
@asynchronous
async def test_a_stop_ends_the_members_wherever_the_agent_s_thread_is(where: str) -> None:
    heard, deaf = asyncio.Event(), threading.Event()

    async def waits(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "on"
            await asyncio.Event().wait()
        finally:
            heard.set()

    @agent
    def root(turn: BlockingTurn) -> Said:
        with turn.team() as team:
            member = team.start("waits", waits)
            yield "on"
            if where == "block":
                deaf.wait()
            elif where == "wait":
                member.wait()

    async with running_agent(root) as run:
        await run.until_text("on")
        run.stop()
        await heard.wait()
        deaf.set()
        assert (await run.over()).outcome == "stopped"


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_no_word_and_no_token_is_lost_where_threads_and_the_loop_speak_at_once(restless: None) -> None:
    async def talks(turn: Turn) -> AsyncIterator[str | Output]:
        for _ in range(WORDS):
            yield "ab "
            yield turn.usage(output_tokens=1)

    def talks_in_thread(turn: BlockingTurn) -> Said:
        for _ in range(WORDS):
            yield "cd "
            yield turn.usage(output_tokens=1)

    @agent
    def root(turn: BlockingTurn) -> Said:
        with turn.team() as team:
            team.start("loop", talks)
            team.start("thread", talks_in_thread)
            for _ in range(WORDS):
                yield "ef "
                yield turn.usage(output_tokens=1)

    # An outbox that is full again and again: what it holds has to be counted to the byte.
    with (
        ScriptedDispatcher() as dispatcher,
        serving(dispatcher.address, root, outbox_packets=16, outbox_bytes=1_024, packet_bytes_max=256),
    ):
        session = ScriptedSession(dispatcher.accept(), "s")
        done = session.done()
    assert done.outcome == pb.OUTCOME_COMPLETED
    assert done.usage.output_tokens == 3 * WORDS
    assert sorted(session.content.split()) == sorted(["ab", "cd", "ef"] * WORDS)
