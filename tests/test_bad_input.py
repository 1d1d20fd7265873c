"""Bytes and packets that break the contract: each a clear status, and nobody else notices."""

import asyncio
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from bystander import undisturbed_neighbour
from chat_viewer import conversing
from dialling import LINK_METHOD, Status, administering, dialled, refused, status_of
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from scripted_commander import Link, Up, hello, linked, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

DISPATCHER_FLAGS = (
    "--questions-open-max", "2",
    "--max-message-bytes", "300000",
    "--request-bytes-max", "200000",
)  # fmt: skip
INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def _require_mannerly(status: Status) -> None:
    """Nothing of the inside is told."""
    for word in ("Traceback", "File ", "Error:", "Exception", "DecodeError"):
        assert word not in status.details


# --- bytes -----------------------------------------------------------------------------------------------

_HELLO = Up(hello=hello("agent", commander_id="c")).SerializeToString()
NO_PACKET = {
    "random": bytes(range(255, 0, -1)),
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "truncated": _HELLO[:-3],
    "not UTF-8": b"\x0a\x02\xff\xfe",
    "a group never closed": b"\x0b",
    "an endless varint": b"\x10" + b"\xff" * 20,
}


@pytest.mark.parametrize("greeted", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("what", NO_PACKET)
def test_bytes_that_are_no_protobuf(dispatcher: DispatcherProcess, what: str, greeted: bool) -> None:
    @asynchronous
    async def scene() -> None:
        async with (
            undisturbed_neighbour(dispatcher.address),
            opened_link(dispatcher.address) as link,
        ):
            if greeted:
                await link.greet(unique("agent"))
            await link.write_bytes(NO_PACKET[what])
            status = await link.status()
            assert status.code is INVALID
            assert status.details == (
                f"the message ({len(NO_PACKET[what])} bytes) is not a protobuf"
                " southwest.ai.agent.v1.UpstreamPacket"
            )

    scene()


@asynchronous
async def test_a_packet_over_the_limit(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        undisturbed_neighbour(dispatcher.address),
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as talk,
    ):
        assert link.welcome.limits.max_message_bytes == 300_000
        await talk.ask(agent)
        turn = await link.started()
        await turn.say("x" * 250_000)
        await turn.acknowledged(1)
        await turn.say("x" * 300_001)
        status = await link.status()
        assert status.code is EXHAUSTED
        assert "300000" in status.details
        _require_mannerly(status)


@asynchronous
async def test_a_packet_that_unpacks_to_more_than_the_limit(dispatcher: DispatcherProcess) -> None:
    async with undisturbed_neighbour(dispatcher.address), dialled(dispatcher.address) as channel:
        call: Any = channel.stream_stream(LINK_METHOD)(compression=grpc.Compression.Gzip)
        content = agent_pb2.ContentChunk(text="\0" * 50_000_000)
        await call.write(Up(content=content).SerializeToString())
        status = await status_of(call)
        assert status.code is EXHAUSTED
        _require_mannerly(status)


@asynchronous
async def test_metadata_over_the_limit(dispatcher: DispatcherProcess) -> None:
    async with undisturbed_neighbour(dispatcher.address), dialled(dispatcher.address) as channel:
        call: Any = channel.stream_stream(LINK_METHOD)(metadata=(("padding", "x" * 20_000),))
        assert (await status_of(call)).code is EXHAUSTED


@asynchronous
async def test_a_connection_that_speaks_another_language(dispatcher: DispatcherProcess) -> None:
    host, port = dispatcher.address.rsplit(":", 1)
    async with undisturbed_neighbour(dispatcher.address):
        for words in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            bytes(range(256)) * 10,
            b"PRI * HTTP/2.0\r\n\r\nXX",
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(words)
            await writer.drain()
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()


# --- hello -----------------------------------------------------------------------------------------------

LONG = "x" * 129
WRONG_HELLO: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"commander_id": ""}, "hello.commander_id: has 0 characters; 1 to 128 are right"),
    "a long id": ({"commander_id": LONG}, "hello.commander_id: has 129 characters; 1 to 128 are right"),
    "no instance": ({"instance": ""}, "hello.instance: has 0 characters; 1 to 128 are right"),
    "no slots": ({"slots": 0}, "hello.slots: is 0; 1 to 100000 are right"),
    "too many slots": ({"slots": 100_001}, "hello.slots: is 100001; 1 to 100000 are right"),
    "no agents": ({"agents": []}, "hello.agents: has 0; 1 to 250 are right"),
    "a nameless agent": (
        {"agents": [agent_pb2.AgentOffer(name="a"), agent_pb2.AgentOffer()]},
        "hello.agents[1].name: has 0 characters; 1 to 128 are right",
    ),
    "a long name": (
        {"agents": [agent_pb2.AgentOffer(name=LONG)]},
        "hello.agents[0].name: has 129 characters; 1 to 128 are right",
    ),
    "a model's long name": (
        {"models": [agent_pb2.ModelOffer(name="m"), agent_pb2.ModelOffer(name=LONG)]},
        "hello.models[1].name: 1 to 128 printable characters without blanks are right",
    ),
}


