"""Events as JSON, the same in every way of watching that is our own: `event`, its `fields`, its cursor and whose it is.

The keys are those that `dispatcher chat --json` prints. Text is nearly all there is, so it has a way of its own; a test
holds the two together.
"""

from typing import Final

import orjson

from dispatcher.edge.rendering import Gap, GoAway, Lag, Notice, Slow
from dispatcher.journal import Entry
from dispatcher.record import event_record
from dispatcher.rpc import codec

NOTICES: Final[dict[type[Notice], str]] = {Gap: "gap", GoAway: "goaway", Lag: "lag", Slow: "slow"}


# What many clients take for the end of a line, against the standard; the rest of such characters JSON escapes anyway.
_BREAKS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


# The largest whole number that JavaScript's readers tell from its neighbours.
SAFE_INTEGER_MAX: Final = 2**53 - 1


def embedded(text: str) -> orjson.Fragment | str:
    """JSON to stand within other JSON as it is, so that no number or depth of it is lost; a text that is none, as the
    text that it is."""
    try:
        orjson.loads(text)
    except ValueError:
        return text
    # Between values only: within texts they are escaped.
    return orjson.Fragment(text.replace("\r", " ").replace("\n", " "))


def json_bytes(value: object) -> bytes:
    """JSON on one line, whatever a client takes for a line."""
    data = orjson.dumps(value)
    for character, escape in _BREAKS:
        if character in data:
            data = data.replace(character, escape)
    return data


def json_text(text: str) -> bytes:
    """As `json_bytes`, without a look where there is nothing to find."""
    return orjson.dumps(text) if text.isascii() else json_bytes(text)


class EventForm:
    """One session's events as JSON. Of text, which is nearly all there is, everything but the text itself is made
    already: a token goes to each of its viewers."""

    __slots__ = ("_content", "_epoch", "_session_id", "_thought")

    def __init__(self, session_id: str, epoch: str) -> None:
        # Ids and epochs are ours, and need no escapes.
        self._session_id = session_id
        self._epoch = epoch
        self._content = self._made(b"content", b'{"text":%b,"is_finish":false}')
        self._thought = self._made(b"thought", b'{"step_name":%b,"delta":%b}')

    def _made(self, kind: bytes, fields: bytes) -> bytes:
        return (
            b'{"cursor":"'
            + self._epoch.encode()
            + b':%d","event":"'
            + kind
            + b'","session_id":"'
            + self._session_id.encode()
            + b'","attempt":%d,"agent":%b,"timestamp":%d,"fields":'
            + fields
            + b"}"
        )

    def json(self, entry: Entry) -> bytes:
        event = entry.event
        if event.kind == "content":
            agent = json_text(event.agent) if event.agent else b'""'
            return self._content % (event.offset, event.attempt, agent, entry.unix_ms, json_text(event.text))
        if event.kind == "thought":
            agent = json_text(event.agent) if event.agent else b'""'
            step, delta = json_text(str(event.body)), json_text(event.text)
            return self._thought % (event.offset, event.attempt, agent, entry.unix_ms, step, delta)
        return json_bytes(event_record(codec.session_event(self._session_id, self._epoch, entry)))


def event_json(session_id: str, epoch: str, entry: Entry) -> bytes:
    """One event, for those who have few."""
    return EventForm(session_id, epoch).json(entry)


def notice_json(session_id: str, notice: Notice) -> bytes:
    """What is said to one viewer alone. It has no cursor of its own."""
    return orjson.dumps(
        {"event": NOTICES[type(notice)], "session_id": session_id, "fields": notice._asdict()}
    )
