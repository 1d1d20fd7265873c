"""docs/agents.md, which runs all the examples as processes, by the very commands that stand in their docstrings."""

import ast
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page import ROOT, Reader, blocks, unmarked

PAGE = ROOT / "docs" / "agents.md"
FOLDER = ROOT / "examples"
# Where the page and the settings say that a model is.
SERVER = "http://127.0.0.1:8000/v1"
# Those that show something, not what they use.
PROGRAMS = ["hello", "weather", "wizard", "batch", "resume", "steered", "desk", "studio/agents"]


@pytest.fixture
def stand_in() -> Iterator[str]:
    """The stand-in of the examples, on a port of its own; its base_url."""
    program = [sys.executable, str(FOLDER / "stand_in.py"), "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        yield ready.rpartition(" ")[2].strip()
        process.terminate()


def test_the_page_runs(tmp_path: Path, stand_in: str) -> None:
    """As a reader runs it, in a folder of their own; the stand-in alone is on another port."""
    folder, page = tmp_path / "folder", tmp_path / "agents.md"
    shutil.copytree(FOLDER, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for settings in folder.rglob("*.toml"):
        settings.write_text(settings.read_text().replace(SERVER, stand_in))
    text = PAGE.read_text().replace(SERVER, stand_in)
    page.write_text(text.replace("python examples/stand_in.py\n", "python examples/stand_in.py 0\n"))
    with Reader(page, folder) as reader:
        reader.read()
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) > 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_commands_of_a_docstring_are_run_by_the_page(name: str) -> None:
    path = FOLDER / f"{name}.py"
    told = ast.get_docstring(ast.parse(path.read_text()), clean=False)
    assert told
    commands = [line.strip() for line in told.splitlines() if line.startswith("    ")]
    assert any(command.startswith(f"commander run examples/{name}.py") for command in commands)
    run = {
        line.strip()
        for block in blocks(PAGE)
        if block.what.startswith("run: ")
        for line in told_lines(block.text)
    }
    for command in commands:
        assert command in run, f"{name}: the page does not run {command!r}"


def told_lines(text: str) -> list[str]:
    """A block's lines, and what stands behind a pipe in them: an answer comes by a pipe, where a person would type."""
    return [part for line in text.splitlines() for part in (line, line.rpartition(" | ")[2])]


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize(
    ("name", "part"), re.findall(r"<!-- part of: (\S+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
)
def test_a_part_that_is_shown_is_in_its_example(name: str, part: str) -> None:
    assert part in (ROOT / name).read_text()


def test_every_example_is_on_the_page_and_no_file_is_nobody_s() -> None:
    page = PAGE.read_text()
    for path in FOLDER.rglob("*"):
        if path.suffix in (".py", ".toml"):
            assert f"(../{path.relative_to(ROOT)})" in page, path


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "stop"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "look", "parameters": {"required": ["at"]}}}
                ]
            },
            "tool_calls",
        ),
    ],
)
def test_the_stand_in_answers_as_openai_does(stand_in: str, more: dict[str, Any], reason: str) -> None:
    asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Good day"}], **more}
    request = urllib.request.Request(f"{stand_in}/chat/completions", json.dumps(asked).encode())  # noqa: S310 - its own
    with urllib.request.urlopen(request) as response:  # noqa: S310 - as above
        *lines, end = [line.removeprefix("data: ") for line in response.read().decode().split("\n") if line]
    assert end == "[DONE]"
    *deltas, last, usage = [json.loads(line) for line in lines]
    assert last["choices"][0]["finish_reason"] == reason
    assert usage["usage"]["completion_tokens"] == len(deltas)
    if reason == "stop":
        said = "".join(each["choices"][0]["delta"]["content"] for each in deltas)
        assert said == "You said: Good day "
    else:
        (call,) = deltas[0]["choices"][0]["delta"]["tool_calls"]
        assert call["function"] == {"name": "look", "arguments": '{"at": "Good day"}'}
