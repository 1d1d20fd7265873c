"""What is seen from outside: health per service, reflection, and metrics that are right after known traffic."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
from asynchronous import asynchronous, eventually, soon
from chat_viewer import asking, conversing
from dialling import administering, chatting, dialled, refused
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from scripted_commander import linked, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.tools.breaker import STATES

SHAKY = """
from pathlib import Path

def shaky() -> str:
    if not Path("mended").exists():
        raise RuntimeError("not yet")
    return "well"
"""
PACKAGE = "southwest.ai.agent.v1"
SERVICES = (f"{PACKAGE}.AgentInteraction", f"{PACKAGE}.Chat", f"{PACKAGE}.Admin")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


# --- health and reflection -------------------------------------------------------------------------------


@asynchronous
async def test_each_service_is_serving(dispatcher: DispatcherProcess) -> None:
    async with dialled(dispatcher.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == SERVING
        status = await refused(health.Check(health_pb2.HealthCheckRequest(service="no.such.Service")))
        assert status.code is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        watch.cancel()


@asynchronous
async def test_watchers_hear_that_it_drains_while_what_runs_goes_on() -> None:
    with running_dispatcher() as dispatcher:
        agent = unique("agent")
        async with (
            dialled(dispatcher.address) as channel,
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
        ):
            health: Any = health_pb2_grpc.HealthStub(channel)
            watches = [
                health.Watch(health_pb2.HealthCheckRequest(service=service)) for service in ("", *SERVICES)
            ]
            for watch in watches:
                assert (await watch.read()).status == SERVING
            seen = await talk.ask(agent)
            turn = await link.started()
            await admin.Drain(admin_pb2.DrainRequest(deadline=Duration(seconds=60)))
            for watch in watches:
                assert (await watch.read()).status == NOT_SERVING
            for service in ("", *SERVICES):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == NOT_SERVING
            await turn.say("still here")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
        assert await asyncio.to_thread(dispatcher.wait) == 0


@asynchronous
async def test_open_watches_leave_no_traceback_when_it_goes() -> None:
    # Whether gRPC had let go of a cancelled call when the loop ended was a matter of chance for each.
    with running_dispatcher() as dispatcher:
        async with dialled(dispatcher.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
            for watch in watches:
                assert (await watch.read()).status == SERVING
            dispatcher.signal(signal.SIGTERM)
        assert await asyncio.to_thread(dispatcher.wait) == 0


async def _one(request: reflection_pb2.ServerReflectionRequest) -> AsyncIterator[Any]:
    yield request


@asynchronous
async def test_reflection_lists_and_describes_the_services(dispatcher: DispatcherProcess) -> None:
    async with dialled(dispatcher.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
        listing = _one(reflection_pb2.ServerReflectionRequest(list_services=""))
        answers = [answer async for answer in stub.ServerReflectionInfo(listing)]
        names = {service.name for service in answers[0].list_services_response.service}
        assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        for service in SERVICES:
            asked = _one(reflection_pb2.ServerReflectionRequest(file_containing_symbol=service))
            answers = [answer async for answer in stub.ServerReflectionInfo(asked)]
            assert answers[0].file_descriptor_response.file_descriptor_proto


# --- metrics ---------------------------------------------------------------------------------------------


def _labels(kind: str, service: str, method: str, code: str = "") -> str:
    told = {"grpc_method": method, "grpc_service": f"{PACKAGE}.{service}", "grpc_type": kind}
    told |= {"grpc_code": code} if code else {}
    return "{" + ",".join(f'{key}="{value}"' for key, value in sorted(told.items())) + "}"


_CUT_OFF = ("CANCELLED", "UNAVAILABLE")


async def _scraped(dispatcher: DispatcherProcess) -> dict[str, float]:
    return await asyncio.to_thread(dispatcher.scrape)


@asynchronous
async def test_calls_and_messages_are_counted_by_the_conventional_names() -> None:
    with running_dispatcher() as dispatcher:
        agent = unique("agent")
        async with administering(dispatcher.address) as admin, chatting(dispatcher.address) as chat:
            async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
                seen = await talk.ask(agent)
                turn = await link.started()
                for word in ("one", "two", "three"):
                    await turn.say(word)
                await turn.finish()
                await seen.ended()
                await talk.half_close()
                await talk.status()
                await link.leave()
                down, told = link.messages, talk.messages
            await admin.GetSession(admin_pb2.GetSessionRequest(session_id=turn.session_id))
            await refused(admin.GetSession(admin_pb2.GetSessionRequest(session_id="s-no")))
            call: Any = chat.Subscribe(chat_pb2.SubscribeRequest(session_id=turn.session_id))
            read = 0
            while await call.read() is not aio.EOF:
                read += 1
            await soon(call.code())
        metrics = await _scraped(dispatcher)
        for kind, service, method, code, started, received, sent in (
            ("bidi_stream", "AgentInteraction", "ChatStream", "OK", 1, 6, down),
            ("bidi_stream", "Chat", "Converse", "OK", 1, 1, told),
            ("server_stream", "Chat", "Subscribe", "OK", 1, 1, read),
            ("unary", "Admin", "GetSession", "OK", 2, 2, 1),
        ):
            plain = _labels(kind, service, method)
            assert metrics[f"grpc_server_started_total{plain}"] == started
            assert metrics[f"grpc_server_msg_received_total{plain}"] == received
            assert metrics[f"grpc_server_msg_sent_total{plain}"] == sent
            coded = _labels(kind, service, method, code)
            assert metrics[f"grpc_server_handled_total{coded}"] == 1
            assert metrics[f"grpc_server_handling_seconds_count{coded}"] == 1
        missing = _labels("unary", "Admin", "GetSession", "NOT_FOUND")
        assert metrics[f"grpc_server_handled_total{missing}"] == 1


@asynchronous
async def test_how_calls_ended_is_counted_by_code() -> None:
    with running_dispatcher() as dispatcher:
        async with opened_link(dispatcher.address) as wrong:
            await wrong.write_bytes(b"\xff")
            await wrong.status()
        async with linked(dispatcher.address, "agent"), conversing(dispatcher.address) as talk:
            await talk.ask("agent")

        def right(metrics: dict[str, float]) -> bool:
            links = ("bidi_stream", "AgentInteraction", "ChatStream")
            handled = "grpc_server_handled_total"
            # A link that is cancelled may look like one that half-closes, for a busy dispatcher.
            cancelled = [metrics.get(f"{handled}{_labels(*links, code)}", 0) for code in _CUT_OFF]
            return (
                metrics.get(f"{handled}{_labels(*links, 'INVALID_ARGUMENT')}") == 1
                and sum(cancelled) == 1
                and metrics.get(f"{handled}{_labels('bidi_stream', 'Chat', 'Converse', 'CANCELLED')}") == 1
            )

        await eventually(lambda: _scraped(dispatcher), right)


@asynchronous
async def test_its_own_metrics_after_known_traffic() -> None:
    with running_dispatcher("--stop-grace-s", "60") as dispatcher:
        async with (
            linked(dispatcher.address, "writer", "reader", slots=3) as link,
            conversing(dispatcher.address) as talk,
            administering(dispatcher.address) as admin,
        ):
            done = await talk.ask("writer", client_ref="done")
            turn = await link.started()
            await turn.say("hello")
            await turn.call("nothing")
            await turn.result()
            await turn.finish()
            await done.ended()
            await talk.ask("writer", client_ref="stopped")
            turn = await link.started()
            await admin.StopSession(admin_pb2.StopSessionRequest(session_id=turn.session_id))
            await turn.acknowledge_stop(await turn.stopped())
            await talk.ask("writer", client_ref="running")
            await (await link.started()).say("x")
            await talk.ask("reader", client_ref="starting")
            await talk.ask("reader", client_ref="abandoned")
            stopping = [await link.started() for _ in range(2)][1]
            await admin.StopSession(admin_pb2.StopSessionRequest(session_id=stopping.session_id))
            await stopping.stopped()
            await talk.ask("reader", client_ref="queued")
            assert (await talk.request("no", ask=asking("nobody"))).error.code == "no_such_agent"
            expected = {
                'dispatcher_sessions{state="queued"}': 1,
                'dispatcher_sessions{state="starting"}': 1,
                'dispatcher_sessions{state="running"}': 1,
                'dispatcher_sessions{state="detached"}': 0,
                'dispatcher_sessions{state="ended"}': 3,
                'dispatcher_sessions_opened_total{agent="writer"}': 3,
                'dispatcher_sessions_opened_total{agent="reader"}': 3,
                'dispatcher_sessions_ended_total{ending="completed"}': 1,
                'dispatcher_sessions_ended_total{ending="stopped"}': 2,
                'dispatcher_sessions_refused_total{reason="no_such_agent"}': 1,
                'dispatcher_session_duration_seconds_count{ending="stopped"}': 2,
                'dispatcher_commanders{state="ready"}': 1,
                "dispatcher_links": 1,
                "dispatcher_queue_length": 1,
                "dispatcher_session_queue_wait_seconds_count": 5,
                "dispatcher_session_first_content_seconds_count": 2,
                'dispatcher_stop_step_seconds_count{step="received"}': 1,
                'dispatcher_stop_step_seconds_count{step="applied"}': 1,
                'dispatcher_tool_calls_total{outcome="not_found",tool="(unknown)"}': 1,
                'dispatcher_tool_call_seconds_count{tool="(unknown)"}': 1,
                "dispatcher_packets_unprocessed": 0,
            }
            for agent in ("reader", "writer"):
                for state, number in {"free": 0, "busy": 2, "stopping": 1, "stuck": 0}.items():
                    expected[f'dispatcher_slots{{agent="{agent}",state="{state}"}}'] = number

            def right(metrics: dict[str, float]) -> bool:
                return all(metrics.get(name) == value for name, value in expected.items())

            try:
                metrics = await eventually(lambda: _scraped(dispatcher), right, 5.0)
            except AssertionError:
                metrics = await _scraped(dispatcher)
                assert {name: metrics.get(name) for name in expected} == expected
            assert metrics["dispatcher_journal_bytes"] > 0
            assert metrics["dispatcher_events_kept_total"] > 15
            assert metrics["dispatcher_packets_received_total"] >= 6


@asynchronous
async def test_a_tool_s_circuit_is_seen(tmp_path: Path) -> None:
    (tmp_path / "shaky.py").write_text(SHAKY)
    flags = ("--tools", "shaky:shaky", "--tool-failures-max", "2", "--tool-open-s", "0.05")
    with running_dispatcher(*flags, cwd=tmp_path, tracebacks=True) as dispatcher:

        async def circuit() -> tuple[str, float]:
            metrics = await _scraped(dispatcher)
            series = 'dispatcher_tool_circuit{{state="{}",tool="shaky"}}'
            (state,) = (each for each in STATES if metrics[series.format(each)])
            return state, metrics['dispatcher_tool_circuit_failures{tool="shaky"}']

        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            assert await circuit() == ("closed", 0)
            await talk.ask(agent)
            turn = await link.started()
            for number, after in enumerate((("closed", 1), ("open", 2))):
                await turn.call("shaky", "{}", f"bad-{number}")
                await turn.result()
                assert await circuit() == after
            (tmp_path / "mended").touch()
            number = 0
            while (await circuit())[0] != "closed":
                number += 1
                await turn.call("shaky", "{}", f"good-{number}")
                await turn.result()
            assert await circuit() == ("closed", 0)
            await turn.finish()


@asynchronous
async def test_labels_are_bounded_whatever_peers_send(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=9) as link,
        conversing(dispatcher.address) as talk,
        dialled(dispatcher.address) as channel,
    ):
        call: Any = channel.unary_unary("/invented.Service/Method")
        await refused(call(b""))
        await talk.ask(agent)
        turn = await link.started()
        await turn.call("invented-tool")
        await turn.result()
        await talk.ask(agent, client_ref="2")
        other = await link.started()
        await other.send(sequence=0, refused=agent_pb2.Refused(code="invented-code", why="no"))
        counted = 'dispatcher_starts_refused_total{reason="other"}'
        metrics = await eventually(lambda: _scraped(dispatcher), lambda got: got.get(counted) == 1)
        assert not [name for name in metrics if "nvented" in name]


@asynchronous
async def test_metrics_can_be_left_out() -> None:
    with running_dispatcher("--metrics-address", "") as dispatcher:
        assert not dispatcher.metrics_url
        async with linked(dispatcher.address, "agent"):
            pass


@asynchronous
async def test_scraping_in_a_hurry_disturbs_nobody(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        scrapes = asyncio.gather(*[_scraped(dispatcher) for _ in range(30)])
        for _ in range(100):
            await turn.say("x")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert len(await scrapes) == 30
