"""The journal with a file: what it tells and when, what comes back, and what is no journal."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from asynchronous import asynchronous
from journal_scenes import asked, brought, kept, texts

from dispatcher.core.events import Kept, SessionRequested
from dispatcher.core.mark import Mark
from dispatcher.core.packets import AgentOffer, Hello, SessionEvent
from dispatcher.core.policy import Budgets
from dispatcher.journal import Restored
from dispatcher.journal.file import WAL_PAGES, JournalError, JournalFile
from dispatcher.journal.sqlite import SqliteJournal

NOW_S = 1_700_000_000.25
REQUESTED = SessionRequested(
    "s1",
    "echo",
    b"\x00\xff",
    "1.2",
    "alice",
    {"a": "b"},
    {},
    "k",
    "i",
    Budgets(tool_calls=3, total_time_s=1.5),
    2.5,
)
HELLO = Hello("c1", "i1", "v1", (AgentOffer("echo", "1", "says", ("text",)),), {"zone": "a"}, 3, 1, ())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def journal_at(path: Path) -> SqliteJournal:
    return SqliteJournal.at(path, unix_s=lambda: NOW_S)


def told(session: Kept) -> list[SessionEvent]:
    return [event for _, event in session.entries]


# --- from life to life -----------------------------------------------------------------------------------


@asynchronous
async def test_everything_comes_back(path: Path) -> None:
    journal = journal_at(path)
    epoch = journal.epoch
    assert journal.restored() == Restored([], [])
    journal.open(REQUESTED)
    journal.append("s1", texts(1, 3), lambda: Mark(attempt=1))
    await kept(journal)
    journal.open(asked("s2"))
    journal.append("s1", texts(4, 4), lambda: Mark(attempt=2, owed=((1, 4),)))
    journal.append("s2", texts(1, 1), Mark)
    journal.remember("c1", HELLO)
    journal.remember("c2", HELLO)
    journal.remember("c2", None)
    await journal.close()

    again = journal_at(path)
    restored = again.restored()
    assert again.epoch == epoch
    assert [session.requested for session in restored.sessions] == [REQUESTED, asked("s2")]
    first, second = restored.sessions
    assert told(first) == texts(1, 4)
    assert [unix_ms for unix_ms, _ in first.entries] == [int(NOW_S * 1000)] * 4
    assert [event for _, event in first.entries[1:3]] == texts(2, 3)
    assert first.entries[-1][1].offset == 4
    assert first.mark == Mark(attempt=2, owed=((1, 4),))
    assert told(second) == texts(1, 1)
    assert restored.commanders == [HELLO]
    assert again.restored() == Restored((), ())
    # And it goes on from there.
    again.append("s1", texts(5, 6), lambda: Mark(attempt=3))
    again.remember("c1", None)
    await kept(again)
    assert [entry.event for entry in again.read("s1", 3, 9).entries] == texts(4, 6)
    await again.close()
    third = await brought(path)
    assert told(third.sessions[0]) == texts(1, 6)
    assert third.sessions[0].mark == Mark(attempt=3)
    assert third.commanders == []


@asynchronous
async def test_what_is_forgotten_does_not_come_back(path: Path) -> None:
    journal = journal_at(path)
    for session_id in ("early", "kept", "late"):
        journal.open(asked(session_id))
        journal.append(session_id, texts(1, 2), Mark)
    await kept(journal)
    journal.append("early", texts(3, 3), Mark)
    journal.forget("early")
    # Before it was ever kept, and while a commit is under way.
    journal.open(asked("never"))
    journal.append("never", texts(1, 1), Mark)
    journal.forget("never")
    journal.append("late", texts(3, 3), Mark)
    await asyncio.sleep(0)
    journal.forget("late")
    await kept(journal)
    # Its name is free again.
    journal.open(asked("early"))
    journal.append("early", texts(1, 1), Mark)
    await journal.close()
    restored = await brought(path)
    assert [(each.requested.session_id, len(each.entries)) for each in restored.sessions] == [
        ("kept", 2),
        ("early", 1),
    ]


@asynchronous
async def test_a_session_that_a_former_life_brought_is_forgotten_whole(path: Path) -> None:
    for _ in range(2):
        journal = journal_at(path)
        journal.restored()
        if journal.read("s1", 0, 0).head == 0:
            journal.open(asked("s1"))
        head = journal.read("s1", 0, 0).head
        journal.append("s1", texts(head + 1, head + 1), Mark)
        await kept(journal)
        await journal.close()
    journal = journal_at(path)
    journal.forget("s1")
    await journal.close()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM records").fetchone() == (1,)


@asynchronous
async def test_the_file_is_for_this_user_alone_and_one_file_when_closed(path: Path) -> None:
    journal = journal_at(path)
    journal.open(asked("s1"))
    await kept(journal)
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
    await journal.close()
    assert [each.name for each in path.parent.iterdir()] == ["journal.db"]


# --- when ------------------------------------------------------------------------------------------------


@asynchronous
async def test_nothing_is_shown_before_it_is_kept(path: Path) -> None:
    journal = journal_at(path)
    journal.open(asked("s1"))
    said: list[str] = []
    journal.subscribe("s1", lambda: said.append(f"woken at {journal.read('s1', 0, 9).head}"))
    journal.when_kept(lambda: said.append("opened"))
    journal.append("s1", texts(1, 2), Mark)
    journal.when_kept(lambda: said.append(f"kept {journal.read('s1', 0, 9).head}"))
    assert journal.read("s1", 0, 9).entries == []
    assert said == []
    # Who asks when it has been told to write waits for the same commit, in the order asked.
    await asyncio.sleep(0)
    journal.when_kept(lambda: said.append("asked later"))
    assert said == []
    await kept(journal)
    assert said == ["woken at 2", "opened", "kept 2", "asked later"]
    # Nothing is pending: at once.
    journal.when_kept(lambda: said.append("at once"))
    assert said[-1] == "at once"
    await journal.close()


@asynchronous
async def test_what_is_asked_while_others_are_called_comes_after_them(path: Path) -> None:
    journal = journal_at(path)
    said: list[str] = []

    def first() -> None:
        said.append("first")
        journal.when_kept(lambda: said.append("asked by the first"))
        journal.append("s1", texts(1, 1), Mark)
        journal.when_kept(lambda: said.append(f"its event is kept: {journal.read('s1', 0, 9).head}"))

    journal.open(asked("s1"))
    journal.when_kept(first)
    journal.when_kept(lambda: said.append("second"))
    await kept(journal)
    await kept(journal)
    assert said == ["first", "second", "asked by the first", "its event is kept: 1"]
    await journal.close()


@asynchronous
async def test_one_that_fails_keeps_nobody_else_waiting(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = journal_at(path)

    def fail() -> None:
        raise ValueError("of this one alone")

    journal.open(asked("s1"))
    journal.subscribe("s1", fail)
    journal.append("s1", texts(1, 1), Mark)
    journal.when_kept(fail)
    await kept(journal)
    assert caplog.text.count("a callback failed") == 2
    await journal.close()


@asynchronous
async def test_a_mark_that_fails_loses_nothing_and_nobody_is_told(path: Path) -> None:
    """It is a bug, and costs everybody the commit: better than a hole in the file."""
    journal = journal_at(path)
    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    def fail() -> Mark:
        raise ValueError("no mark")

    for session_id in ("s1", "s2"):
        journal.open(asked(session_id))
        journal.append(session_id, texts(1, 1), Mark)
    journal.append("s2", texts(2, 2), fail)
    told_kept: list[str] = []
    journal.when_kept(lambda: told_kept.append("kept"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(said) == 1
    assert told_kept == []
    journal.append("s2", texts(3, 3), Mark)
    await kept(journal)
    assert told_kept == ["kept"]
    await journal.close()
    assert [len(each.entries) for each in (await brought(path)).sessions] == [1, 3]


@asynchronous
async def test_a_mark_is_asked_for_once_a_commit_and_tells_of_all_that_is_in_it(path: Path) -> None:
    journal = journal_at(path)
    asked_at: list[int] = []
    head = 0

    def mark() -> Mark:
        asked_at.append(head)
        return Mark(received=head)

    journal.open(asked("s1"))
    for head in range(1, 6):
        journal.append("s1", texts(head, head), mark)
    await kept(journal)
    assert asked_at == [5]
    # A mark may come without events.
    head = 7
    journal.append("s1", [], mark)
    await journal.close()
    restored = await brought(path)
    assert restored.sessions[0].mark == Mark(received=7)
    assert told(restored.sessions[0]) == texts(1, 5)


@asynchronous
async def test_a_session_has_to_be_opened_once(path: Path) -> None:
    journal = journal_at(path)
    with pytest.raises(AssertionError, match="s1 was not opened"):
        journal.append("s1", texts(1, 1), Mark)
    journal.open(asked("s1"))
    with pytest.raises(AssertionError, match="s1 was opened before"):
        journal.open(asked("s1"))
    await journal.close()


@asynchronous
async def test_the_write_ahead_log_does_not_grow_without_bound(path: Path) -> None:
    journal = journal_at(path)
    journal.open(asked("s1"))
    wal = path.with_name("journal.db-wal")
    largest = 0
    # Four times as much as it may hold.
    text = "x" * 100_000
    for number in range(1, WAL_PAGES * 4096 * 4 // len(text)):
        journal.append("s1", [SessionEvent(number, "content", 1, "", text, None)], Mark)
        await kept(journal)
        largest = max(largest, wal.stat().st_size)
    assert WAL_PAGES * 4096 // 2 < largest < WAL_PAGES * 4096 * 3 // 2
    await journal.close()


# --- what is no journal ----------------------------------------------------------------------------------


@contextmanager
def refused(path: Path) -> Iterator[list[str]]:
    """What is said of a file that isn't used; it is left as it was."""
    before = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    said: list[str] = []
    yield said
    with pytest.raises(JournalError) as caught:
        asyncio.run(brought(path))
    said.append(str(caught.value))
    assert said[0].startswith(str(path))
    after = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    assert {name: after.get(name) for name in before} == before


