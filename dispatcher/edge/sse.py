"""Server-sent events: what browsers' `EventSource` reads, and reads on by itself when a connection breaks.

The id of an event is its cursor, so the browser comes back with `Last-Event-ID` and gets exactly the rest.
"""

from collections.abc import Sequence

from dispatcher.edge.native import NOTICES, EventForm, notice_json
from dispatcher.edge.rendering import Gap, GoAway, Notice
from dispatcher.journal import Entry


class EventStream:
    """One session's events as `text/event-stream`."""

    way = "sse"
    key = "sse"
    is_exact = False
    heartbeat = b": still here\n\n"

    def __init__(self, session_id: str, epoch: str) -> None:
        self._session_id = session_id
        self._form = EventForm(session_id, epoch)
        self._frame = b"id: " + epoch.encode() + b":%d\nevent: %b\ndata: %b\n\n"

    def events(self, entries: Sequence[Entry]) -> bytes:
        frame, json = self._frame, self._form.json
        return b"".join(
            [frame % (entry.event.offset, entry.event.kind.encode(), json(entry)) for entry in entries]
        )

    def notice(self, notice: Notice) -> bytes:
        told = b"event: %b\ndata: %b\n\n" % (
            NOTICES[type(notice)].encode(),
            notice_json(self._session_id, notice),
        )
        if isinstance(notice, GoAway):
            # When an EventSource is to come back.
            return b"retry: %d\n%b" % (notice.retry_after_ms, told)
        return told

    def lost(self, gap: Gap) -> bytes:
        """All there is to say of a session that is not there. The id is of no event: a browser that comes back with it
        is told that there is nothing, instead of this again."""
        return b"id: %b\n%b" % (gap.available_from.encode(), self.notice(gap))
