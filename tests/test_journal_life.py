"""What an end without a farewell means for a journal's file: killed, the machine down, its log damaged; and what
becomes of one that is taken away while it is in use."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from asynchronous import asynchronous, eventually
from journal_scenes import appending, asked, kept, texts

from dispatcher.core.mark import Mark
from dispatcher.core.packets import AgentOffer, Hello, ModelOffer
from dispatcher.journal import Restored
from dispatcher.journal.file import JournalError
from dispatcher.journal.life import LIFE, boot_id
from dispatcher.journal.sqlite import SqliteJournal

MODELS = (ModelOffer("fast", "openai-chat:qwen3", takes_images=False, calls_tools=True), ModelOffer("deep"))
HELLO = Hello("c1", "i1", "v1", (AgentOffer("echo", "1", "says", ("text",)),), {}, 3, 1, (), models=MODELS)
COMMITS = 5
# So that a commit has several pages.
TEXT = "long " * 2_000


class Image(NamedTuple):
    """A file as a crash leaves it; `ends` are the sizes of its log after each commit."""

    path: Path
    epoch: str
    ends: list[int]

    @property
    def wal(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def left(self) -> tuple[bytes, bytes]:
        """What is in the file and its log."""
        return self.path.read_bytes(), self.wal.read_bytes()

    def put_back(self, left: tuple[bytes, bytes]) -> None:
        for path, content in zip((self.path, self.wal), left, strict=True):
            path.write_bytes(content)

    def flip(self, at: int) -> None:
        """One bit of the log."""
        content = bytearray(self.wal.read_bytes())
        content[at] ^= 4
        self.wal.write_bytes(content)


class Opened(NamedTuple):
    """What the next life has."""

    epoch: str
    restored: Restored

    @property
    def texts_kept(self) -> int:
        (session,) = self.restored.sessions
        assert [event for _, event in session.entries] == texts(1, len(session.entries), TEXT)
        return len(session.entries)


async def crashed(folder: Path, *, power_safe: bool = False, boot: str = "this boot") -> Image:
    """A session of so many texts, a commit each."""
    path = folder / "journal.db"
    journal = SqliteJournal.at(path, power_safe=power_safe, boot=boot)
    image = Image(path, journal.epoch, [])
    journal.open(asked("s1"))
    journal.remember("c1", HELLO)
    for number in range(1, COMMITS + 1):
        journal.append("s1", texts(number, number, TEXT), Mark)
        await kept(journal)
        image.ends.append(image.wal.stat().st_size)
    left = image.left()
    await journal.close()
    image.put_back(left)
    return image


async def opened(image: Image, boot: str = "this boot") -> Opened:
    journal = SqliteJournal.at(image.path, boot=boot)
    try:
        return Opened(journal.epoch, journal.restored())
    finally:
        await journal.close()


# --- how it ended ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("power_safe", "boot"), [(False, "this boot"), (True, "this boot"), (True, "another"), (True, "")]
)
@asynchronous
async def test_what_can_not_have_lost_anything_goes_on_in_its_epoch(
    tmp_path: Path, power_safe: bool, boot: str
) -> None:
    image = await crashed(tmp_path, power_safe=power_safe)
    again = await opened(image, boot)
    assert (again.epoch, again.texts_kept) == (image.epoch, COMMITS)
    assert again.restored.commanders == [HELLO]


@pytest.mark.parametrize(("before", "after"), [("this boot", "another"), ("this boot", ""), ("", "")])
@asynchronous
async def test_after_the_machine_was_down_a_new_epoch_begins(
    tmp_path: Path, before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody knows whether it was, it counts as down."""
    image = await crashed(tmp_path, boot=before)
    again = await opened(image, after)
    assert again.epoch != image.epoch
    assert again.texts_kept == COMMITS
    # What they were told may be lost.
    assert again.restored.commanders == []
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{image.path}: the machine went down while it was in use" in told
    assert "a new epoch begins" in told
    # And for good.
    caplog.clear()
    third = await opened(image, "a third")
    assert (third.epoch, third.texts_kept, third.restored.commanders) == (again.epoch, COMMITS, [])
    assert "epoch" not in caplog.text


