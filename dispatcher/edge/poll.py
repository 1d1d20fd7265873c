"""Long polling: a session's events as one JSON answer, for clients behind proxies that let no stream through."""

import asyncio
import contextlib
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dispatcher.edge.native import EventForm, notice_json
from dispatcher.edge.reading import leaving
from dispatcher.edge.viewers import Cursor, Viewers
from dispatcher.hub import Hub
from dispatcher.journal import Page
from dispatcher.journal.position import ending_is_kept

EVENTS_MAX: Final = 1_000
# Of one answer, more or less: the last event may go beyond it.
BYTES_MAX: Final = 1_048_576
_NO_STORE: Final = {"cache-control": "no-store"}


async def poll(
    request: Request,
    hub: Hub,
    viewers: Viewers,
    session_id: str,
    cursor: Cursor | None,
    *,
    wait_s: float,
    thoughts: bool,
) -> Response:
    """The events after the cursor; when there are none yet, waits for the next, as long as somebody is there."""
    after, notices = viewers.place(session_id, cursor)
    journal = hub.journal
    told = [notice_json(session_id, notice) for notice in notices]
    news = asyncio.Event()
    ended = False
    with viewers.polling(session_id, news.set), contextlib.suppress(TimeoutError):
        async with leaving(request, news.set) as left, asyncio.timeout(wait_s):
            while not left.done():
                page = journal.read(session_id, after, EVENTS_MAX)
                shown, after, ended = _taken(session_id, journal.epoch, page, after, thoughts=thoughts)
                told += shown
                ended = ended or (after >= page.head and ending_is_kept(journal, session_id))
                if told or ended or page.head == 0:
                    break
                if farewell := viewers.farewell(after):
                    told.append(notice_json(session_id, farewell))
                    break
                if after >= page.head:
                    news.clear()
                    await news.wait()
    body = b'{"events":[%b],"cursor":"%b:%d","ended":%b}' % (
        b",".join(told),
        journal.epoch.encode(),
        after,
        orjson.dumps(ended),
    )
    return Response(body, 200, _NO_STORE, "application/json")


def _taken(
    session_id: str, epoch: str, page: Page, after: int, *, thoughts: bool
) -> tuple[list[bytes], int, bool]:
    """What fits one answer: the events, where they lead, and whether the last is the ending."""
    told: list[bytes] = []
    room = BYTES_MAX
    form = EventForm(session_id, epoch)
    for entry in page.entries:
        if room <= 0:
            break
        after = entry.event.offset
        if entry.event.kind == "thought" and not thoughts:
            continue
        told.append(form.json(entry))
        room -= len(told[-1])
        if entry.event.kind == "ended":
            return told, after, True
    return told, after, False
