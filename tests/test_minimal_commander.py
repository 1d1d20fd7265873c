"""A commander that knows nothing but the fixed table works like any other: seen, answered, stopped, ended."""

import json
from collections.abc import Iterator

import grpc
import minimal_peer
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import viewing
from dialling import administering, chatting
from dispatcher_process import DispatcherProcess, running_dispatcher
from minimal_peer import minimal_commander
from scripted_commander import unique
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, chat_pb2

TOOLS = """
async def shout(text: str) -> str:
    return text.upper()
"""


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "minimal_tools.py").write_text(TOOLS)
    flags = ("--tools", "minimal_tools:shout", "--stop-grace-s", "0.2")
    with running_dispatcher(*flags, environ={"PYTHONPATH": str(folder)}) as process:
        yield process


async def _session(admin: "admin_pb2_grpc.AdminAsyncStub", label: str) -> admin_pb2.SessionView:
    """The session that the minimal commander got, found by the id it gave itself."""
    selector = admin_pb2.SessionSelector(labels={"peer_session_id": label})
    request = admin_pb2.ListSessionsRequest(selector=selector, include_ended=True)
    answer = await eventually(lambda: admin.ListSessions(request), lambda got: len(got.sessions) == 1)
    return answer.sessions[0]


def test_it_can_not_see_the_rest_of_the_contract() -> None:
    fixed = minimal_peer.MESSAGES["UpstreamPacket"].DESCRIPTOR
    ours = agent_pb2.UpstreamPacket.DESCRIPTOR
    assert fixed.file.pool is not ours.file.pool
    assert {field.name for field in fixed.fields} == {
        "session_id",
        "timestamp",
        "thought",
        "content",
        "tool_call",
        "error",
    }


def test_the_contract_still_holds_the_fixed_table() -> None:
    """Names, numbers and types of the table, whatever was added."""
    for name, message in minimal_peer.MESSAGES.items():
        ours = agent_pb2.DESCRIPTOR.message_types_by_name[name]
        for field in message.DESCRIPTOR.fields:
            added = ours.fields_by_name[field.name]
            assert (added.number, added.type) == (field.number, field.type), f"{name}.{field.name}"
            oneof = field.containing_oneof
            assert (oneof and oneof.name) == (added.containing_oneof and added.containing_oneof.name)


