"""Where cases are played: a real dispatcher, and what must hold after each of them."""

import asyncio
import contextlib
import json
import os
import re
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from asynchronous import eventually, soon
from dialling import dialled
from dispatcher_process import DispatcherProcess, running_dispatcher
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scripted_commander import Up, hello, opened_link
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, agent_pb2

from fuzz.canary import Canary, canary
from fuzz.case import Case
from fuzz.player import Player

_FUZZ: Final = Path(__file__).parent
# Short waits, so that what a case leaves behind is over soon; small bounds, so that cases reach them.
FLAGS: Final = (
    "--config", str(_FUZZ / "dispatcher.toml"), "--log-format", "json", "--tool-timeout-s", "1",
    "--tools", "fuzz.tools:add", "--tools", "fuzz.tools:hang", "--tools", "fuzz.tools:pay",
    "--park-after-s", "0", "--delegation-levels-max", "2", "--delegated-answer-bytes-max", "256",
    "--stop-grace-s", "0.1", "--stop-received-s", "0.1", "--queue-wait-s", "0.5", "--queue-sessions-max", "3",
    "--journal-keep-s", "2", "--journal-keep-sessions", "40", "--questions-open-max", "3",
    "--messages-waiting-max", "3", "--max-message-bytes", "300000", "--request-bytes-max", "200000",
    "--content-chars-max", "100000", "--deny", "forbidden",
)  # fmt: skip
_TESTS: Final = _FUZZ.parent
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*?)\})? (\S+)$", re.MULTILINE)
_OURS_TO_BLAME: Final = ("UNKNOWN", "INTERNAL", "UNIMPLEMENTED", "DATA_LOSS")
# What a case may leave behind in memory for good: grpc's own leak for a stream that is cancelled, many times over.
_CASE_BYTES: Final = 2_000
_GROWTH_BYTES: Final = 24_000_000
_WARM_CASES: Final = 200

# The one error that a peer can bring about: operators are to look at that commander.
_MEANT: Final = "ignored its stop; its slot is stuck"

T = TypeVar("T")


class BrokenError(AssertionError):
    """A case broke something."""


