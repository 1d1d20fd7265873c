"""Agents that ask other agents through the dispatcher: what each is told, what viewers see, and how all of it ends."""

import asyncio
import json
import signal
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous
from chat_viewer import Seen, conversing, viewing
from commander_here import serving
from dialling import chatting
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from commander import InvalidArguments, Message, ToolDenied, ToolFailed, ToolNotFound, Turn, agent
from commander.agent import AnyAgent


@agent("echo", description="Says what it was asked")
async def echo(turn: Turn) -> AsyncIterator[object]:
    yield turn.thought("Hearing", turn.text)
    yield turn.usage(input_tokens=3, output_tokens=5, model="tiny")
    said = " ".join(f"{message.role}:{message.text}" for message in turn.conversation)
    yield f"[{said}|{turn.user_id}|{turn.metadata.get('lang', '')}|{turn.metadata.get('more', '')}]"


@agent("chief", description="Has echo answer")
async def chief(turn: Turn) -> AsyncIterator[object]:
    yield "I ask: "
    answer = await turn.delegate("echo", turn.text, metadata={"more": "yes"})
    yield f" It said {answer}"


@agent("survey", description="Has echo answer twice at once, and about a conversation")
async def survey(turn: Turn) -> AsyncIterator[object]:
    both = await asyncio.gather(turn.delegate("echo", "a"), turn.delegate("echo", "b"))
    talk = (Message("user", ("x",)), Message("assistant", ("y",)), Message("user", ("z",)))
    yield str([*both, await turn.delegate("echo", messages=talk)])


@agent("wrong", description="Asks for what can't be")
async def wrong(turn: Turn) -> AsyncIterator[object]:
    for name in ("nobody", "wrong"):
        try:
            await turn.delegate(name, "Hi")
        except (ToolNotFound, ToolDenied) as error:
            yield f"{error.code}: {error.message}\n"
    try:
        await turn.delegate("echo", "Hi", agent_version="x" * 200)
    except InvalidArguments as error:
        yield f"{error.code}: {error.message}\n"


@agent("deep", description="Asks the one of the next number")
async def deep(turn: Turn) -> AsyncIterator[object]:
    yield await turn.delegate("deep1", "0")


def deeper(number: int) -> AnyAgent:
    @agent(f"deep{number}")
    async def one(turn: Turn) -> AsyncIterator[object]:
        try:
            yield f"{number}<" + await turn.delegate(f"deep{number + 1}", "go on") + ">"
        except ToolFailed as error:
            yield f"{error.code} {error.message}"

    return one


@agent("asker", description="Asks the user")
async def asker(turn: Turn) -> AsyncIterator[object]:
    yield f"{await turn.ask('Which colour?', options=['red', 'blue'])}!"


@agent("boss", description="Has the asker ask")
async def boss(turn: Turn) -> AsyncIterator[object]:
    yield await turn.delegate("asker", "Ask")


@agent("calls", description="Calls a tool")
async def calls(turn: Turn) -> AsyncIterator[object]:
    yield str((await turn.call_tool("calculate", expression="6 * 7"))["result"])


@agent("caller", description="Has one called by another, and calls itself")
async def caller(turn: Turn) -> AsyncIterator[object]:
    own, theirs = await asyncio.gather(
        turn.call_tool("calculate", expression="1 + 1"), turn.delegate("calls", "Go")
    )
    yield f" {own['result']} {theirs}"


@agent("fails", description="Fails half way")
async def fails(turn: Turn) -> AsyncIterator[object]:
    yield "half"
    raise RuntimeError("the archive is closed")


@agent("tolerant", description="Goes on without it")
async def tolerant(turn: Turn) -> AsyncIterator[object]:
    try:
        await turn.delegate("fails", "Go")
    except ToolFailed as error:
        yield f"; {error.code}, {error.message}"


AGENTS = [echo, chief, survey, wrong, deep, asker, boss, calls, caller, fails, tolerant]