@pytest.mark.parametrize("case", WRONG_HELLO)
def test_a_wrong_hello(dispatcher: DispatcherProcess, case: str) -> None:
    fields, words = WRONG_HELLO[case]

    @asynchronous
    async def scene() -> None:
        told = {"commander_id": unique("commander"), **fields}
        async with undisturbed_neighbour(dispatcher.address), opened_link(dispatcher.address) as link:
            await link.write(Up(hello=hello("agent", **told)))
            assert await link.status() == (INVALID, words)

    scene()


@asynchronous
async def test_a_second_hello(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with undisturbed_neighbour(dispatcher.address), linked(dispatcher.address, agent) as link:
        await link.write(Up(hello=hello(agent, commander_id=link.commander_id)))
        status = await link.status()
        assert status == (INVALID, "hello: must be the first packet of a link, and came later")


@asynchronous
async def test_a_late_hello(dispatcher: DispatcherProcess) -> None:
    async with undisturbed_neighbour(dispatcher.address), opened_link(dispatcher.address) as link:
        await link.write(Up(content=agent_pb2.ContentChunk(text="like a minimal commander's")))
        await link.write(Up(hello=hello(unique("agent"), commander_id=unique("commander"))))
        status = await link.status()
        assert status == (INVALID, "hello: must be the first packet of a link, and came later")


@pytest.mark.parametrize("what", ["a session's id", "an attempt"])
def test_a_managed_links_packet_before_hello(dispatcher: DispatcherProcess, what: str) -> None:
    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with (
            undisturbed_neighbour(dispatcher.address),
            linked(dispatcher.address, agent) as owner,
            conversing(dispatcher.address) as talk,
            opened_link(dispatcher.address) as link,
        ):
            seen = await talk.ask(agent)
            turn = await owner.started()
            session_id, attempt = (turn.session_id, 0) if what == "a session's id" else ("s-other", 1)
            content = agent_pb2.ContentChunk(text="evil")
            await link.write(Up(session_id=session_id, attempt=attempt, sequence=1, content=content))
            status = await link.status()
            assert status.code is grpc.StatusCode.FAILED_PRECONDITION
            assert "came before hello" in status.details
            assert "send hello first" in status.details
            await turn.say("good")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "good"

    scene()


NESTED = {
    "batch": Up(batch=agent_pb2.UpstreamBatch(packets=[Up(batch=agent_pb2.UpstreamBatch())])),
    "hello": Up(batch=agent_pb2.UpstreamBatch(packets=[Up(hello=hello("a", commander_id="c"))])),
}


@pytest.mark.parametrize("what", NESTED)
def test_what_is_not_allowed_inside_a_batch(dispatcher: DispatcherProcess, what: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with (
            undisturbed_neighbour(dispatcher.address),
            linked(dispatcher.address, unique("agent")) as link,
        ):
            await link.write_bytes(NESTED[what].SerializeToString())
            assert await link.status() == (
                INVALID,
                f"{what}: is not allowed inside a batch; send it as a message of its own",
            )

    scene()


# --- in a session: it ends, and no other -----------------------------------------------------------------


def _content(text: str = "x") -> dict[str, Any]:
    return {"content": agent_pb2.ContentChunk(text=text)}


def _question(question_id: str) -> dict[str, Any]:
    return {"question": agent_pb2.Question(question_id=question_id)}


# The packets of one session, and words of the ending.
BREACHES: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "a hole": ([_content(), {"sequence": 3, **_content()}], ["content: sequence is 3 where 2 is due"]),
    "a first hole": ([{"sequence": 2, **_content()}], ["content: sequence is 2 where 1 is due"]),
    "no sequence": ([{"sequence": 0, **_content()}], ["content: sequence is not set where 1 is due"]),
    "no question id": ([_question("")], ["question: its question_id is empty"]),
    "a question twice": ([_question("q1"), _question("q1")], ["question: its question_id", "open already"]),
}


@pytest.mark.parametrize("case", BREACHES)
def test_a_breach_ends_its_session_and_no_other(dispatcher: DispatcherProcess, case: str) -> None:
    packets, words = BREACHES[case]

    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with (
            undisturbed_neighbour(dispatcher.address),
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent, client_ref="1")
            turn = await link.started()
            other = await talk.ask(agent, client_ref="2")
            innocent = await link.started()
            for packet in packets:
                await turn.send(**packet)
            ended = await seen.ended()
            assert ended.name == "protocol_error"
            for word in words:
                assert word in ended.message
            assert (await turn.stopped()).code == agent_pb2.STOP_CODE_PROTOCOL
            await innocent.say("still here")
            await innocent.finish()
            assert (await other.ended()).name == "completed"

    scene()


async def _foreign(link: Link, packet: Up) -> agent_pb2.StopSignal:
    """Sends a packet that doesn't count here, twice. Returns the one stop that answers it."""
    for _ in range(2):
        await link.write(packet)
    signal = (await link.heard("stop", packet.session_id)).stop
    assert link.arrived[packet.session_id]["stop"].empty()
    assert signal.code == agent_pb2.STOP_CODE_FENCED
    return signal


@asynchronous
async def test_foreign_unknown_and_stale_packets_are_fenced(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        undisturbed_neighbour(dispatcher.address),
        linked(dispatcher.address, agent) as owner,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await owner.started()
        await turn.say("mine")
        await turn.acknowledged(1)
        async with linked(dispatcher.address, unique("other")) as thief:
            stolen = Up(session_id=turn.session_id, attempt=1, sequence=2, **_content("stolen"))
            signal = await _foreign(thief, stolen)
            assert signal.reason == f"session_id: session '{turn.session_id}' is not on this link"
            unknown = Up(session_id="s-no", attempt=1, sequence=1, **_content())
            signal = await _foreign(thief, unknown)
            assert signal.reason == "session_id: there is no session 's-no'"
        stale = Up(session_id=turn.session_id, attempt=9, sequence=2, **_content())
        signal = await _foreign(owner, stale)
        for words in ("attempt", "9", "1 counts now"):
            assert words in signal.reason
        await turn.say(" alone")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "mine alone"


@asynchronous
async def test_what_comes_after_done_is_dropped(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        undisturbed_neighbour(dispatcher.address),
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent, client_ref="1")
        turn = await link.started()
        await link.write(turn.finished(), turn.packet(**_content("late")), turn.finished())
        assert (await seen.ended()).name == "completed"
        # The link still works.
        after = await talk.ask(agent, client_ref="2")
        await (await link.started()).finish()
        assert (await after.ended()).name == "completed"
        assert seen.kinds == ["opened", "started", "ended"]


NO_MATTER = {
    "an empty packet": Up(),
    "an empty batch": Up(batch=agent_pb2.UpstreamBatch()),
    "an ack of no stop": Up(session_id="s-no", attempt=1, stop_ack=agent_pb2.StopAck(stop_id="x")),
    "a refusal of no start": Up(session_id="s-no", attempt=1, refused=agent_pb2.Refused(code="no_slot")),
    "a heartbeat of no session": Up(session_id="s-no", heartbeat=agent_pb2.Heartbeat(phase=77)),  # type: ignore[arg-type]  # that is the point
}


@pytest.mark.parametrize("what", NO_MATTER)
def test_what_does_not_matter_is_ignored(dispatcher: DispatcherProcess, what: str) -> None:
    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            await link.write_bytes(NO_MATTER[what].SerializeToString())
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert link.arrived[""]["stop"].empty()
            assert link.arrived["s-no"]["stop"].empty()

    scene()


# --- unknown things --------------------------------------------------------------------------------------

# A payload of the future: field 99, length-delimited, and what it holds.
FUTURE = bytes([(99 << 3 | 2) & 0x7F | 0x80, (99 << 3) >> 7, 5]) + b"hello"


async def _dropped(dispatcher: DispatcherProcess) -> float:
    metrics = await asyncio.to_thread(dispatcher.scrape)
    return metrics.get('dispatcher_packets_dropped_total{reason="unknown"}', 0)


@asynchronous
async def test_a_payload_of_the_future_is_ignored_and_counted_and_its_number_counts(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        before = await _dropped(dispatcher)
        await turn.say("a")
        await link.write_bytes(turn.packet().SerializeToString() + FUTURE)
        await turn.say("b")
        await turn.acknowledged(3)
        assert await _dropped(dispatcher) == before + 1
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "ab"


@asynchronous
async def test_a_control_packet_of_the_future_is_ignored_and_counted(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        before = await _dropped(dispatcher)
        await link.write_bytes(turn.packet(sequence=0).SerializeToString() + FUTURE)
        await link.write_bytes(FUTURE)
        await turn.say("a")
        await turn.acknowledged(1)
        assert await _dropped(dispatcher) == before + 2
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert turn.heard_nothing("stop")
        assert link.arrived[""]["stop"].empty()


@asynchronous
async def test_a_field_of_the_future_is_ignored(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await link.write_bytes(turn.packet(**_content("a")).SerializeToString() + FUTURE)
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "a"


# --- ends before their time ------------------------------------------------------------------------------


@asynchronous
async def test_a_half_close_without_a_goodbye_is_a_lost_link(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        undisturbed_neighbour(dispatcher.address),
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as talk,
        administering(dispatcher.address) as admin,
    ):
        await talk.ask(agent)
        turn = await link.started()
        await turn.say("half an ans")
        await link.half_close()
        status = await link.status()
        assert status == (grpc.StatusCode.UNAVAILABLE, "the commander half-closed")
        request = admin_pb2.GetSessionRequest(session_id=turn.session_id)
        await eventually(lambda: admin.GetSession(request), lambda got: got.session.state == "detached")


@asynchronous
async def test_a_resume_that_forgot_what_it_sent(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    async with conversing(dispatcher.address) as talk, undisturbed_neighbour(dispatcher.address):
        async with linked(dispatcher.address, agent, **me) as link:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("one")
            await turn.say("two")
            await turn.acknowledged(2)
        resume = agent_pb2.Resume(session_id=turn.session_id, attempt=1, last_sequence_sent=1)
        async with linked(dispatcher.address, agent, **me, resumes=[resume]) as link:
            assert link.welcome.resumes[0].ended.ending == "protocol_error"
            ended = await seen.ended()
            assert ended.message == "resume.last_sequence_sent is 1, and 2 was received"


FAR = Duration(seconds=2**62)


@asynchronous
async def test_numbers_beyond_all_bounds_harm_nobody_elses_view(dispatcher: DispatcherProcess) -> None:
    """What one commander says of itself is added up and shown to everybody."""
    agent = unique("agent")
    async with (
        undisturbed_neighbour(dispatcher.address),
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as talk,
        administering(dispatcher.address) as admin,
    ):
        seen = await talk.ask(agent, on_detach=chat_pb2.OnDetach(stop_after=FAR))
        turn = await link.started()
        for _ in range(2):
            await turn.send(usage=agent_pb2.Usage(input_tokens=2**64 - 1))
        await turn.send(question=agent_pb2.Question(question_id="q1", expires_in=FAR))
        await turn.send(progress=agent_pb2.Progress(percent=float("nan"), current=float("inf")))
        beat = agent_pb2.Heartbeat(blocked_for=FAR, running=2**32 - 1, stuck=2**32 - 1, phase=99)  # type: ignore[arg-type]  # that is the point
        await link.write(Up(heartbeat=beat), Up(session_id=turn.session_id, heartbeat=beat))
        await turn.acknowledged(4)
        for _ in range(2):
            views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
            assert link.commander_id in [view.commander_id for view in views]
            listed = (await admin.ListSessions(admin_pb2.ListSessionsRequest())).sessions
            view = next(view for view in listed if view.session_id == turn.session_id)
            assert view.usage.input_tokens == 2**64 - 1
        await turn.finish()
        ended = await seen.ended()
        assert (ended.name, ended.usage.input_tokens) == ("completed", 2**64 - 1)


@asynchronous
async def test_a_hello_with_more_stuck_slots_than_there_can_be(dispatcher: DispatcherProcess) -> None:
    async with undisturbed_neighbour(dispatcher.address), opened_link(dispatcher.address) as link:
        await link.write(Up(hello=hello("agent", commander_id=unique("c"), stuck=2**32 - 1)))
        assert await link.status() == (INVALID, f"hello.stuck: is {2**32 - 1}; 0 to 100000 are right")


@asynchronous
async def test_deadlines_beyond_all_bounds() -> None:
    with running_dispatcher("--total-time-mode", "observe") as dispatcher:
        agent = unique("agent")
        async with (
            undisturbed_neighbour(dispatcher.address),
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
        ):
            budgets = agent_pb2.Budgets(total_time=FAR, first_token_time=FAR)
            seen = await talk.ask(agent, budgets=budgets)
            turn = await link.started()
            assert turn.start.time_left.seconds > 10_000_000_000
            for deadline in (FAR, Duration(seconds=-1)):
                request = admin_pb2.DrainCommanderRequest(commander_id=link.commander_id, deadline=deadline)
                status = await refused(admin.DrainCommander(request))
                assert status.code is INVALID
                assert "0 to 604800 s are right" in status.details
                status = await refused(admin.Drain(admin_pb2.DrainRequest(deadline=deadline)))
                assert status.code is INVALID
                assert status.details.startswith("deadline: is ")
            await turn.finish()
            assert (await seen.ended()).name == "completed"


@asynchronous
async def test_no_request_is_too_strange_for_admin(dispatcher: DispatcherProcess) -> None:
    """What was sent is quoted, but a status has little room."""
    async with administering(dispatcher.address) as admin:
        strange = "\x1b[31m\n" + "x" * 10_000
        status = await refused(admin.GetSession(admin_pb2.GetSessionRequest(session_id=strange)))
        assert status.code is grpc.StatusCode.NOT_FOUND
        assert len(status.details) < 1_100