class Ground:
    """One dispatcher at a time; another one when a case has drained or broken it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cases = 0
        self._loop = loop
        self._stack = contextlib.ExitStack()
        self._scene: _Scene | None = None

    def play(self, case: Case) -> list[str]:
        """Plays the case and judges the dispatcher. Returns what the peers saw. Raises BrokenError."""
        self.cases += 1
        scene = self._scene = self._scene or self._begun()
        try:
            said = self._in_loop(scene.play(case))
        except Exception as error:
            log = "\n  ".join(scene.process.log[-8:])
            self.clear()
            what = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else error
            raise BrokenError(f"{what}\n\n{case}\nits log:\n  {log}") from error
        if scene.over:
            self.clear()
        return said

    def clear(self) -> None:
        """Ends what runs."""
        self._scene = None
        self._stack.close()

    def _begun(self) -> "_Scene":
        process = self._stack.enter_context(
            running_dispatcher(*FLAGS, environ={"PYTHONPATH": _python_path()}, tracebacks=True)
        )
        scene = _Scene(process)
        self._in_loop(scene.begin())
        self._stack.callback(lambda: self._in_loop(scene.end()))
        return scene

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Scene:
    """One dispatcher, the canary beside it, and what is known of it."""

    def __init__(self, process: DispatcherProcess) -> None:
        self.process = process
        self.over = False
        self._stack = contextlib.AsyncExitStack()
        self._log_read = 0
        self._cases = 0
        self._warm_bytes = 0
        self._blamed: dict[str, float] = {}
        self._limits: dict[str, float] = {}
        self._modes: dict[str, str] = {}
        self._channel: aio.Channel
        self._canary: Canary

    async def begin(self) -> None:
        self._channel = await self._stack.enter_async_context(dialled(self.process.address))
        self._admin: Any = admin_pb2_grpc.AdminStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._canary = await self._stack.enter_async_context(canary(self.process.address))
        limits = (await self._admin.GetLimits(admin_pb2.GetLimitsRequest())).limits
        self._limits = {limit.name: limit.value for limit in limits if limit.changeable}
        self._modes = {limit.name: limit.mode for limit in limits if limit.mode and limit.changeable}
        await self._judge()

    async def end(self) -> None:
        await self._stack.aclose()

    async def play(self, case: Case) -> list[str]:
        async with dialled(self.process.address) as channel:
            player = Player(channel)
            await player.play(case)
        if player.drained:
            self.over = True
            code = await asyncio.to_thread(self.process.wait)
            assert code == 0, f"it was drained, and ended with {code}"
        else:
            if player.limits_changed:
                await soon(self._admin.SetLimits(self._as_before()))
            await self._judge()
        self._read_log()
        return player.said

    def _as_before(self) -> admin_pb2.SetLimitsRequest:
        return admin_pb2.SetLimitsRequest(values=self._limits, modes=self._modes)

    async def _judge(self) -> None:
        assert self.process.exit_code is None, f"it has ended with {self.process.exit_code}"
        await self._canary.sing()
        told = await soon(self._health.Check(health_pb2.HealthCheckRequest()))
        assert told.status == health_pb2.HealthCheckResponse.SERVING, told
        everything = admin_pb2.SessionSelector(all=True)
        await soon(self._admin.StopSessions(admin_pb2.StopSessionsRequest(selector=everything)))
        await eventually(self._left, lambda left: not left)
        self._weigh()

    async def _left(self) -> dict[str, float]:
        """What is open and should not be; those who wait for a commander's return are relieved of it."""
        await self._see_off()
        text = await asyncio.to_thread(self._scraped)
        samples = {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(text)}
        left = {
            f"{name} {labels}": value
            for (name, labels), value in samples.items()
            if name == "dispatcher_sessions" and 'state="ended"' not in labels and value
        }
        left |= {
            name: samples[name, ""] - here
            for name, here in (("dispatcher_links", 1), ("dispatcher_queue_length", 0))
            if samples[name, ""] != here
        }
        left |= await self._watched()
        started = sum(value for (name, _), value in samples.items() if name == "grpc_server_started_total")
        handled = sum(value for (name, _), value in samples.items() if name == "grpc_server_handled_total")
        if started - handled != 1:
            left["calls under way, besides the canary's link"] = started - handled - 1
        for (name, labels), value in samples.items():
            code = re.search(r'grpc_code="(\w+)"', labels) if name == "grpc_server_handled_total" else None
            if code is not None and code[1] in _OURS_TO_BLAME:
                assert value == self._blamed.get(labels, 0), f"a call was handled with {labels}"
        return left

    async def _watched(self) -> dict[str, float]:
        """Sessions that count viewers, who have all left."""
        request = admin_pb2.ListSessionsRequest(include_ended=True)
        listed = await soon(self._admin.ListSessions(request))
        return {f"viewers of {view.session_id}": view.viewers for view in listed.sessions if view.viewers}

    def _scraped(self) -> str:
        with urllib.request.urlopen(self.process.metrics_url) as response:  # noqa: S310 - its own address
            text: str = response.read().decode()
            return text

    async def _see_off(self) -> None:
        """Returns in the name of each commander that is detached, and says goodbye."""
        listed = await soon(self._admin.ListCommanders(admin_pb2.ListCommandersRequest()))
        for view in listed.commanders:
            if view.commander_id == self._canary.commander_id or view.state != "detached":
                continue
            async with opened_link(self.process.address) as link:
                greeting = hello(
                    "gone", commander_id=view.commander_id, instance=view.instance, slots=max(1, view.slots)
                )
                await link.write(Up(hello=greeting))
                await link.write(Up(goodbye=agent_pb2.Goodbye(reason="the case is over")))
                await link.half_close()
                await link.status()

    def _read_log(self) -> None:
        lines = self.process.log
        for line in lines[self._log_read :]:
            try:
                level = json.loads(line)["level"]
            except ValueError:
                raise AssertionError(f"its log has a line that is none: {line}") from None
            assert level not in ("error", "critical") or _MEANT in line, line
            assert "traceback" not in line.lower(), line
        self._log_read = len(lines)

    def _weigh(self) -> None:
        """What it holds does not grow with what was played, once everything was used."""
        self._cases += 1
        if self._cases <= _WARM_CASES:
            self._warm_bytes = self.bytes_held()
            return
        allowed = self._warm_bytes + _GROWTH_BYTES + _CASE_BYTES * self._cases
        held = self.bytes_held()
        assert held < allowed, f"it held {self._warm_bytes} bytes, and after {self._cases} cases {held}"

    def bytes_held(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


def _python_path() -> str:
    return os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def standing_ground() -> Iterator[Ground]:
    """Runs a loop of its own beside: the canary's heart beats while cases are thought up."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    ground = Ground(loop)
    try:
        yield ground
    finally:
        try:
            ground.clear()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
