"""Tools found by name; every mistake says which spec, why, and what would be right."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.tables import AgentTable
from dispatcher.tools import ToolLoadError, installed_tools, load_tools
from dispatcher.tools.agent import agent_tools
from dispatcher.tools.station import source_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory of one's own; modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    path, known = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


SHOP = """
    from dispatcher.tools import PythonTool, ToolLimits, tool

    def add(a: int, b: int) -> int:
        return a + b

    @tool(name="minus")
    async def subtract(a: int, b: int) -> int:
        return a - b

    class Shelf:
        one = [add]

    class Own:
        name = "own"
        description = "Mine."
        parameters_schema = {"type": "object"}
        limits = ToolLimits()

        async def call(self, arguments, context):
            return arguments

    own = Own()
    made = PythonTool(add)
    both = (add, subtract)
    none = []
    number = 3
    mixed = [add, 3]
    twice = [add, made]

    def bad(*rest): ...

    class Remote(Own):
        parameters_schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:1/a"}}}

    remote = Remote()

    class Spaced(Own):
        name = "my own"

    spaced = Spaced()
"""


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("shop_mod:add", ["add"]),
        ("shop_mod:subtract", ["minus"]),
        ("shop_mod:own", ["own"]),
        ("shop_mod:made", ["add"]),
        ("shop_mod:both", ["add", "minus"]),
        ("shop_mod:none", []),
        ("shop_mod:Shelf.one", ["add"]),
        ("shop_pack.inner:add", ["add"]),
    ],
)
def test_functions_tools_and_lists_load_from_the_current_directory(
    folder: Path, spec: str, names: list[str]
) -> None:
    write(folder, "shop_mod.py", SHOP)
    write(folder, "shop_pack/__init__.py", "")
    write(folder, "shop_pack/inner.py", "from shop_mod import add")
    assert [each.name for each in load_tools([spec])] == names


def test_entry_points_load_by_name() -> None:
    assert "demo" in installed_tools()
    assert [each.name for each in load_tools(["demo"])] == ["calculate", "clock", "search_files"]


def test_no_specs_are_no_tools() -> None:
    assert load_tools([]) == []


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ("shop_mod:ad", ["'shop_mod:ad'", "shop_mod.py", "did you mean", '"add"']),
        ("shop_mod:Shelf.two", ["'Shelf.two'"]),
        ("shop_mod:", ['write "module:object"']),
        ("shop_mod:number", ["'shop_mod:number'", "of type int", "a function or a Tool"]),
        ("shop_mod:mixed", ["'shop_mod:mixed'[1]", "of type int"]),
        ("shop_mod:Own", ["'shop_mod:Own'", "is a class"]),
        ("shop_mod:bad", ["'shop_mod:bad'", "*rest"]),
        ("shop_mod:remote", ["'shop_mod:remote'", "http://127.0.0.1:1/a", "never fetched"]),
        ("shop_mod:spaced", ["'my own'", "letters, digits"]),
        ("shop_mod:twice", ["'add'", "'shop_mod:twice', twice"]),
        ("shop_nowhere:x", ["there is no module 'shop_nowhere'"]),
        ("shop_mod.deep:x", ["there is no module 'shop_mod"]),
        ("shop_broken:x", ["importing 'shop_broken' failed", "ZeroDivisionError"]),
        ("shop_exits:x", ["importing 'shop_exits' failed", "SystemExit"]),
        ("shop_syntax:x", ["importing 'shop_syntax' failed", "SyntaxError"]),
        ("shop_needs:x", ["importing 'shop_needs' failed", "not_to_be_had", "install"]),
        ("shop_mod.py:add", ["no module 'shop_mod.py'", '"shop_mod:…"']),
        ("shop/mod.py:add", ["no module's name", '"shop.mod:…"']),
        ("shopmod:add", ["no module 'shopmod'", 'did you mean "shop_mod"?']),
        ("./shop_mod.py:add", ["no module's name"]),
        (":add", ["no module's name"]),
        ("a b:add", ["no module's name"]),
        ("dem", ["'dem' is no installed tool", 'did you mean "demo"?']),
        ("shop_mod", ["'shop_mod' is no installed tool", "demo", '"module:object"']),
        ("", ["'' is no installed tool"]),
    ],
)
def test_a_mistake_says_which_why_and_what_would_be_right(folder: Path, spec: str, texts: list[str]) -> None:
    write(folder, "shop_mod.py", SHOP)
    write(folder, "shop_broken.py", "1 / 0")
    write(folder, "shop_exits.py", "import sys; sys.exit(3)")
    write(folder, "shop_syntax.py", "def x(:")
    write(folder, "shop_needs.py", "import not_to_be_had")
    with pytest.raises(ToolLoadError) as caught:
        load_tools([spec])
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_given_by_two_specs_names_both(folder: Path) -> None:
    write(folder, "shop_mod.py", SHOP)
    write(folder, "shop_other.py", "def add(a: int) -> int: return a")
    with pytest.raises(ToolLoadError, match=r"'add' is given by 'shop_mod:add' and 'shop_other:add'"):
        load_tools(["shop_mod:add", "shop_other:add"])


def test_a_program_without_the_current_directory_on_its_path_finds_it_too(tmp_path: Path) -> None:
    """A console script, unlike `python -m`, doesn't have it there; -P makes Python like that."""
    write(tmp_path, "shop_mod.py", SHOP)
    program = "from dispatcher.tools import load_tools; print(load_tools(['shop_mod:add'])[0].name)"
    ended = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "add"), ended.stderr


def test_an_agent_as_a_tool_comes_from_its_table() -> None:
    (tool,) = agent_tools({"ask_clerk": AgentTable(agent="clerk", description="Knows")})
    assert source_of(tool) == "agent.ask_clerk"
