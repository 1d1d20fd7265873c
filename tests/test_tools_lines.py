"""Lines of bounded length out of whatever another process writes, however it comes."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.tools.lines import CHATTER_LINES_MAX, CHATTER_WINDOW_S, HEAD_BYTES, Chatter, Line, Lines


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_lines_are_the_same_however_they_come(chunks: list[bytes], bytes_max: int) -> None:
    lines = Lines(bytes_max)
    got = [line for chunk in chunks for line in lines.feed(chunk)] + lines.end()
    whole = b"".join(chunks)
    wanted = whole.split(b"\n")
    wanted = wanted if wanted[-1] else wanted[:-1]
    assert len(got) == len(wanted)
    for line, text in zip(got, wanted, strict=True):
        assert line == (
            Line(text.removesuffix(b"\r"))
            if len(text) <= bytes_max
            else Line(text[:HEAD_BYTES].removesuffix(b"\r"), False)
        )


def test_chatter_is_cut_counted_and_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    chatter = Chatter(logging.getLogger("test"), "box", lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(CHATTER_LINES_MAX + 7):
            chatter.tell(b"\x1b[31m" + b"x" * 5_000)
        now[0] = CHATTER_WINDOW_S
        chatter.tell(b"again")
        chatter.settle()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == CHATTER_LINES_MAX + 2
    assert said[-2:] == ["box said 7 lines more, which were left out", "box says: again"]
    assert all(len(each) <= 1_100 and each.isprintable() for each in said)
