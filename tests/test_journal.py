"""What every journal keeps to, whichever it is: one suite over all of them."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_scenes import settled

from dispatcher.core.mark import Mark
from dispatcher.core.packets import SessionEvent
from dispatcher.journal import Journal
from dispatcher.journal.memory import MemoryJournal
from dispatcher.journal.thoughts import ThoughtLog

NOW_S = 1_700_000_000.25

Make = Callable[[], AbstractContextManager[Journal]]


def now_s() -> float:
    return NOW_S


def memory() -> Journal:
    return MemoryJournal("epoch-1", unix_s=now_s)


@contextlib.contextmanager
def a_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "journal.db"


@contextlib.contextmanager
def sqlite() -> Iterator[Journal]:
    with a_file() as path, settled(path, now_s) as journal:
        yield journal


@contextlib.contextmanager
def sqlite_with_thoughts() -> Iterator[Journal]:
    with a_file() as path, settled(path, now_s, ThoughtLog) as journal:
        yield journal


JOURNALS: dict[str, Make] = {
    "memory": lambda: contextlib.nullcontext(memory()),
    "memory, with thoughts logged": lambda: contextlib.nullcontext(ThoughtLog(memory())),
    "sqlite": sqlite,
    "sqlite, with thoughts logged": sqlite_with_thoughts,
}


@pytest.fixture(params=list(JOURNALS))
def make(request: pytest.FixtureRequest) -> Make:
    return JOURNALS[request.param]


@pytest.fixture
def journal(make: Make) -> Iterator[Journal]:
    with make() as journal:
        yield journal


def events(first: int, last: int) -> list[SessionEvent]:
    return [
        SessionEvent(offset, "content", 1, "", f"text {offset}", None) for offset in range(first, last + 1)
    ]


def offsets(journal: Journal, after: int, most: int = 100) -> list[int]:
    return [entry.event.offset for entry in journal.read("s1", after, most).entries]


def test_what_is_kept_is_read_from_a_cursor_on(journal: Journal) -> None:
    journal.append("s1", events(1, 3), Mark)
    journal.append("s1", events(4, 5), Mark)
    assert offsets(journal, 0) == [1, 2, 3, 4, 5]
    assert offsets(journal, 3) == [4, 5]
    assert offsets(journal, 5) == []
    assert offsets(journal, 99) == []
    page = journal.read("s1", 3, 100)
    assert (page.available_from, page.head) == (1, 5)
    assert [entry.event for entry in page.entries] == events(4, 5)


def test_a_page_is_no_longer_than_asked_for(journal: Journal) -> None:
    journal.append("s1", events(1, 10), Mark)
    assert offsets(journal, 2, most=3) == [3, 4, 5]
    page = journal.read("s1", 2, 0)
    assert (list(page.entries), page.available_from, page.head) == ([], 1, 10)


def test_a_session_that_nobody_knows_has_nothing(journal: Journal) -> None:
    page = journal.read("nobody", 0, 10)
    assert (list(page.entries), page.available_from, page.head) == ([], 0, 0)


def test_sessions_are_kept_apart(journal: Journal) -> None:
    journal.append("s1", events(1, 2), Mark)
    journal.append("s2", events(1, 1), Mark)
    assert journal.read("s1", 0, 10).head == 2
    assert journal.read("s2", 0, 10).head == 1
    journal.forget("s1")
    assert journal.read("s2", 0, 10).head == 1


def test_each_event_bears_the_time_at_which_it_was_kept(journal: Journal) -> None:
    journal.append("s1", events(1, 1), Mark)
    assert [entry.unix_ms for entry in journal.read("s1", 0, 1).entries] == [int(NOW_S * 1000)]


@pytest.mark.parametrize("first", [1, 2, 4, 5])
def test_offsets_go_on_from_the_last(journal: Journal, first: int) -> None:
    journal.append("s1", events(1, 2), Mark)
    with pytest.raises(AssertionError, match=f"s1: offset {first} where 3 is due"):
        journal.append("s1", events(first, first), Mark)
    assert offsets(journal, 0) == [1, 2]


def test_a_session_begins_with_1(journal: Journal) -> None:
    with pytest.raises(AssertionError, match="offset 2 where 1 is due"):
        journal.append("s1", events(2, 2), Mark)


def test_a_page_that_was_read_does_not_change(journal: Journal) -> None:
    journal.append("s1", events(1, 2), Mark)
    page = journal.read("s1", 0, 100)
    journal.append("s1", events(3, 3), Mark)
    journal.forget("s1")
    assert [entry.event.offset for entry in page.entries] == [1, 2]


def test_what_is_forgotten_is_gone(journal: Journal) -> None:
    journal.append("s1", events(1, 2), Mark)
    journal.forget("s1")
    journal.forget("s1")
    journal.forget("nobody")
    assert journal.read("s1", 0, 10).head == 0


def test_the_epoch_is_the_journals_own(journal: Journal) -> None:
    assert journal.epoch
    assert repr(journal)


# --- waking ----------------------------------------------------------------------------------------------


def test_a_subscriber_is_woken_by_each_append_and_by_the_end(journal: Journal) -> None:
    journal.append("s1", events(1, 1), Mark)
    woken: list[int] = []
    journal.subscribe("s1", lambda: woken.append(journal.read("s1", 0, 0).head))
    assert woken == []
    journal.append("s1", events(2, 3), Mark)
    journal.append("s2", events(1, 1), Mark)
    journal.append("s1", events(4, 4), Mark)
    journal.forget("s1")
    # Woken after it was kept, so that what it reads then is the news.
    assert woken == [3, 4, 0]


def test_who_unsubscribes_is_woken_no_more(journal: Journal) -> None:
    journal.append("s1", events(1, 1), Mark)
    woken: list[str] = []
    first = journal.subscribe("s1", lambda: woken.append("first"))
    journal.subscribe("s1", lambda: woken.append("second"))
    first()
    first()
    journal.append("s1", events(2, 2), Mark)
    assert woken == ["second"]
    journal.forget("s1")
    first()


def test_one_that_unsubscribes_when_it_is_woken_keeps_nobody_else_asleep(journal: Journal) -> None:
    journal.append("s1", events(1, 1), Mark)
    woken: list[str] = []

    def once() -> None:
        woken.append("first")
        unsubscribe()

    unsubscribe = journal.subscribe("s1", once)
    journal.subscribe("s1", lambda: woken.append("second"))
    journal.append("s1", events(2, 2), Mark)
    assert woken == ["first", "second"]


def test_a_subscription_to_nobody_does_no_harm(journal: Journal) -> None:
    unsubscribe = journal.subscribe("nobody", lambda: None)
    unsubscribe()


# --- laws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(JOURNALS))
@settings(deadline=None)
@given(
    lots=st.lists(st.tuples(st.sampled_from(["s1", "s2"]), st.integers(0, 4)), max_size=10),
    after=st.integers(0, 30),
    most=st.integers(0, 30),
)
def test_whoever_comes_back_with_a_cursor_gets_exactly_the_rest(
    name: str, lots: list[tuple[str, int]], after: int, most: int
) -> None:
    heads = {"s1": 0, "s2": 0}
    with JOURNALS[name]() as journal:
        for session_id, number in lots:
            journal.append(session_id, events(heads[session_id] + 1, heads[session_id] + number), Mark)
            heads[session_id] += number
        for session_id, head in heads.items():
            page = journal.read(session_id, after, most)
            rest = list(range(after + 1, head + 1))[:most]
            assert [entry.event.offset for entry in page.entries] == rest
            assert page.head == head
