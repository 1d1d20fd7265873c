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


def json_bytes(value: object) -> bytes:
    """JSON on one line, whatever a client takes for a line."""
    data = orjson.dumps(value)
    for character, escape in _BREAKS:
        if character in data:
            data = data.replace(character, escape)
    return data


def event_json(session_id: str, epoch: str, entry: Entry) -> bytes:
    """One event. Ids and epochs are ours, and need no escapes."""
    event = entry.event
    if event.kind == "content":
        fields = b'{"text":%b,"is_finish":false}' % json_bytes(event.text)
    elif event.kind == "thought":
        fields = b'{"step_name":%b,"delta":%b}' % (json_bytes(event.body), json_bytes(event.text))
    else:
        return json_bytes(event_record(codec.session_event(session_id, epoch, entry)))
    return (
        b'{"cursor":"%b:%d","event":"%b","session_id":"%b","attempt":%d,"agent":%b,"timestamp":%d,"fields":%b}'
        % (
            epoch.encode(),
            event.offset,
            event.kind.encode(),
            session_id.encode(),
            event.attempt,
            json_bytes(event.agent) if event.agent else b'""',
            entry.unix_ms,
            fields,
        )
    )


def notice_json(session_id: str, notice: Notice) -> bytes:
    """What is said to one viewer alone. It has no cursor of its own."""
    return orjson.dumps(
        {"event": NOTICES[type(notice)], "session_id": session_id, "fields": notice._asdict()}
    )
