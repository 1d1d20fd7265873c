"""A session that waits for a person alone holds no slot: its agent is run again with the answer."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import Conversation, Seen, conversing, viewing
from commander_here import serving
from dialling import administering, chatting
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from commander import QuestionUnanswered, Turn, agent
from commander.agent import AnyAgent
from dispatcher.core import events
from dispatcher.core.limits import Limits
from dispatcher.core.packets import AgentOffer, Hello, Packet, Question
from dispatcher.core.router import Router
from dispatcher.core.session import State

DISPATCHER_FLAGS = ("--park-after-s", "0.05", "--tools", "demo")
RUNS: dict[str, int] = {}


def ran(name: str) -> int:
    RUNS[name] = RUNS.get(name, 0) + 1
    return RUNS[name]


@agent("wizard", parks=True)
async def wizard(turn: Turn) -> AsyncIterator[object]:
    ran(turn.session_id)
    yield turn.thought("Asking", "I need to know more.")
    yield "Hello! "
    total = (await turn.call_tool("calculate", expression="6 * 7"))["result"]
    name = await turn.ask("Your name?")
    yield f"{name}, {total}. "
    size = await turn.ask("Which size?", options=["s", "m"])
    again = (await turn.call_tool("calculate", expression="6 * 7"))["result"]
    yield f"Size {size}, {again}."


@agent("both", parks=True)
async def both(turn: Turn) -> AsyncIterator[object]:
    ran(turn.session_id)
    first, second = await asyncio.gather(turn.ask("One?"), turn.ask("Two?"))
    yield f"{first}{second}"


@agent("patient", parks=True)
async def patient(turn: Turn) -> AsyncIterator[object]:
    ran(turn.session_id)
    try:
        await turn.ask("Well?", expires_in_s=0.5)
    except QuestionUnanswered as error:
        yield error.why


@agent("fickle", parks=True)
async def fickle(turn: Turn) -> AsyncIterator[object]:
    yield str(await turn.ask(f"Question {ran(turn.session_id)}?"))


@agent("forgetful", parks=True)
async def forgetful(turn: Turn) -> AsyncIterator[object]:
    if ran(turn.session_id) == 1:
        yield str(await turn.ask("Well?"))


@agent("sync", parks=True)
def sync(turn: Any) -> Iterator[object]:
    ran(turn.session_id)
    yield "Hm. "
    yield str(turn.ask("Well?"))


@agent("listening", parks=True)
async def listening(turn: Turn) -> AsyncIterator[object]:
    before = [message.text for message in turn.take_messages()]
    await turn.ask("Well?")
    async for message in turn.messages():
        yield f"{before} {message.text}"
        return


AGENTS: list[AnyAgent] = [listening, wizard, both, patient, fickle, forgetful, sync]


async def answers(talk: Conversation, seen: Seen, number: int, value_json: str) -> None:
    question = await seen.until("question", number)
    answer = chat_pb2.AnswerQuestion(question_id=question.question.question_id, value_json=value_json)
    assert not (await talk.request("1", answer=answer)).HasField("error")


async def parked(dispatcher: DispatcherProcess, session_id: str) -> admin_pb2.SessionView:
    """The session, once it is parked and no slot is taken any more."""
    async with administering(dispatcher.address) as admin:

        async def looked() -> tuple[admin_pb2.SessionView, int]:
            view = await admin.GetSession(admin_pb2.GetSessionRequest(session_id=session_id))
            commanders = await admin.ListCommanders(admin_pb2.ListCommandersRequest())
            return view.session, sum(each.slots_taken for each in commanders.commanders)

        view, _ = await eventually(looked, lambda seen: seen[0].state == "parked" and seen[1] == 0)
        return view


def id_of(seen: Seen) -> str:
    return seen.events[0].session_id


@asynchronous
async def test_a_wizard_holds_no_slot_and_says_nothing_twice(dispatcher: DispatcherProcess) -> None:
    with serving(dispatcher.address, *AGENTS, commander_id="one", slots=1):
        dispatcher.wait_for_log("commander one linked")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("wizard", client_ref="1", include_thoughts=True)
            await seen.until("question")
            view = await parked(dispatcher, id_of(seen))
            assert [each.text for each in view.open_questions] == ["Your name?"]
            # The one slot serves another meanwhile.
            other = await talk.ask("both", client_ref="2")
            await other.until("question", 2)
            await parked(dispatcher, id_of(other))
            await answers(talk, seen, 1, '"Ada"')
            await seen.until("question", 2)
            await parked(dispatcher, id_of(seen))
            await answers(talk, seen, 2, '"m"')
            assert (await seen.ended()).name == "completed"
    assert seen.text == "Hello! Ada, 42. Size m, 42."
    assert RUNS[id_of(seen)] == 3
    assert seen.kinds.count("thought") == 1
    assert "reset" not in seen.kinds
    # What was run before the first answer was run once; the same call after it is a new one.
    assert seen.kinds.count("tool_call") == seen.kinds.count("tool_result") == 2
    assert [event.started.commander_id for event in seen.of("started")] == ["one"] * 3


@asynchronous
async def test_it_is_run_again_when_all_is_answered(dispatcher: DispatcherProcess) -> None:
    with serving(dispatcher.address, *AGENTS, commander_id="two", slots=1):
        dispatcher.wait_for_log("commander two linked")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("both", client_ref="1")
            await seen.until("question", 2)
            await parked(dispatcher, id_of(seen))
            await answers(talk, seen, 2, '"b"')
            await seen.until("answer")
            view = await parked(dispatcher, id_of(seen))
            assert [each.text for each in view.open_questions] == ["One?"]
            await answers(talk, seen, 1, '"a"')
            await seen.ended()
    assert seen.text == "ab"
    assert RUNS[id_of(seen)] == 2


@asynchronous
async def test_what_the_user_says_meanwhile_is_heard_where_it_is_new(dispatcher: DispatcherProcess) -> None:
    """Not by what runs the same again: nobody would see what is said to it there."""
    with serving(dispatcher.address, *AGENTS, commander_id="listener", slots=1):
        dispatcher.wait_for_log("commander listener linked")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("listening", client_ref="1")
            await seen.until("question")
            await parked(dispatcher, id_of(seen))
            await talk.request("1", message=chat_pb2.AddMessage(text="hurry"))
            await answers(talk, seen, 1, "1")
            assert not (await seen.ended()).unread_message_ids
    assert seen.text == "[] hurry"


@asynchronous
async def test_no_answer_is_an_answer_too(dispatcher: DispatcherProcess) -> None:
    with serving(dispatcher.address, *AGENTS, commander_id="three", slots=1):
        dispatcher.wait_for_log("commander three linked")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("patient")
            assert (await seen.ended()).name == "completed"
    assert seen.text == "expired"
    assert RUNS[id_of(seen)] == 2


@asynchronous
async def test_a_sync_agent_parks_as_well(dispatcher: DispatcherProcess) -> None:
    with serving(dispatcher.address, *AGENTS, commander_id="four", slots=1):
        dispatcher.wait_for_log("commander four linked")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("sync", client_ref="1")
            await seen.until("question")
            await parked(dispatcher, id_of(seen))
            await answers(talk, seen, 1, '"yes"')
            await seen.ended()
    assert seen.text == "Hm. yes"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fickle", "it asks 'Question 2?', and has not asked that before; "),
        ("forgetful", "it ends without asking 'Well?', which it had asked before; "),
    ],
)
@asynchronous
async def test_one_that_does_something_else_than_before_fails_and_says_so(
    dispatcher: DispatcherProcess, name: str, told: str
) -> None:
    with serving(dispatcher.address, *AGENTS, commander_id=name, slots=1):
        dispatcher.wait_for_log(f"commander {name} linked")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask(name, client_ref="1")
            await seen.until("question")
            await parked(dispatcher, id_of(seen))
            await answers(talk, seen, 1, '"yes"')
            ended = await seen.ended()
    assert (ended.name, ended.error.code) == ("agent_failed", "rerun_differs")
    assert ended.message.startswith(told)


@asynchronous
async def test_it_outlives_its_commander_and_the_dispatcher(tmp_path: Path) -> None:
    flags = (*DISPATCHER_FLAGS, "--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*flags) as first:
        async with conversing(first.address) as talk:
            with serving(first.address, *AGENTS, commander_id="one"):
                first.wait_for_log("commander one linked")
                seen = await talk.ask("wizard", client_ref="1")
                await answers(talk, seen, 1, '"Ada"')
                await seen.until("question", 2)
                await parked(first, id_of(seen))
            first.signal(signal.SIGKILL)
            first.wait()
    with (
        running_dispatcher(*flags) as second,
        serving(second.address, *AGENTS, commander_id="other"),
    ):
        async with chatting(second.address) as chat, conversing(second.address) as talk:
            request = chat_pb2.SubscribeRequest(session_id=id_of(seen), cursor=seen.events[-1].cursor)
            async with viewing(chat.Subscribe(request), id_of(seen)) as (_, rest):
                question = seen.of("question")[1].question
                answer = chat_pb2.AnswerQuestion(question_id=question.question_id, value_json='"s"')
                await talk.send(chat_pb2.ClientPacket(session_id=id_of(seen), answer=answer))
                assert not (await talk.receipt()).HasField("error")
                assert (await rest.ended()).name == "completed"
    assert seen.text + rest.text == "Hello! Ada, 42. Size s, 42."


# --- the wire by hand ------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asked(
    dispatcher: DispatcherProcess, **more: Any
) -> AsyncIterator[tuple[Any, Conversation, Seen, Any]]:
    """An agent that parks has asked a question."""
    name = unique("agent")
    offer = agent_pb2.AgentOffer(name=name, parks=True)
    async with (
        linked(dispatcher.address, agents=[offer], slots=1) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(name, client_ref="1", **more)
        turn = await link.started()
        yield link, talk, seen, turn


@asynchronous
async def test_what_is_told_to_the_attempt_that_runs_again(dispatcher: DispatcherProcess) -> None:
    async with asked(dispatcher) as (link, talk, seen, turn):
        await turn.say("Hi. ")
        await turn.ask("q1", "Well?")
        stop = await turn.stopped()
        assert (stop.code, stop.reason) == (agent_pb2.STOP_CODE_PARKED, "a person is asked")
        # What was under way is nobody's fault, and nobody is told to stop again.
        await turn.say("late")
        await turn.acknowledge_stop(stop)
        await parked(dispatcher, turn.session_id)
        await talk.request("1", message=chat_pb2.AddMessage(text="hurry"))
        await answers(talk, seen, 1, "7")
        again = await link.started()
        assert again.attempt == 2
        published = again.start.published
        assert (published.parked, published.content) == (True, "Hi. ")
        (answered,) = published.answers
        assert (answered.question.text, answered.answer.value_json) == ("Well?", "7")
        assert (await again.heard("user_message")).user_message.text == "hurry"
        await again.say("Bye.")
        await again.finish()
        assert (await seen.ended()).content_chars == len("Hi. Bye.")
        assert turn.heard_nothing("stop")
    assert seen.text == "Hi. Bye."


@asynchronous
async def test_a_stop_while_it_is_parked_ends_it(dispatcher: DispatcherProcess) -> None:
    async with asked(dispatcher) as (link, talk, seen, turn):
        await turn.ask("q1")
        await turn.acknowledge_stop(await turn.stopped())
        await parked(dispatcher, turn.session_id)
        await talk.request("1", stop=chat_pb2.StopAsked())
        assert (await seen.ended()).name == "stopped"
        assert link.started_nothing()


@asynchronous
async def test_a_commander_lost_while_it_runs_again_begins_anew(dispatcher: DispatcherProcess) -> None:
    """It had said more: viewers are told what to discard, and all is asked once more."""
    async with asked(dispatcher) as (link, talk, seen, turn):
        await turn.say("Hi. ")
        await turn.ask("q1")
        await turn.acknowledge_stop(await turn.stopped())
        await answers(talk, seen, 1, "7")
        again = await link.started()
        await again.say("More. ")
        await seen.until_text("More")
        async with linked(dispatcher.address, again.start.agent) as other:
            await link.leave("upgrade")
            anew = await other.started()
            assert (anew.attempt, anew.start.HasField("published")) == (3, False)
            await anew.say("Whole.")
            await anew.finish()
            await seen.ended()
    assert seen.text == "Whole."


# --- what would have to be told again --------------------------------------------------------------------

TOLD_BYTES = 600


def with_two_questions(question_bytes: int) -> Router:
    """A router with session s1, whose agent parks and has asked two questions of that size, when it is to be parked."""
    router = Router(Limits(published_bytes_max=TOLD_BYTES, park_after_s=1.0))
    offer = AgentOffer("wizard", parks=True)
    router.step(events.LinkOpened("l1", "peer", "m1"), 0.0)
    router.step(events.HelloReceived("l1", Hello("c1", "i1", "1", (offer,), {}, 1, 0, ())), 0.0)
    router.step(events.SessionRequested("s1", "wizard", b"Hi"), 0.0)
    body = b"?" * question_bytes
    packets = [
        Packet(
            "question",
            "s1",
            1,
            number,
            "",
            "",
            False,
            0,
            question_bytes,
            Question(asked_id, None, body),
            body,
        )
        for number, asked_id in enumerate(("q1", "q2"), 1)
    ]
    router.step(events.PacketsReceived("l1", packets), 0.0)
    router.step(events.TimePassed(), 1.0)
    return router


def test_one_that_could_not_be_told_again_what_it_has_asked_keeps_its_slot() -> None:
    router = with_two_questions(TOLD_BYTES // 2)
    assert router.sessions["s1"].state is State.RUNNING


def test_who_is_asked_second_can_answer_too() -> None:
    """Whatever was answered first, there is room for a word."""
    router = with_two_questions(150)
    session = router.sessions["s1"]
    assert session.state is State.PARKED
    for value_json, is_accepted in (('"' + "y" * 200 + '"', False), ('"yes"', True)):
        replies = router.step(events.AnswerGiven("s1", "q1", value_json), 2.0)
        assert is_accepted == any(isinstance(each, events.Accepted) for each in replies), value_json
    replies = router.step(events.AnswerGiven("s1", "q2", '"yes"'), 2.0)
    assert any(isinstance(each, events.Accepted) for each in replies)
    assert session.may_continue()
    # Its slot is not free yet: its agent has yet to end.
    assert router.queued == 1
