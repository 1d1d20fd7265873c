"""Widths, cuts and tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.console.listing import spoken
from dispatcher.console.terminal import Look, Tone, cells, cut, table

LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0), ("🙂", 2)])
def test_cells(text: str, width: int) -> None:
    assert cells(text) == width


@given(LINES, st.integers(0, 40))
def test_a_cut_fits_and_what_fits_is_not_cut(text: str, columns: int) -> None:
    assert cells(cut(text, columns)) <= columns
    assert cut(text, cells(text)) == text


def test_a_table_is_aligned_and_cut_only_where_there_is_a_width() -> None:
    rows = [["a", "日本", "x" * 30], ["bb", "c", ""]]
    assert table(("ID", "NAME", "TEXT"), rows, None) == [
        "ID  NAME  TEXT",
        "a   日本  " + "x" * 30,
        "bb  c",
    ]
    assert table(("ID", "NAME", "TEXT"), rows, 16)[1] == "a   日本  xxxxx…"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0s"), (9.94, "9.9s"), (12.7, "12s"), (61, "1m01s"), (3_600, "1h00m"), (90_000, "1d01h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_colour_only_where_it_may_be() -> None:
    assert Look(live=True, colour=True, rich=True).paint("x", Tone.DIM) == "\x1b[2mx\x1b[0m"
    assert Look(live=True, colour=False, rich=True).paint("x", Tone.DIM) == "x"
