"""MCP servers as tools: real servers by the protocol's own SDK, over stdio in processes and over streamable HTTP."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from asynchronous import asynchronous, eventually, soon
from mcp_scene import QUICK, box, box_over_http, is_running, lines_of, noted, using
from tool_scene import ask, code_of, message_of

from dispatcher.tables import McpTable
from dispatcher.tools import ToolLoadError, ToolRunner
from dispatcher.tools.sources import sources_of

ALL = ["add", "greet", "refuse", "long", "hang", "who", "count", "die", "grow"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a box that serves all who leave it as it was."""
    with box_over_http() as url:
        yield url


@pytest.fixture(params=["stdio", "http"])
def table(request: pytest.FixtureRequest) -> McpTable:
    """The box, each way it can be reached."""
    if request.param == "stdio":
        return box()
    return McpTable.model_validate({"url": request.getfixturevalue("url"), **QUICK})


@pytest.fixture(params=["stdio", "http"])
def own_table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[McpTable]:
    """A box of the test's own, which notes what happens in `state`."""
    state = ("--state", str(tmp_path / "state"))
    if request.param == "stdio":
        yield box(*state)
        return
    with box_over_http(*state) as url:
        yield McpTable.model_validate({"url": url, **QUICK})


# Found, described, called


@asynchronous
async def test_tools_are_offered_as_the_server_describes_them(table: McpTable) -> None:
    async with using(table) as scene:
        assert scene.names == [f"box_{name}" for name in ALL]
        offer = scene.runner.offers()[0]
        assert offer.description == "Adds two numbers."
        assert '"required":["a","b"]' in offer.parameters_schema_json
        stats = scene.runner.stats()["box_add"]
        assert (stats.source, stats.is_away) == ("mcp.box", False)


@asynchronous
async def test_a_call_gives_structured_content_or_text(table: McpTable) -> None:
    async with using(table) as scene:
        assert (await scene.runner.run(ask("box_add", {"a": 20, "b": 22}))).result_json == '{"result":42}'
        assert (await scene.runner.run(ask("box_greet", {"name": "Ada"}))).result_json == '"Hello, Ada!"'


@asynchronous
async def test_what_fails_there_fails_here_in_the_servers_words(table: McpTable) -> None:
    async with using(table) as scene:
        outcome = await scene.runner.run(ask("box_refuse"))
        assert code_of(outcome) == "failed"
        assert "refuse" in message_of(outcome)
        assert outcome.error is not None
        assert not outcome.error.retryable


@asynchronous
async def test_arguments_are_validated_before_the_server_hears_of_them(table: McpTable) -> None:
    async with using(table) as scene:
        outcome = await scene.runner.run(ask("box_add", {"a": "x", "b": 1}))
        assert code_of(outcome) == "invalid_arguments"
        assert "$.a" in message_of(outcome)


@asynchronous
async def test_calls_run_beside_each_other(table: McpTable) -> None:
    async with using(table) as scene:
        hanging = asyncio.create_task(scene.runner.run(ask("box_hang")))
        outcomes = await asyncio.gather(
            *(scene.runner.run(ask("box_add", {"a": n, "b": 0})) for n in range(20))
        )
        assert [outcome.result_json for outcome in outcomes] == [f'{{"result":{n}}}' for n in range(20)]
        hanging.cancel()


@asynchronous
async def test_the_idempotency_key_goes_with_the_call(table: McpTable) -> None:
    async with using(table) as scene:
        outcome = await scene.runner.run(ask("box_who", idempotency_key="order-7"))
        assert outcome.result_json == '"order-7 None None"'


# Stopped


@asynchronous
async def test_a_call_that_is_stopped_is_cancelled_on_the_server(own_table: McpTable, tmp_path: Path) -> None:
    async with using(own_table) as scene:
        call = asyncio.create_task(scene.runner.run(ask("box_hang")))
        await noted(tmp_path / "state", "begun")
        call.cancel()
        await asyncio.wait([call])
        assert await noted(tmp_path / "state", "cancelled") == ["begun", "cancelled"]
        # And the server goes on.
        assert code_of(await scene.runner.run(ask("box_greet", {"name": "x"}))) == "ok"


@asynchronous
async def test_a_call_that_takes_too_long_is_cancelled_on_the_server(
    own_table: McpTable, tmp_path: Path
) -> None:
    async with using(own_table) as scene:
        outcome = await scene.runner.run(ask("box_hang", timeout_s=1.0))
        assert code_of(outcome) == "timeout"
        await noted(tmp_path / "state", "cancelled")


# Changing, coming and going


@asynchronous
async def test_a_change_of_the_list_is_followed_and_told(own_table: McpTable) -> None:
    async with using(own_table.model_copy(update={"refresh_s": 3600})) as scene:
        told: list[list[str]] = []
        scene.runner.watch(lambda: told.append(scene.names))
        assert code_of(await scene.runner.run(ask("box_grow"))) == "ok"
        await scene.until_offered("box_grown")
        assert told == [[f"box_{name}" for name in [*ALL, "grown"]]]
        assert (await scene.runner.run(ask("box_grown"))).result_json == '"here"'


