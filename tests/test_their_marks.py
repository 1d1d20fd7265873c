"""Marks of services in what users say: they stand in each piece where they belong, or it is a stop."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.rules import Judged, Service, Span
from dispatcher.their_marks import Piece, joined, with_their_marks

SERVICE = Service("judge", fails_open=False, hold_chars=4, before_chars=6, gather_s=0.1)


def redacts(text: str, mark: str = "#") -> tuple[Judged, ...]:
    spans = tuple(Span(*match.span(), mark) for match in re.finditer("(?:12+)+", text))
    return (Judged(SERVICE, "redact" if spans else "pass", "pin", spans),)


@given(st.lists(st.text("12a\n"), min_size=1, max_size=5))
def test_each_piece_has_its_own_marks(texts: list[str]) -> None:
    pieces = [Piece(text, is_json=False) for text in texts]
    judged, marked = with_their_marks(redacts(joined(pieces)), pieces)
    right = [re.sub("(?:12+)+", "#", text) for text in texts]
    assert (texts if marked is None else marked) == right
    assert judged[0].action == ("pass" if marked is None else "redacted")


@given(st.lists(st.text("12a"), max_size=4), st.sampled_from(["#", '"', "\\"]))
def test_json_stays_json(texts: list[str], mark: str) -> None:
    piece = Piece(json.dumps(texts), is_json=True)
    _, marked = with_their_marks(redacts(piece.text, mark), [piece])
    if marked is not None:
        assert json.loads(marked[0]) == [re.sub("(?:12+)+", lambda _: mark, text) for text in texts]


@pytest.mark.parametrize(
    ("pieces", "span"),
    [
        ([Piece("one", is_json=False), Piece("two", is_json=False)], Span(2, 5, "#")),
        ([Piece('{"a": 1}', is_json=True)], Span(0, 3, "#")),
        ([Piece('{"a": 1}', is_json=True)], Span(6, 7, "#")),
    ],
)
def test_where_no_mark_can_be_put_it_stays_a_verdict_to_stop(pieces: list[Piece], span: Span) -> None:
    judged = (Judged(SERVICE, "redact", "", (span,)),)
    assert with_their_marks(judged, pieces) == (judged, None)


def test_others_say_what_they_say() -> None:
    judged = (*redacts("12"), Judged(SERVICE, "observe", "gossip"))
    told, marked = with_their_marks(judged, [Piece("12", is_json=False)])
    assert [each.action for each in told] == ["redacted", "observe"]
    assert marked == ["#"]
