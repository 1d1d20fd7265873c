"""The marks of services in what users say, put there before anybody has it.

What is judged may have several pieces: the texts of a request's messages, one after the other. Where a mark can't be
put, over the end of a piece or so that JSON would be none any more, the service's word counts as a stop.
"""

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from dispatcher.core.review import apart
from dispatcher.core.rules import Judged, Span

_BETWEEN: Final = "\n"


class Piece(NamedTuple):
    text: str
    is_json: bool


def joined(pieces: Sequence[Piece]) -> str:
    """As services are asked about them: one after the other, a line break between."""
    return _BETWEEN.join(piece.text for piece in pieces)


def with_their_marks(
    judged: tuple[Judged, ...], pieces: Sequence[Piece]
) -> tuple[tuple[Judged, ...], list[str] | None]:
    """What they have said, `redacted` where their marks stand in the pieces that come with it; None: there are none."""
    spans = apart(span for each in judged if each.action == "redact" for span in each.spans)
    if not spans:
        return judged, None
    marked, begin, number = [], 0, 0
    for piece in pieces:
        end, first = begin + len(piece.text), number
        while number < len(spans) and begin <= spans[number].begin and spans[number].end <= end:
            number += 1
        marked.append(_marked(piece, begin, spans[first:number]))
        begin = end + len(_BETWEEN)
    if number < len(spans) or not all(
        _is_json(text) for text, piece in zip(marked, pieces, strict=True) if piece.is_json
    ):
        return judged, None
    told = (each._replace(action="redacted") if each.action == "redact" else each for each in judged)
    return tuple(told), marked


def _marked(piece: Piece, begin: int, spans: Sequence[Span]) -> str:
    told, at = [], 0
    for span in spans:
        mark = json.dumps(span.mark, ensure_ascii=False)[1:-1] if piece.is_json else span.mark
        told += [piece.text[at : span.begin - begin], mark]
        at = span.end - begin
    return "".join((*told, piece.text[at:]))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
