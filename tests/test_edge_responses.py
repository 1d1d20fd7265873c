"""OpenAI's Responses: a lawful sequence of events, gone on with at every number, in the background, and cancelled."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from asynchronous import asynchronous, eventually, soon
from dispatcher_process import DispatcherProcess
from scripted_commander import Link, Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2
from web_viewer import JSON, browsing, opened

DISPATCHER_FLAGS = (
    "--http-address", "127.0.0.1:0",
    "--http-left-stop-s", "0.1",
    "--viewer-heartbeat-s", "0.2",
    "--deny", "secret",
    "--request-bytes-max", "20000",
)  # fmt: skip
PATH = "/v1/responses"
SUMMARY = {"reasoning": {"summary": "auto"}}
Event = Mapping[str, Any]


class Reader:
    """Reads events, and holds each to what their API promises: numbers that grow, items that are opened before they
    are added to and closed once, deltas that make up the whole."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self.seen: list[Event] = []
        self.comments = 0
        self._lines = response.aiter_lines()

    async def next(self) -> Event | None:
        return await soon(self._next())

    async def _next(self) -> Event | None:
        name = ""
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                event: Event = json.loads(value)
                assert event["type"] == name
                self.seen.append(event)
                return event
            elif line.startswith(":"):
                self.comments += 1
        return None

    async def until(self, kind: str) -> Event:
        while (event := await self.next()) is not None:
            if event["type"] == kind:
                return event
        raise AssertionError(f"the stream ended without {kind!r}: {self.kinds}")

    async def rest(self) -> list[Event]:
        while await self.next() is not None:
            pass
        return self.seen

    @property
    def kinds(self) -> list[str]:
        return [event["type"].removeprefix("response.") for event in self.seen]

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.seen if event["type"] == "response.output_text.delta")


def require_lawful(events: list[Event]) -> list[Any]:
    """Of a whole stream. The items that it has told."""
    numbers = [event["sequence_number"] for event in events]
    assert numbers == sorted(set(numbers))
    assert events[0]["type"] == "response.created"
    items: list[Any] = []
    done: set[int] = set()
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(json.loads(json.dumps(event["item"])))
            continue
        if "output_index" not in event:
            continue
        item = items[event["output_index"]]
        assert event["output_index"] not in done, event
        match kind:
            case "content_part.added":
                assert event["content_index"] == len(item["content"])
                item["content"].append(dict(event["part"]))
            case "reasoning_summary_part.added":
                assert event["summary_index"] == len(item["summary"])
                item["summary"].append(dict(event["part"]))
            case "output_text.delta":
                item["content"][event["content_index"]]["text"] += event["delta"]
            case "reasoning_summary_text.delta":
                item["summary"][event["summary_index"]]["text"] += event["delta"]
            case "mcp_call_arguments.delta":
                item["arguments"] += event["delta"]
            case "output_text.done":
                assert event["text"] == item["content"][event["content_index"]]["text"]
            case "reasoning_summary_text.done":
                assert event["text"] == item["summary"][event["summary_index"]]["text"]
            case "content_part.done":
                assert event["part"] == item["content"][event["content_index"]]
            case "reasoning_summary_part.done":
                assert event["part"] == item["summary"][event["summary_index"]]
            case "mcp_call_arguments.done":
                assert event["arguments"] == item["arguments"]
            case "output_item.done":
                done.add(event["output_index"])
                told = event["item"]
                assert told["id"] == item["id"]
                for same in ("content", "summary", "arguments"):
                    assert told.get(same) == item.get(same)
                items[event["output_index"]] = told
        if "item_id" in event:
            assert event["item_id"] == item["id"]
    assert len(done) == len(items)
    assert events[-1]["response"]["output"] == items
    return items


@contextlib.asynccontextmanager
async def responding(
    client: httpx.AsyncClient, agent: str, said: Any = "Hi", **more: Any
) -> AsyncIterator[Reader]:
    body = {"model": agent, "input": said, "stream": True, **more}
    async with client.stream("POST", PATH, json=body) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, (response.status_code, response.text)
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


@contextlib.asynccontextmanager
async def returning(
    client: httpx.AsyncClient, turn: Turn, starting_after: int | None = None
) -> AsyncIterator[Reader]:
    params = {"stream": "true"} | ({} if starting_after is None else {"starting_after": str(starting_after)})
    async with client.stream("GET", _path(turn), params=params) as response:
        if response.status_code != 200:
            await response.aread()
        assert response.status_code == 200, (response.status_code, response.text)
        yield Reader(response)


