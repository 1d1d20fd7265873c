"""A journal with a file and real processes: killed in the midst, two at once, no room on the disk."""

import asyncio
import shutil
import signal
import sqlite3
import stat
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous
from chat_viewer import asking, conversing, viewing
from commander_process import running_commander
from dialling import chatting
from dispatcher_process import running_dispatcher, serve_and_fail
from journal_scenes import Appender, appending, asked, brought, texts
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core.events import Kept
from dispatcher.core.mark import Mark
from dispatcher.journal import Restored, records
from dispatcher.journal.life import LIFE, Life


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


class Said:
    """What an appender has said: the offset after each of its steps, and up to where it was told that all is kept."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = defaultdict(lambda: [0])
        self.kept: dict[str, int] = {}
        self.forgotten: set[str] = set()
        self.lines = 0

    def hear(self, line: str) -> None:
        self.lines += 1
        word, _, rest = line.partition(" ")
        session_id, _, offset = rest.partition(" ")
        if word == "appended":
            self.steps[session_id].append(int(offset))
        elif word == "kept":
            self.kept[session_id] = int(offset)
        elif word == "forgot":
            self.forgotten.add(session_id)

    def judge(self, restored: Restored) -> None:
        """What came back is a prefix in whole steps, with all that was told as kept, and the marks that go with it."""
        found = {session.requested.session_id: session for session in restored.sessions}
        for session_id, session in found.items():
            assert session_id not in self.forgotten
            self._judge_session(session_id, session)
        for session_id, offset in self.kept.items():
            is_there = session_id in found and len(found[session_id].entries) >= offset
            # Perhaps it was forgotten, and nobody was told so any more.
            is_forgotten = session_id not in found and self.steps[session_id][-1] > 120
            assert session_id in self.forgotten or is_there or is_forgotten, session_id

    def _judge_session(self, session_id: str, session: Kept) -> None:
        events = [event for _, event in session.entries]
        assert session.requested == asked(session_id, session_id.encode())
        assert events == texts(1, len(events), session_id)
        assert len(events) in self.steps[session_id], "half a step"
        assert session.mark == Mark(received=len(events))


def listen(appender: Appender, said: Said, lines: int) -> None:
    """Hears so many lines, then kills it in the midst, and hears what it still said."""
    for line in appender.lines():
        said.hear(line)
        if said.lines == lines:
            appender.kill()


@pytest.mark.parametrize("lines", [1, 2, 50, 501, 2_002, 10_003])
def test_what_was_told_as_kept_survives_a_kill(path: Path, lines: int) -> None:
    said = Said()
    with appending(path) as appender:
        listen(appender, said, lines)
        assert appender.wait() == -signal.SIGKILL
    assert said.lines >= lines
    restored = asyncio.run(brought(path))
    said.judge(restored)
    # And once more: what was read is what is there.
    assert [each.requested for each in asyncio.run(brought(path)).sessions] == [
        each.requested for each in restored.sessions
    ]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5), ids=lambda part: f"{part + 1} of 5")
def test_kill_after_kill(tmp_path: Path, part: int) -> None:
    """In parts, for several processes to share."""
    for number in range(part, 100, 5):
        said = Said()
        with appending(tmp_path / f"{number}.db") as appender:
            listen(appender, said, 1 + number * 37)
        said.judge(asyncio.run(brought(tmp_path / f"{number}.db")))


@pytest.mark.parametrize("bytes_max", [40_000, 300_000])
def test_while_there_is_no_room_nothing_is_told_and_then_nothing_is_lost(path: Path, bytes_max: int) -> None:
    said = Said()
    order = []
    with appending(path, str(bytes_max)) as appender:
        for line in appender.lines():
            said.hear(line)
            if line in ("stalled", "well", "over"):
                order.append(line)
            else:
                assert order != ["stalled"] or line.startswith("appended"), f"{line!r} while nothing is kept"
            if line == "stalled":
                # Some tries later there is room.
                appender.say("there is room")
        assert appender.wait() == 0
    assert order == ["stalled", "well", "over"]
    log = [line for line in appender.log() if "journal:" in line]
    assert len(log) == 2, log
    assert f"{path} can't be written: disk I/O error" in log[0]
    assert "make room" in log[0]
    assert f"{path} can be written again" in log[1]
    restored = asyncio.run(brought(path))
    said.judge(restored)
    # One that had just been opened may have told nothing yet.
    entries = {session.requested.session_id: len(session.entries) for session in restored.sessions}
    live = {session_id: count for session_id, count in entries.items() if count}
    assert live == {each: said.kept[each] for each in said.kept if each not in said.forgotten}


def test_who_leaves_while_there_is_no_room_says_what_is_lost(path: Path) -> None:
    with appending(path, "40000") as appender:
        for line in appender.lines():
            if line == "stalled":
                appender.say("leave")
        assert appender.wait() == 0
    assert any("what could not be kept is lost; nobody was told of it" in line for line in appender.log())
    asyncio.run(brought(path))


# --- a dispatcher ----------------------------------------------------------------------------------------


def test_two_dispatchers_on_one_file(path: Path) -> None:
    with running_dispatcher("--journal", f"sqlite:{path}") as first:
        ended = serve_and_fail("--journal", f"sqlite:{path}")
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"dispatcher: journal: {path} is in use by another process; ")
        assert "Traceback" not in ended.stderr
        first.signal(signal.SIGKILL)
        first.wait()
        # The lock went with it.
        with running_dispatcher("--journal", f"sqlite:{path}"):
            pass
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("log_level", ["info", "debug"])
def test_a_dispatcher_with_a_file_of_its_own(tmp_path: Path, log_level: str) -> None:
    """A relative path is from where it was started."""
    with running_dispatcher(
        "--journal", "sqlite:j.db", "--journal-sync", "power", "--log-level", log_level, cwd=tmp_path
    ):
        assert stat.S_IMODE((tmp_path / "j.db").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["j.db"]


def test_a_file_that_is_none(path: Path) -> None:
    path.write_bytes(b"\x00once upon a time" * 1000)
    ended = serve_and_fail("--journal", f"sqlite:{path}")
    assert ended.returncode == 2
    assert not ended.stdout
    assert ended.stderr.startswith(f"dispatcher: journal: {path} is no journal, or damaged; ")
    assert "move it away" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("told", ["file", "sqlite", "sqlite:", "Memory", "", "sqlite:a\nb"])
def test_a_journal_that_there_is_not(told: str) -> None:
    ended = serve_and_fail("--journal", told)
    assert ended.returncode == 2
    assert "should be memory, or sqlite:PATH, e.g. sqlite:/var/lib/chat/journal.db" in ended.stderr


def as_power_cut(path: Path, image: Path) -> None:
    """The file as it was when the image was made, after another boot of the machine."""
    # Not another file of that name.
    path.write_bytes(image.read_bytes())
    shutil.copy(f"{image}-wal", f"{path}-wal")
    with closing(sqlite3.connect(path)) as database:
        content = records.seal(LIFE, Life("before the power cut", power_safe=False, inode=path.stat().st_ino))
        database.execute("REPLACE INTO records VALUES (?, ?, ?)", content)
        database.commit()
    # The one that just looked has brought it into the file, and deleted it.
    path.with_name(f"{path.name}-wal").touch()


@asynchronous
async def test_after_a_power_cut_nobody_is_joined_to_what_is_other_than_they_saw(
    tmp_path: Path, path: Path
) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    image = tmp_path / "image"
    with running_dispatcher("--journal", f"sqlite:{path}") as first:
        async with linked(first.address, agent, **me) as link, conversing(first.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("one ")
            await seen.until_text("one ")
            shutil.copy(path, image)
            shutil.copy(f"{path}-wal", f"{image}-wal")
            for sequence, word in enumerate(("two ", "three ", "four "), 2):
                await turn.say(word)
                await turn.acknowledged(sequence)
            await seen.until_text("four ")
            first.signal(signal.SIGKILL)
            first.wait()
    as_power_cut(path, image)
    resume = agent_pb2.Resume(
        session_id=turn.session_id, attempt=1, last_sequence_sent=turn.sequence, last_signal_received=0
    )
    with running_dispatcher("--journal", f"sqlite:{path}") as second:
        second.wait_for_log("the machine went down while it was in use")
        async with (
            linked(second.address, agent, **me, resumes=[resume]) as link,
            chatting(second.address) as chat,
        ):
            (verdict,) = link.welcome.resumes
            assert verdict.WhichOneof("verdict") == "fenced"
            again = await link.started()
            assert again.attempt > 1
            await again.say("A DIFFERENT ANSWER, AND A LONGER ONE")
            cursor = seen.events[-1].cursor
            request = chat_pb2.SubscribeRequest(session_id=turn.session_id, cursor=cursor)
            async with viewing(chat.Subscribe(request), turn.session_id) as (_, rest):
                await again.finish()
                ended = await rest.ended()
            assert rest.kinds[0] == "gap"
            assert rest.events[0].gap.reason == "other_epoch"
            assert rest.events[0].gap.available_from.offset == 1
            assert ended.name == "completed"
            # The whole, once more: with the reset between what was kept of the first attempt and the second.
            assert rest.text == "A DIFFERENT ANSWER, AND A LONGER ONE"
            assert {event.cursor.epoch for event in rest.events[1:]} != {cursor.epoch}


def moved(folder: Path, to: Path) -> None:
    for each in list(folder.glob("journal.db*")):
        each.rename(to / each.name)


@asynchronous
async def test_while_its_file_is_not_at_its_place_nobody_is_told_anything(tmp_path: Path, path: Path) -> None:
    agent = unique("agent")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with running_dispatcher("--journal", f"sqlite:{path}") as dispatcher:
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("before ")
            await seen.until_text("before ")
            moved(tmp_path, elsewhere)

            async def saying() -> None:
                while True:
                    await turn.say(".")
                    await turn.acknowledged(turn.sequence)

            async with asyncio.TaskGroup() as tasks:
                said = tasks.create_task(saying())
                await asyncio.to_thread(dispatcher.wait_for_log, f"can't be written: {path} is gone")
                said.cancel()
            refused = await talk.request("2", ask=asking(agent))
            assert refused.error.code == "journal_stalled"
            moved(elsewhere, tmp_path)
            await turn.acknowledged(turn.sequence)
            await turn.finish()
            await seen.ended()
            assert seen.text == "before " + "." * (turn.sequence - 2)


AGENTS = """
import asyncio
from commander import agent, Turn