@asynchronous
async def test_a_copy_of_one_in_use_is_not_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever puts it back may have told of more in the meantime."""
    image = await crashed(tmp_path, power_safe=True)
    shutil.copy(image.path, tmp_path / "copy.db")
    shutil.copy(image.wal, tmp_path / "copy.db-wal")
    again = await opened(Image(tmp_path / "copy.db", "", []))
    assert (again.epoch != image.epoch, again.texts_kept) == (True, COMMITS)
    assert "is a copy of a file that was in use" in caplog.text


@asynchronous
async def test_one_that_was_closed_outlives_the_machine(tmp_path: Path) -> None:
    image = await crashed(tmp_path)
    for boot in ("this boot", "another", ""):
        assert (await opened(image, boot)).epoch == image.epoch


@asynchronous
async def test_one_that_does_not_say_how_it_ended_counts_as_closed(tmp_path: Path) -> None:
    image = await crashed(tmp_path)
    with closing(sqlite3.connect(image.path)) as database:
        assert database.execute("DELETE FROM records WHERE place = ?", (LIFE,)).rowcount == 1
        database.commit()
    assert (await opened(image, "another")).epoch == image.epoch


def test_a_killed_process_tells_of_this_life_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with appending(path) as appender:
        for count, _ in enumerate(appender.lines()):
            if count == 100:
                appender.kill()
    with closing(sqlite3.connect(path)) as database:
        (told,) = database.execute("SELECT content FROM records WHERE place = ?", (LIFE,)).fetchone()
    assert boot_id()
    assert f'"boot":"{boot_id()}"' in told.decode()


# --- its log ---------------------------------------------------------------------------------------------


@asynchronous
async def test_wherever_a_log_is_damaged_no_commit_is_lost_in_silence(tmp_path: Path) -> None:
    image = await crashed(tmp_path)
    whole = image.left()
    assert len(set(image.ends)) == COMMITS
    # In the midst of its header, of each commit but the last, and of the last one's first frame.
    for at in (8, 20, *(sum(ends) // 2 for ends in pairwise([32, *image.ends[:-1]])), image.ends[-2] + 100):
        image.put_back(whole)
        image.flip(at)
        damaged = image.wal.read_bytes()
        for _ in range(2):
            with pytest.raises(
                JournalError, match=r"is damaged: .* of journal\.db-wal is not as it was written"
            ):
                await opened(image)
            assert image.wal.read_bytes() == damaged
        # A machine that went down may leave any of it.
        again = await opened(image, "another")
        assert again.epoch != image.epoch


@asynchronous
async def test_a_log_with_a_half_written_commit_at_its_end_is_well(tmp_path: Path) -> None:
    """A kill in the midst of a write leaves that."""
    image = await crashed(tmp_path)
    whole = image.left()
    for end in (
        image.ends[-1] - 1,
        image.ends[-1] - 4_000,
        image.ends[-2] + 24,
        image.ends[-2] + 5,
        image.ends[-2],
    ):
        image.put_back((whole[0], whole[1][:end]))
        again = await opened(image)
        assert (again.epoch, again.texts_kept) == (image.epoch, COMMITS - 1)


@asynchronous
async def test_what_an_older_run_of_the_log_left_behind_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    image = Image(path, "", [])
    journal = SqliteJournal.at(path, boot="this boot")
    journal.open(asked("s1"))
    runs: set[bytes] = set()
    number = 0
    while len(runs) < 3:
        number += 1
        journal.append("s1", texts(number, number, "x" * 300_000), Mark)
        await kept(journal)
        with image.wal.open("rb") as log:
            # What all frames of a run bear.
            runs.add(log.read(24)[16:])
    left = image.left()
    await journal.close()
    image.put_back(left)
    again = await opened(image)
    (session,) = again.restored.sessions
    assert (again.epoch, len(session.entries)) == (journal.epoch, number)


@asynchronous
async def test_a_log_that_waited_for_the_disk_lacks_one_commit_at_most(tmp_path: Path) -> None:
    """The last one was perhaps not on the disk yet, so nobody was told of it; its pages lie there in any order."""
    image = await crashed(tmp_path, power_safe=True)
    whole = image.left()
    image.flip(image.ends[-2] + 100)
    again = await opened(image, "another")
    assert (again.epoch, again.texts_kept) == (image.epoch, COMMITS - 1)
    image.put_back(whole)
    image.flip(image.ends[-3] + 100)
    with pytest.raises(JournalError, match="and 2 commits end behind it"):
        await opened(image, "another")


@asynchronous
async def test_a_log_that_is_missing_begins_a_new_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = await crashed(tmp_path)
    image.wal.unlink()
    again = await opened(image)
    assert again.epoch != image.epoch
    assert again.restored == Restored([], [])
    assert "journal.db-wal is missing" in caplog.text


@pytest.mark.slow
def test_no_kill_looks_like_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At any moment, in the midst of writes, and of the log's next run over what lies there."""
    for number in range(100):
        path = tmp_path / f"{number}.db"
        with appending(path) as appender:
            for count, _ in enumerate(appender.lines()):
                if count == 1 + number * 97:
                    appender.kill()
        asyncio.run(opened(Image(path, "", []), boot_id()))
    assert "epoch" not in caplog.text


