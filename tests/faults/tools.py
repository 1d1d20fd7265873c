"""A tool that tells a file of each of its runs. `dispatcher serve --tools faults.tools:TOOLS`, from the same folder."""

import asyncio
import os
from pathlib import Path

from dispatcher.tools import ToolContext, tool
from faults.script import result

# Where the runs are told: one a line, session, attempt and call.
RUNS_VARIABLE = "FAULTS_RUNS"
_LOOKS_EVERY_S = 0.02


@tool(timeout_s=600, concurrency=10_000)
async def record(step: int, gate: str, context: ToolContext) -> str:
    """Tells of its run, and waits until a file is there.

    Args:
        step: Which step of the script.
        gate: The file. Empty: none.
    """
    line = f"{context.session_id} {context.attempt} {context.call_id}\n"
    runs = os.open(os.environ[RUNS_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(runs, line.encode())
    finally:
        os.close(runs)
    while gate and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - another process makes the file
        await asyncio.sleep(_LOOKS_EVERY_S)
    return result(step)


TOOLS = [record]
