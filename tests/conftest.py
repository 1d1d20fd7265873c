"""Fixtures, named for what they give."""

from collections.abc import Generator, Iterator
from typing import Any

import pytest
from dispatcher_process import DispatcherProcess, running_dispatcher
from hypothesis import settings

# What holds, holds on a busy machine too, where an example may take any time.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="module")
def dispatcher(request: pytest.FixtureRequest) -> Iterator[DispatcherProcess]:
    """A dispatcher that the tests of a module share, with the flags that the module names.

    Each test uses agents of its own, so that none meets another's sessions.
    """
    flags: tuple[str, ...] = getattr(request.module, "DISPATCHER_FLAGS", ())
    with running_dispatcher(*flags) as process:
        yield process


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """What tests print may hold halves of surrogate pairs, which no process can send to the one that tells results."""
    data = yield
    if data is not None and "sections" in data:
        data["sections"] = [(name, text.encode(errors="replace").decode()) for name, text in data["sections"]]
    return data
