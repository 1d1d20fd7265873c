"""MCP servers of bad manners: what they do costs them their tools, and nobody else anything."""

import asyncio
import itertools
from pathlib import Path

from asynchronous import asynchronous, eventually
from mcp_scene import lines_of, raw, using
from tool_scene import ask, code_of


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
