"""Finds agents by the words of a command line.

| target                  | what it names                                                                      |
| ----------------------- | ---------------------------------------------------------------------------------- |
| my_agents:weather       | an agent in a module                                                               |
| my_agents               | every agent in a module                                                            |
| path/to/file.py:weather | an agent in a file                                                                 |
| path/to/file.py         | every agent in a file                                                              |
| demo                    | what an installed package offers under this name, by entry point `chatstream.agents` |
"""

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from commander.agent import Agent, AnyAgent

GROUP = "chatstream.agents"


class TargetError(Exception):
    """A target that gives no agent. The message is for the user: what was wrong, and what would be right."""


def load(targets: Sequence[str]) -> dict[tuple[str, str], AnyAgent]:
    """All agents that the targets name, by name and version. TargetError for the first that is wrong."""
    agents: dict[tuple[str, str], AnyAgent] = {}
    for target in targets:
        for agent in _load(target):
            key = (agent.name, agent.version)
            if agents.setdefault(key, agent) is not agent:
                raise TargetError(
                    f"{target}: there is an agent {agent.label!r} already; give one another name or version"
                )
    return agents


def _load(target: str) -> list[AnyAgent]:
    place, _, name = target.partition(":") if not _is_file(target) else _split_file(target)
    if not place:
        raise TargetError(
            f"{target!r}: should be MODULE:NAME, FILE.py[:NAME], or the name of an installed agent"
        )
    if _is_file(place):
        found: object = _from_file(target, Path(place))
    elif not name and place in _installed():
        found = _from_entry_point(target, place)
        return [found] if isinstance(found, Agent) else _all_of(target, found)
    else:
        found = _from_module(target, place)
    return [_named(target, found, name)] if name else _all_of(target, found)


def _is_file(target: str) -> bool:
    return "/" in target or target.endswith(".py") or ".py:" in target


def _split_file(target: str) -> tuple[str, str, str]:
    # A path may hold colons; the name after the last one does not hold a slash or end in .py.
    place, colon, name = target.rpartition(":")
    if colon and name and "/" not in name and not name.endswith(".py"):
        return place, colon, name
    return target, "", ""


def _from_file(target: str, path: Path) -> ModuleType:
    if not path.is_file():
        near = sorted(str(each) for each in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise TargetError(f"{target}: there is no file {path}{_nearest(str(path), near)}")
    path = path.resolve()
    # As `python FILE` has it: its neighbours can be imported.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Under its own name where that is free, so that a file called json.py takes nobody's place.
    name = path.stem if path.stem not in sys.modules else f"agents in {path}"
    for known in (path.stem, name):
        module = sys.modules.get(known)
        if module is not None and getattr(module, "__file__", None) == str(path):
            return module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{target}: {path} is no Python file; its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # noqa: BLE001 - whatever a user's module raises is told as one sentence
        del sys.modules[name]
        raise _not_imported(target, str(path), error) from None
    return module


def _from_module(target: str, name: str) -> ModuleType:
    # As `python -m` has it: what lies in this folder can be imported.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _not_imported(target, name, error) from None
        if name in _installed():
            raise TargetError(
                f"{target}: {name} is an installed agent, and is named without a colon: {name}"
            ) from None
        known = [*_installed(), *(path.stem for path in Path.cwd().glob("*.py"))]
        raise TargetError(
            f"{target}: there is no module and no installed agent {name!r}{_nearest(name, known)}"
        ) from None
    except BaseException as error:  # noqa: BLE001 - whatever a user's module raises is told as one sentence
        raise _not_imported(target, name, error) from None


def _from_entry_point(target: str, name: str) -> object:
    (entry,) = entry_points(group=GROUP, name=name)
    try:
        return entry.load()
    except BaseException as error:  # noqa: BLE001 - an installed package's failure is told as one sentence
        raise _not_imported(target, entry.value, error) from None


def _installed() -> list[str]:
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def _named(target: str, module: object, name: str) -> AnyAgent:
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise TargetError(f"{target}: there is no {name!r} in it{_nearest(name, _agents_in(module))}")
        found = getattr(found, part)
    if isinstance(found, Agent):
        return found
    raise TargetError(
        f'{target}: {name!r} is no agent but {_article(found)}; decorate it with @agent("name")'
    )


def _all_of(target: str, module: object) -> list[AnyAgent]:
    agents = list(_agents_in(module).values())
    if not agents:
        raise TargetError(f'{target}: it holds no agent; decorate a function with @agent("name")')
    return agents


def _agents_in(module: object) -> Mapping[str, AnyAgent]:
    unique = {id(each): (name, each) for name, each in vars(module).items() if isinstance(each, Agent)}
    return dict(unique.values())


def _not_imported(target: str, place: str, error: BaseException) -> TargetError:
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename} line {error.lineno})"
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "importlib" not in frame.filename and frame.filename != __file__
        ]
        where = f" ({frames[-1].filename} line {frames[-1].lineno})" if frames else ""
    told = error.msg if isinstance(error, SyntaxError) else str(error)
    return TargetError(f"{target}: {place} can't be imported: {type(error).__name__}: {told}{where}")


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3) or names[:10]
    return f"; there are: {', '.join(near)}" if near else ""


def _article(found: object) -> str:
    kind = type(found).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
