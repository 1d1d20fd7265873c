"""The process: how it starts and refuses to, how it drains and ends, and what it logs."""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous
from chat_viewer import asking, conversing
from dispatcher_process import DispatcherProcess, running_dispatcher, serve_and_fail
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2

NO_TRACE = ("Traceback", "  File ")


@pytest.fixture
def taken_address() -> Iterator[str]:
    """An address at which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


# --- starting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--grpc-address", "--metrics-address"])
def test_an_address_that_is_taken(taken_address: str, flag: str) -> None:
    ended = serve_and_fail(flag, taken_address)
    assert ended.returncode == 2
    assert not ended.stdout
    said = ended.stderr.splitlines()[-1]
    name = flag.removeprefix("--").replace("-", "_")
    assert said.startswith(f"dispatcher: {name}: {taken_address} can't be bound")
    assert flag in said
    assert "port 0" in said
    for word in NO_TRACE:
        assert word not in ended.stderr


def test_two_dispatchers_can_not_share_a_port_or_a_socket(
    dispatcher: DispatcherProcess, tmp_path: Path
) -> None:
    ended = serve_and_fail("--grpc-address", dispatcher.address)
    assert ended.returncode == 2
    path = f"unix:{tmp_path}/chat.sock"
    with running_dispatcher("--grpc-address", path) as first:
        ended = serve_and_fail("--grpc-address", path)
        assert ended.returncode == 2
        assert f"grpc_address: {path} is taken by another process" in ended.stderr
        _has_a_conversation(first.address)


@asynchronous
async def _has_a_conversation(address: str) -> None:
    agent = unique("agent")
    async with linked(address, agent) as link, conversing(address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("hello")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "hello"


def test_a_socket_that_its_owner_left_behind_is_taken_over(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/chat.sock"
    with running_dispatcher("--grpc-address", path) as killed:
        killed.signal(signal.SIGKILL)
        killed.wait()
    with running_dispatcher("--grpc-address", path) as dispatcher:
        assert dispatcher.address == path
        _has_a_conversation(path)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_either_loop(loop: str) -> None:
    with running_dispatcher("--event-loop", loop) as dispatcher:
        _has_a_conversation(dispatcher.address)


def test_settings_that_make_no_sense_are_told_all_at_once_with_their_origins(tmp_path: Path) -> None:
    path = tmp_path / "dispatcher.toml"
    path.write_text('deny = ["a("]\nheartbeats_missed = 1\n')
    flags = ("--config", str(path), "--queue-wait-s", "soon", "--tokens-file", "/no/such/file")
    ended = serve_and_fail(*flags, DISPATCHER_LOG_FORMAT="xml", DISPATCHER_LINKS_MAX="0")
    assert ended.returncode == 2
    assert not ended.stdout
    for told, words in (
        (f"{path}: deny: ", "should be an RE2 pattern"),
        (f"{path}: heartbeats_missed: ", "should be a whole number of"),
        ("--queue-wait-s: ", "'soon' should be a number of seconds from 0 to 3600"),
        ("--tokens-file: ", "'/no/such/file' should be a file that this user can read"),
        ("DISPATCHER_LOG_FORMAT: ", "'text' or 'json'"),
        ("DISPATCHER_LINKS_MAX: ", "should be a whole number of"),
    ):
        lines = [line for line in ended.stderr.splitlines() if line.startswith(f"dispatcher: {told}")]
        assert len(lines) == 1, ended.stderr
        assert words in lines[0]
    assert len(ended.stderr.splitlines()) == 6


def test_an_address_that_is_none() -> None:
    ended = serve_and_fail("--grpc-address", "localhost")
    assert ended.returncode == 2
    assert ended.stderr.startswith("dispatcher: --grpc-address: 'localhost' should be HOST:PORT")


def test_what_has_to_fit_a_message_is_measured_with_all_that_goes_with_it(tmp_path: Path) -> None:
    ended = serve_and_fail("--tool-output-bytes", "1000000")
    assert ended.returncode == 2
    assert "tool_output_bytes must be at most 7/8 of that" in ended.stderr
    (tmp_path / "wordy_tools.py").write_text(f"def wordy():\n    '''{'word ' * 50_000}'''\n")
    flags = ("--request-bytes-max", "900000", "--tools", "wordy_tools:wordy")
    ended = serve_and_fail(*flags, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert "request_bytes_max: 900000 and the descriptions of the tools" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_patterns_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "deny.txt"
    path.write_bytes(b"pass\xffword\n")
    ended = serve_and_fail("--deny-file", str(path))
    assert ended.returncode == 2
    assert f"deny_file: {path} should be text in UTF-8: invalid start byte at byte 4" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    ended = serve_and_fail(DISPATCHER_QUEUE_WAIT="1")
    assert ended.returncode == 2
    assert (
        "DISPATCHER_QUEUE_WAIT: there is no such setting; did you mean DISPATCHER_QUEUE_WAIT_S?"
        in ended.stderr
    )
    path = tmp_path / "dispatcher.toml"
    path.write_text("queue_wait = 1\n")
    ended = serve_and_fail("--config", str(path))
    assert ended.returncode == 2
    assert f"{path}: queue_wait: there is no such setting; did you mean queue_wait_s?" in ended.stderr


def test_another_machines_door_stays_closed() -> None:
    ended = serve_and_fail("--grpc-address", "0.0.0.0:0")
    assert ended.returncode == 2
    assert "grpc_address" in ended.stderr
    assert "--insecure" in ended.stderr


TOOLS = {
    "an import that fails": ("failing_tools:TOOLS", "RuntimeError: not today"),
    "no tool": ("bad_tools:NUMBER", "is of type int; a function or a Tool is needed"),
}


@pytest.mark.parametrize("case", TOOLS)
def test_tools_that_can_not_be_loaded(case: str, tmp_path: Path) -> None:
    spec, words = TOOLS[case]
    (tmp_path / "bad_tools.py").write_text("NUMBER = 5\n")
    (tmp_path / "failing_tools.py").write_text("raise RuntimeError('not today')\n")
    ended = serve_and_fail("--tools", spec, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 2
    assert words in ended.stderr
    for word in NO_TRACE:
        assert word not in ended.stderr


# --- ending ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_it_ends_at_once(number: signal.Signals) -> None:
    with running_dispatcher("--drain-deadline-s", "600") as dispatcher:
        dispatcher.signal(number)
        assert dispatcher.wait() == 0
        assert any(f"{number.name}: draining for up to 600 s" in line for line in dispatcher.log)


@asynchronous
async def test_told_to_go_it_lets_what_runs_finish() -> None:
    with running_dispatcher("--drain-deadline-s", "600") as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("to the ")
            dispatcher.signal(signal.SIGTERM)
            await asyncio.to_thread(dispatcher.wait_for_log, "draining: the dispatcher goes away")
            refused = await talk.request("2", ask=asking(agent))
            assert refused.error.code == "draining"
            await turn.say("end")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "to the end"
            assert (await link.heard("goodbye")).goodbye.reason == "the dispatcher goes away"
            assert (await link.status()).code is grpc.StatusCode.UNAVAILABLE
            await talk.half_close()
            assert (await talk.status()).code is grpc.StatusCode.OK
        assert await asyncio.to_thread(dispatcher.wait) == 0


@asynchronous
async def test_told_twice_it_ends_at_once_and_says_so_to_everybody() -> None:
    with running_dispatcher("--drain-deadline-s", "600") as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent, slots=1) as link,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent, client_ref="1")
            turn = await link.started()
            await turn.say("half a sen")
            queued = await talk.ask(agent, client_ref="2")
            dispatcher.signal(signal.SIGTERM)
            await asyncio.to_thread(dispatcher.wait_for_log, "draining: the dispatcher goes away")
            dispatcher.signal(signal.SIGTERM)
            for view in (seen, queued):
                ended = await view.ended()
                assert (ended.name, ended.retryable) == ("shutdown", True)
            assert seen.text == "half a sen"
            stop = await turn.stopped()
            assert (stop.code, stop.reason) == (agent_pb2.STOP_CODE_SHUTDOWN, "the dispatcher goes away")
            assert (await link.status()).code is grpc.StatusCode.UNAVAILABLE
            # It may not half-close in time: then its stream ends as the contract says.
            assert (await talk.status()).code is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(dispatcher.wait) == 0


@asynchronous
async def test_a_tool_that_hangs_does_not_keep_it(tmp_path: Path) -> None:
    (tmp_path / "hanging_tools.py").write_text(
        "import asyncio, threading\n"
        "async def hangs():\n    await asyncio.Event().wait()\n"
        "def blocks():\n    threading.Event().wait()\n"
    )
    tools = ("--tools", "hanging_tools:hangs", "--tools", "hanging_tools:blocks")
    with running_dispatcher(*tools, environ={"PYTHONPATH": str(tmp_path)}) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.call("hangs")
            await turn.call("blocks")
            await seen.until("tool_call", 2)
            dispatcher.signal(signal.SIGTERM)
            assert (await seen.ended()).name == "shutdown"
            await talk.half_close()
        assert await asyncio.to_thread(dispatcher.wait) == 0


@asynchronous
async def test_a_tool_whose_helpers_exit_does_not_take_it_along(tmp_path: Path) -> None:
    (tmp_path / "leaving_tools.py").write_text(
        "import asyncio, sys\n"
        "async def bye():\n    sys.exit(9)\n"
        "async def leaves():\n"
        "    asyncio.get_running_loop().call_soon(sys.exit, 8)\n"
        "    asyncio.get_running_loop().stop()\n"
        "    task = asyncio.ensure_future(bye())\n"
        "    await asyncio.sleep(0.01)\n"
        "    return task.done()\n"
    )
    tools = ("--tools", "leaving_tools:leaves")
    environ = {"PYTHONPATH": str(tmp_path)}
    with running_dispatcher(*tools, environ=environ, tracebacks=True) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.call("leaves")
            assert (await turn.result()).result_json == "true"
            await turn.say("still here")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
        assert [line for line in dispatcher.log if "SystemExit in a task or a callback of a tool" in line]


@asynchronous
async def test_a_tool_that_swallows_its_cancellation_does_not_keep_it(tmp_path: Path) -> None:
    (tmp_path / "stubborn_tools.py").write_text(
        "import asyncio\n"
        "async def stubborn():\n"
        "    while True:\n"
        "        try:\n            await asyncio.Event().wait()\n"
        "        except asyncio.CancelledError:\n            pass\n"
    )
    tools = ("--tools", "stubborn_tools:stubborn")
    with running_dispatcher(*tools, environ={"PYTHONPATH": str(tmp_path)}) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.call("stubborn")
            await seen.until("tool_call")
            dispatcher.signal(signal.SIGTERM)
            dispatcher.signal(signal.SIGTERM)
            assert (await seen.ended()).name == "shutdown"
            await talk.half_close()
        assert await asyncio.to_thread(dispatcher.wait) == 0
        assert [line for line in dispatcher.log if "left behind tools that did not end: stubborn (1)" in line]


# --- logs ------------------------------------------------------------------------------------------------


@asynchronous
async def test_logs_are_json_with_the_sessions_ids_and_without_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "failing_tools.py").write_text("def fails():\n    raise RuntimeError('it broke')\n")
    with running_dispatcher(
        "--log-level", "debug", "--tools", "failing_tools:fails",
        environ={"DISPATCHER_LOG_FORMAT": "json", "PYTHONPATH": str(tmp_path)},
        tracebacks=True,
    ) as dispatcher:  # fmt: skip
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent, "a secret question", metadata={"key": "a secret value"})
            turn = await link.started()
            await turn.say("a secret answer\nin two lines")
            await turn.call("fails")
            await turn.result()
            await turn.finish()
            await seen.ended()
        dispatcher.signal(signal.SIGTERM)
        await asyncio.to_thread(dispatcher.wait)
        await asyncio.to_thread(dispatcher.wait_for_log, "draining: ")
        lines: list[dict[str, Any]] = [json.loads(line) for line in dispatcher.log]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert isinstance(line["time"], float)
    ended = next(line for line in lines if line["message"].startswith("ended: completed"))
    assert (ended["session"], ended["attempt"], ended["level"]) == (turn.session_id, 1, "info")
    failed = next(line for line in lines if "tool fails failed" in line["message"])
    assert "RuntimeError: it broke" in failed["traceback"]
    assert (failed.get("session"), failed.get("attempt"), failed.get("call")) == (
        turn.session_id,
        1,
        "call-1",
    )
    greeted = next(line for line in lines if "linked from" in line["message"])
    assert greeted["link"].startswith("link-")
    assert not [line for line in dispatcher.log if "secret" in line]


def test_a_level_is_the_least_that_is_logged() -> None:
    with running_dispatcher("--log-level", "warning") as dispatcher:
        _has_a_conversation(dispatcher.address)
    assert not [line for line in dispatcher.log if " info " in line or " debug " in line]


@asynchronous
async def test_a_peer_can_not_forge_lines_of_the_log(dispatcher: DispatcherProcess) -> None:
    name = unique("evil") + "\n2026-01-01 00:00:00,000 error   serve: all is lost\x1b[2J"
    async with linked(dispatcher.address, unique("agent"), commander_id=name):
        await asyncio.to_thread(dispatcher.wait_for_log, name.partition("\n")[0])
    assert not [line for line in dispatcher.log if line.startswith("2026-01-01") or "\x1b" in line]