@asynchronous
async def test_a_whole_run(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with administering(dispatcher.address) as admin, chatting(dispatcher.address) as chat:
        async with minimal_commander(dispatcher.address, label) as peer:
            await peer.think("Planning", "shout it")
            await peer.call_tool("shout", '{"text": "hi"}')
            assert json.loads(await peer.result()) == "HI"
            session_id = (await _session(admin, label)).session_id
            watch = admin.WatchSession(admin_pb2.WatchSessionRequest(session_id=session_id))
            async with viewing(watch, session_id) as (viewer, seen):
                await peer.say("They said ")
                await seen.until_text("They said ")
                await peer.say("HI", is_finish=True)
                await peer.half_close()
                assert await peer.status() == (grpc.StatusCode.OK, "")
                ended = await seen.ended()
                assert (await viewer.status()).code is grpc.StatusCode.OK
            assert seen.kinds == [
                "opened", "thought", "tool_call", "tool_result", "content", "content", "ended",
            ]  # fmt: skip
            assert seen.events[2].tool_call.call_id == "call-1"
            assert seen.text == "They said HI"
            assert (ended.name, ended.content_chars) == ("completed", 12)
            assert peer.unknown == 0
        # It is kept and can be read afterwards like any other; thoughts only where asked for.
        subscribe = chat.Subscribe(chat_pb2.SubscribeRequest(session_id=session_id))
        async with viewing(subscribe, session_id) as (viewer, again):
            assert (await viewer.status()).code is grpc.StatusCode.OK
            assert again.text == seen.text
            assert "thought" not in again.kinds


@asynchronous
async def test_no_session_id_no_thoughts_no_tools(dispatcher: DispatcherProcess) -> None:
    async with minimal_commander(dispatcher.address) as peer:
        await peer.say("just this", is_finish=True)
        await peer.half_close()
        assert await peer.status() == (grpc.StatusCode.OK, "")


@asynchronous
async def test_two_of_them_with_the_same_id_are_two_sessions(dispatcher: DispatcherProcess) -> None:
    label = unique("same")
    async with (
        administering(dispatcher.address) as admin,
        minimal_commander(dispatcher.address, label) as one,
        minimal_commander(dispatcher.address, label) as two,
    ):
        await one.say("one", is_finish=True)
        await two.say("two", is_finish=True)
        for peer in (one, two):
            await peer.half_close()
            assert (await peer.status())[0] is grpc.StatusCode.OK
        selector = admin_pb2.SessionSelector(labels={"peer_session_id": label})
        request = admin_pb2.ListSessionsRequest(selector=selector, include_ended=True)
        sessions = (await admin.ListSessions(request)).sessions
        assert len({view.session_id for view in sessions}) == 2


@asynchronous
async def test_results_come_in_the_order_asked_where_calls_wait_for_each_other(
    dispatcher: DispatcherProcess,
) -> None:
    async with minimal_commander(dispatcher.address) as peer:
        for word in ("a", "b", "c"):
            await peer.call_tool("shout", json.dumps({"text": word}))
            assert json.loads(await peer.result()) == word.upper()
        await peer.say("", is_finish=True)
        await peer.half_close()
        assert (await peer.status())[0] is grpc.StatusCode.OK


@asynchronous
async def test_all_said_in_one_breath_the_result_comes_before_the_end(dispatcher: DispatcherProcess) -> None:
    async with minimal_commander(dispatcher.address) as peer:
        await peer.think("Planning", "I'll shout, and not wait for it")
        await peer.call_tool("shout", json.dumps({"text": "late"}))
        await peer.say("that is all", is_finish=True)
        await peer.half_close()
        assert json.loads(await peer.result()) == "LATE"
        assert (await peer.status())[0] is grpc.StatusCode.OK


@asynchronous
async def test_results_that_gather_come_one_by_one(dispatcher: DispatcherProcess) -> None:
    """It can't read a batch."""
    async with minimal_commander(dispatcher.address) as peer:
        for number in range(20):
            await peer.call_tool("shout", json.dumps({"text": f"a{number}"}))
        results = sorted([json.loads(await peer.result()) for _ in range(20)])
        assert results == sorted(f"A{number}" for number in range(20))
        await peer.say("", is_finish=True)
        await peer.half_close()
        assert (await peer.status())[0] is grpc.StatusCode.OK
        assert peer.unknown == 0


@asynchronous
async def test_a_failed_call_is_understood_from_the_fixed_field_alone(dispatcher: DispatcherProcess) -> None:
    async with minimal_commander(dispatcher.address) as peer:
        await peer.call_tool("shoot", "{}")
        error = json.loads(await peer.result())["error"]
        assert error["code"] == "not_found"
        assert "shout" in error["message"]
        await peer.call_tool("shout", '{"text": 1}')
        error = json.loads(await peer.result())["error"]
        assert error["code"] == "invalid_arguments"
        assert "$.text" in error["message"]


@asynchronous
async def test_it_is_stopped_by_reason_alone(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with (
        administering(dispatcher.address) as admin,
        minimal_commander(dispatcher.address, label) as peer,
    ):
        await peer.say("on and ")
        session_id = (await _session(admin, label)).session_id
        watch = admin.WatchSession(admin_pb2.WatchSessionRequest(session_id=session_id))
        async with viewing(watch, session_id) as (viewer, seen):
            stop = admin_pb2.StopSessionRequest(session_id=session_id, reason="RiskControl")
            assert (await admin.StopSession(stop)).ending == "stopped"
            assert await peer.stop_reason() == "RiskControl"
            ended = await seen.ended()
            assert (ended.name, ended.stop.reason) == ("stopped", "RiskControl")
            # It may go on talking; nobody hears it, and after the grace its call is ended.
            await peer.say("on")
            code, details = await peer.status()
            assert code is grpc.StatusCode.CANCELLED
            assert details
            assert (await viewer.status()).code is grpc.StatusCode.OK
            assert seen.kinds[-1] == "ended"


@asynchronous
async def test_one_that_obeys_its_stop_is_told_that_it_was_stopped(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with (
        administering(dispatcher.address) as admin,
        minimal_commander(dispatcher.address, label) as peer,
    ):
        await peer.say("on and ")
        session_id = (await _session(admin, label)).session_id
        await admin.StopSession(admin_pb2.StopSessionRequest(session_id=session_id))
        await peer.stop_reason()
        await peer.half_close()
        assert (await peer.status())[0] is grpc.StatusCode.CANCELLED


@asynchronous
async def test_one_that_breaks_off_has_not_half_closed(dispatcher: DispatcherProcess) -> None:
    """Both look alike to who reads; only a moment later it shows which it was."""
    async with administering(dispatcher.address) as admin:
        for label in [unique("mine") for _ in range(10)]:
            async with minimal_commander(dispatcher.address, label) as peer:
                await peer.say("half an ans")
                await _session(admin, label)
            assert (await _ended(admin, label)).name == "commander_lost"


async def _ended(admin: "admin_pb2_grpc.AdminAsyncStub", label: str) -> chat_pb2.SessionEnded:
    view = await eventually(lambda: _session(admin, label), lambda view: view.state == "ended")
    return view.ended


@asynchronous
async def test_an_answer_without_an_end_is_incomplete(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with (
        administering(dispatcher.address) as admin,
        minimal_commander(dispatcher.address, label) as peer,
    ):
        await peer.say("half an ans")
        await peer.half_close()
        code, details = await peer.status()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "is_finish" in details
        assert (await _session(admin, label)).ended.name == "incomplete"


@asynchronous
async def test_one_that_says_it_failed_has_failed(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with (
        administering(dispatcher.address) as admin,
        minimal_commander(dispatcher.address, label) as peer,
    ):
        await peer.say("half an ans")
        await peer.fail()
        await peer.half_close()
        assert (await peer.status())[0] is grpc.StatusCode.OK
        assert (await _session(admin, label)).ended.name == "agent_failed"


@asynchronous
async def test_one_that_vanishes_is_lost(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with administering(dispatcher.address) as admin:
        async with minimal_commander(dispatcher.address, label) as peer:
            await peer.say("half an ans")
            session = await _session(admin, label)
        request = admin_pb2.GetSessionRequest(session_id=session.session_id)
        got = await eventually(
            lambda: admin.GetSession(request), lambda answer: answer.session.HasField("ended")
        )
        assert got.session.ended.name == "commander_lost"


@asynchronous
async def test_one_that_never_half_closes_is_ended_all_the_same(dispatcher: DispatcherProcess) -> None:
    async with minimal_commander(dispatcher.address) as peer:
        await peer.say("all of it", is_finish=True)
        assert (await peer.status())[0] is grpc.StatusCode.OK


@asynchronous
async def test_what_comes_after_the_end_is_not_seen(dispatcher: DispatcherProcess) -> None:
    label = unique("mine")
    async with (
        administering(dispatcher.address) as admin,
        minimal_commander(dispatcher.address, label) as peer,
    ):
        await peer.say("all of it", is_finish=True)
        await peer.say(" and more", is_finish=True)
        await peer.call_tool("shout", '{"text": "late"}')
        await peer.half_close()
        assert (await peer.status())[0] is grpc.StatusCode.OK
        view = await _session(admin, label)
        assert (view.ended.name, view.content_chars, view.tool_calls) == ("completed", 9, 0)