@asynchronous
async def test_how_far_a_call_is_is_passed_on(table: McpTable) -> None:
    told: list[tuple[str, float | None, float | None]] = []

    def progressed(text: str, current: float | None, total: float | None) -> None:
        told.append((text, current, total))

    async with using(table) as scene:
        request = replace(ask("box_count", {"to": 2}), progressed=progressed)
        assert (await scene.runner.run(request)).result_json == '"counted"'
    assert told == [("number 1", 1, 2), ("number 2", 2, 2)]


@asynchronous
async def test_a_server_that_dies_is_away_for_a_while_and_comes_back() -> None:
    slow_back = {"restart_backoff_s": 2, "restart_backoff_max_s": 2}
    async with using(box(**slow_back)) as scene:
        died = await scene.runner.run(ask("box_die"))
        assert code_of(died) == "failed"
        assert "may have done part of its work" in message_of(died)
        assert died.error is not None
        assert not died.error.retryable
        away = await scene.runner.run(ask("box_greet", {"name": "x"}))
        assert "mcp.box is away" in message_of(away)
        assert away.error is not None
        assert away.error.retryable
        assert away.error.retry_after_s is not None
        assert 0 < away.error.retry_after_s <= 2
        # It stays on offer meanwhile, and is shown for what it is.
        assert "box_greet" in scene.names
        assert scene.runner.stats()["box_greet"].is_away
        await scene.until_up(losses=1)
        assert code_of(await scene.runner.run(ask("box_greet", {"name": "x"}))) == "ok"
        assert not scene.runner.stats()["box_greet"].is_away


@asynchronous
async def test_being_away_opens_no_circuit_breaker() -> None:
    async with using(box(restart_backoff_s=1, restart_backoff_max_s=1), failures=1, open_s=3600) as scene:
        await scene.runner.run(ask("box_die"))
        for _ in range(5):
            assert "away" in message_of(await scene.runner.run(ask("box_greet", {"name": "x"})))
        await scene.until_up(losses=1)
        assert code_of(await scene.runner.run(ask("box_greet", {"name": "x"}))) == "ok"


@asynchronous
async def test_an_http_server_that_is_replaced_is_found_again() -> None:
    with box_over_http() as url:
        async with using(McpTable.model_validate({"url": url, **QUICK})) as scene:
            await scene.runner.run(ask("box_die"))

            async def is_up() -> bool:
                return scene.sources.states()[0].is_up

            await eventually(is_up, lambda up: not up)
            with box_over_http("--port", url.split(":")[2].removesuffix("/mcp")):
                await scene.until_up(losses=1)
                assert code_of(await scene.runner.run(ask("box_greet", {"name": "x"}))) == "ok"


