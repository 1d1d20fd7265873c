"""Where a viewer comes back to in a session's events: one judgement of cursors for every edge."""

from typing import NamedTuple

from dispatcher.journal import Journal


class Position(NamedTuple):
    """Go on after this offset. `gap`: why that is not what was asked for, as the contract names it, or empty;
    `available_from`: the first event that is still to be had."""

    after: int
    gap: str = ""
    available_from: int = 0


def position(journal: Journal, session_id: str, epoch: str, offset: int) -> Position:
    """Of a cursor; an empty epoch is this journal's. For a session that is kept."""
    page = journal.read(session_id, 0, 0)
    gap = ""
    if epoch and epoch != journal.epoch:
        gap = "other_epoch"
    elif offset > page.head:
        gap = "ahead"
    elif offset < page.available_from - 1:
        gap = "trimmed"
    if not gap:
        return Position(offset)
    return Position(max(0, page.available_from - 1), gap, page.available_from)


def missing(journal: Journal, epoch: str) -> str:
    """Why there is nothing more to be had behind a cursor of a session that is not there: a gap's reason."""
    return "other_epoch" if epoch and epoch != journal.epoch else "forgotten"


def ending_is_kept(journal: Journal, session_id: str) -> bool:
    """Nothing more comes of the session, and a restart can't undo that."""
    head = journal.read(session_id, 0, 0).head
    return head > 0 and journal.read(session_id, head - 1, 1).entries[-1].event.kind == "ended"
