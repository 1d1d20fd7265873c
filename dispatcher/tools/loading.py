"""Finds tools by name: "module:object", or the name of an installed entry point.

Every mistake a person can make here is one error that says which, why, and what would be right.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from dispatcher.tools.arguments import did_you_mean
from dispatcher.tools.contract import Tool, ToolLoadError, require_name
from dispatcher.tools.python import PythonTool
from dispatcher.tools.schema import ArgumentsSchema

ENTRY_POINTS = "chatstream.tools"


def installed_tools() -> tuple[str, ...]:
    """The names under which installed packages offer tools, sorted. Nothing is imported."""
    return tuple(sorted({each.name for each in importlib.metadata.entry_points(group=ENTRY_POINTS)}))


def load_tools(specs: Iterable[str]) -> list[Tool]:
    """The tools that the specs name, in their order.

    "module:object" is imported, from the current directory too; the object is a function, a Tool, or a list
    or tuple of these. A spec without ":" is an installed entry point. Raises ToolLoadError.
    """
    tools: list[Tool] = []
    given_by: dict[str, str] = {}
    for spec in specs:
        for each in _of(spec):
            if each.name in given_by:
                both = (
                    f"{given_by[each.name]!r} and {spec!r}"
                    if given_by[each.name] != spec
                    else f"{spec!r}, twice"
                )
                raise ToolLoadError(
                    f"tool {each.name!r} is given by {both}; leave one out, or name it apart with "
                    "@tool(name=...)"
                )
            given_by[each.name] = spec
            tools.append(each)
    return tools


def as_tool(given: object) -> Tool:
    """A Tool as it is, a function as a PythonTool; checked. Raises ToolLoadError."""
    made: Tool
    if isinstance(given, Tool) and not isinstance(given, type):
        made = given
    elif callable(given):
        made = PythonTool(given)
    else:
        raise ToolLoadError(
            f"is of type {type(given).__qualname__}; a function or a Tool is needed, or a list of these"
        )
    require_name(made)
    ArgumentsSchema(made.name, made.parameters_schema)
    return made


def _of(spec: str) -> list[Tool]:
    module_name, colon, path = spec.partition(":")
    found = _attribute(spec, _module(spec, module_name), path) if colon else _entry_point(spec)
    if not isinstance(found, list | tuple):
        return [_made(repr(spec), found)]
    return [_made(f"{spec!r}[{index}]", each) for index, each in enumerate(found)]


def _made(where: str, given: object) -> Tool:
    try:
        return as_tool(given)
    except ToolLoadError as error:
        raise ToolLoadError(f"{where}: {error}") from error


def _entry_point(name: str) -> object:
    found = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        names = installed_tools()
        raise ToolLoadError(
            f"{name!r} is no installed tool{did_you_mean(name, names) or f'; installed are {_list(names)}'} "
            '(for an object of a module write "module:object")'
        )
    point = next(iter(found))
    spec = f"{name} = {point.value}"
    return _attribute(spec, _module(spec, point.module), point.attr)


def _module(spec: str, name: str) -> ModuleType:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ToolLoadError(
            f'{spec!r}: {name!r} is no module\'s name; write "module:object"{_without_py(name)}'
        )
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # A console script, unlike `python -m`, doesn't look where it was started.
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            mend = _without_py(name) or did_you_mean(name, [each.stem for each in Path.cwd().glob("*.py")])
            raise ToolLoadError(
                f"{spec!r}: there is no module {error.name!r}, neither in {here} nor installed{mend}"
            ) from error
        raise ToolLoadError(f"{spec!r}: importing {name!r} failed: {error}; install what it needs") from error
    except (Exception, SystemExit) as error:  # whatever the module's own code raises
        raise ToolLoadError(
            f"{spec!r}: importing {name!r} failed: {type(error).__name__}: {error}"
        ) from error


def _without_py(name: str) -> str:
    """What a path to a file was meant to be."""
    bare = name.removesuffix(".py").replace("/", ".").strip(".")
    return f', perhaps "{bare}:…"' if bare and bare != name else ""


def _attribute(spec: str, module: ModuleType, path: str) -> object:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            public = [each for each in dir(found) if not each.startswith("_")]
            mend = did_you_mean(name, public) if name else '; write "module:object"'
            raise ToolLoadError(
                f"{spec!r}: module {module.__name__!r} ({getattr(module, '__file__', None)}) has no "
                f"{path!r}{mend}"
            ) from None
    return found


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
