"""MCP servers that ask their client without end, or whose lists of tools are without end: left, and said why."""

import sys
from typing import Any

import pytest
from asynchronous import asynchronous, eventually
from mcp_http_raw import pestering
from mcp_scene import QUICK, RAW, using
from tool_scene import ask, code_of, message_of

from dispatcher.tables import McpTable
from dispatcher.tools.mcp_asked import ASKED_MAX

ONCE: dict[str, Any] = {"restart_backoff_s": 3600, "restart_backoff_max_s": 3600, "refresh_s": 3600}


def there(url: str, **keys: Any) -> McpTable:
    return McpTable.model_validate({"url": url, **QUICK, **ONCE, **keys})


async def until_told(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async def texts() -> str:
        return caplog.text

    await eventually(texts, lambda told: text in told)


@pytest.mark.parametrize("method", ["ping", "sampling/createMessage", "elicitation/create", "roots/list"])
def test_who_asks_over_http_and_reads_no_answer_is_left(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    @asynchronous
    async def scene() -> None:
        async with pestering(method=method) as server, using(there(server.url)) as scene:
            outcome = await scene.runner.run(ask("box_pesters"))
            why = f"it has asked more than {ASKED_MAX} things whose answers it has not read"
            assert why in message_of(outcome)
            await until_told(caplog, f"mcp.box is away: {why}")
            await server.left.wait()

    scene()


@asynchronous
async def test_who_reads_the_answers_may_ask_on() -> None:
    async with pestering() as server, using(there(server.url)) as scene:
        assert code_of(await scene.runner.run(ask("box_answers"))) == "ok"
        assert server.answers >= 999


@pytest.mark.parametrize("is_streaming", [False, True], ids=["document", "events"])
def test_a_list_of_tools_over_http_that_is_too_long_is_not_read(
    is_streaming: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @asynchronous
    async def scene() -> None:
        why = "its list of tools is over 8,192 bytes, listing_bytes_max of mcp.box"
        async with pestering(listing_bytes=8_192, is_streaming=is_streaming) as server:
            async with using(there(server.url, listing_bytes_max=8_192, start_wait_s=0)) as scene:
                await until_told(caplog, f"mcp.box is away: {why}")
                assert scene.names == []
            async with using(there(server.url, listing_bytes_max=16_384)) as scene:
                assert sorted(scene.names) == ["box_answers", "box_pesters"]

    scene()


@asynchronous
async def test_so_is_one_of_a_process(caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, "-I", "-S", RAW, "--listing", "8192"]
    table = {"command": command, **QUICK, **ONCE}
    short = McpTable.model_validate({**table, "listing_bytes_max": 8_192, "start_wait_s": 0})
    async with using(short) as scene:
        await until_told(caplog, "its list of tools is over 8,192 bytes, listing_bytes_max of mcp.box")
        assert scene.names == []
    async with using(McpTable.model_validate({**table, "listing_bytes_max": 65_536})) as scene:
        # Answers are bounded by message_bytes_max alone.
        long = await scene.runner.run(ask("box_last"))
        assert code_of(long) in ("ok", "too_large")
