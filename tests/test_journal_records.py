"""What a journal writes comes back as it was, to the type; and nothing else is taken for it."""

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any, Final, cast

import pytest
from filled import cases
from hypothesis import example, given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.core import packets as core
from dispatcher.core.events import SessionRequested
from dispatcher.core.mark import GuardMark, HeldText, Mark
from dispatcher.core.packets import SessionEvent
from dispatcher.core.policy import Budgets
from dispatcher.journal import records
from dispatcher.journal.file import VERSION
from dispatcher.journal.records import Record, RecordError

SEEN: Final = chat_pb2.SessionEvent.DESCRIPTOR.oneofs_by_name["event"]

# Halves of surrogate pairs too: what a tool says may hold some.
texts = st.text(st.characters(exclude_categories=()), max_size=20)
numbers = st.integers(0, 1 << 64)
maybe = st.none() | numbers
usages = st.builds(core.Usage, numbers, numbers, numbers, texts)
stops = st.builds(
    core.Stop, texts, st.sampled_from(["user_cancel", "admin", "limit"]), texts, numbers, texts, texts
)
errors = st.builds(
    core.ErrorReport,
    texts,
    st.sampled_from(["", "llm", "tool"]),
    st.sampled_from(["", "call", "session"]),
    texts,
    texts,
    st.booleans(),
    maybe,
    maybe,
    texts,
)
failures = st.builds(core.ToolFailure, texts, texts, st.booleans(), maybe)
labels = st.dictionaries(texts, texts, max_size=3)
BODIES: dict[str, st.SearchStrategy[object]] = {
    "opened": st.builds(core.Opened, texts, texts, labels),
    "started": st.builds(core.Started, texts),
    "thought": texts,
    "content": st.none(),
    "tool_call": st.builds(core.ToolCall, texts, texts, texts, texts, maybe),
    "tool_result": st.builds(
        core.ToolResult, texts, texts, st.builds(core.ToolOutcome, texts, st.none() | failures)
    ),
    "answer": st.builds(core.Answer, texts, st.none() | texts, texts),
    "user_message": st.builds(core.UserMessage, texts, texts),
    "reset": st.builds(core.Reset, numbers, texts),
    "ended": st.builds(
        core.Ended,
        texts,
        texts,
        numbers,
        numbers,
        usages,
        st.none() | stops,
        st.none() | errors,
        st.lists(texts, max_size=3).map(tuple),
    ),
}
KINDS: Final = sorted(set(cases(SEEN)) - {"gap"})
seconds = st.none() | st.floats(0, allow_nan=False)
budgets = st.builds(Budgets, maybe, maybe, maybe, maybe, seconds, seconds)
asked = st.builds(
    SessionRequested,
    texts,
    texts,
    st.none() | st.binary(max_size=50),
    texts,
    texts,
    labels,
    labels,
    texts,
    texts,
    st.none() | budgets,
    seconds,
)
pairs = st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple)
strings = st.lists(texts, max_size=3).map(tuple)
held = st.builds(HeldText, texts, texts, texts, texts, texts, numbers, pairs)
marks = st.builds(
    Mark,
    attempt=numbers,
    tries=numbers,
    deaths=numbers,
    touched=st.booleans(),
    commander_id=texts,
    instance=texts,
    usage=usages,
    owed=pairs,
    unread=pairs,
    waiting_calls=strings,
    on_restart=st.sampled_from(["restart", "continue", "never"]),
    questions=st.lists(st.tuples(texts, numbers, st.none() | st.floats(0)), max_size=2).map(tuple),
    guard=st.builds(
        GuardMark,
        numbers,
        numbers,
        numbers,
        st.lists(held, max_size=2).map(tuple),
        st.floats(0, allow_nan=False, allow_infinity=False),
    ),
    unsafe=pairs,
)
offers = st.lists(st.builds(core.AgentOffer, texts, texts, texts, strings), max_size=2).map(tuple)
resumes = st.lists(st.builds(core.Resume, texts, numbers, numbers, numbers), max_size=2).map(tuple)
known = st.none() | st.booleans()
models = st.lists(
    st.builds(core.ModelOffer, texts, texts, known, known, known, known, known), max_size=2
).map(tuple)
hellos = st.builds(
    core.Hello, texts, texts, texts, offers, labels, numbers, numbers, resumes, st.booleans(), numbers, models
)


def bodies(kind: str) -> st.SearchStrategy[object]:
    return BODIES.get(kind, st.binary(max_size=50))


def there_and_back(value: object) -> Any:
    return records.unseal(records.seal(7, value))


def shape(value: object) -> object:
    """Down to the types: a named tuple equals any other with the same fields."""
    if isinstance(value, tuple):
        return type(value).__name__, [shape(each) for each in value]
    return type(value).__name__, value


# What records have in this order. A new field goes to the end, with a default; anything else needs a new VERSION, as a
# record of the version before would be read as something that it is not.
FIELDS: Final[dict[type, str]] = {
    core.Opened: "agent user_id labels",
    core.Started: "commander_id",
    core.ToolCall: "call_id tool_name arguments_json idempotency_key timeout_ms",
    core.ToolResult: "call_id tool_name outcome",
    core.ToolOutcome: "result_json failure",
    core.ToolFailure: "code message retryable retry_after_ms",
    core.Answer: "question_id value_json why",
    core.UserMessage: "message_id text",
    core.Reset: "discard_after reason",
    core.Ended: "ending message content_chars content_crc32 usage stop error unread",
    core.Usage: "input_tokens output_tokens reasoning_tokens model",
    core.Stop: "stop_id code reason grace_ms actor policy",
    core.ErrorReport: "code origin scope message error_type retryable retry_after_ms upstream_status call_id",
    Mark: (
        "attempt tries deaths touched on_restart goes_on since_attempt commander_id instance received "
        "safe sent_chars sent_crc32 content_chars content_crc32 thought_chars usage usage_before owed "
        "owed_sequence unread questions waiting_calls guard unsafe offset asked vanished"
    ),
    GuardMark: "content_chars thought_chars tool_calls held",
    HeldText: "kind agent step left held released arrivals",
}