def _path(turn: Turn) -> str:
    return f"{PATH}/resp_{turn.session_id}"


async def _whole(client: httpx.AsyncClient, agent: str, **more: Any) -> httpx.Response:
    return await client.post(PATH, json={"model": agent, "input": "Hi", **more})


async def _spoken(turn: Turn) -> None:
    """Everything that is told, and what is not."""
    await turn.think("Plan", "First ")
    await turn.think("Plan", "this.")
    await turn.think("Doubt", "Or that?")
    await turn.say("Let me ")
    await turn.say("see. ")
    await turn.call("nothing", '{"a": 1}', "c-1")
    await turn.call("nothing", "{}", "c-2")
    await turn.result()
    await turn.result()
    await turn.send(progress={"text": "half"})
    await turn.send(agent_event={"started": {"description": "sub"}}, agent="lead/sub")
    await turn.think("", "Well.")
    await turn.say("It is 42.", agent="lead/sub")
    await turn.send(usage={"input_tokens": 3, "output_tokens": 4, "reasoning_tokens": 1})
    await turn.finish()


@asynchronous
async def test_a_response_is_told_lawfully(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with responding(client, agent, **SUMMARY, metadata={"team": "a"}) as stream:
            turn = await link.started()
            await _spoken(turn)
            events = await stream.rest()
        state = (await client.get(_path(turn))).json()
    items = require_lawful(events)
    assert [item["type"] for item in items] == [
        "reasoning", "message", "mcp_call", "mcp_call", "reasoning", "message",
    ]  # fmt: skip
    assert [part["text"] for part in items[0]["summary"]] == [
        "**Plan**\n\nFirst this.",
        "**Doubt**\n\nOr that?",
    ]
    assert items[4]["summary"] == [{"type": "summary_text", "text": "Well."}]
    assert [items[at]["content"][0]["text"] for at in (1, 5)] == ["Let me see. ", "It is 42."]
    call = items[2]
    assert (call["name"], call["server_label"], call["arguments"]) == ("nothing", "dispatcher", '{"a": 1}')
    assert (call["status"], call["output"]) == ("failed", None)
    assert "not_found" in call["error"]["content"][0]["text"]
    assert stream.kinds[:3] == ["created", "queued", "in_progress"]
    assert [event["response"]["status"] for event in events[:3]] == ["queued", "queued", "in_progress"]
    final = events[-1]
    assert final["type"] == "response.completed"
    assert final["response"] == state
    assert state["status"] == "completed"
    assert (state["object"], state["model"], state["metadata"]) == ("response", agent, {"team": "a"})
    assert state["usage"]["total_tokens"] == 7
    assert state["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    assert state["id"] == f"resp_{turn.session_id}"
    assert stream.headers["session-id"] == turn.session_id


@asynchronous
async def test_a_tool_that_answers_is_an_item_that_no_client_runs(dispatcher: DispatcherProcess) -> None:
    """Also where it still runs when the session ends."""
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        browsing(dispatcher.url) as client,
        responding(client, agent) as stream,
    ):
        turn = await link.started()
        await turn.call("nothing", "", "c-1")
        await turn.finish()
        items = require_lawful(await stream.rest())
    assert [item["type"] for item in items] == ["mcp_call"]
    assert items[0]["arguments"] == "{}"
    assert items[0]["status"] in ("failed", "incomplete")


@asynchronous
async def test_a_response_comes_whole(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        asked = asyncio.ensure_future(_whole(client, agent))
        turn = await link.started()
        await _spoken(turn)
        answer = await asked
        state = (await client.get(_path(turn))).json()
    assert answer.status_code == 200
    record = answer.json()
    assert record == state
    # Nobody asked for reasoning.
    assert [item["type"] for item in record["output"]] == ["message", "mcp_call", "mcp_call", "message"]
    assert record["background"] is False


@pytest.mark.parametrize("more", [{}, SUMMARY], ids=["plain", "reasoning"])
@asynchronous
async def test_every_number_gets_exactly_the_rest(dispatcher: DispatcherProcess, more: Any) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with responding(client, agent, **more) as first:
            turn = await link.started()
            await _spoken(turn)
            events = await first.rest()
        async with returning(client, turn) as again:
            assert await again.rest() == events
        for position, event in enumerate(events):
            async with returning(client, turn, event["sequence_number"]) as again:
                assert await again.rest() == events[position + 1 :]
        ahead = events[-1]["sequence_number"] + 10_000
        wrong = await client.get(_path(turn), params={"stream": "true", "starting_after": ahead})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "starting_after")
        head = await client.head(_path(turn), params={"stream": "true"})
        assert (head.status_code, head.content) == (200, b"")
        for value in ("-1", "x"):
            wrong = await client.get(_path(turn), params={"stream": "true", "starting_after": value})
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "starting_after")


