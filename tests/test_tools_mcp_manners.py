"""MCP servers of bad manners: what they do costs them their tools, and nobody else anything."""

import asyncio
import itertools
from pathlib import Path

import pytest
from asynchronous import asynchronous, eventually
from mcp_scene import lines_of, raw, using
from tool_scene import ask, code_of, message_of

from dispatcher.tables import McpTable
from dispatcher.tools.mcp_process import CHATTER_BYTES_PER_S


@asynchronous
async def test_who_says_without_end_that_the_tools_have_changed_is_asked_less_and_less(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"

    def asked_at() -> list[float]:
        return [float(each.split()[0]) for each in lines_of(state) if each.endswith("tools/list")]

    async with using(raw("--state", str(state), refresh_s=3600)) as scene:
        assert code_of(await scene.runner.run(ask("box_changes"))) == "ok"
        times = await eventually(lambda: asyncio.to_thread(asked_at), lambda times: len(times) >= 5)
    waits = [after - before for before, after in itertools.pairwise(times[1:5])]
    assert all(wait >= least for wait, least in zip(waits, (0.19, 0.39, 0.79), strict=True)), waits


@asynchronous
async def test_an_answer_that_is_too_long_is_the_error_of_its_own_call_wherever_its_number_stands() -> None:
    async with using(raw()) as scene:
        waiting = asyncio.create_task(scene.runner.run(ask("box_waits")))
        assert code_of(await scene.runner.run(ask("box_fine"))) == "ok"
        for tool in ("box_last", "box_other"):
            assert "message_bytes_max of mcp.box" in message_of(await scene.runner.run(ask(tool)))
        assert not waiting.done()
        assert scene.sources.states()[0].losses == 0
        waiting.cancel()


@asynchronous
async def test_a_tool_that_may_be_run_again_and_is_not_there_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with using(raw(idempotent=["fine", "box_fine"])) as scene:
        assert scene.runner.idempotent_tools == {"box_fine"}
    assert "mcp.box: idempotent has 'box_fine', which is none of the tools that it offers" in caplog.text
    assert "idempotent has 'fine'" not in caplog.text


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        (
            "nameless",
            "its answer is over 100,000 bytes, message_bytes_max of mcp.box, and to which call can't be seen",
        ),
        ("dies", "it was ended by SIGKILL"),
    ],
)
def test_calls_are_told_why_their_server_has_gone(tool: str, why: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with using(raw()) as scene:
            waiting = asyncio.create_task(scene.runner.run(ask("box_waits")))
            assert code_of(await scene.runner.run(ask("box_fine"))) == "ok"
            for outcome in (await scene.runner.run(ask(f"box_{tool}")), await waiting):
                assert f"mcp.box went away during the call ({why})" in message_of(outcome)

    scene()


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ("blank", "it has written 1,000 lines that are no messages of MCP"),
        ("pesters", "it has asked more than 100 things whose answers it has not read"),
    ],
)
def test_who_writes_without_end_is_left(tool: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    @asynchronous
    async def scene() -> None:
        async with using(raw(restart_backoff_s=3600, restart_backoff_max_s=3600)) as scene:
            assert code_of(await scene.runner.run(ask(f"box_{tool}"))) in ("ok", "failed")

            async def texts() -> str:
                return caplog.text

            await eventually(texts, lambda text: f"mcp.box is away: {why}" in text)

    scene()


@asynchronous
async def test_who_shouts_is_heard_no_faster_than_may_be(tmp_path: Path) -> None:
    state = tmp_path / "state"

    def shouted_at() -> list[float]:
        return [float(each.split()[0]) for each in lines_of(state) if each.endswith("shouted")]

    async with using(raw("--state", str(state))) as scene:
        assert code_of(await scene.runner.run(ask("box_shouts"))) == "ok"
        times = await eventually(lambda: asyncio.to_thread(shouted_at), lambda times: len(times) >= 24)
        assert code_of(await scene.runner.run(ask("box_fine"))) == "ok"
    # Beside what its pipe and our buffer hold.
    assert (len(times) - 8) * 65_536 <= (times[-1] - times[0]) * CHATTER_BYTES_PER_S


@asynchronous
async def test_who_never_answers_is_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    silent = McpTable(command=["/bin/sleep", "600"], start_wait_s=0, connect_s=0.3)
    async with using(silent):

        async def texts() -> str:
            return caplog.text

        await eventually(texts, lambda text: "mcp.box is away" in text)
    assert "mcp.box is away: it did not answer within 0.3 s" in caplog.text
