"""What an agent may say: how long it may still take, in words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commander.outputs import Progress

UNITS_S = {"s": 1, "min": 60, "h": 3600}


@pytest.mark.parametrize(
    ("text", "left_s", "told"),
    [
        ("reading", None, "reading"),
        ("reading", 0, "reading"),
        ("reading", 0.2, "reading, about 1 s left"),
        ("reading", 90, "reading, about 90 s left"),
        ("reading", 91, "reading, about 2 min left"),
        ("reading", 5400, "reading, about 90 min left"),
        ("reading", 5401, "reading, about 2 h left"),
        ("reading", 1e7, "reading, about 2,778 h left"),
        ("", 40, "about 40 s left"),
    ],
)
def test_what_it_may_still_take_is_told_in_words(text: str, left_s: float | None, told: str) -> None:
    assert Progress(text, left_s=left_s).told == told


@given(st.floats(min_value=0.01, max_value=1e12))
def test_an_estimate_promises_no_less_than_was_said_and_at_most_a_unit_more(left_s: float) -> None:
    found = re.fullmatch(r"x, about ([\d,]+) (s|min|h) left", Progress("x", left_s=left_s).told)
    assert found
    unit_s = UNITS_S[found[2]]
    more_s = int(found[1].replace(",", "")) * unit_s - left_s
    assert -1e-9 * left_s <= more_s <= unit_s + 1e-9 * left_s