@asynchronous
async def test_a_server_that_does_not_answer_delays_the_start_no_longer_than_it_may(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    silent = ["/bin/sh", "-c", f"echo $$ > {pid}; exec sleep 600"]
    table = McpTable(command=silent, start_wait_s=0.3, connect_s=600)
    async with using(table) as scene:
        assert scene.names == []
        assert not scene.sources.states()[0].is_up
        (number,) = await eventually(lambda: asyncio.to_thread(lines_of, pid))
        assert is_running(int(number))
    assert not is_running(int(number))


@asynchronous
async def test_a_server_that_crashes_again_and_again_is_tried_again_with_longer_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = tmp_path / "starts"
    table = McpTable.model_validate(
        {**QUICK, "command": ["/bin/sh", "-c", f"echo started >> {starts}"], "start_wait_s": 0}
    )
    async with using(table) as scene:
        await eventually(lambda: asyncio.to_thread(lines_of, starts), lambda lines: len(lines) >= 5)
        assert code_of(await scene.runner.run(ask("box_add"))) == "not_found"
    waits = [float(each.args[2]) for each in caplog.records if "next try in" in each.msg and each.args]  # type: ignore[index,arg-type]
    assert waits[0] <= 0.02
    assert max(waits) > 0.04
    assert max(waits) <= 0.2


@asynchronous
async def test_a_command_that_is_not_there_is_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    async with using(McpTable(command=["/no/such/program"], start_wait_s=0)) as scene:

        async def texts() -> str:
            return caplog.text

        await eventually(texts, lambda text: "mcp.box is away: it can't be started" in text)
        assert scene.names == []
    assert "Traceback" not in caplog.text


# Ended for real


@asynchronous
async def test_processes_are_ended_with_what_they_have_started(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with using(box("--stubborn", "--state", str(state))) as scene:
        assert scene.names
        pids = [int(each) for each in state.read_text().split()]
        assert len(pids) == 2
        assert all(map(is_running, pids))
    for pid in pids:
        await eventually(lambda pid=pid: asyncio.to_thread(is_running, pid), lambda runs: not runs)  # type: ignore[misc]


@asynchronous
async def test_calls_under_way_end_when_the_server_is_left() -> None:
    async with using(box()) as scene:
        call = asyncio.create_task(scene.runner.run(ask("box_hang")))
        await asyncio.sleep(0)
    assert code_of(await soon(call)) in ("failed", "cancelled")


# What it does wrong costs it its tools and nobody else anything


@asynchronous
async def test_noise_on_both_outputs_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with using(box("--noise", message_bytes_max=65_536)) as scene:
            assert code_of(await scene.runner.run(ask("box_add", {"a": 1, "b": 1}))) == "ok"
    assert "'Welcome to the box!'" in caplog.text
    assert "a message of over 65536 bytes; it is dropped" in caplog.text
    says = [each.getMessage() for each in caplog.records if "mcp.box says" in each.getMessage()]
    assert 0 < len(says) <= 100
    assert not any("\x1b" in each for each in says)
    assert "lines more, which were left out" in caplog.text
    assert "Traceback" not in caplog.text


@asynchronous
async def test_a_program_that_speaks_something_else_is_left(caplog: pytest.LogCaptureFixture) -> None:
    table = McpTable(
        command=["/usr/bin/env", "yes"], start_wait_s=0, restart_backoff_s=3600, restart_backoff_max_s=3600
    )
    async with using(table):

        async def texts() -> str:
            return caplog.text

        await eventually(texts, lambda text: "lines that are no messages of MCP" in text)


@asynchronous
async def test_an_answer_that_is_too_long_is_an_error_of_its_call_alone() -> None:
    async with using(box(message_bytes_max=100_000)) as scene:
        outcome = await scene.runner.run(ask("box_long", {"chars": 200_000}))
        assert "message_bytes_max" in message_of(outcome)
        assert code_of(await scene.runner.run(ask("box_add", {"a": 1, "b": 1}))) == "ok"
        assert scene.sources.states()[0].losses == 0


@asynchronous
async def test_the_runners_own_limit_holds_too(table: McpTable) -> None:
    async with using(table.model_copy(update={"output_bytes": 1000})) as scene:
        assert code_of(await scene.runner.run(ask("box_long", {"chars": 2000}))) == "too_large"


@asynchronous
async def test_a_bad_schema_or_name_disables_that_tool_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with using(box("--odd")) as scene:
        assert scene.names == ["box_fine"]
    assert "'box_bad_schema': its schema is no valid JSON Schema" in caplog.text
    assert "'box_remote_schema': its schema has $ref" in caplog.text
    assert "'box_bad name'" in caplog.text


@asynchronous
async def test_some_tools_may_be_chosen_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async with using(box(tools=["greet", "add", "sing"], prefix="")) as scene:
        assert scene.names == ["add", "greet"]
    assert "mcp.box: it has no tool sing; it has add, greet" in caplog.text


@asynchronous
async def test_so_many_tools_are_taken_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    async with using(box(tools_max=2)) as scene:
        assert scene.names == ["box_add", "box_greet"]
    assert "it has 9 tools; the first 2, tools_max, are taken" in caplog.text


@asynchronous
async def test_tools_that_would_not_fit_a_message_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async with using(box(), offers_bytes=500) as scene:
        assert 0 < len(scene.names) < len(ALL)
    assert "would not fit a message" in caplog.text


# Secrets and the environment


@asynchronous
async def test_a_process_gets_the_environment_it_is_told_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_TOLD", "everything")
    (tmp_path / "secret").write_text("hunter2\n")
    env = {"BOX_SECRET": {"file": str(tmp_path / "secret"), "before": "a "}}
    async with using(box(env=env)) as scene:
        assert (
            await scene.runner.run(ask("box_who", idempotency_key="k"))
        ).result_json == '"k a hunter2 None"'


def test_a_secret_that_is_not_there_is_named_before_anything_starts() -> None:
    table = McpTable.model_validate(
        {"url": "https://mcp.example.com/mcp", "headers": {"Authorization": {"env": "NO_SUCH_TOKEN"}}}
    )

    @asynchronous
    async def begin() -> None:
        async with sources_of({"mcp": {"crm": table}}, ToolRunner([])):
            pytest.fail("it began")

    with pytest.raises(
        ToolLoadError, match=r"mcp\.crm\.headers\.Authorization: the variable NO_SUCH_TOKEN is not set"
    ):
        begin()


def test_the_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['mcp'] = None\n"
        "from dispatcher.tables import McpTable\n"
        "from dispatcher.tools import ToolRunner\n"
        "from dispatcher.tools.sources import sources_of\n"
        "sources_of({'mcp': {'files': McpTable(command=['x'])}}, ToolRunner([]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "mcp.files: MCP servers need the extra mcp" in done.stderr
    assert "pip install 'chatstream[mcp]'" in done.stderr
