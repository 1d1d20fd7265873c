"""Laws of what viewers over HTTP are shown: the JSON of events; what may be joined and left out for one that lags."""

import re

import orjson
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.packets import SessionEvent
from dispatcher.edge.native import NOTICES, event_json, notice_json
from dispatcher.edge.rendering import Gap, GoAway, Lag, Slow, coalesced, thinned
from dispatcher.edge.sse import EventStream
from dispatcher.journal import Entry
from dispatcher.record import event_record
from dispatcher.rpc import codec

texts = st.text(st.characters(exclude_categories=["Cs"]))
speakers = st.sampled_from(["", "lead/a", "lead/b"])


def _entry(offset: int, kind: str, agent: str, text: str, step: str, attempt: int = 1) -> Entry:
    body: object = {"thought": step, "progress": b""}.get(kind)
    return Entry(1_700_000_000_000 + offset, SessionEvent(offset, kind, attempt, agent, text, body))


@st.composite
def runs(draw: st.DrawFn) -> list[Entry]:
    """Events of a session as they follow each other."""
    kinds = st.sampled_from(["content", "content", "thought", "thought", "progress"])
    drawn = draw(
        st.lists(
            st.tuples(kinds, speakers, texts, st.sampled_from(["Plan", "Do"]), st.integers(1, 2)), max_size=30
        )
    )
    return [
        _entry(number, kind, agent, "" if kind == "progress" else text, step, attempt)
        for number, (kind, agent, text, step, attempt) in enumerate(drawn, 1)
    ]


@given(kind=st.sampled_from(["content", "thought"]), agent=texts, text=texts, step=texts)
def test_text_has_the_json_that_every_event_has(kind: str, agent: str, text: str, step: str) -> None:
    entry = _entry(7, kind, agent, text, step)
    made = event_json("s-1", "e0", entry)
    assert orjson.loads(made) == event_record(codec.session_event("s-1", "e0", entry))
    # One line, for whoever splits lines in whichever way.
    assert len(made.decode().splitlines()) == 1


@given(runs())
def test_an_event_stream_has_one_event_for_each_with_its_cursor(entries: list[Entry]) -> None:
    stream = EventStream("s-1", "e0").events(entries).decode()
    blocks = stream.split("\n\n")
    assert blocks.pop() == ""
    assert [re.match(r"id: e0:(\d+)\nevent: (\w+)\ndata: \{", block).groups() for block in blocks] == [  # type: ignore[union-attr]  # no match fails too
        (str(entry.event.offset), entry.event.kind) for entry in entries
    ]


def test_every_notice_has_its_name_and_no_cursor_that_would_move_a_browser() -> None:
    for notice in (
        Gap("e0:9", "e0:1", "ahead"),
        GoAway("e0:3", "away", 2000),
        Lag("thinned", 5, 2),
        Slow("e0:3", 30),
    ):
        record = orjson.loads(notice_json("s-1", notice))
        assert (record["event"], record["session_id"]) == (NOTICES[type(notice)], "s-1")
        assert "cursor" not in record
        stream = EventStream("s-1", "e0").notice(notice)
        assert b"\nid:" not in stream
        assert not stream.startswith(b"id:")


def _said(entries: list[Entry], kind: str) -> dict[tuple[str, int, object], str]:
    """All text of a kind, by speaker, attempt and step."""
    said: dict[tuple[str, int, object], str] = {}
    for entry in entries:
        event = entry.event
        if event.kind == kind:
            key = (event.agent, event.attempt, event.body)
            said[key] = said.get(key, "") + event.text
    return said


@given(runs())
def test_joined_text_is_the_same_text(entries: list[Entry]) -> None:
    joined = coalesced(entries)
    for kind in ("content", "thought"):
        assert _said(joined, kind) == _said(entries, kind)
    offsets = [entry.event.offset for entry in joined]
    assert offsets == sorted(set(offsets))
    assert set(offsets) <= {entry.event.offset for entry in entries}
    # Whoever comes back with the last cursor has missed nothing.
    assert offsets[-1:] == [entry.event.offset for entry in entries[-1:]]
    assert [entry for entry in joined if entry.event.kind == "progress"] == [
        entry for entry in entries if entry.event.kind == "progress"
    ]
    assert coalesced(joined) == joined


@given(runs())
def test_thinning_leaves_all_content_and_each_speakers_latest_progress(entries: list[Entry]) -> None:
    thin = thinned(entries)
    assert [e for e in thin if e.event.kind == "content"] == [e for e in entries if e.event.kind == "content"]
    assert not [e for e in thin if e.event.kind == "thought"]
    latest = {e.event.agent: e for e in entries if e.event.kind == "progress"}
    assert [e for e in thin if e.event.kind == "progress"] == sorted(
        latest.values(), key=lambda entry: entry.event.offset
    )
