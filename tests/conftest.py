"""Fixtures, named for what they give."""

from collections.abc import Iterator

import pytest
from dispatcher_process import DispatcherProcess, running_dispatcher


@pytest.fixture(scope="module")
def dispatcher(request: pytest.FixtureRequest) -> Iterator[DispatcherProcess]:
    """A dispatcher that the tests of a module share, with the flags that the module names.

    Each test uses agents of its own, so that none meets another's sessions.
    """
    flags: tuple[str, ...] = getattr(request.module, "DISPATCHER_FLAGS", ())
    with running_dispatcher(*flags) as process:
        yield process