@agent("slow")
async def slow(turn: Turn):
    yield f"attempt {turn.attempt}: "
    try:
        await asyncio.sleep(5)
        yield "done"
    finally:
        # It tidies up, for a moment.
        await asyncio.sleep(0.5)
"""


@asynchronous
async def test_a_commander_that_still_runs_an_attempt_that_is_forgotten_takes_the_next(
    tmp_path: Path,
) -> None:
    """It still ends the attempt that the file has forgotten, whose number is given again."""
    (tmp_path / "my_agents.py").write_text(AGENTS)
    path, image = tmp_path / "journal.db", tmp_path / "image"
    address = f"unix:{tmp_path / 'socket'}"
    flags = ("--journal", f"sqlite:{path}", "--grpc-address", address, "--first-token-s", "15")
    quick = ("--heartbeat-interval-s", "0.5", "--detach-grace-s", "2")
    commander = ("my_agents", "--dispatcher", address, "--commander-id", "c2")
    with running_dispatcher(*flags, *quick) as first:
        async with conversing(first.address) as talk:
            async with linked(first.address, "slow", slots=1) as link:
                seen = await talk.ask("slow")
                turn = await link.started()
                await turn.say("half")
                await seen.until_text("half")
                # All that the file will have after the power cut.
                shutil.copy(path, image)
                shutil.copy(f"{path}-wal", f"{image}-wal")
            with running_commander(tmp_path, *commander) as process:
                await seen.until_text("attempt 2")
                first.signal(signal.SIGKILL)
                first.wait()
                as_power_cut(path, image)
                with running_dispatcher(*flags, *quick) as second:
                    async with chatting(second.address) as chat:
                        request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
                        async with viewing(chat.Subscribe(request), turn.session_id) as (_, rest):
                            ended = await rest.ended()
                            assert ended.name == "completed", (ended, second.log, process.lines)
