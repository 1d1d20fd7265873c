"""Hundreds of sessions at a time, for long, in bad weather: links, commanders and viewers' connections fail by lot,
every second. In the end each session has ended once, each viewer has every byte, no call of a tool ran twice, and the
processes are as large as they were.

SOAK_SECONDS says how long (900), SOAK_SEED makes it happen again; SLOW_SECONDS bounds it.
"""

import asyncio
import itertools
import os
import random
import secrets
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from asynchronous import eventually
from dialling import dialled
from faults.promises import ended_once, text_is_kept, tools_ran_once
from faults.scene import AGENTS, Place, dispatching
from faults.script import Script, Step
from faults.viewers import IMPATIENT, User, Watcher
from faults.weather import Weather, weather
from southwest.ai.agent.v1 import chat_pb2_grpc

SECONDS = min(float(os.environ.get("SOAK_SECONDS", "900")), float(os.environ.get("SLOW_SECONDS", "inf")))
SESSIONS = int(os.environ.get("SOAK_SESSIONS", "200"))
SEED = int(os.environ.get("SOAK_SEED", str(secrets.randbelow(1_000_000))))
# A session that takes longer hangs: it is a few seconds of talk, and faults are over after three.
_SESSION_S = 120.0
_KEEP_S = 20.0
_FLAGS = (
    *("--detach-grace-s", "2", "--attempts-max", "50", "--restart-backoff-s", "0.1"),
    *("--queue-wait-s", "60", "--journal-keep-s", str(_KEEP_S)),
)
_STEPS: tuple[Step, ...] = ("say", "call", "say", "ask", "hear", "say")
# grpcio's own: a stream that its client cancels leaves about 0.14 KB.
_STREAM_LEAVES_BYTES = 200
# What allocators keep, and what a burst of sessions at once leaves unused.
_SLACK_BYTES = 24 * 1024 * 1024
_SLACK_FILES = 3
# After less, a process has not yet seen every fault, and is no measure.
_MEASURED_FROM_S = 30.0


class Size(NamedTuple):
    """Of a process."""

    resident_bytes: int
    files: int


def size_of(pid: int) -> Size:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Size(pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Crowd:
    """Users who ask again and again, each with somebody who watches and comes and goes."""

    def __init__(self, place: Place, door: str, choice: random.Random) -> None:
        self._place = place
        self._door = door
        self._choice = choice
        self._seeds = itertools.count(1)
        self.scripts: dict[str, Script] = {}
        self.joins = 0
        self.until = 0.0

    async def talk(self, lasts_s: float) -> None:
        """For so long new sessions begin; then the last of them end."""
        self.until = asyncio.get_running_loop().time() + lasts_s
        async with asyncio.TaskGroup() as running:
            for number in range(SESSIONS // 20):
                running.create_task(self._table(number))

    async def _table(self, number: int) -> None:
        """Twenty users who share a connection."""
        async with dialled(self._door, options=IMPATIENT) as channel, asyncio.TaskGroup() as running:
            chat = chat_pb2_grpc.ChatStub(channel)
            for seat in range(20):
                running.create_task(self._one_after_the_other(chat, AGENTS[(number + seat) % 2]))

    async def _one_after_the_other(self, chat: "chat_pb2_grpc.ChatAsyncStub", agent: str) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self.until:
            script = Script(next(self._seeds), _STEPS, words=20, pause_s=0.1)
            user = User(chat, chat, agent, script)
            user.may_speak.set()
            await user.ask()
            guest = Watcher(chat, user.session_id, random.Random(self._choice.random()))
            try:
                async with asyncio.timeout(_SESSION_S):
                    await asyncio.gather(user.run(), guest.run())
                    text_is_kept(user, script)
                    assert guest.seen.events == user.seen.events, (user, guest)
                    await ended_once(chat, user)
            except TimeoutError:
                raise AssertionError(f"it hangs: {user}, {guest}; {script}") from None
            self.joins += user.joins + guest.joins + 1
            self.scripts[user.session_id] = script


async def _quiet(place: Place) -> None:
    """Until nothing is kept any more of what was."""

    async def look() -> float:
        return (await asyncio.to_thread(place.process.scrape))["dispatcher_journal_bytes"]

    await eventually(look, (0.0).__eq__, patience_s=_KEEP_S + 60)


async def _storm(crowd: Crowd, storm: Weather, lasts_s: float) -> None:
    async with asyncio.TaskGroup() as running:
        running.create_task(crowd.talk(lasts_s))
        running.create_task(storm.rage(lasts_s))


async def _grew_no_further(pid: int, before: Size, streams: int) -> None:
    """Connections close when their other side is noticed to be gone, so it may take a moment."""

    async def look() -> Size:
        return size_of(pid)

    most = Size(
        before.resident_bytes + _SLACK_BYTES + streams * _STREAM_LEAVES_BYTES, before.files + _SLACK_FILES
    )
    await eventually(look, lambda now: now.resident_bytes <= most.resident_bytes and now.files <= most.files)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("journal", ["memory", "file"])
def test_a_fleet_in_bad_weather(tmp_path: Path, journal: str) -> None:
    """With a file for a journal the dispatcher is killed now and then, too; with memory its size is measured."""
    print(f"SOAK_SEED={SEED}")
    asyncio.run(_soak(tmp_path, is_mortal=journal == "file"))


async def _soak(folder: Path, *, is_mortal: bool) -> None:
    choice = random.Random(SEED)
    kept = ("--journal", f"sqlite:{folder / 'journal'}") if is_mortal else ()
    with dispatching(folder, *_FLAGS, *kept) as place:
        one_at_a_time = asyncio.Lock()

        async def restart() -> None:
            async with one_at_a_time:
                await place.restart(signal.SIGKILL)

        async with weather(place, choice, restart if is_mortal else None) as storm:
            crowd = Crowd(place, storm.door.address, choice)
            await _storm(crowd, storm, min(60.0, SECONDS / 3))
            await _quiet(place)
            worker, joins = storm.survivor, crowd.joins
            sizes = {pid: size_of(pid) for pid in (place.process.pid, worker.pid)}
            await _storm(crowd, storm, SECONDS * 2 / 3)
            await _quiet(place)
            for pid, before in sizes.items():
                # A dispatcher that was killed meanwhile is another one now.
                if SECONDS >= _MEASURED_FROM_S and pid in (place.process.pid, worker.pid):
                    print(f"{pid}: {before}, then {size_of(pid)}")
                    await _grew_no_further(pid, before, crowd.joins - joins)
            print(f"{len(crowd.scripts)} sessions, {crowd.joins} streams, {dict(storm.had)}")
            tools_ran_once(place.runs, crowd.scripts)
            assert len(crowd.scripts) >= SESSIONS