@pytest.mark.parametrize("kind", FIELDS)
def test_records_of_this_version_have_these_fields_first(kind: Any) -> None:
    written = FIELDS[kind].split()
    assert VERSION == 1
    assert list(kind._fields[: len(written)]) == written
    assert set(kind._fields[len(written) :]) <= set(kind._field_defaults)


def test_every_kind_of_event_has_its_body() -> None:
    assert set(records.BODIES) == set(KINDS)
    assert set(records.BODIES) >= core.SEQUENCED - {"unknown", "done", "withdrawal"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_comes_back_as_it_was(kind: str) -> None:
    @given(st.lists(st.tuples(numbers, texts, texts, bodies(kind)), max_size=5), numbers)
    def law(told: list[tuple[int, str, str, object]], unix_ms: int) -> None:
        events = [SessionEvent(at, kind, *each) for at, each in enumerate(told, 4)]
        chunk = records.chunk(there_and_back((3, unix_ms, events)))
        assert chunk.session == 3
        rows = records.rows(chunk, after=3)
        assert rows == [(unix_ms, *event) for event in events]
        assert [shape(row[-1]) for row in rows] == [shape(event.body) for event in events]

    law()


def _comes_back(strategy: st.SearchStrategy[Any], read: Callable[[Any], object]) -> None:
    @given(strategy)
    def law(value: object) -> None:
        back = read(there_and_back(value))
        assert back == value
        assert shape(back) == shape(value)

    law()


def test_what_was_asked_comes_back() -> None:
    _comes_back(asked, records.requested)


def test_a_mark_comes_back() -> None:
    _comes_back(marks, records.mark)


@given(marks)
@example(Mark())
@example(Mark(3, 2, 1, commander_id="c – 1", questions=(("q", 4, math.inf), ("r", 5, 1.5)), unsafe=((6, 7),)))
@example(
    Mark(received=1 << 64, guard=GuardMark(8, held=(HeldText("content", "a", "", "l", "h", 9, ((1, 2),)),)))
)
def test_a_mark_is_the_same_record_by_the_quick_way(mark: Mark) -> None:
    quick = records.seal_mark(7, mark)
    assert records.unseal(quick) == there_and_back(mark)
    assert shape(records.mark(records.unseal(quick))) == shape(mark)


def test_a_hello_comes_back() -> None:
    _comes_back(hellos, records.hello)


@given(hellos)
def test_a_hello_that_was_kept_before_there_were_models_has_none(told: core.Hello) -> None:
    kept = there_and_back(told)
    del kept["models"]
    assert records.hello(kept).models == ()


@given(st.integers(0, 1 << 60), st.binary(max_size=20), st.data())
def test_a_record_that_was_changed_or_moved_is_noticed(
    place: int, content: bytes, data: st.DataObject
) -> None:
    record = records.seal(place, content.hex())
    changed = bytearray(record.content)
    at = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(RecordError, match="not as it was written"):
        records.unseal(record._replace(content=bytes(changed)))
    for other in (place + 1, place + records.SHELF_SIZE):
        with pytest.raises(RecordError, match="not as it was written"):
            records.unseal(record._replace(place=other))


@pytest.mark.parametrize(
    "record",
    [
        Record(1, 0, cast("bytes", "text")),
        Record(cast("int", "one"), 0, b""),
        Record(1, cast("int", None), b""),
    ],
)
def test_a_row_of_other_types_is_none(record: Record) -> None:
    with pytest.raises(RecordError):
        records.unseal(record)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(anything)
def test_whatever_is_there_it_is_read_or_refused(value: Any) -> None:
    for read in (records.mark, records.requested, records.hello, _all_rows):
        with contextlib.suppress(RecordError):
            read(value)


@given(st.sampled_from(KINDS), anything)
def test_whatever_body_is_there_it_is_read_or_refused(kind: str, body: Any) -> None:
    with contextlib.suppress(RecordError):
        _all_rows([1, 1, [[1, kind, 1, "", "", body]]])


def _all_rows(value: Any) -> object:
    return records.rows(records.chunk(value), 0)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([[2, "content", 1, "", "", None]], "event 2 is where 1 should be"),
        ([[1, "content", 1, "", "", None], [3, "content", 1, "", "", None]], "event 3 is where 2 should be"),
        ([[1, "whatever", 1, "", "", None]], "there is no event 'whatever'"),
        ([[1, "content", 1, "", "", "body"]], "a body where none is due"),
        ([[1, "content", "1", "", "", None]], "event 1 is none"),
        ([[1, "started", 1, "", "", [5]]], "should be a valid string"),
        ([[1, "usage", 1, "", "", "*"]], "Error"),
        ([[1]], "ValueError"),
    ],
)
def test_what_is_wrong_with_a_chunk_is_named(events: list[Any], why: str) -> None:
    with pytest.raises(RecordError, match=why):
        _all_rows([1, 1, events])


def test_json_that_nests_too_deep_is_refused() -> None:
    content = b"[" * 200_000
    sealed = records.seal(7, 0)
    with pytest.raises(RecordError):
        records.unseal(sealed._replace(content=content))


def test_content_is_compact() -> None:
    event = SessionEvent(1, "content", 1, "", "Übung", None)
    told = records.seal(7, (1, 2, [event])).content
    assert json.loads(told) == [1, 2, [[1, "content", 1, "", "Übung", None]]]
    assert len(told) <= 48
