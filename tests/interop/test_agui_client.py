"""AG-UI's own HttpAgent, with its verifier and its reducer, against a real dispatcher."""

from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from node_client import NodeClient, Programs
from scripted_commander import linked, unique

pytestmark = pytest.mark.interop

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0", "--http-left-stop-s", "0", "--tools", "tests.scene_tools:TOOLS",
)  # fmt: skip


async def _over(client: NodeClient) -> dict[str, Any]:
    """How the run ended: the messages that the client has by then."""
    over: dict[str, Any] = (await client.until("over"))["over"]
    return over


async def _until(client: NodeClient, kind: str) -> dict[str, Any]:
    event: dict[str, Any] = (await client.until(lambda said: said.get("event", {}).get("type") == kind))[
        "event"
    ]
    return event


def _texts(over: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in over["messages"] if "toolCalls" not in each]


@asynchronous
async def test_a_run_with_thoughts_tools_and_helpers(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, thread = unique("agent"), unique("thread")
    url = f"{dispatcher.url}/ag-ui/{agent}"
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("agui", url=url, thread=thread) as client,
    ):
        await client.do(
            "run", text="How far?", forwardedProps={"includeThoughts": True, "mood": "good"}, context=[]
        )
        turn = await link.started()
        assert turn.start.messages[0].parts[0].text == "How far?"
        assert dict(turn.start.metadata) == {"mood": "good"}
        await turn.think("Plan", "Hm")
        await turn.say("One ")
        await turn.send(agent_event={"started": {"description": "looks"}}, agent="sub")
        await turn.say("Sub", agent="sub")
        await turn.say("Deep", agent="sub/deep")
        await turn.call("add", '{"a": 40, "b": 2}', "c-1")
        await turn.call("hang", "", "c-2")
        await turn.result()
        await turn.send(progress={"text": "half", "current": 1, "total": 2}, agent="sub")
        await turn.send(agent_event={"completed": {"summary": "seen"}}, agent="sub/deep")
        await turn.send(usage={"input_tokens": 7, "output_tokens": 2, "model": "m"})
        await turn.say("two\u2028")
        await turn.finish()
        outcome = await client.until("outcome")
        # Nothing is left for the client to run.
        assert (outcome["outcome"], outcome["pendingToolCallIds"]) == ("success", [])
        over = await _over(client)
        finished = next(said["event"] for said in reversed(client.said) if "event" in said)
        assert finished["usage"] == [
            {"inputTokens": 7, "outputTokens": 2, "reasoningTokens": 0, "totalTokens": 9, "model": "m"}
        ]
        kinds = [(each["role"], "toolCalls" in each) for each in over["messages"]]
        assert kinds == [
            ("user", False), ("reasoning", False), ("assistant", False), ("assistant", False),
            ("assistant", False), ("assistant", True), ("tool", False), ("assistant", True), ("tool", False),
            ("assistant", False),
        ]  # fmt: skip
        assert over["messages"][6]["content"] == "42"

        # The conversation goes back whole with the next run.
        await client.do("run", text="And back?")
        turn = await link.started()
        assert [each.role for each in turn.start.messages] == [2, 3, 3, 3, 4, 4, 3, 2]
        await turn.finish()
        await _over(client)


@asynchronous
async def test_an_interrupt_and_its_answer(dispatcher: DispatcherProcess, programs: Programs) -> None:
    agent, thread = unique("agent"), unique("thread")
    url = f"{dispatcher.url}/ag-ui/{agent}"
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("agui", url=url, thread=thread) as client,
    ):
        await client.do("run", text="Book it")
        turn = await link.started()
        await turn.say("Well. ")
        await turn.say("Which?", agent="sub")
        await turn.send(
            question={
                "question_id": "q-1",
                "text": "Sure?",
                "options": ["yes"],
                "expires_in": {"seconds": 600},
            },
            agent="sub",
        )
        assert (await client.until("outcome"))["outcome"] == "interrupt"
        (interrupt,) = (await _over(client))["interrupts"]
        assert (interrupt["message"], interrupt["responseSchema"]) == ("Sure?", {"enum": ["yes"]})

        await client.do("answer", responses={interrupt["id"]: {"status": "resolved", "payload": "yes"}})
        assert (await turn.heard("answer")).answer.value_json == '"yes"'
        await turn.say("So be it. ")
        await turn.ask("q-2", "Really?")
        (interrupt,) = (await _over(client))["interrupts"]
        await client.do("answer", responses={interrupt["id"]: {"status": "cancelled"}})
        assert (await turn.heard("answer")).answer.cancelled.why == "declined"
        await turn.say("Or not.")
        await turn.finish()
        over = await _over(client)
        assert over["interrupts"] == []
        assert _texts(over) == [
            ("user", "Book it"), ("assistant", "Well. "), ("assistant", "Which?"), ("assistant", "So be it. "),
            ("assistant", "Or not."),
        ]  # fmt: skip


@asynchronous
async def test_a_lost_attempt_is_taken_back_over_an_interrupt(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, thread = unique("agent"), unique("thread")
    url = f"{dispatcher.url}/ag-ui/{agent}"
    async with (
        linked(dispatcher.address, agent) as lost,
        programs.running("agui", url=url, thread=thread) as client,
    ):
        await client.do("run", text="Hi")
        turn = await lost.started()
        await turn.call("add", '{"a": 1, "b": 1}', "c-1")
        await turn.result()
        await turn.say("Half an ans")
        await turn.ask("q-1")
        (interrupt,) = (await _over(client))["interrupts"]
        await client.do("answer", responses={interrupt["id"]: {"status": "resolved", "payload": 1}})
        await turn.heard("answer")
        await turn.say("wer", agent="sub")
        await _until(client, "TEXT_MESSAGE_CONTENT")
        async with linked(dispatcher.address, agent) as link:
            await lost.leave()
            whole = await link.started()
            await whole.say("Whole")
            await whole.finish()
            assert _texts(await _over(client)) == [("user", "Hi"), ("assistant", "Whole")]


@asynchronous
async def test_an_abort_stops_the_agent(dispatcher: DispatcherProcess, programs: Programs) -> None:
    agent, thread = unique("agent"), unique("thread")
    url = f"{dispatcher.url}/ag-ui/{agent}"
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("agui", url=url, thread=thread) as client,
    ):
        await client.do("run", text="Hi")
        turn = await link.started()
        await turn.say("Half")
        await _until(client, "TEXT_MESSAGE_CONTENT")
        await client.do("abort")
        assert await turn.stopped()
        assert _texts(await _over(client))[-1] == ("assistant", "Half")


@asynchronous
async def test_failures_and_refusals_are_the_runs_errors(
    dispatcher: DispatcherProcess, programs: Programs
) -> None:
    agent, thread = unique("agent"), unique("thread")
    url = f"{dispatcher.url}/ag-ui/{agent}"
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("agui", url=url, thread=thread) as client,
    ):
        await client.do("run", text="Hi")
        turn = await link.started()
        await turn.say("Some")
        await turn.send(error={"code": "x", "message": "It broke", "scope": 3})
        assert (await _until(client, "RUN_ERROR"))["message"] == "It broke"
        await _over(client)
        tool = {"name": "draw", "description": "", "parameters": {"type": "object"}}
        await client.do("run", text="Draw", tools=[tool])
        assert "tools: those of the client" in (await client.until("error"))["error"]
