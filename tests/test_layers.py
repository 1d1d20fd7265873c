"""The rooms of the house, enforced by reading what each module imports, and what it constructs."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dispatcher", "commander")
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)
CORE = [module for module in MODULES if ".core" in module]

# What a pure decision may need. A name that is missing here is a question to ask, not a line to add.
PURE = {
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "typing",
    "zlib",
}
# Who may know gRPC, by room. The rest gets bytes, packets or events.
GRPC_ROOMS = (
    "dispatcher.rpc",
    "dispatcher.console",
    "dispatcher.auth",
    "dispatcher.listening",
    "dispatcher.serve",
    "dispatcher.tools.remote",
    "commander.ask",
    "commander.dialing",
    "commander.link",
    "commander.stream",
)
# What is made in one place alone.
CONSTRUCTED = {
    "Router": "dispatcher.serve",
    "MemoryJournal": "dispatcher.serve",
    "ToolRunner": "dispatcher.serve",
    "Access": "dispatcher.serve",
    "aio.server": "dispatcher.serve",
    "dispatcher.edge.viewers.Viewers": "dispatcher.serve",
    "dispatcher.edge.flusher.Flusher": "dispatcher.serve",
    "dispatcher.edge.server.EdgeServer": "dispatcher.serve",
    "dispatcher.hub.Hub": "dispatcher.serve",
    "commander.hub.Hub": "commander.serve",
}
BARRED_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "base",
    "manager",
    "handler",
    "data",
    "info",
}
# Every module of a core has a test file of its own name, but for these. Each is covered, event by event, by what
# is named here, because it decides nothing that could be seen without the rest.
COVERED_BY = {
    "dispatcher.core.board": "test_transcripts.py",
    "dispatcher.core.intake": "test_transcripts.py",
    "dispatcher.core.links": "test_transcripts.py",
    "dispatcher.core.restore": "test_transcripts.py",
    "dispatcher.core.events": "test_transcripts.py",
    "dispatcher.core.packets": "test_codec.py",
    "dispatcher.core.mark": "test_session.py",
    "dispatcher.core.limits": "test_router.py",
}


@cache
def source(module: str) -> ast.Module:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def named(module: str, tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in this one, within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def typing_only(tree: ast.Module) -> set[int]:
    """The nodes under `if TYPE_CHECKING`, which no program runs."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(named(module, source(module)))


@cache
def reached(module: str) -> frozenset[str]:
    """Everything that is imported together with it, through this project's own modules."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for each in imports(waiting.pop()) - seen:
            seen.add(each)
            if each in MODULES:
                waiting.append(each)
    return frozenset(seen)


def top(module: str) -> str:
    return module.partition(".")[0]


def test_the_rooms_are_there() -> None:
    assert {"dispatcher.core.router", "dispatcher.hub", "commander.core.turn"} <= set(MODULES)
    assert imports("dispatcher.core.router") >= {"dispatcher.core.board", "dataclasses"}


@pytest.mark.parametrize("module", CORE)
def test_the_core_is_pure(module: str) -> None:
    room = ".".join(module.split(".")[:2])
    foreign = {each for each in imports(module) if top(each) not in PURE and not each.startswith(f"{room}.")}
    assert not foreign, f"{module} decides; it may not import {foreign}"
    assert set(sys.stdlib_module_names) >= PURE


@pytest.mark.parametrize("module", CORE)
def test_the_core_neither_waits_nor_prints(module: str) -> None:
    for node in ast.walk(source(module)):
        line = f"{module}:{getattr(node, 'lineno', 0)}"
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith), line
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "open", "input", "exec", "eval"}, line


@pytest.mark.parametrize("module", MODULES)
def test_dispatcher_and_commander_share_nothing_but_the_contract(module: str) -> None:
    other = {"dispatcher": "commander", "commander": "dispatcher"}[top(module)]
    assert not [each for each in imports(module) if top(each) == other]


@pytest.mark.parametrize("module", MODULES)
def test_grpc_stays_in_its_rooms(module: str) -> None:
    if not module.startswith(GRPC_ROOMS):
        assert not [each for each in imports(module) if top(each) == "grpc"]


@pytest.mark.parametrize("module", ["dispatcher.hub", "dispatcher.journal", "dispatcher.journal.memory"])
def test_the_hub_and_the_journal_know_no_wire(module: str) -> None:
    """Neither themselves nor through anything that they import."""
    wire = {each for each in reached(module) if top(each) in {"grpc", "southwest", "google"}}
    assert not wire
    assert not [each for each in reached(module) if each.startswith(("dispatcher.rpc", "dispatcher.serve"))]


def test_what_the_agents_author_imports_knows_no_dispatcher_and_no_server() -> None:
    assert not [each for each in reached("commander.agent") if top(each) == "dispatcher"]


@cache
def constructions(module: str) -> list[tuple[str, int]]:
    """Calls by the full name of what is called, as far as imports tell it, with their lines."""
    tree = source(module)
    skipped = typing_only(tree)
    whole: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            whole |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in skipped]
    names = [(ast.unparse(call.func), call.lineno) for call in calls]
    return [(whole.get(name, name), line) for name, line in names]


@pytest.mark.parametrize("made", CONSTRUCTED)
def test_only_serve_constructs(made: str) -> None:
    places = {
        f"{module}:{line}"
        for module in MODULES
        for name, line in constructions(module)
        if name == made or name.endswith(f".{made}")
    }
    allowed = CONSTRUCTED[made]
    assert places, f"nobody makes a {made}: is it called something else now?"
    assert {place.partition(":")[0] for place in places} == {allowed}, places


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_named_for_what_they_hold(module: str) -> None:
    parts = {part for name in module.split(".") for part in name.split("_")}
    assert not parts & BARRED_NAMES


@pytest.mark.parametrize("module", [each for each in CORE if not each.endswith(".core")])
def test_every_module_of_a_core_has_its_tests(module: str) -> None:
    own = f"test_{module.rpartition('.')[2]}.py"
    covered_by = COVERED_BY.get(module, own)
    assert (ROOT / "tests" / covered_by).exists(), f"{module} wants tests/{covered_by}"
    if module in COVERED_BY:
        assert not (ROOT / "tests" / own).exists(), f"{own} is there: {module} needs no entry in COVERED_BY"


def test_the_table_of_who_covers_whom_has_no_rows_left_over() -> None:
    assert set(COVERED_BY) <= set(CORE)
