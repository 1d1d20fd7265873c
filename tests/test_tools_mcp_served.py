"""MCP servers of a dispatcher that really runs: what agents are told, what operators see, what is left at the end."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import conversing
from console_server import run_cli
from dialling import administering
from dispatcher_process import DispatcherProcess, running_dispatcher, serve_and_fail
from mcp_scene import BOX, is_running
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2

CONFIG = """
tools = ["demo"]
[mcp.box]
command = ["{python}", "{box}", "--stubborn", "--state", "{state}"]
tools = ["add", "grow", "grown", "die"]
start_wait_s = 60
restart_backoff_s = 0.05
"""


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[DispatcherProcess]:
    config = tmp_path / "chat.toml"
    config.write_text(CONFIG.format(python=sys.executable, box=BOX, state=tmp_path / "state"))
    with running_dispatcher("--config", str(config)) as process:
        yield process


@asynchronous
async def test_agents_are_told_of_them_and_of_their_changes(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        first = await talk.ask(agent)
        turn = await link.started()
        told = {offer.name: offer for offer in turn.start.tools}
        assert list(told) == ["calculate", "clock", "search_files", "box_add", "box_die", "box_grow"]
        await turn.call("box_add", '{"a": 20, "b": 22}')
        assert (await turn.result()).result_json == '{"result":42}'
        await turn.call("box_grow")
        await turn.result()
        await turn.finish()
        await first.ended()

        async def offered() -> list[str]:
            async with administering(dispatcher.address) as admin:
                answer = await admin.ListTools(admin_pb2.ListToolsRequest())
            return [view.offer.name for view in answer.tools]

        await eventually(offered, lambda names: "box_grown" in names)
        await talk.ask(agent, client_ref="2")
        turn = await link.started()
        assert "box_grown" in [offer.name for offer in turn.start.tools]
        await turn.call("box_grown")
        assert (await turn.result()).result_json == '"here"'
        await turn.finish()


@asynchronous
async def test_operators_see_where_tools_come_from_and_what_went_away(dispatcher: DispatcherProcess) -> None:
    status, out, _ = await run_cli("tools", address=dispatcher.address)
    assert status == 0
    (row,) = [line.split() for line in out.splitlines() if line.startswith("box_add")]
    assert row[1] == "mcp.box"
    (row,) = [line.split() for line in out.splitlines() if line.startswith("calculate")]
    assert row[1] == "dispatcher.tools.demo.calculate"
    series = 'dispatcher_tool_source_{}{{source="mcp.box"}}'
    assert dispatcher.scrape()[series.format("up")] == 1
    assert dispatcher.scrape()[series.format("losses")] == 0
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent)
        turn = await link.started()
        await turn.call("box_die")
        assert "may have done part of its work" in (await turn.result()).error.message
        await turn.finish()
    await eventually(lambda: _is(dispatcher, series.format("losses"), 1))
    await eventually(lambda: _is(dispatcher, series.format("up"), 1))


async def _is(dispatcher: DispatcherProcess, series: str, value: float) -> bool:
    return dispatcher.scrape()[series] == value


@pytest.mark.parametrize("signals", [1, 2])
def test_no_process_is_left_when_it_ends(dispatcher: DispatcherProcess, tmp_path: Path, signals: int) -> None:
    pids = [int(each) for each in (tmp_path / "state").read_text().split()]
    assert len(pids) == 2
    assert all(map(is_running, pids))
    for _ in range(signals):
        dispatcher.signal(signal.SIGTERM)
    assert dispatcher.wait() == 0
    assert not any(map(is_running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's end")
@asynchronous
async def test_a_dispatcher_that_is_killed_takes_its_programs_along(
    dispatcher: DispatcherProcess, tmp_path: Path
) -> None:
    # It does not look at its standard input any more, and ends by SIGKILL alone.
    server, child = (int(each) for each in (tmp_path / "state").read_text().split())
    try:
        dispatcher.signal(signal.SIGKILL)
        dispatcher.wait()
        await eventually(lambda: asyncio.to_thread(is_running, server), lambda runs: not runs)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_secret_that_is_missing_ends_the_start_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "chat.toml"
    config.write_text(
        '[mcp.crm]\nurl = "http://127.0.0.1:9/mcp"\nheaders = { Authorization = { file = "/no/token" } }'
    )
    ended = serve_and_fail("--config", str(config))
    assert ended.returncode == 2
    assert ended.stderr == (
        "dispatcher: mcp.crm.headers.Authorization: '/no/token' can't be read: No such file or directory\n"
    )
