"""docs/adapters.md: its examples run, and it is complete. Those of libraries that `make setup` leaves out are run by
`make interop`."""

from pathlib import Path

import pytest
from adapters_page import PAGE, read
from page import unmarked

from commander import adapters


@pytest.mark.parametrize("title", ["A pydantic-ai agent", "OpenAI's SDK"])
def test_every_example_runs(tmp_path: Path, title: str) -> None:
    read(tmp_path, title)


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize("name", adapters.__all__)
def test_every_adapter_is_told(name: str) -> None:
    assert f"`{name}" in PAGE.read_text()