@asynchronous
async def test_one_that_is_cut_off_again_and_again_has_it_all_once(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        asked = await _whole(client, agent, background=True)
        assert asked.status_code == 200
        assert asked.json()["status"] in ("queued", "in_progress")
        turn = await link.started()

        async def speak() -> None:
            for number in range(200):
                await turn.say(f"{number} ")
                if number % 16 == 15:
                    await turn.acknowledged(turn.sequence - 15)
            await turn.finish()

        speaking = asyncio.ensure_future(speak())
        seen: list[Event] = []
        joins = 0
        while not seen or seen[-1]["type"] != "response.completed":
            joins += 1
            async with returning(client, turn, seen[-1]["sequence_number"] if seen else None) as stream:
                for _ in range(1 + joins * 3):
                    if await stream.next() is None:
                        break
            seen += stream.seen
        await speaking
    require_lawful(seen)
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == turn.text
    assert joins > 5


@asynchronous
async def test_one_in_the_background_goes_on_without_its_client(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with responding(client, agent, background=True) as stream:
            turn = await link.started()
            await turn.say("Half ")
            await stream.until("response.output_text.delta")
        async with responding(client, agent) as stream:
            other = await link.started()
            await stream.until("response.in_progress")
        # The one whose client was to stay is stopped; the other is not.
        assert (await other.stopped()).code == agent_pb2.STOP_CODE_DETACHED
        state = (await client.get(_path(turn))).json()
        assert (state["status"], state["background"]) == ("in_progress", True)
        assert state["output"][0]["content"][0]["text"] == "Half "
        assert state["output"][0]["status"] == "in_progress"
        # Its questions wait for whoever may answer them.
        await turn.ask("q-1")
        answers = f"/v1/sessions/{turn.session_id}/answers/q-1"

        async def answered() -> int:
            return (await client.post(answers, json={"value": 1})).status_code

        assert await eventually(answered, lambda status: status == 200)
        assert (await turn.heard("answer")).answer.value_json == "1"
        assert turn.heard_nothing("stop")
        await turn.say("whole")
        await turn.finish()

        async def status() -> str:
            return str((await client.get(_path(turn))).json()["status"])

        await eventually(status, lambda told: told == "completed")


@asynchronous
async def test_questions_in_the_foreground_are_declined(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with responding(client, agent) as stream:
            turn = await link.started()
            await turn.ask("q-1")
            assert (await turn.heard("answer")).answer.WhichOneof("result") == "cancelled"
            await turn.finish()
            await stream.rest()
        async with responding(client, agent, on_question="wait") as stream:
            turn = await link.started()
            await turn.ask("q-1")
            await turn.acknowledged(turn.sequence)
            assert turn.heard_nothing("answer")
            await turn.finish()
            await stream.rest()


@asynchronous
async def test_questions_are_declined_for_whoever_comes_back_as_well(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        for how, is_declined in (("decline", True), ("wait", False)):
            async with contextlib.AsyncExitStack() as back:
                async with responding(client, agent, on_question=how):
                    turn = await link.started()
                    stream = await back.enter_async_context(returning(client, turn))
                await turn.ask("q-1")
                if is_declined:
                    assert (await turn.heard("answer")).answer.WhichOneof("result") == "cancelled"
                else:
                    await turn.acknowledged(turn.sequence)
                    assert turn.heard_nothing("answer")
                await turn.finish()
                await stream.rest()


@asynchronous
async def test_a_response_is_cancelled(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with responding(client, agent, background=True) as stream:
            turn = await link.started()
            await turn.say("Half ")
            await stream.until("response.output_text.delta")
            cancelled = await client.post(f"{_path(turn)}/cancel")
            assert cancelled.status_code == 200
            assert (await turn.stopped()).code == agent_pb2.STOP_CODE_USER_CANCEL
            events = await stream.rest()
        assert cancelled.json()["status"] == "cancelled"
        assert cancelled.json()["ending"]["name"] == "stopped"
        require_lawful(events)
        assert events[-1]["type"] == "response.incomplete"
        assert events[-1]["response"] == cancelled.json()
        assert events[-1]["response"]["output"][0]["status"] == "incomplete"
        again = await client.post(f"{_path(turn)}/cancel")
        assert again.json() == cancelled.json()


# --- endings ---------------------------------------------------------------------------------------------


async def _blocked(link: Link) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.say("secret")


async def _too_much(link: Link) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.send(usage={"output_tokens": 100})


async def _failed(link: Link) -> None:
    turn = await link.started()
    await turn.say("Word")
    await turn.send(
        error=agent_pb2.ErrorSignal(
            code="broken",
            message="it broke",
            origin=agent_pb2.ERROR_ORIGIN_LLM,
            scope=agent_pb2.ERROR_SCOPE_SESSION,
        )
    )


# By how it ends: the ending's name, the status, the reason it is incomplete, and the whole one's HTTP status.
ENDED: dict[str, tuple[Any, str, str | None, int]] = {
    "policy_blocked": (_blocked, "incomplete", "content_filter", 200),
    "limit_exceeded": (_too_much, "incomplete", "max_output_tokens", 200),
    "model_failed": (_failed, "failed", None, 502),
}


@pytest.mark.parametrize("ending", ENDED)
@asynchronous
async def test_every_ending_has_its_status(dispatcher: DispatcherProcess, ending: str) -> None:
    bring_about, status, reason, http = ENDED[ending]
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        async with responding(client, agent, max_output_tokens=50) as stream:
            await bring_about(link)
            events = await stream.rest()
        state = (await client.get(f"{PATH}/{events[0]['response']['id']}")).json()
        asked = asyncio.ensure_future(_whole(client, agent, max_output_tokens=50))
        await bring_about(link)
        whole = await asked
    require_lawful(events)
    assert events[-1]["type"] == f"response.{status}"
    assert events[-1]["response"] == state
    assert (state["status"], state["ending"]["name"]) == (status, ending)
    assert whole.status_code == http
    if reason is not None:
        assert state["incomplete_details"] == {"reason": reason}
        assert whole.json()["status"] == "incomplete"
    else:
        assert (state["error"]["code"], state["error"]["type"]) == ("server_error", "broken")
        assert whole.json()["error"]["code"] == "broken"
        assert whole.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("has_spoken", [False, True], ids=["silent", "spoken"])
@asynchronous
async def test_two_answers_are_never_spliced(dispatcher: DispatcherProcess, *, has_spoken: bool) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as first, browsing(dispatcher.url) as client:
        async with responding(client, agent, background=True, **SUMMARY) as stream:
            turn = await first.started()
            await turn.think("Plan", "aloud")
            if has_spoken:
                await turn.say("Lost ")
            await turn.acknowledged(turn.sequence)
            async with linked(dispatcher.address, agent) as second:
                await first.leave()
                turn = await second.started()
                if has_spoken:
                    await stream.rest()
                await turn.say("Found")
                await turn.finish()
                events = await stream.rest()

                async def state() -> Any:
                    return (await client.get(_path(turn))).json()

                state_now = await eventually(state, lambda record: record["status"] == "completed")
        items = require_lawful(events)
        # Whoever asks for the whole has the one answer there is.
        texts = [item["content"][0]["text"] for item in state_now["output"] if item["type"] == "message"]
        assert texts == ["Found"]
        if has_spoken:
            assert events[-1]["type"] == "response.failed"
            assert events[-1]["response"]["error"]["type"] == "commander_lost"
            assert items[-1]["content"][0]["text"] == "Lost "
            # Here the stream is over, for whoever comes back too.
            async with returning(client, turn, events[-1]["sequence_number"]) as again:
                assert await again.rest() == []
        else:
            assert events[-1]["type"] == "response.completed"
            assert events[-1]["response"] == state_now


# --- requests --------------------------------------------------------------------------------------------


@asynchronous
async def test_what_is_said_reaches_the_agent(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    data = base64.b64encode(b"bytes").decode()
    items = [
        {"role": "user", "content": "First"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "mcp_call", "id": "mcp_1", "name": "f", "arguments": "{}", "server_label": "x"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Second"}]},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Third"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{data}"},
                {"type": "input_file", "file_data": f"data:text/plain;base64,{data}", "filename": "a.txt"},
                {"type": "input_file", "file_url": "https://a.example/b.pdf"},
            ],
        },
    ]
    async with linked(dispatcher.address, agent) as link, browsing(dispatcher.url) as client:
        more = {
            "instructions": "Be brief.",
            "safety_identifier": "ann",
            "max_output_tokens": 9,
            "temperature": 0.5,
            "text": {"format": {"type": "text"}},
            "reasoning": {"effort": "low"},
            "store": False,
            "include": ["reasoning.encrypted_content"],
        }
        async with responding(client, agent, items, **more) as stream:
            turn = await link.started()
            state = (await client.get(f"/v1/sessions/{turn.session_id}")).json()
            await turn.finish()
            await stream.rest()
    start = turn.start
    roles = [agent_pb2.Role.Name(message.role).removeprefix("ROLE_") for message in start.messages]
    assert roles == ["SYSTEM", "USER", "ASSISTANT", "TOOL", "ASSISTANT", "USER"]
    assert [message.parts[0].text for message in start.messages] == [
        "Be brief.", "First", "", "", "Second", "Third",
    ]  # fmt: skip
    assert json.loads(start.messages[2].parts[0].json)["name"] == "f"
    assert json.loads(start.messages[3].parts[0].json)["output"] == "42"
    assert [(part.blob.mime_type, part.blob.data, part.blob.uri) for part in start.messages[5].parts[1:]] == [
        ("image/png", b"bytes", ""),
        ("text/plain", b"bytes", ""),
        ("application/octet-stream", b"", "https://a.example/b.pdf"),
    ]
    assert dict(start.metadata) == {
        "max_output_tokens": "9",
        "temperature": "0.5",
        "text": '{"format": {"type": "text"}}',
        "reasoning": '{"effort": "low"}',
    }
    assert (state["user_id"], state["labels"]) == ("ann", {"openai.declines": "true"})


# What is wrong, the body, the status, the code, the param, and words of the message.
WRONG: dict[str, tuple[Any, int, str, str | None, str]] = {
    "no input": ({}, 400, "invalid_request", "input", "required"),
    "an empty input": ({"input": []}, 400, "invalid_request", "input", "at least one"),
    "instructions alone": ({"input": [], "instructions": "x"}, 400, "invalid_request", "input", "no message"),
    "an item that is none": ({"input": [7]}, 400, "invalid_request", "input[0]", "object"),
    "an item kept elsewhere": (
        {"input": [{"type": "item_reference", "id": "x"}]}, 400, "invalid_request", "input[0].type", "message",
    ),
    "an unknown role": (
        {"input": [{"role": "tool", "content": "x"}]}, 400, "invalid_request", "input[0].role", "assistant",
    ),
    "no content": (
        {"input": [{"role": "user", "content": []}]}, 400, "invalid_request", "input[0].content", "empty",
    ),
    "an earlier response": (
        {"input": "x", "previous_response_id": "resp_1"}, 400, "invalid_request", "previous_response_id",
        "send what was said",
    ),
    "a conversation": (
        {"input": "x", "conversation": "c"}, 400, "invalid_request", "conversation", "send what was said",
    ),
    "tools": (
        {"input": "x", "tools": [{"type": "web_search"}]}, 400, "invalid_request", "tools", "run in the dispatcher",
    ),
    "a label of ours": (
        {"input": "x", "metadata": {"openai.background": "true"}}, 400, "invalid_request",
        "metadata['openai.background']", "own",
    ),
    "an agent that nobody serves": (
        {"input": "x", "model": "nobody"}, 404, "model_not_found", "model", "nobody",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@asynchronous
async def test_what_is_wrong_is_told_in_their_form(dispatcher: DispatcherProcess, case: str) -> None:
    body, status, code, param, words = WRONG[case]
    async with linked(dispatcher.address, unique("agent")), browsing(dispatcher.url) as client:
        answer = await client.post(PATH, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert words in error["message"], error


@asynchronous
async def test_what_is_no_response_is_not_found(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent), browsing(dispatcher.url) as client:
        session_id = await opened(client, agent)
        for missing in ("resp_none", session_id, "none"):
            for method, path in (("GET", missing), ("POST", f"{missing}/cancel")):
                answer = await client.request(method, f"{PATH}/{path}", headers=JSON)
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (404, "response_id"), error
        kept = await client.delete(f"{PATH}/resp_{session_id}")
        assert (kept.status_code, kept.json()["error"]["code"]) == (405, "method_not_allowed")