# --- taken away ------------------------------------------------------------------------------------------


class Kept:
    """A journal whose session grows, and whether it says that it can't keep it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_stalled = False
        self.journal = SqliteJournal.at(path, stalled=self._stalled)
        self.head = 0
        self.journal.open(asked("s1"))

    def _stalled(self, is_stalled: bool) -> None:
        self.is_stalled = is_stalled

    def grow(self) -> None:
        self.head += 1
        self.journal.append("s1", texts(self.head, self.head), Mark)

    @property
    def shown(self) -> int:
        return self.journal.read("s1", 0, 1).head

    async def until_stalled(self) -> None:
        """It need not look at each commit, but soon."""

        async def grown() -> bool:
            self.grow()
            return self.is_stalled

        await eventually(grown, bool)


@asynccontextmanager
async def keeping(path: Path) -> AsyncIterator[Kept]:
    held = Kept(path)
    await kept(held.journal)
    try:
        yield held
    finally:
        await held.journal.close()


@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal"])
@asynchronous
async def test_what_is_moved_away_stalls_and_goes_on_when_it_is_back(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(tmp_path / "journal.db") as held:
        (tmp_path / name).rename(tmp_path / "elsewhere")
        await held.until_stalled()
        shown = held.shown
        assert shown < held.head
        held.grow()
        assert f"can't be written: {tmp_path / name} is gone" in caplog.text
        assert "put it back, with its -wal file" in caplog.text
        assert held.shown == shown
        (tmp_path / "elsewhere").rename(tmp_path / name)
        await kept(held.journal)
        assert not held.is_stalled
        assert held.shown == held.head
    async with again(tmp_path / "journal.db") as journal:
        assert (journal.epoch, journal.read("s1", 0, 1).head) == (held.journal.epoch, held.head)


@asynccontextmanager
async def again(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal.at(path)
    try:
        yield journal
    finally:
        await journal.close()


@asynchronous
async def test_one_that_was_replaced_leaves_the_other_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.db"
    wal = tmp_path / "journal.db-wal"
    async with keeping(path) as held:
        path.unlink()
        wal.unlink()
        async with again(path) as other:
            other.open(asked("of the other"))
            await kept(other)
            await held.until_stalled()
            assert f"can't be written: another file is at {path} now" in caplog.text
            before = path.read_bytes(), wal.read_bytes()
            await held.journal.close()
            assert (path.read_bytes(), wal.read_bytes()) == before
            assert "what could not be kept is lost; nobody was told of it" in caplog.text
    async with again(path) as other:
        assert other.read("s1", 0, 1).head == 0
        assert [each.requested.session_id for each in other.restored().sessions] == ["of the other"]
