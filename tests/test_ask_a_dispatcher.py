"""`commander ask` against the real dispatcher: it takes it for a minimal commander, whatever the agent says first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dispatcher_process import DispatcherProcess, running_dispatcher

PATIENCE_S = 60.0

AGENTS = """
from commander import agent

@agent
async def told_first(turn):
    for first in {
        "usage": lambda: [turn.usage(input_tokens=3)],
        "progress": lambda: [turn.progress("beginning", percent=0)],
        "embedding": lambda: [turn.embedding([0.5, 1.0])],
        "artifact": lambda: [turn.artifact("a.txt", b"abc", mime_type="text/plain")],
        "nothing": lambda: [],
    }[turn.text]():
        yield first
    yield "said"
"""


def _ask(address: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commander", "ask", *words, "--dispatcher", address]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("first", ["usage", "progress", "embedding", "artifact", "nothing"])
def test_whatever_it_says_first(dispatcher: DispatcherProcess, tmp_path: Path, first: str) -> None:
    (tmp_path / "asked_agents.py").write_text(AGENTS)
    asked = _ask(dispatcher.address, first, "--agent", "asked_agents.py", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "said" in asked.stdout


def test_the_demo_calculates_with_the_dispatchers_tool(tmp_path: Path) -> None:
    with running_dispatcher("--tools", "dispatcher.tools.demo:TOOLS") as dispatcher:
        asked = _ask(dispatcher.address, "What is 6 * 7?", "--json", cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    records = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [each for each in records if "tool_result" in json.dumps(each)]
    assert "42" in asked.stdout
