"""Agents found by the words of a command line, and one clear sentence for each way of not finding them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commander.loading import TargetError, load

ONE = """
from commander import agent
from neighbour import GREETING

@agent("weather", version="2")
async def weather(turn):
    yield GREETING

@agent("news")
async def news(turn):
    yield "none"

again = news
number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder where one stands, with modules in it; forgotten afterwards."""
    (tmp_path / "one_module.py").write_text(ONE)
    (tmp_path / "neighbour.py").write_text('GREETING = "hello"')
    (tmp_path / "empty_module.py").write_text("number = 5")
    (tmp_path / "broken_module.py").write_text("\n\nraise RuntimeError('by design')")
    (tmp_path / "unspeakable.py").write_text("def f(:\n")
    (tmp_path / "needy.py").write_text("import nowhere_to_be_found")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text(
        ONE.replace("from neighbour import GREETING", "GREETING = 1")
    )
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def names(*targets: str) -> list[tuple[str, str]]:
    return list(load(targets))


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("one_module:weather", [("weather", "2")]),
        ("one_module", [("weather", "2"), ("news", "")]),
        ("package.inner:news", [("news", "")]),
        ("one_module.py:weather", [("weather", "2")]),
        ("./one_module.py", [("weather", "2"), ("news", "")]),
        ("package/inner.py:weather", [("weather", "2")]),
    ],
)
def test_a_target_is_found(folder: Path, target: str, found: list[tuple[str, str]]) -> None:
    assert folder
    assert names(target) == found


def test_an_absolute_path_is_found(folder: Path) -> None:
    assert names(f"{folder / 'one_module.py'}:news") == [("news", "")]


def test_an_installed_agent_is_found_by_its_name(folder: Path) -> None:
    assert folder
    assert [name for name, _ in names("demo")] == ["demo"]


def test_several_targets_are_served_together(folder: Path) -> None:
    assert folder
    assert names("one_module:news", "one_module:weather") == [("news", ""), ("weather", "2")]
    # The same agent twice is one agent.
    assert names("one_module:news", "one_module") == [("news", ""), ("weather", "2")]
    assert names("one_module.py:news", "./one_module.py") == [("news", ""), ("weather", "2")]


def test_a_file_takes_no_other_module_s_place(folder: Path) -> None:
    (folder / "json.py").write_text((folder / "one_module.py").read_text())
    before = sys.modules["json"]
    assert names("json.py:news", "json.py:weather") == [("news", ""), ("weather", "2")]
    assert sys.modules["json"] is before


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (["one_module:wether"], "one_module:wether: there is no 'wether' in it; there are: weather"),
        (
            ["one_module:number"],
            "one_module:number: 'number' is no agent but an int; decorate it with @agent",
        ),
        (["empty_module"], "empty_module: it holds no agent; decorate a function with @agent"),
        (
            ["one_modul"],
            "one_modul: there is no module and no installed agent 'one_modul'; there are: one_module",
        ),
        (["dem"], "dem: there is no module and no installed agent 'dem'; there are: demo"),
        (["one_modle.py"], "one_modle.py: there is no file one_modle.py; there are: one_module.py"),
        (["nowhere/agents.py"], "nowhere/agents.py: there is no file nowhere/agents.py"),
        (
            [":weather"],
            "':weather': should be MODULE:NAME, FILE.py[:NAME], or the name of an installed agent",
        ),
        (
            ["broken_module"],
            "broken_module can't be imported: RuntimeError: by design .*broken_module.py line 3",
        ),
        (["broken_module.py"], "broken_module.py can't be imported: RuntimeError: by design .* line 3"),
        (["unspeakable"], "unspeakable can't be imported: SyntaxError: .*unspeakable.py line 1"),
        (["needy"], "needy can't be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            ["one_module:news", "package.inner:news"],
            "there is an agent 'news' already; give one another name",
        ),
    ],
)
def test_what_is_not_found_is_told_in_one_sentence(folder: Path, targets: list[str], told: str) -> None:
    assert folder
    with pytest.raises(TargetError, match=re.escape(told).replace(r"\.\*", ".*")) as error:
        load(targets)
    assert "\n" not in str(error.value)


def test_an_installed_agent_is_named_without_a_colon() -> None:
    with pytest.raises(TargetError, match="demo is an installed agent, and is named without a colon: demo"):
        load(["demo:x"])
