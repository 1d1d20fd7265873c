"""docs/authors.md, run word for word, and complete: every program and command on it is one that is run, every word
an author may import or call is on it."""

import inspect
from pathlib import Path

import pytest
from page import ROOT, Reader, blocks, unmarked

import commander
import commander.errors
import dispatcher.tools
from commander.turn import Turn

PAGE = ROOT / "docs" / "authors.md"


def test_every_example_runs(tmp_path: Path) -> None:
    with Reader(PAGE, tmp_path) as reader:
        reader.read()
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) > 20


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(Turn) if not name.startswith("_")])
def test_all_that_a_turn_can_do_is_told(name: str) -> None:
    assert f"turn.{name}" in PAGE.read_text()


@pytest.mark.parametrize("name", [name for name in commander.__all__ if hasattr(commander.errors, name)])
def test_all_that_an_author_may_catch_or_raise_is_told(name: str) -> None:
    assert f"`{name}" in PAGE.read_text()


@pytest.mark.parametrize("name", ["tool", "ToolContext", "ToolError", "ToolDenied", "ToolArgumentsError"])
def test_what_a_tool_s_author_imports_is_told(name: str) -> None:
    assert name in dispatcher.tools.__all__
    assert name in PAGE.read_text()
