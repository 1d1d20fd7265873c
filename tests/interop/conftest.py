"""Clients of others, which `make interop` has made ready."""

import shutil

import pytest
from node_client import Programs

from scripts import interop


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Our programs, beside the packages they use, as they are now."""
    wanted = (interop.PROGRAMS / "package.json").read_bytes()
    ready = interop.BUILT / ".ready"
    assert ready.exists(), "the packages of the clients are not there: run make interop"
    assert ready.read_bytes() == wanted, "package.json has changed since: run make interop"
    for program in interop.PROGRAMS.glob("*.mjs"):
        shutil.copy(program, interop.BUILT)
    return Programs(interop.node(), interop.BUILT)
