"""A tool that blocks the loop is found out, and nobody is taken for silent because of it."""

import asyncio
import json
from pathlib import Path

from asynchronous import asynchronous
from chat_viewer import conversing
from dispatcher_process import running_dispatcher
from scripted_commander import linked, unique

# Twice as long as a link may be silent.
TOOLS = """
import time

async def blocks():
    time.sleep(3)
"""


@asynchronous
async def test_a_tool_that_blocks_the_loop_is_named_and_costs_nobody_the_link(tmp_path: Path) -> None:
    (tmp_path / "blocking_tools.py").write_text(TOOLS)
    flags = (
        "--tools", "blocking_tools:blocks", "--blocked-after-s", "0.2", "--log-format", "json",
        "--heartbeat-interval-s", "0.5", "--heartbeats-missed", "3",
    )  # fmt: skip
    with running_dispatcher(*flags, environ={"PYTHONPATH": str(tmp_path)}) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.call("blocks")
            assert (await turn.result()).result_json == "null"
            await turn.say("still here")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "still here"
            await asyncio.to_thread(dispatcher.wait_for_log, "the event loop turns again")
            scraped = await asyncio.to_thread(dispatcher.scrape)
        lines = [json.loads(line) for line in dispatcher.log]
    blocked = [line for line in lines if "the event loop is blocked" in line["message"]]
    assert len(blocked) == 1
    assert blocked[0]["level"] == "error"
    assert "blocking_tools.py" in blocked[0]["stack"]
    assert scraped["dispatcher_stood_still_seconds_count"] >= 1
    assert scraped["dispatcher_links_lost_total"] == 0
