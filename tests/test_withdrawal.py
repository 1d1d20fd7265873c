"""An agent that stops waiting, while its turn goes on: the dispatcher knows, and so does whoever was at work for it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import Conversation, Seen, conversing
from commander_here import serving
from dialling import administering
from dispatcher_process import DispatcherProcess, running_dispatcher
from mcp_scene import BOX
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from commander import BlockingTurn, Turn, agent
from commander.agent import AnyAgent
from dispatcher.core import events
from dispatcher.core.limits import Limits
from dispatcher.core.packets import AgentOffer, Hello, Packet, Question, ToolCall, ToolOutcome, Withdrawal
from dispatcher.core.router import Router

TOOLS = '''
import asyncio
from pathlib import Path

NOTES = Path(__file__).with_name("notes")

def note(text: str) -> None:
    with NOTES.open("a") as file:
        file.write(text + "\\n")

async def work() -> str:
    """Never ends by itself."""
    note("begun")
    try:
        await asyncio.Event().wait()
    finally:
        note("cancelled")
    return ""

def pay() -> str:
    """Pays."""
    note("paid")
    return "paid"

def quick() -> str:
    """Answers."""
    return "done"

TOOLS = [work, pay, quick]
'''
CONFIG = """
[tool.pay]
ask = true

[mcp.box]
command = [{python}, {box}, "--state", {state}]
prefix = "box_"
start_wait_s = 60
connect_s = 60
"""


class Shop:
    """A dispatcher with tools of its own and of an MCP server, and what these have noted."""

    def __init__(self, place: Path) -> None:
        self.place = place
        quoted = {"python": repr(sys.executable), "box": repr(BOX), "state": repr(str(place / "box"))}
        (place / "shop.py").write_text(TOOLS)
        (place / "dispatcher.toml").write_text(CONFIG.format(**quoted))
        self.flags = ("--config", str(place / "dispatcher.toml"), "--tools", "shop:TOOLS")

    async def noted(self, last: str, name: str = "notes") -> list[str]:
        """What is there, once it ends so; then it is forgotten."""
        path = self.place / name

        async def notes() -> list[str]:
            return path.read_text().split() if path.exists() else []

        seen = await eventually(notes, lambda told: told[-1:] == [last])
        path.unlink()
        return seen


async def heard(turn: Turn) -> str:
    """The next word of the user."""
    async with aclosing(turn.messages()) as messages:  # type: ignore[type-var]
        return await anext(message.text async for message in messages)


async def given_up(turn: Turn, waiting: Any) -> None:
    """Waits until the user says something."""
    task = asyncio.ensure_future(waiting)
    await heard(turn)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@agent("calls")
async def calls(turn: Turn) -> AsyncIterator[object]:
    await given_up(turn, turn.call_tool(turn.text))
    yield await turn.call_tool("quick")
    yield await heard(turn)


@agent("asks", parks=True)
async def asks(turn: Turn) -> AsyncIterator[object]:
    for number in range(20):
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                yield f"{await turn.ask(f'Hasty {number}?')}"
    yield "So: "
    yield await turn.ask("Well?")


@agent("delegates")
async def delegates(turn: Turn) -> AsyncIterator[object]:
    await given_up(turn, turn.delegate("endless", "Go"))
    yield "on my own: "
    yield await heard(turn)


@agent("endless")
async def endless(turn: Turn) -> AsyncIterator[object]:
    yield "hm"
    await turn.ask("Should I go on?")


@agent("hurries", parks=True)
async def hurries(turn: Turn) -> AsyncIterator[object]:
    try:
        async with asyncio.timeout(0.05):
            yield f"{await turn.call_tool('work')}"
    except TimeoutError:
        yield "too slow. "
    try:
        async with asyncio.timeout(0):
            yield str(await turn.ask("Quick?"))
    except TimeoutError:
        yield "nobody. "
    yield str(await turn.ask("Slow?"))


async def asks_within(turn: Turn) -> AsyncIterator[object]:
    yield str(await turn.ask("Within?"))


def asks_in_a_thread(turn: BlockingTurn) -> Iterator[object]:
    yield str(turn.ask("Within?"))


MEMBERS: dict[str, Any] = {"async": asks_within, "sync": asks_in_a_thread}


@agent("leads")
async def leads(turn: Turn) -> AsyncIterator[object]:
    async with turn.team() as team:
        member = team.start("one", MEMBERS[turn.text])
        await heard(turn)
        member.cancel()
        await member
    yield await heard(turn)


AGENTS: list[AnyAgent] = [calls, asks, delegates, endless, hurries, leads]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def opened(shop: Shop) -> Iterator[DispatcherProcess]:
    """A dispatcher of the shop, and a commander of all agents above."""
    flags = (*shop.flags, "--park-after-s", "0.05", "--questions-open-max", "2")
    with (
        running_dispatcher(*flags, environ={"PYTHONPATH": str(shop.place)}) as dispatcher,
        serving(dispatcher.address, *AGENTS),
    ):
        dispatcher.wait_for_log("commander worker linked")
        yield dispatcher


async def says(talk: Conversation, text: str) -> None:
    assert not (await talk.request("1", message=chat_pb2.AddMessage(text=text))).HasField("error")


async def answer(talk: Conversation, question_id: str, value_json: str) -> chat_pb2.Receipt:
    given = chat_pb2.AnswerQuestion(question_id=question_id, value_json=value_json)
    return await talk.request("1", answer=given)


def why(seen: Seen) -> str:
    return seen.of("answer")[-1].answer.cancelled.why


@pytest.mark.parametrize(("tool", "notes"), [("work", "notes"), ("box_hang", "box")])
def test_a_tool_is_cancelled_where_it_runs(
    opened: DispatcherProcess, shop: Shop, tool: str, notes: str
) -> None:
    @asynchronous
    async def scene() -> None:
        async with conversing(opened.address) as talk:
            seen = await talk.ask("calls", tool)
            await shop.noted("begun", notes)
            await says(talk, "stop that")
            result = (await seen.until("tool_result")).tool_result
            assert result.error.code == agent_pb2.TOOL_ERROR_CODE_CANCELLED
            assert result.error.message == "its caller waits no longer; it may have done part of its work"
            assert await shop.noted("cancelled", notes) == ["cancelled"]
            await says(talk, " and end")
            assert (await seen.ended()).name == "completed"
            assert seen.text == "done and end"
            assert len(seen.of("tool_result")) == 2

    scene()


@asynchronous
async def test_a_call_that_is_to_be_allowed_is_not_asked_about_any_more(
    opened: DispatcherProcess, shop: Shop
) -> None:
    async with conversing(opened.address) as talk:
        seen = await talk.ask("calls", "pay")
        question = (await seen.until("question")).question
        await says(talk, "never mind")
        result = (await seen.until("tool_result")).tool_result
        assert (why(seen), result.error.message) == (
            "withdrawn",
            "its caller waits no longer; it did not run",
        )
        receipt = await answer(talk, question.question_id, '"approve"')
        assert "is not an open question" in receipt.error.message
        await says(talk, "!")
        await seen.ended()
    assert not (shop.place / "notes").exists()


@asynchronous
async def test_a_question_is_closed_and_its_place_is_free(opened: DispatcherProcess) -> None:
    """More of them than may be open; and the session is parked for the one that it waits for, and goes on with that."""
    async with conversing(opened.address) as talk:
        seen = await talk.ask("asks")
        last = (await seen.until("question", 21)).question
        assert [event.answer.cancelled.why for event in seen.of("answer")] == ["withdrawn"] * 20
        receipt = await answer(talk, seen.of("question")[0].question.question_id, "1")
        assert "is not an open question" in receipt.error.message
        await parked(opened, seen)
        assert not (await answer(talk, last.question_id, '"yes"')).HasField("error")
        assert (await seen.ended()).name == "completed"
    assert seen.text == "So: yes"
    assert "reset" not in seen.kinds


@asynchronous
async def test_run_again_it_gives_up_again(opened: DispatcherProcess, shop: Shop) -> None:
    async with conversing(opened.address) as talk:
        seen = await talk.ask("hurries")
        slow = (await seen.until("question", 2)).question
        await parked(opened, seen)
        assert not (await answer(talk, slow.question_id, '"yes"')).HasField("error")
        assert (await seen.ended()).name == "completed"
    assert seen.text == "too slow. nobody. yes"
    # Nothing ran twice, and nobody was asked twice.
    assert (seen.kinds.count("tool_call"), seen.kinds.count("question")) == (1, 2)
    with suppress(FileNotFoundError):
        (shop.place / "notes").unlink()


@asynchronous
async def test_the_session_of_an_agent_that_was_asked_is_stopped(opened: DispatcherProcess) -> None:
    async with conversing(opened.address) as talk, administering(opened.address) as admin:
        seen = await talk.ask("delegates")
        await seen.until("question")
        await says(talk, "leave it")
        result = (await seen.until("tool_result")).tool_result
        assert result.error.code == agent_pb2.TOOL_ERROR_CODE_CANCELLED
        # By the time the caller hears of it all of that is over.
        until = seen.kinds.index("tool_result") + 1
        assert seen.kinds[until - 3 : until] == ["answer", "agent_event", "tool_result"]
        assert why(seen) == "agent_ended"
        child = f"{seen.events[0].session_id}."
        listed = await admin.ListSessions(admin_pb2.ListSessionsRequest(include_ended=True))
        below = [each for each in listed.sessions if each.session_id.startswith(child)]
        assert [(each.state, each.ended.name) for each in below] == [("ended", "stopped")]
        await says(talk, "fine")
        assert (await seen.ended()).name == "completed"
    assert seen.text.endswith("on my own: fine")


@pytest.mark.parametrize("member", MEMBERS)
def test_what_a_member_asked_that_ends_is_closed(opened: DispatcherProcess, member: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with conversing(opened.address) as talk:
            seen = await talk.ask("leads", member)
            await seen.until("question")
            await says(talk, "enough")
            await seen.until("answer")
            assert why(seen) == "withdrawn"
            await says(talk, "bye")
            assert (await seen.ended()).name == "completed"

    scene()


@asynchronous
async def test_what_nobody_knows_is_passed_over(opened: DispatcherProcess) -> None:
    """A result and a withdrawal may cross; and it has its number, and is acknowledged, as all that is said."""
    name = unique("agent")
    async with linked(opened.address, name) as link, conversing(opened.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("quick", "{}", call_id="c1")
        await turn.result()
        for told in ({"call_id": "c1"}, {"call_id": "c2"}, {"question_id": "q1"}, {}):
            await turn.send(withdrawal=agent_pb2.Withdrawal(**told))
        await turn.acknowledged(turn.sequence)
        await turn.finish()
        assert (await seen.ended()).name == "completed"
    assert seen.kinds.count("tool_result") == 1


async def parked(dispatcher: DispatcherProcess, seen: Seen) -> None:
    async with administering(dispatcher.address) as admin:

        async def state() -> str:
            request = admin_pb2.GetSessionRequest(session_id=seen.events[0].session_id)
            return (await admin.GetSession(request)).session.state

        await eventually(state, lambda told: told == "parked")


# --- the core alone --------------------------------------------------------------------------------------


def told(*details: Any) -> tuple[Router, list[events.Effect]]:
    """A session that says all this in one message; the effects of that."""
    router = Router(Limits())
    router.step(events.LinkOpened("l", "peer", "m"), 0.0)
    router.step(events.HelloReceived("l", Hello("c", "i", "v", (AgentOffer("echo"),), {}, 1, 0, ())), 0.0)
    router.step(events.SessionRequested("s", "echo", b""), 0.0)
    kinds = {ToolCall: "tool_call", Question: "question", Withdrawal: "withdrawal"}
    said = [
        Packet(kinds[type(each)], "s", 1, number, "", "", False, 0, 1, each, b"")
        for number, each in enumerate(details, 1)
    ]
    return router, router.step(events.PacketsReceived("l", said), 1.0)


def test_what_is_withdrawn_in_one_breath_never_begins() -> None:
    _, effects = told(ToolCall("x", "add", "{}"), Withdrawal("x", ""))
    assert not [each for each in effects if isinstance(each, events.RunTool | events.CancelTool)]


def test_what_runs_is_cancelled_alone() -> None:
    router, effects = told(ToolCall("x", "add", "{}"), ToolCall("y", "add", "{}"))
    said = Packet("withdrawal", "s", 1, 3, "", "", False, 0, 1, Withdrawal("x", ""), b"")
    effects = router.step(events.PacketsReceived("l", [said]), 2.0)
    assert [each for each in effects if isinstance(each, events.CancelTool)] == [
        events.CancelTool("s", 1, "x")
    ]
    late = router.step(events.ToolFinished("s", 1, "x", ToolOutcome("1")), 3.0)
    assert late == [events.Count("tool_outcomes_dropped")]


def test_the_mark_knows_what_nobody_waited_for() -> None:
    router, _ = told(Question("q", None, b"?"), Withdrawal("", "q"), Withdrawal("", "q"))
    session = router.sessions["s"]
    assert not session.questions
    assert session.mark().withdrawn == (session.offset,)
