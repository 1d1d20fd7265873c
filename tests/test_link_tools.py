"""Tool calls over a real link: what reaches a tool, what comes back, and what never runs."""

import json
from collections.abc import Iterator

import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import conversing
from dialling import administering
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2

TOOLS = '''
import asyncio
import threading
from collections import Counter
from dispatcher.tools import ToolContext, ToolDenied, ToolError, tool

runs = Counter()
_together = asyncio.Barrier(3)
_threads = threading.Barrier(2)

def add(a: int, b: int = 1) -> int:
    """Adds.

    Args:
        a: the one
        b: the other
    """
    return a + b

def tally(key: str) -> int:
    """How often it ran for this key."""
    runs[key] += 1
    return runs[key]

async def together() -> str:
    """Ends when three calls of it run at once."""
    await _together.wait()
    return "together"

def in_threads() -> str:
    """Ends when two calls of it run in threads at once."""
    _threads.wait(20)
    return "in threads"

async def hang(key: str = "") -> None:
    """Never ends by itself."""
    runs[f"{key} began"] += 1
    try:
        await asyncio.Event().wait()
    finally:
        runs[f"{key} cancelled"] += 1

@tool(timeout_s=0.1)
async def slow() -> None:
    """Takes longer than it may."""
    await asyncio.Event().wait()

def read(key: str) -> int:
    return runs[key]

def breaks() -> None:
    raise RuntimeError("it broke")

def denies() -> None:
    raise ToolDenied("not for you")

def busy() -> None:
    raise ToolError("try later", retryable=True, retry_after_s=1.5)

def busy_for_ever() -> None:
    raise ToolError("try later", retryable=True, retry_after_s=1e300)

@tool(output_bytes=300)
def big() -> str:
    return "x" * 1000

def told(context: ToolContext) -> dict[str, object]:
    return {"key": context.idempotency_key, "call": context.call_id, "user": context.user_id}

TOOLS = [add, tally, together, in_threads, hang, slow, read, breaks, denies, busy, busy_for_ever, big, told]
'''


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    """A dispatcher with the tools above; one of them fails on purpose, which is logged with its traceback."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "scene_tools.py").write_text(TOOLS)
    with running_dispatcher(
        "--tools", "scene_tools:TOOLS", environ={"PYTHONPATH": str(folder)}, tracebacks=True
    ) as process:
        yield process


@asynchronous
async def test_a_tool_is_offered_called_and_seen(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        offers = {offer.name: offer for offer in turn.start.tools}
        assert offers["add"].description == "Adds."
        schema = json.loads(offers["add"].parameters_schema_json)
        assert schema["required"] == ["a"]
        assert schema["properties"]["a"]["description"] == "the one"
        await turn.call("add", '{"a": 2, "b": 40}', "c1")
        down = await turn.heard("tool_result")
        assert down.sequence == 1
        result = down.tool_result
        assert (result.call_id, result.tool_name, result.result_json) == ("c1", "add", "42")
        assert not result.HasField("error")
        called = (await seen.until("tool_call")).tool_call
        assert (called.call_id, called.tool_name, called.arguments_json) == ("c1", "add", '{"a": 2, "b": 40}')
        assert (await seen.until("tool_result")).tool_result == result
        await turn.finish()
        await seen.ended()


@asynchronous
async def test_calls_without_an_id_are_numbered(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent)
        turn = await link.started()
        for number in (1, 2):
            await turn.call("add", json.dumps({"a": number}))
            result = await turn.result()
            assert (result.call_id, result.result_json) == (f"call-{number}", f"{number + 1}")


FAILURES = {
    "unknown tool": ("ad", "{}", "NOT_FOUND", ["ad", 'did you mean "add"']),
    "no JSON": ("add", "{a: 1}", "INVALID_ARGUMENTS", ["not JSON", "is needed"]),
    "no object": ("add", "[1]", "INVALID_ARGUMENTS", ["a JSON object is needed"]),
    "wrong type": ("add", '{"a": "one"}', "INVALID_ARGUMENTS", ["$.a", "a string", "an integer is needed"]),
    "missing": ("add", "{}", "INVALID_ARGUMENTS", ['"a"']),
    "unexpected": ("add", '{"a": 1, "c": 1}', "INVALID_ARGUMENTS", ['"c"']),
    "NaN": ("add", '{"a": NaN}', "INVALID_ARGUMENTS", ["NaN is not JSON"]),
    "deep": ("add", "[" * 100_000, "INVALID_ARGUMENTS", ["nested"]),
    "too slow": ("slow", "", "TIMEOUT", ["slow took longer than 0.1 s"]),
    "broken": ("breaks", "", "FAILED", ["RuntimeError: it broke"]),
    "denied": ("denies", "", "DENIED", ["not for you"]),
    "busy": ("busy", "", "FAILED", ["try later"]),
    "busy for ever": ("busy_for_ever", "", "FAILED", ["try later"]),
    "too large": ("big", "", "TOO_LARGE", ["300"]),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_call_that_fails_says_why_in_both_forms(dispatcher: DispatcherProcess, case: str) -> None:
    tool, arguments, code, words = FAILURES[case]

    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.call(tool, arguments)
            result = await turn.result()
            assert agent_pb2.ToolErrorCode.Name(result.error.code) == f"TOOL_ERROR_CODE_{code}"
            for word in words:
                assert word in result.error.message
            assert "Traceback" not in result.error.message
            assert "File " not in result.error.message
            bare = json.loads(result.result_json)
            assert bare == {"error": {"code": code.lower(), "message": result.error.message}}
            assert result.error.retryable == case.startswith("busy")
            if result.error.retryable:
                assert result.error.retry_after_ms == {"busy": 1_500, "busy for ever": 604_800_000}[case]
            await turn.finish()
            assert (await seen.ended()).name == "completed", "a call that fails ends nothing"

    scene()


@asynchronous
async def test_the_caller_can_shorten_the_time_and_not_extend_it(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent)
        turn = await link.started()
        await turn.call("hang", timeout_ms=100)
        result = await turn.result()
        assert result.error.code == agent_pb2.TOOL_ERROR_CODE_TIMEOUT
        assert "0.1 s" in result.error.message
        await turn.call("slow", timeout_ms=1_000_000)
        assert (await turn.result()).error.code == agent_pb2.TOOL_ERROR_CODE_TIMEOUT


@asynchronous
async def test_calls_run_in_parallel(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent)
        turn = await link.started()
        for number in range(3):
            await turn.call("together", call_id=f"c{number}")
        results = [await turn.result() for _ in range(3)]
        assert {result.call_id for result in results} == {"c0", "c1", "c2"}
        assert {result.result_json for result in results} == {'"together"'}
        # Generation goes on meanwhile.
        await turn.call("in_threads", call_id="t1")
        await turn.say("meanwhile")
        await turn.acknowledged(5)
        assert turn.heard_nothing("tool_result")
        await turn.call("in_threads", call_id="t2")
        assert {(await turn.result()).call_id, (await turn.result()).call_id} == {"t1", "t2"}


@asynchronous
async def test_a_repeated_call_gets_the_first_ones_result(dispatcher: DispatcherProcess) -> None:
    agent, key = unique("agent"), unique("key")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        for _ in range(3):
            await turn.call("tally", json.dumps({"key": key}), "once")
            result = await turn.result()
            assert (result.call_id, result.result_json) == ("once", "1")
        assert len(seen.of("tool_call")) == 1
        await turn.call("tally", json.dumps({"key": key}), "again")
        assert (await turn.result()).result_json == "2"


@asynchronous
async def test_a_call_id_used_for_another_call_breaks_the_contract(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.call("add", '{"a": 1}', "c1")
        await turn.result()
        await turn.call("add", '{"a": 2}', "c1")
        ended = await seen.ended()
        assert ended.name == "protocol_error"
        assert "its call_id was used for another call" in ended.message


@asynchronous
async def test_the_world_beyond_can_tell_a_repeat(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent, user_id="u1")
        turn = await link.started()
        await turn.call("told", call_id="c1", idempotency_key="mine")
        assert json.loads((await turn.result()).result_json) == {"key": "mine", "call": "c1", "user": "u1"}
        await turn.call("told", call_id="c2")
        key = json.loads((await turn.result()).result_json)["key"]
        assert key.startswith(f"{turn.session_id}:c2:")
        # Of another attempt, the same id may be another call's.
        await turn.call("told", json.dumps({}), call_id="c3")
        assert (
            json.loads((await turn.result()).result_json)["key"].rpartition(":")[2] != key.rpartition(":")[2]
        )


@asynchronous
async def test_what_a_stopped_session_ran_is_cancelled(dispatcher: DispatcherProcess) -> None:
    agent, key = unique("agent"), unique("key")
    async with (
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as talk,
        administering(dispatcher.address) as admin,
    ):
        seen = await talk.ask(agent, client_ref="1")
        turn = await link.started()
        await turn.call("hang", json.dumps({"key": key}))
        await talk.ask(agent, client_ref="2")
        other = await link.started()

        async def count(what: str) -> str:
            await other.call("read", json.dumps({"key": f"{key} {what}"}))
            return (await other.result()).result_json

        await eventually(lambda: count("began"), "1".__eq__)
        await admin.StopSession(admin_pb2.StopSessionRequest(session_id=turn.session_id))
        await turn.stopped()
        await eventually(lambda: count("cancelled"), "1".__eq__)
        assert (await seen.ended()).name == "stopped"
        assert turn.heard_nothing("tool_result")


@asynchronous
async def test_operators_see_tools_and_what_they_did(dispatcher: DispatcherProcess) -> None:
    async with administering(dispatcher.address) as admin:
        tools = {
            view.offer.name: view for view in (await admin.ListTools(admin_pb2.ListToolsRequest())).tools
        }
        assert list(tools)[:2] == ["add", "tally"]
        assert tools["slow"].timeout == Duration(nanos=100_000_000)
        assert tools["big"].output_bytes == 300
        assert tools["add"].concurrency == 16
        assert tools["add"].calls >= 1
