"""Lines of bounded length out of whatever another process writes, however it comes."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.tools.lines import (
    CHATTER_LINES_MAX,
    CHATTER_LINES_SEEN_MAX,
    CHATTER_WINDOW_S,
    HEAD_BYTES,
    Chatter,
    Line,
    Lines,
)


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
            else Line(text[:HEAD_BYTES].removesuffix(b"\r"), False, text[-HEAD_BYTES:])
        )


@given(st.lists(st.sampled_from([b"a", b"b\n", b"\n", b"c" * 40, b"d\ne"])), st.integers(1, 30))
def test_lines_that_are_skipped_are_counted_and_the_next_one_is_whole(chunks: list[bytes], at: int) -> None:
    lines = Lines(1_000)
    skipped = sum(lines.skip(chunk) for chunk in chunks[:at])
    fed = [line.text for chunk in [*chunks[at:], b"\n"] for line in lines.feed(chunk)]
    whole = (b"".join(chunks) + b"\n").split(b"\n")[:-1]
    assert skipped + len(fed) == len(whole)
    assert fed == whole[skipped:]


def test_a_flood_of_empty_lines_is_counted_once_enough_were_seen(caplog: pytest.LogCaptureFixture) -> None:
    chatter = Chatter(logging.getLogger("test"), "box", lambda: 0.0)
    with caplog.at_level(logging.INFO):
        chatter.hear(b"\n" * CHATTER_LINES_SEEN_MAX)
        chatter.hear(b"\n" * 10_000 + b"y")
        chatter.end()
    assert caplog.records[-1].getMessage() == "box said 10000 lines more, which were left out"


def test_chatter_is_cut_counted_and_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    chatter = Chatter(logging.getLogger("test"), "box", lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(CHATTER_LINES_MAX + 7):
            chatter.hear(b"\x1b[31m" + b"x" * 5_000 + b"\n")
        now[0] = CHATTER_WINDOW_S
        chatter.hear(b"again")
        chatter.end()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == CHATTER_LINES_MAX + 2
    assert said[-2:] == ["box said 7 lines more, which were left out", "box says: again"]
    assert all(len(each) <= 1_100 and each.isprintable() for each in said)
