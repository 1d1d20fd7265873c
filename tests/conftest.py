"""Fixtures, named for what they give."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from dispatcher_process import DispatcherProcess, running_dispatcher
from hypothesis import settings

if TYPE_CHECKING:
    from browser import Backstage, Visit
    from playwright.sync_api import Browser

# What holds, holds on a busy machine too, where an example may take any time. Each run thinks up others.
settings.register_profile(
    "patient", settings(), deadline=None, max_examples=int(os.environ.get("LAW_EXAMPLES", "50"))
)
settings.load_profile("patient")

# Whoever runs this in the background of a shell has Ctrl-C ignored, and so would all processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """All tests stay to the end: no collection has to look through half a million of their objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def dispatcher(request: pytest.FixtureRequest) -> Iterator[DispatcherProcess]:
    """A dispatcher that the tests of a module share, with the flags that the module names.

    Each test uses agents of its own, so that none meets another's sessions.
    """
    flags: tuple[str, ...] = getattr(request.module, "DISPATCHER_FLAGS", ())
    with running_dispatcher(*flags) as process:
        yield process


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A Chromium that the tests of a module share; each has a context of its own."""
    from browser import browsing  # noqa: PLC0415 - the other tests need no browser

    with browsing() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Visit]":
    """A page that is open nowhere yet."""
    from browser import visiting  # noqa: PLC0415 - the other tests need no browser

    with visiting(browser) as visit:
        yield visit


@pytest.fixture
def backstage() -> "Iterator[Backstage]":
    from browser import Backstage  # noqa: PLC0415 - the other tests need no browser

    with Backstage() as backstage:
        yield backstage


# Of a campaign something is heard this often.
_PROGRESS_S = 30.0


@pytest.fixture
def progress(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says how far a campaign is, past all capturing, at once but not too often. It may be called all the time."""
    said_at = time.monotonic()

    def say(line: str) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _PROGRESS_S:
            said_at = time.monotonic()
            with capsys.disabled():
                # Of a worker's streams this is the one that leads to people; there may be half a line on it.
                print(f"\n{line}", file=sys.stderr, flush=True)

    return say


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """What tests print may hold halves of surrogate pairs, which no process can send to the one that tells results."""
    data = yield
    if data is not None and "sections" in data:
        data["sections"] = [(name, text.encode(errors="replace").decode()) for name, text in data["sections"]]
    return data
