"""Everything that tools come from besides this process: begun together, watched, closed together.

Knows each by what it can do (`begin`, `close`, `state`), not by what it is. Made by `serve.py`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from dispatcher.tables import GrpcTable, HttpTable, McpTable, SecretError, of_kind
from dispatcher.tools.contract import SourceState, ToolLoadError
from dispatcher.tools.runner import ToolRunner


class Source(Protocol):
    """One of them. Its tools are offered by the runner's `replace`, under its name."""

    @property
    def state(self) -> SourceState: ...

    def check(self) -> None:
        """Raises SecretError, or ToolLoadError for what can't ever be right."""
        ...

    async def begin(self) -> None:
        """Returns when its tools are on offer, or will be, in bounded time."""
        ...

    async def close(self) -> None:
        """Returns when nothing of it is left, in bounded time."""
        ...


class Sources:
    """All of them, in the order of the settings."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources

    def __repr__(self) -> str:
        up = sum(state.is_up for state in self.states())
        return f"<Sources {up} of {len(self._sources)} up>"

    def states(self) -> list[SourceState]:
        return [each.state for each in self._sources]

    async def __aenter__(self) -> Self:
        """Raises ToolLoadError that names the table and the key of what can't be right."""
        for source in self._sources:
            try:
                source.check()
            except SecretError as error:
                raise ToolLoadError(str(error)) from None
        try:
            await asyncio.gather(*(each.begin() for each in self._sources))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(each.close() for each in self._sources), return_exceptions=True)


def sources_of(tables: Mapping[str, Mapping[str, Any]], runner: ToolRunner) -> Sources:
    """What the settings' tables name. Raises ToolLoadError where an extra is not installed."""
    return Sources(
        [
            *_mcp(of_kind(tables, "mcp"), runner),
            *_http(of_kind(tables, "http"), runner),
            *_grpc(of_kind(tables, "grpc"), runner),
        ]
    )


def _mcp(tables: Mapping[str, McpTable], runner: ToolRunner) -> Iterable[Source]:
    if not tables:
        return []
    try:
        from dispatcher.tools.mcp import McpServer  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise _missing(f"mcp.{next(iter(tables))}: MCP servers need", "mcp", error) from None
    return [McpServer(name, table, runner.replace) for name, table in tables.items()]


def _http(tables: Mapping[str, HttpTable], runner: ToolRunner) -> Iterable[Source]:
    if not tables:
        return []
    try:
        import yaml  # noqa: F401, PLC0415 - an extra: missed now, not at the first document that needs it

        from dispatcher.tools.http_api import HttpApi  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _missing(f"http.{next(iter(tables))}: tools over HTTP need", "http", error) from None
    return [HttpApi(name, table, runner.replace) for name, table in tables.items()]


def _grpc(tables: Mapping[str, GrpcTable], runner: ToolRunner) -> Iterable[Source]:
    if not tables:
        return []
    from dispatcher.tools.remote import RemoteService  # noqa: PLC0415 - only where there are such

    return [RemoteService(name, table, runner.replace) for name, table in tables.items()]


def _missing(who: str, extra: str, error: ModuleNotFoundError) -> ToolLoadError:
    return ToolLoadError(
        f"{who} the extra {extra}, which is not installed (no module {error.name}): "
        f"pip install 'chatstream[{extra}]'"
    )
