"""The one caller of `router.step`: hands it what happens, performs what it decides, in order.

No opinions: what is to be done is decided in `core/`. The hub owns the running tool calls, the timer for the
router's next deadline, and the way from a link's id to its stream. Everything runs in the event loop's thread;
`submit` never waits, so an event is decided and its effects are under way when it returns.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from dispatcher.audit import write_down
from dispatcher.core import events
from dispatcher.core.events import Effect, Event, Reply
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Signal
from dispatcher.core.router import Router
from dispatcher.journal import Journal
from dispatcher.metrics import Metrics

log = logging.getLogger(__name__)

_TIMER_STEP_S = 0.001
# What tells somebody outside, or begins what can't be undone.
_WHEN_KEPT = frozenset(
    {
        events.Send,
        events.RunTool,
        events.CancelTools,
        events.CancelTool,
        events.CloseLink,
        events.Leave,
    }
)
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class LinkStream(Protocol):
    """The way down a link. Both calls return at once."""

    def send(self, signal: Signal, *, urgent: bool) -> None: ...

    def close(self, status: str, message: str) -> None:
        """Ends the stream with this status after what waits was written."""


class RunsCalls(Protocol):
    """What runs calls of tools."""

    async def run(self, effect: events.RunTool) -> Event:
        """What it has come to. Ends soon when it is cancelled."""


class JudgesText(Protocol):
    """What asks services about texts."""

    async def judge(self, effect: events.JudgeText) -> Event:
        """What they have said. Ends soon when it is cancelled."""


class Hub:
    """Between the shells and the core. `idle` is called when the last session of a draining dispatcher ends."""

    def __init__(
        self,
        router: Router,
        journal: Journal,
        calls: RunsCalls,
        services: JudgesText,
        metrics: Metrics,
        tasks: asyncio.TaskGroup,
        idle: Callable[[], None],
    ) -> None:
        self.router = router
        self.journal = journal
        self._calls = calls
        self._services = services
        self._metrics = metrics
        self._tasks = tasks
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, LinkStream] = {}
        # By session and attempt; each with its call.
        self._running: dict[tuple[str, int], dict[asyncio.Task[None], str]] = {}
        self._judging: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        # The deadline that the timer is for, and when it is to fire: not in the past, as a deadline may be.
        self._armed_for = 0.0
        self._fires_at = 0.0
        self._stepping = False
        self._waiting: deque[Event] = deque()
        self._reply: Reply | None = None
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            events.Open: self._open,
            events.Append: self._append,
            events.Remember: self._remember,
            events.Send: self._send,
            events.RunTool: self._run_tool,
            events.CancelTools: self._cancel_tools,
            events.CancelTool: self._cancel_tool,
            events.JudgeText: self._judge_text,
            events.CloseLink: self._close_link,
            events.Forget: self._forget,
            events.Count: self._count,
            events.Measure: self._measure,
            events.Log: self._log,
            events.Audit: self._audit,
            events.Accepted: self._answer,
            events.Declined: self._answer,
            events.Stopped: self._answer,
            events.StoppedMany: self._answer,
            events.Draining: self._answer,
            events.Leave: self._leave,
        }

    def __repr__(self) -> str:
        calls = sum(len(tasks) for tasks in self._running.values())
        return f"<Hub {self.router!r}, {len(self._links)} streams, {calls} tool calls>"

    def submit(self, event: Event) -> Reply | None:
        """Lets the router decide about an event and performs the effects. Returns its reply, if it gave one.

        An event that arises while effects are performed is decided right after them, without a reply.
        """
        if self._stepping:
            self._waiting.append(event)
            return None
        self._stepping = True
        try:
            self._step(event)
            reply, self._reply = self._reply, None
            self._step_waiting()
        finally:
            self._stepping = False
            # Whatever became of this one: deadlines of others are met.
            self._arm()
        return reply

    async def kept(self) -> None:
        """Waits until all that was decided so far is kept: before anybody outside is told of it."""
        future: asyncio.Future[None] = self._loop.create_future()

        def kept() -> None:
            if not future.done():
                future.set_result(None)

        self.journal.when_kept(kept)
        if not future.done():
            await future

    def attach(self, link_id: str, stream: LinkStream) -> None:
        self._links[link_id] = stream

    def detach(self, link_id: str) -> None:
        self._links.pop(link_id, None)

    def close(self) -> None:
        """No more deadlines; tool calls that still run are cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        for tasks in self._running.values():
            for task in tasks:
                task.cancel()
        for task in self._judging:
            task.cancel()

    def _step(self, event: Event) -> None:
        late = []
        for effect in self.router.step(event, time.monotonic()):
            if type(effect) in _WHEN_KEPT and not (type(effect) is events.Send and effect.urgent):
                late.append(effect)
            else:
                self._perform[type(effect)](effect)
        if late:
            self.journal.when_kept(lambda: self._perform_late(late))

    def _perform_late(self, effects: list[Effect]) -> None:
        """What had to wait until a step was kept, perhaps for nothing."""
        if self._stepping:
            self._perform_all(effects)
            return
        self._stepping = True
        try:
            self._perform_all(effects)
            self._step_waiting()
        finally:
            self._stepping = False
            self._arm()

    def _perform_all(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._perform[type(effect)](effect)

    def _step_waiting(self) -> None:
        while self._waiting:
            self._step(self._waiting.popleft())
        self._reply = None

    def _arm(self) -> None:
        """Sees to it that the router hears when its next deadline is due. An early timer is left: it re-arms."""
        due = self.router.next_deadline()
        if due is None or (self._timer is not None and self._armed_for <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = due
        # Event loops round to milliseconds, some of them down.
        now = time.monotonic()
        self._fires_at = max(due, now + _TIMER_STEP_S)
        self._timer = self._loop.call_later(self._fires_at - now, self._due)

    def _due(self) -> None:
        self._timer = None
        self.submit(events.TimePassed(max(0.0, time.monotonic() - self._fires_at)))

    # --- effects -----------------------------------------------------------------------------------------

    def _open(self, effect: events.Open) -> None:
        self.journal.open(effect.requested)

    def _remember(self, effect: events.Remember) -> None:
        self.journal.remember(effect.commander_id, effect.hello)

    def _append(self, effect: events.Append) -> None:
        session = self.router.sessions.get(effect.session_id)
        # One that is forgotten in the step that ends it stands nowhere any more.
        self.journal.append(effect.session_id, effect.events, session.mark if session else Mark)
        self._metrics.kept(len(effect.events))

    def _send(self, effect: events.Send) -> None:
        stream = self._links.get(effect.link_id)
        if stream is not None:
            stream.send(effect.signal, urgent=effect.urgent)

    def _close_link(self, effect: events.CloseLink) -> None:
        stream = self._links.get(effect.link_id)
        if stream is not None:
            stream.close(effect.status, effect.message)

    def _run_tool(self, effect: events.RunTool) -> None:
        key = (effect.session_id, effect.attempt)
        task = self._tasks.create_task(self._call(effect), name=f"tool {effect.call.tool_name}")
        self._running.setdefault(key, {})[task] = effect.call.call_id
        task.add_done_callback(lambda done: self._call_over(key, done))

    def _call_over(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        running = self._running.get(key)
        if running is not None:
            running.pop(task, None)
            if not running:
                del self._running[key]

    async def _call(self, effect: events.RunTool) -> None:
        self.submit(await self._calls.run(effect))

    def _cancel_tools(self, effect: events.CancelTools) -> None:
        for task in self._running.get((effect.session_id, effect.attempt), ()):
            task.cancel()

    def _cancel_tool(self, effect: events.CancelTool) -> None:
        for task, call_id in self._running.get((effect.session_id, effect.attempt), {}).items():
            if call_id == effect.call_id:
                task.cancel()

    def _judge_text(self, effect: events.JudgeText) -> None:
        task = self._tasks.create_task(self._judge(effect), name=f"judge {effect.kind}")
        self._judging.add(task)
        task.add_done_callback(self._judging.discard)

    async def _judge(self, effect: events.JudgeText) -> None:
        self.submit(await self._services.judge(effect))

    def _forget(self, effect: events.Forget) -> None:
        self.journal.forget(effect.session_id)

    def _count(self, effect: events.Count) -> None:
        self._metrics.count(effect)

    def _measure(self, effect: events.Measure) -> None:
        self._metrics.measure(effect)

    def _log(self, effect: events.Log) -> None:
        # A line of the log takes as long as a packet's way: what is to be sent goes first.
        self._loop.call_soon(self._write_log, effect)

    def _write_log(self, effect: events.Log) -> None:
        fields = {
            "session": effect.session_id,
            "attempt": effect.attempt,
            "link": effect.link_id,
            "commander": effect.commander_id,
        }
        log.log(_LEVELS[effect.level], "%s", effect.text, extra={k: v for k, v in fields.items() if v})

    def _audit(self, effect: events.Audit) -> None:
        self._loop.call_soon(write_down, effect)

    def _leave(self, effect: events.Leave) -> None:
        self._idle()

    def _answer(self, effect: Reply) -> None:
        self._reply = effect
