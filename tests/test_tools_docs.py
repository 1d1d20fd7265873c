"""docs/tools.md, run word for word, and complete: every table that is shown can be loaded, every key is told."""

import re
from pathlib import Path

import pytest
from page import ROOT, Reader, blocks, unmarked
from test_dispatcher_settings import told

from dispatcher.tables import TABLES

PAGE = ROOT / "docs" / "tools.md"
SHOWN = re.findall(r"<!-- settings -->\n```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_example_runs(tmp_path: Path) -> None:
    with Reader(PAGE, tmp_path) as reader:
        reader.read()
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) >= 3


@pytest.mark.parametrize("shown", SHOWN)
def test_every_table_that_is_shown_can_be_loaded(shown: str) -> None:
    assert told(toml=shown).tables


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, table in TABLES.items() for key in table.model_fields]
)
def test_every_key_is_told_with_its_default(kind: str, key: str) -> None:
    (row,) = [line for line in _rows(kind) if f"`{key}`" in line.split("|")[1]]
    default = TABLES[kind].model_fields[key].default
    if isinstance(default, int | float) and not isinstance(default, bool):
        assert re.search(rf"\b{default:g}\b|\b{default}\b", row.split("|")[2]), row


def _rows(kind: str) -> list[str]:
    """The rows of the table that follows the first `[KIND.` on the page."""
    text = PAGE.read_text()
    return re.findall(r"^\| `.*$", text[text.index(f"[{kind}.") :].partition("\n## ")[0], re.MULTILINE)