def refusal(path: Path) -> str:
    with refused(path) as said:
        pass
    return said[0]


@asynchronous
async def written(path: Path) -> None:
    """A journal of some pages, closed."""
    journal = journal_at(path)
    for session_id in ("s1", "s2", "s3"):
        journal.open(asked(session_id, os.urandom(3_000)))
    for number in range(1, 60):
        for session_id in ("s1", "s2", "s3"):
            journal.append(session_id, texts(number, number), Mark)
        await kept(journal)
    await journal.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none" / "journal.db"
    with pytest.raises(JournalError, match=f"{path}: there is no folder {path.parent}; make it first"):
        JournalFile(path)


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="should be a file"):
        JournalFile(tmp_path)


def test_a_file_of_something_else(path: Path) -> None:
    path.write_text("once upon a time\n" * 100)
    assert "is no journal, or damaged" in refusal(path)


def test_a_database_of_something_else(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE accounts (name TEXT)")
    assert "is a database of another program; choose another path" in refusal(path)


def test_a_newer_version(path: Path) -> None:
    written(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")
    said = refusal(path)
    assert "was written by a newer dispatcher (format 2, this one knows 1)" in said
    assert "move it away" in said


def test_no_version(path: Path) -> None:
    written(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 0")
    assert "damaged: it has no version" in refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_was_cut(path: Path, share: float) -> None:
    written(path)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    said = refusal(path)
    assert "damaged" in said
    assert "move it away" in said


def test_a_file_that_was_emptied_beside_its_log(path: Path) -> None:
    path.touch()
    path.with_name("journal.db-wal").write_bytes(b"frames")
    assert "it is empty, and journal.db-wal is not" in refusal(path)


def test_an_empty_file_is_begun_and_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.touch()
    assert asyncio.run(brought(path)) == Restored([], [])
    assert f"{path} was empty: a new one begins there" in caplog.text


def test_whichever_byte_is_flipped_nothing_else_is_read(path: Path) -> None:
    """Either the file is refused, or the byte didn't matter."""
    written(path)
    whole = path.read_bytes()
    right = asyncio.run(brought(path))
    kept_before = [(each.requested, each.mark, told(each)) for each in right.sessions]
    step = 197
    refusals = 0
    lines: set[str] = set()
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            restored = asyncio.run(brought(path))
        except JournalError as error:
            refusals += 1
            lines.add(str(error))
        else:
            assert [(each.requested, each.mark, told(each)) for each in restored.sessions] == kept_before, at
    assert refusals > len(whole) / step / 2
    assert all("damaged" in line for line in lines), lines


Damage = Callable[[sqlite3.Connection], object]
DAMAGES: dict[str, tuple[str, str]] = {
    "its epoch": ("DELETE FROM records WHERE place = 0", "its epoch is missing"),
    "all": ("DELETE FROM records", "its epoch is missing"),
    "a request": ("DELETE FROM records WHERE place = (3 << 56) + 2", "session 2 was asked is missing"),
    "a mark": ("DELETE FROM records WHERE place = (2 << 56) + 2", "where session s2 stood is missing"),
    "a chunk": (
        "DELETE FROM records WHERE place = (4 << 56) + 5",
        "session s2: event 3 is where 2 should be",
    ),
    "a record that is text": (
        "UPDATE records SET content = 'x' WHERE place = (4 << 56) + 5",
        "not as it was written",
    ),
    "a checksum": (
        "UPDATE records SET crc32 = 5 WHERE place = (3 << 56) + 2",
        "what session 2 was asked: it is not",
    ),
    "a table": ("DROP TABLE records", "and is 'there is none'"),
    "a column": ("ALTER TABLE records DROP COLUMN crc32", "its table should be"),
    "one more column": ("ALTER TABLE records ADD COLUMN more", "its table should be"),
    "an index": ("CREATE UNIQUE INDEX one ON records (crc32)", "its table should be"),
    "a trigger": (
        "CREATE TRIGGER t BEFORE INSERT ON records BEGIN SELECT RAISE(FAIL, 'no'); END",
        "its table should be",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_session_that_can_not_be_read_is_not_dropped_in_silence(path: Path, damage: str) -> None:
    written(path)
    statement, why = DAMAGES[damage]
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()
    assert why in refusal(path)


@asynchronous
async def test_one_file_one_journal(path: Path) -> None:
    journal = journal_at(path)
    with pytest.raises(JournalError, match="is in use by another process"):
        journal_at(path)
    link = path.with_name("another-name.db")
    link.symlink_to(path)
    with pytest.raises(JournalError, match="is in use by another process"):
        journal_at(link)
    # It still keeps.
    journal.open(asked("s1"))
    await journal.close()
    assert len((await brought(link)).sessions) == 1
