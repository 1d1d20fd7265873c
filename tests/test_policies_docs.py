"""docs/policies.md, run word for word, and complete: every key is told."""

import re
from pathlib import Path

import pytest
from page import ROOT, Reader, blocks, unmarked

from dispatcher.policy_file import TABLES, read_policy_file

PAGE = ROOT / "docs" / "policies.md"


def test_every_example_runs(tmp_path: Path) -> None:
    with Reader(PAGE, tmp_path) as reader:
        reader.read()
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) >= 5


@pytest.mark.parametrize("shown", re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_every_file_that_is_shown_can_be_used(tmp_path: Path, shown: str) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(shown)
    file = read_policy_file(path, 1024)
    assert file.rules or file.prices or file.services


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, table in TABLES.items() for key in table.model_fields]
)
def test_every_key_is_told(kind: str, key: str) -> None:
    text = PAGE.read_text()
    rows = re.findall(r"^\| `.*$", text[text.index(f"[{kind}.") :], re.MULTILINE)
    assert [row for row in rows if f"`{key}`" in row.split("|")[1]]
