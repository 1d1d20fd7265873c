"""Hundreds of sessions at a time, for long, in bad weather: links, commanders and viewers' connections fail by lot,
every second. In the end each session has ended once, each viewer has every byte, no call of a tool ran twice, and the
processes are as large as they were: they have hardly more files open than when they had just been linked, and hold no
more memory than after the first storm.

SOAK_SECONDS says how long (900), SOAK_SEED makes it happen again; SLOW_SECONDS bounds it.
"""

import asyncio
import gc
import itertools
import os
import random
import secrets
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from asynchronous import asynchronous, eventually
from dialling import administering, dialled
from faults.connections import NOBODY, Held, held_connections, open_files
from faults.promises import ended_once, text_is_kept, tools_ran_once
from faults.scene import AGENTS, Place, dispatching
from faults.script import Script, Step
from faults.viewers import IMPATIENT, User, Watcher
from faults.weather import Weather, weather
from southwest.ai.agent.v1 import admin_pb2, chat_pb2_grpc
from tcp_proxy import dialling_tcp, tcp_proxy

SECONDS = min(float(os.environ.get("SOAK_SECONDS", "900")), float(os.environ.get("SLOW_SECONDS", "inf")))
SESSIONS = int(os.environ.get("SOAK_SESSIONS", "200"))
SEED = int(os.environ.get("SOAK_SEED", str(secrets.randbelow(1_000_000))))
# A session of which nothing is heard for longer hangs: faults are over after three seconds. How long all of it takes
# is a matter of luck: an agent may be begun anew again and again.
_SILENCE_S = 60.0
# A viewer whom a busy machine keeps away for as long as it may be silent still finds what it came for.
_KEEP_S = _SILENCE_S
_FLAGS = (
    *("--detach-grace-s", "2", "--attempts-max", "50"),
    *("--restart-backoff-s", "0.1", "--restart-backoff-max-s", "2"),
    *("--queue-wait-s", "60", "--journal-keep-s", str(_KEEP_S)),
)
_STEPS: tuple[Step, ...] = ("say", "call", "say", "ask", "hear", "say")
# grpcio's own: a stream that its client cancels leaves about 0.14 KB.
_STREAM_LEAVES_BYTES = 200
# What allocators keep for themselves of the memory that a burst of sessions took and gave back, in pieces.
_SLACK_BYTES = 24 * 1024 * 1024

# A call of grpc.aio that failed refers to itself and holds its connection until Python's garbage collector comes by, in
# a commander. A leak would be one for each of thousands of links and streams.
_SLACK_FILES = 6
# Who watches and asks: this process.
_VIEWERS = "viewers"

Tell = Callable[[str], None]


class Size(NamedTuple):
    """Of a process. Its files are without connections that viewers hold open."""

    resident_bytes: int
    files: int


def size_of(pid: int) -> Size:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Size(pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path(f"/proc/{pid}/fd").iterdir())))


class Crowd:
    """Users who ask again and again, each with somebody who watches and comes and goes."""

    def __init__(self, place: Place, door: str, choice: random.Random, progress: Tell) -> None:
        self._place = place
        self._door = door
        self._choice = choice
        self._progress = progress
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
                async with asyncio.timeout(_SILENCE_S) as silence:
                    user.hears = guest.hears = lambda silence=silence: _put_off(silence)  # type: ignore[misc]
                    await asyncio.gather(user.run(), guest.run())
                    text_is_kept(user, script)
                    assert guest.seen.events == user.seen.events, (user, guest)
                    await ended_once(chat, user)
            except TimeoutError:
                told = await _told_of(self._place, user.session_id)
                raise AssertionError(f"it hangs: {user}, {guest}; {script}; {told}") from None
            self.joins += user.joins + guest.joins + 1
            self.scripts[user.session_id] = script
            left_s = max(0.0, self.until - loop.time())
            self._progress(f"{len(self.scripts)} sessions have ended; others begin for {left_s:.0f} s more")


def _put_off(silence: asyncio.Timeout) -> None:
    if not silence.expired():
        silence.reschedule(asyncio.get_running_loop().time() + _SILENCE_S)


async def _told_of(place: Place, session_id: str) -> str:
    """What the dispatcher knows of a session, asked by no way round; and of who runs it."""
    said = [line for line in place.process.log if session_id in line]
    async with administering(place.address) as admin:
        request = admin_pb2.GetSessionRequest(session_id=session_id)
        session = (await admin.GetSession(request, timeout=5.0)).session
        commanders = await admin.ListCommanders(admin_pb2.ListCommandersRequest(), timeout=5.0)
    return f"the dispatcher: {session}, {commanders}, {said}"


async def _quiet(place: Place) -> None:
    """Until nothing is kept any more of what was."""

    async def look() -> float:
        return (await asyncio.to_thread(place.process.scrape))["dispatcher_journal_bytes"]

    await eventually(look, (0.0).__eq__, patience_s=_KEEP_S + 60)


