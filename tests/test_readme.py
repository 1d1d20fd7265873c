"""The README: its five minutes, run word for word, what it promises of `make help`, and the links and generated parts
of all pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from page import ROOT, Reader


def test_the_five_minutes(tmp_path: Path) -> None:
    with Reader(ROOT / "README.md", tmp_path) as reader:
        reader.read()
    assert reader.ran >= 6


def test_make_help_lists_what_the_readme_promises() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in (
        "setup",
        "demo",
        "proto",
        "check-proto",
        "format",
        "lint",
        "types",
        "test",
        "slow",
        "bench",
        "check",
    ):
        assert re.search(rf"^  {target} ", listed, re.MULTILINE), target


def test_the_generated_parts_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.generate_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("room", ["commander", "commander/core", "dispatcher", "dispatcher/core"])
def test_every_file_has_its_line_in_the_architecture(room: str) -> None:
    told = (ROOT / "docs" / "architecture.md").read_text()
    for path in sorted((ROOT / room).iterdir()):
        prefix = "core/" if room == "commander/core" else ""
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert f"`{prefix}{path.name}`" in told, path.name
        elif path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in told, path.name
