"""Program: a real dispatcher whose journal stamps what it keeps. Takes the dispatcher's flags, and orders."""

import argparse
import asyncio
import gc
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from bench.keeping import Arrivals
from bench.orders import memory_bytes, obey
from bench.stamping import StampingJournal
from dispatcher import logs, settings
from dispatcher.journal.memory import MemoryJournal
from dispatcher.journal.sqlite import SqliteJournal
from dispatcher.serve import Keeping, in_memory, serve
from dispatcher.settings import Loaded, Settings
from dispatcher.tools.loading import as_tool


async def nothing(text: str) -> str:
    """Gives back what it is given.

    Args:
        text: Anything.
    """
    return text


@asynccontextmanager
async def _journal(told: Settings) -> AsyncIterator[Keeping]:
    """The journal that the settings name."""
    kind, _, path = told.journal.partition(":")
    if kind != "sqlite":
        yield in_memory(MemoryJournal(secrets.token_hex(4)))
        return
    file = SqliteJournal.at(Path(path), power_safe=told.journal_sync == "power")
    try:
        yield Keeping(file, file.restored, [])
    finally:
        await file.close()


def _memory() -> int:
    gc.collect()
    return memory_bytes()


async def _serve(loaded: Loaded) -> int:
    arrivals = Arrivals()
    async with _journal(loaded.settings) as keeping:
        journal = StampingJournal(keeping.journal, arrivals)
        obey({**arrivals.orders, **journal.orders, "memory": _memory})
        return await serve(loaded, [as_tool(nothing)], keeping._replace(journal=journal))


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.host")
    settings.add_arguments(parser, settings.Settings.model_fields)
    loaded = settings.load(parser.parse_args(), {})
    logs.configure(loaded.settings.log_format, loaded.settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(loaded))


if __name__ == "__main__":
    sys.exit(main())
