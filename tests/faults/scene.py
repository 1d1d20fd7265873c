"""A dispatcher and commanders as real processes, and a group of sessions, each held at a moment of its own."""

import asyncio
import contextlib
import dataclasses
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from asynchronous import PATIENCE_S, eventually
from chat_viewer import Seen
from commander_process import CommanderProcess, running_commander
from dialling import dialled
from dispatcher_process import ROOT, DispatcherProcess, running_dispatcher
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, chat_pb2_grpc
from tcp_proxy import TcpProxy, dialling_tcp

from faults.promises import counted_once, ended_once, text_is_kept, tools_ran_once
from faults.script import Script, Step
from faults.tools import RUNS_VARIABLE
from faults.viewers import IMPATIENT, User

TESTS = ROOT / "tests"
AGENTS = ("anew", "onward")
# Silence is noticed within 1.2 s, and pings of viewers are welcome.
QUICK = ("--heartbeat-interval-s", "0.3", "--keepalive-time-s", "1", "--ping-timeout-s", "1")
# By what a session is held until its user may speak and its tools' gate is open.
MOMENTS: dict[str, tuple[Step, ...]] = {
    "stream": ("say", "hear", "say"),
    "call": ("hear", "say", "call", "say"),
    "question": ("ask", "say"),
    "message": ("hear", "say"),
}
# What was said before the fault, and must not be lost by it.
_EARLY = {"call": frozenset({0})}
_seeds = itertools.count(1)


class Place:
    """A dispatcher's process, and where its tools tell of their runs."""

    def __init__(self, folder: Path, start: Callable[[], DispatcherProcess]) -> None:
        self.folder = folder
        self.runs = folder / "runs.txt"
        self.is_first = True
        self._start = start
        self.process = start()

    @property
    def address(self) -> str:
        return self.process.address

    async def dial(self) -> socket.socket:
        """To wherever the process is now."""
        return await dialling_tcp(self.address)()

    async def restart(self, number: signal.Signals) -> None:
        """Ends the process, and starts another one on the same journal."""
        self.is_first = False
        self.process.signal(number)
        await asyncio.to_thread(self.process.wait)
        self.process = await asyncio.to_thread(self._start)


@contextlib.contextmanager
def dispatching(folder: Path, *flags: str) -> Iterator[Place]:
    environ = {RUNS_VARIABLE: str(folder / "runs.txt")}
    told = ("--tools", "faults.tools:TOOLS", *QUICK, *flags)
    with contextlib.ExitStack() as lives:
        yield Place(
            folder,
            lambda: lives.enter_context(running_dispatcher(*told, environ=environ, cwd=TESTS)),
        )


@contextlib.asynccontextmanager
async def commanding(address: str, name: str, *flags: str) -> AsyncIterator[CommanderProcess]:
    """A commander that is linked. Its waits are in a thread: the loop may carry its link, through a proxy."""
    told = (
        "--dispatcher",
        address,
        "--commander-id",
        name,
        "--reconnect-max-s",
        "0.5",
        "--connect-timeout-s",
        "2",
    )
    with running_commander(TESTS, "faults.agents", *told, *flags) as commander:
        await asyncio.to_thread(commander.wait_for, "linked to")
        yield commander


@dataclasses.dataclass
class Group:
    """Sessions with one user each, held at their moments."""

    chat: "chat_pb2_grpc.ChatAsyncStub"
    admin: "admin_pb2_grpc.AdminAsyncStub"
    users: list[User]
    gate: Path

    @property
    def scripts(self) -> dict[str, Script]:
        return {user.session_id: user.script for user in self.users}

    async def reach_their_moments(self) -> None:
        for user in self.users:
            await user.seen.when(lambda user=user: _is_at_its_moment(user.seen, user.script), repr(user))  # type: ignore[misc]

    async def until_another_attempt(self) -> None:
        for user in self.users:
            await user.seen.until("started", 2)

    def release(self) -> None:
        """Answers come, messages are sent, tools return."""
        self.gate.touch()
        for user in self.users:
            user.may_speak.set()


def _is_at_its_moment(seen: Seen, script: Script) -> bool:
    if script.steps == MOMENTS["stream"]:
        return len(seen.text) > 20
    kind = {"call": "tool_call", "question": "question", "message": "progress"}
    return any(bool(seen.of(kind[name])) for name in kind if MOMENTS[name] == script.steps)


@contextlib.asynccontextmanager
async def sessions_at_their_moments(
    place: Place,
    *,
    through: TcpProxy | None = None,
    door: TcpProxy | None = None,
    agents: tuple[str, ...] = AGENTS,
) -> AsyncIterator[Group]:
    """One session of each agent for each moment, whose fault is for the block to make; at its end they are seen to
    their end, and every promise is checked. `through`: users see them by this proxy; `door`: they
    see, ask and answer by this one."""
    is_counted = bool(place.process.metrics_url)
    before = await asyncio.to_thread(place.process.scrape) if is_counted else {}
    seed = next(_seeds)
    gate = place.folder / f"gate-{seed}"
    async with (
        dialled(door.address if door else place.address, options=IMPATIENT) as steady,
        dialled((through or door or place).address, options=IMPATIENT) as seeing,
        asyncio.TaskGroup() as running,
    ):
        chat, admin = chat_pb2_grpc.ChatStub(steady), admin_pb2_grpc.AdminStub(steady)
        group = Group(chat, admin, [], gate)
        for agent, (moment, steps) in itertools.product(agents, MOMENTS.items()):
            words = 200 if moment == "stream" else 40
            script = Script(seed, steps, words=words, gate=str(gate))
            user = User(chat_pb2_grpc.ChatStub(seeing), chat, agent, script, _EARLY.get(moment, frozenset()))
            await user.ask()
            group.users.append(user)
        ends = [running.create_task(user.run()) for user in group.users]
        await group.reach_their_moments()
        yield group
        group.release()
        await asyncio.wait(ends, timeout=PATIENCE_S)
        hanging = [user for user, end in zip(group.users, ends, strict=True) if not end.done()]
        assert not hanging, hanging
        for user in group.users:
            text_is_kept(user, user.script)
            await ended_once(chat, user)
        tools_ran_once(place.runs, group.scripts)
        if is_counted and place.is_first:
            counted_once(before, await asyncio.to_thread(place.process.scrape), len(group.users))


async def until_state(group: Group, commander_id: str, state: str) -> None:
    """Until the dispatcher says so of the commander."""

    async def look() -> list[str]:
        views = (await group.admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
        return [view.state for view in views if view.commander_id == commander_id]

    await eventually(look, [state].__eq__)


async def until_dialled_again(proxy: TcpProxy) -> None:
    """Until somebody has given up a connection of the proxy and made another."""
    before = proxy.accepted

    async def look() -> int:
        return proxy.accepted

    await eventually(look, lambda seen: seen > before)