async def _storm(crowd: Crowd, storm: Weather, lasts_s: float) -> None:
    async with asyncio.TaskGroup() as running:
        running.create_task(crowd.talk(lasts_s))
        running.create_task(storm.rage(lasts_s))


def _connections(place: Place, storm: Weather) -> list[Held]:
    """The dispatcher's, and whose they are."""
    return held_connections(place.process.pid, {_VIEWERS: os.getpid(), **storm.pids}, storm.proxies)


def _sizes(place: Place, storm: Weather) -> dict[str, Size]:
    pids = {"dispatcher": place.process.pid, **storm.pids}
    sizes = {name: size_of(pid) for name, pid in pids.items()}
    # What this process has not closed is no fault of the dispatcher's. What can't be reached it has to notice itself.
    theirs = [held for held in _connections(place, storm) if held.holder == _VIEWERS and not held.lost]
    dispatcher = sizes["dispatcher"]
    sizes["dispatcher"] = dispatcher._replace(files=dispatcher.files - len(theirs))
    return sizes


async def _back_to(place: Place, storm: Weather, most: dict[str, Size]) -> None:
    """It may take a moment: connections close when their other side is noticed to be gone. A process that was started
    anew is measured by what the one before it was."""

    async def look() -> dict[str, Size]:
        # Calls of this process that failed refer to themselves and to their connection: it stays open though its
        # channel is closed, until they are collected.
        gc.collect()
        return _sizes(place, storm)

    def is_back(now: dict[str, Size]) -> bool:
        return all(
            now[name].files <= files and now[name].resident_bytes <= resident_bytes
            for name, (resident_bytes, files) in most.items()
        )

    try:
        await eventually(look, is_back)
    except AssertionError as error:
        files = [file.name for file in open_files(place.process.pid) if not file.is_connection]
        told = "; ".join(map(str, _connections(place, storm)))
        raise AssertionError(
            f"{error}; at most {most}; the dispatcher has open: {files}; its connections: {told}"
        ) from None


@asynchronous
async def test_it_is_known_through_a_proxy_whose_a_connection_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        address = target.getsockname()
        async with tcp_proxy("{}:{}".format(*address)) as proxy:

            async def look() -> list[tuple[str, str]]:
                held = held_connections(os.getpid(), {"somebody": os.getpid()}, [proxy])
                return sorted((each.holder, each.lost) for each in held if each.connection.here == address[1])

            with (
                await dialling_tcp(proxy.address)() as caller,
                (await asyncio.to_thread(target.accept))[0],
                await dialling_tcp("{}:{}".format(*address))(),
                (await asyncio.to_thread(target.accept))[0],
            ):
                await eventually(look, [("somebody", ""), ("somebody", "")].__eq__)
                proxy.set("blackhole")
                caller.close()
                await eventually(look, [(NOBODY, "back, there"), ("somebody", "")].__eq__)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("journal", ["memory", "file"])
def test_a_fleet_in_bad_weather(tmp_path: Path, journal: str, progress: Tell) -> None:
    """With a file for a journal the dispatcher is killed now and then, too."""
    print(f"SOAK_SEED={SEED}")

    def tell(line: str) -> None:
        progress(f"soak, {journal}: {line}")

    asyncio.run(_soak(tmp_path, tell, is_mortal=journal == "file"))


async def _soak(folder: Path, progress: Tell, *, is_mortal: bool) -> None:
    choice = random.Random(SEED)
    warm_up_s = min(60.0, SECONDS / 3)
    kept = ("--journal", f"sqlite:{folder / 'journal'}") if is_mortal else ()
    with dispatching(folder, *_FLAGS, *kept) as place:
        one_at_a_time = asyncio.Lock()

        async def restart() -> None:
            async with one_at_a_time:
                await place.restart(signal.SIGKILL)

        async with weather(place, choice, restart if is_mortal else None) as storm:
            fresh = _sizes(place, storm)
            crowd = Crowd(place, storm.door.address, choice, progress)
            await _storm(crowd, storm, warm_up_s)
            await _quiet(place)
            warm, joins = _sizes(place, storm), crowd.joins
            await _storm(crowd, storm, SECONDS - warm_up_s)
            await _quiet(place)
            print(f"fresh: {fresh}\nwarm: {warm}\nnow: {_sizes(place, storm)}")
            print(f"{len(crowd.scripts)} sessions, {crowd.joins} streams, {dict(storm.had)}")
            room_bytes = _SLACK_BYTES + (crowd.joins - joins) * _STREAM_LEAVES_BYTES
            most = {
                name: Size(warm[name].resident_bytes + room_bytes, fresh[name].files + _SLACK_FILES)
                for name in fresh
            }
            await _back_to(place, storm, most)
            tools_ran_once(place.runs, crowd.scripts)
            assert len(crowd.scripts) >= SESSIONS