@pytest.fixture(scope="module")
def house() -> Iterator[DispatcherProcess]:
    """A dispatcher with two commanders: all agents but `echo` on the one, and that on the other."""
    with running_dispatcher("--tools", "demo") as dispatcher, ExitStack() as stack:
        others = [each for each in AGENTS if each is not echo]
        numbered = [deeper(number) for number in range(1, 8)]
        stack.enter_context(serving(dispatcher.address, *others, *numbered, commander_id="one", slots=20))
        stack.enter_context(serving(dispatcher.address, echo, commander_id="two", slots=20))
        dispatcher.wait_for_log("commander one linked from")
        dispatcher.wait_for_log("commander two linked from")
        yield dispatcher


def told_by(seen: Seen, path: str) -> list[str]:
    """What the agent of this path has told, by kind."""
    return [event.WhichOneof("event") or "" for event in seen.events if event.agent == path]


@asynchronous
async def test_another_agent_answers_and_its_events_are_seen_among_ours(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("chief", "Hi", user_id="ada", metadata={"lang": "en"}, include_thoughts=True)
        ended = await seen.ended()
    assert seen.text == "I ask: [user:Hi|ada|en|yes] It said [user:Hi|ada|en|yes]"
    assert ended.name == "completed"
    assert (ended.usage.input_tokens, ended.usage.output_tokens) == (3, 5), "theirs is ours as well"
    assert ended.content_chars == len(seen.text)
    assert told_by(seen, "echo") == ["agent_event", "thought", "usage", "content", "agent_event"]
    first, last = (event.agent_event for event in seen.of("agent_event"))
    assert first.HasField("started")
    assert last.completed.summary == "[user:Hi|ada|en|yes]"
    (call,), (result,) = seen.of("tool_call"), seen.of("tool_result")
    assert (call.tool_call.tool_name, call.tool_call.to_agent) == ("echo", True)
    came = json.loads(result.tool_result.result_json)
    assert came["text"] == "[user:Hi|ada|en|yes]"
    below = came["session_id"]
    async with chatting(house.address) as chat:
        request = chat_pb2.SubscribeRequest(session_id=below)
        async with viewing(chat.Subscribe(request), below) as (_, own):
            assert (await own.ended()).name == "completed"
    assert own.events[0].opened.parent_session_id == seen.events[0].session_id
    assert own.events[0].opened.user_id == "ada"


@asynchronous
async def test_several_are_asked_at_once_and_told_apart(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("survey", "Hi")
        await seen.ended()
    assert "['[user:a|||]', '[user:b|||]', '[user:x assistant:y user:z|||]']" in seen.text
    paths = {event.agent for event in seen.events}
    assert paths == {"", "echo", "echo-2", "echo-3"}


@asynchronous
async def test_what_can_not_be_asked_is_refused_with_the_reason(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("wrong", "Hi")
        await seen.ended()
    first, second, third = seen.text.splitlines()
    assert first.startswith("not_found: no commander serves agent 'nobody'; served: ")
    assert second == "denied: agent 'wrong' is asking already: wrong; ask another one"
    assert third.startswith("invalid_arguments: agent_version: ")


@asynchronous
async def test_agents_ask_each_other_only_so_deep(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("deep", "Hi")
        await seen.ended()
    assert seen.text.endswith(
        "1<2<3<denied delegation_levels_max is 4, and so many ask each other already>>>"
    )
    assert told_by(seen, "deep1/deep2/deep3/deep4") == [
        "agent_event",
        "tool_call",
        "tool_result",
        "content",
        "agent_event",
    ]


@asynchronous
async def test_whoever_watches_the_one_above_may_answer(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("boss", client_ref="1")
        question = await seen.until("question")
        assert question.agent == "asker"
        wrong_one = chat_pb2.AnswerQuestion(question_id=question.question.question_id, value_json='"green"')
        assert (await talk.request("1", answer=wrong_one)).error.code == "invalid_request"
        right = chat_pb2.AnswerQuestion(question_id=question.question.question_id, value_json='"blue"')
        assert not (await talk.request("1", answer=right)).HasField("error")
        await seen.ended()
        assert not (await talk.request("1", answer=right)).HasField("error"), "a repeat of what was accepted"
    assert seen.text == "blue!blue!"
    assert told_by(seen, "asker").count("answer") == 1


@asynchronous
async def test_calls_of_both_bear_ids_of_their_own(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("caller")
        await seen.ended()
    assert seen.text == "42 2 42"
    ids = [event.tool_call.call_id for event in seen.of("tool_call")]
    assert len(set(ids)) == len(ids) == 3
    assert {event.tool_result.call_id for event in seen.of("tool_result")} == set(ids)


@asynchronous
async def test_one_that_fails_fails_the_call_alone(house: DispatcherProcess) -> None:
    async with conversing(house.address) as talk:
        seen = await talk.ask("tolerant")
        ended = await seen.ended()
    assert ended.name == "completed"
    assert seen.text == "half; failed, agent 'fails' ended: agent_failed: the archive is closed"
    failed = seen.of("agent_event")[-1].agent_event.failed.error
    assert failed.message == "the archive is closed"
    assert failed.scope == agent_pb2.ERROR_SCOPE_AGENT


# --- the wire by hand ------------------------------------------------------------------------------------


def asks(name: str, call_id: str = "c1", **more: object) -> agent_pb2.ToolCallRequest:
    arguments = json.dumps({"text": "Go", **more})
    return agent_pb2.ToolCallRequest(tool_name=name, arguments_json=arguments, call_id=call_id, to_agent=True)


@asynchronous
async def test_a_stop_reaches_all_below(dispatcher: DispatcherProcess) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, upper, lower, slots=4) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(upper, client_ref="1")
        above = await link.started()
        await above.send(tool_call=asks(lower))
        below = await link.started()
        await below.say("begun")
        await seen.until_text("begun")
        await talk.request("1", stop=chat_pb2.StopAsked(reason="EnoughNow"))
        assert (await seen.ended()).name == "stopped"
        assert (await above.stopped()).reason == "EnoughNow"
        assert (await below.stopped()).reason == "EnoughNow"


@asynchronous
async def test_when_the_one_above_ends_nobody_goes_on_for_it(dispatcher: DispatcherProcess) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, upper, lower, slots=4) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(upper)
        above = await link.started()
        await above.send(tool_call=asks(lower))
        below = await link.started()
        await above.finish()
        assert (await seen.ended()).name == "completed"
        await below.stopped()
        await below.say("too late")
    assert "late" not in seen.text


@asynchronous
async def test_budgets_cover_all_below(dispatcher: DispatcherProcess) -> None:
    upper, lower = unique("upper"), unique("lower")
    budgets = agent_pb2.Budgets(content_chars=10, tool_calls=3)
    async with (
        linked(dispatcher.address, upper, lower, slots=4) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(upper, budgets=budgets)
        above = await link.started()
        await above.say("1234")
        await above.send(tool_call=asks(lower, "c1"))
        one = await link.started()
        await above.send(tool_call=asks(lower, "c2"))
        two = await link.started()
        await one.say("5678")
        await seen.until_text("5678")
        # Alone it may say six; with the other one's four it is too much for both.
        await two.say("90ab")
        assert (await seen.ended()).name == "limit_exceeded"
        assert (await above.stopped()).code == agent_pb2.STOP_CODE_LIMIT
        await one.stopped()
        await two.stopped()
    assert seen.text == "12345678"


@asynchronous
async def test_an_agent_below_may_use_what_is_left(dispatcher: DispatcherProcess) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, upper, lower, slots=4) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(upper, budgets=agent_pb2.Budgets(content_chars=10))
        above = await link.started()
        await above.say("1234567")
        await above.send(tool_call=asks(lower))
        below = await link.started()
        await below.say("890x")
        result = await above.result()
        assert result.error.code == agent_pb2.TOOL_ERROR_CODE_FAILED
        assert "limit_exceeded" in result.error.message
        await below.stopped()
        await above.finish()
        await seen.ended()
    assert seen.text == "1234567890"


@asynchronous
async def test_one_that_took_too_long_is_stopped_and_the_call_has_timed_out(
    dispatcher: DispatcherProcess,
) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, upper, lower, slots=4) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(upper)
        above = await link.started()
        call = asks(lower)
        call.timeout_ms = 100
        await above.send(tool_call=call)
        below = await link.started()
        assert (await above.result()).error.code == agent_pb2.TOOL_ERROR_CODE_TIMEOUT
        await below.stopped()
        await above.finish()
        await seen.ended()


@asynchronous
async def test_a_call_sent_twice_asks_once(dispatcher: DispatcherProcess) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, upper, lower, slots=4) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(upper)
        above = await link.started()
        await above.send(tool_call=asks(lower))
        below = await link.started()
        await above.send(tool_call=asks(lower))
        await below.say("once")
        await below.finish()
        first = await above.result()
        await above.send(tool_call=asks(lower))
        assert (await above.result()).result_json == first.result_json
        assert link.started_nothing()
        await above.finish()
        await seen.ended()
    assert seen.text == "once"


@asynchronous
async def test_when_the_commander_above_dies_the_one_below_is_stopped(dispatcher: DispatcherProcess) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with (
        linked(dispatcher.address, lower) as lower_link,
        conversing(dispatcher.address) as talk,
    ):
        async with linked(dispatcher.address, upper) as first:
            seen = await talk.ask(upper)
            above = await first.started()
            await above.send(tool_call=asks(lower))
            below = await lower_link.started()
            await below.say("half")
            await seen.until_text("half")
            await first.leave("upgrade")
        await below.stopped()
        async with linked(dispatcher.address, upper) as second:
            again = await second.started()
            assert again.attempt == 2
            await again.send(tool_call=asks(lower))
            anew = await lower_link.started()
            await anew.say("whole")
            await anew.finish()
            assert json.loads((await again.result()).result_json)["text"] == "whole"
            await again.finish()
            assert (await seen.ended()).name == "completed"
    assert seen.text == "whole"


@asynchronous
async def test_when_the_commander_below_dies_and_it_has_said_something_the_call_fails(
    dispatcher: DispatcherProcess,
) -> None:
    upper, lower = unique("upper"), unique("lower")
    async with linked(dispatcher.address, upper) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(upper)
        above = await link.started()
        async with linked(dispatcher.address, lower) as first:
            await above.send(tool_call=asks(lower, "c1"))
            await first.started()
            await first.leave("upgrade")
        # Nobody has heard a word of it: another one takes over.
        async with linked(dispatcher.address, lower) as second:
            below = await second.started()
            assert below.attempt == 2
            await below.say("half")
            await seen.until_text("half")
            await second.leave("upgrade")
        result = await above.result()
        assert result.error.retryable
        assert "commander_lost" in result.error.message
        await above.finish()
        assert (await seen.ended()).name == "completed"


@asynchronous
async def test_it_outlives_the_dispatcher(tmp_path: Path) -> None:
    """Both go on after kill -9: the one below has an open question, and its answer comes to whoever waits for it."""
    upper, lower = unique("upper"), unique("lower")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    journal = ("--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*journal) as first:
        async with linked(first.address, upper, lower, **me) as link, conversing(first.address) as talk:
            seen = await talk.ask(upper)
            above = await link.started()
            await above.send(tool_call=asks(lower))
            below = await link.started()
            prefix = below.start.id_prefix
            await below.say("half ")
            await below.ask(f"q{prefix}1")
            await seen.until("question")
            first.signal(signal.SIGKILL)
            first.wait()
    resumes = [
        agent_pb2.Resume(session_id=each.session_id, attempt=1, last_sequence_sent=each.sequence)
        for each in (above, below)
    ]
    with running_dispatcher(*journal) as second:
        async with (
            linked(second.address, upper, lower, **me, resumes=resumes) as link,
            conversing(second.address) as talk,
            chatting(second.address) as chat,
        ):
            assert all(each.HasField("resumed") for each in link.welcome.resumes)
            request = chat_pb2.SubscribeRequest(session_id=above.session_id, cursor=seen.events[-1].cursor)
            async with viewing(chat.Subscribe(request), above.session_id) as (_, rest):
                answer = chat_pb2.AnswerQuestion(question_id=f"q{prefix}1", value_json='"go on"')
                await talk.send(chat_pb2.ClientPacket(session_id=above.session_id, answer=answer))
                assert not (await talk.receipt()).HasField("error")
                heard = await link.heard("answer", below.session_id)
                assert heard.answer.value_json == '"go on"'
                done = agent_pb2.Done(
                    outcome=agent_pb2.OUTCOME_COMPLETED,
                    content_chars=len("half whole"),
                    content_crc32=zlib.crc32(b"half whole"),
                )
                await link.write(
                    below.packet(content=agent_pb2.ContentChunk(text="whole")), below.packet(done=done)
                )
                result = (await link.heard("tool_result", above.session_id)).tool_result
                assert json.loads(result.result_json)["text"] == "half whole"
                await link.write(above.packet(done=agent_pb2.Done(outcome=agent_pb2.OUTCOME_COMPLETED)))
                assert (await rest.ended()).name == "completed"
    assert seen.text + rest.text == "half whole"


@asynchronous
async def test_one_whose_asker_is_gone_after_a_restart_is_stopped(tmp_path: Path) -> None:
    upper, lower = unique("upper"), unique("lower")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    journal = ("--journal", f"sqlite:{tmp_path / 'journal'}")
    with running_dispatcher(*journal) as first:
        async with (
            linked(first.address, upper) as upper_link,
            linked(first.address, lower, **me) as link,
            conversing(first.address) as talk,
        ):
            seen = await talk.ask(upper)
            above = await upper_link.started()
            await above.send(tool_call=asks(lower))
            below = await link.started()
            await below.say("half")
            await seen.until_text("half")
            first.signal(signal.SIGKILL)
            first.wait()
    resume = agent_pb2.Resume(session_id=below.session_id, attempt=1, last_sequence_sent=below.sequence)
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "1", "--attempts-max", "1")
    with running_dispatcher(*journal, *flags) as second:
        async with (
            linked(second.address, lower, **me, resumes=[resume]) as link,
            chatting(second.address) as chat,
        ):
            request = chat_pb2.SubscribeRequest(session_id=above.session_id)
            async with viewing(chat.Subscribe(request), above.session_id) as (_, rest):
                assert (await rest.ended()).name == "commander_lost"
            request = chat_pb2.SubscribeRequest(session_id=below.session_id)
            async with viewing(chat.Subscribe(request), below.session_id) as (_, own):
                assert (await own.ended()).name == "stopped"


# --- agents as tools -------------------------------------------------------------------------------------

TABLES = """
[agent.ask_echo]
agent = "echo"
description = "Repeats what it is asked"

[agent.ask_nobody]
agent = "nobody"
description = "There is no such agent"

[tool.ask_nobody]
users = ["ada"]
"""


@agent("model", description="Calls what it is offered, as a model would")
async def model(turn: Turn) -> AsyncIterator[object]:
    (offer,) = [each for each in turn.tools if each.name == "ask_echo"]
    yield f"{offer.description}: "
    yield str((await turn.call_tool("ask_echo", text="Hi"))["text"])
    for arguments in ({"task": "Hi"}, {"text": ""}):
        try:
            await turn.call_tool_with("ask_echo", arguments)
        except InvalidArguments as error:
            yield f"\n{error.message}"
    for name in ("ask_nobody",):
        try:
            await turn.call_tool(name, text="Hi")
        except (ToolDenied, ToolNotFound) as error:
            yield f"\n{error.code}: {error.message}"


@asynchronous
async def test_an_agent_is_offered_as_a_tool(tmp_path: Path) -> None:
    settings = tmp_path / "dispatcher.toml"
    settings.write_text(TABLES)
    with (
        running_dispatcher("--config", str(settings)) as dispatcher,
        serving(dispatcher.address, echo, model, slots=4),
    ):
        dispatcher.wait_for_log("linked from")
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask("model", user_id="ada")
            await seen.ended()
            lines = seen.text.splitlines()
            assert lines[0] == "Repeats what it is asked: [user:Hi|ada||][user:Hi|ada||]"
            assert '"task" is not known' in lines[1]
            assert "text" in lines[2]
            assert lines[3].startswith("not_found: no commander serves agent 'nobody'")
            assert told_by(seen, "echo")[0] == "agent_event"
            denied = await talk.ask("model", client_ref="2", user_id="bob")
            await denied.ended()
            assert denied.text.splitlines()[3].startswith("denied: ")
