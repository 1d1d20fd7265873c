"""Puts a commander together and runs it: the only place that constructs.

The agents' loop has the main thread, the link a thread and loop of its own. An order to go (a signal, or the
dispatcher's Drain) reaches the link's thread directly, so that an agent which blocks the main thread can't hold
it up; when the link has left and the main thread still does not answer, the process ends without it.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import prometheus_client
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import codec
from commander.agent import AnyAgent
from commander.core.batch import Rotation
from commander.core.slots import Slots
from commander.core.turn import Bounds
from commander.crossing import CrossingBounds, TeamBounds
from commander.doorbell import Doorbell
from commander.endurance import Endurance
from commander.errors import fit
from commander.hub import ENVELOPE_BYTES_MAX, Hub
from commander.link import Link
from commander.metrics import Metrics
from commander.models.registry import named_models, offered_models, open_models
from commander.pulse import Pulse
from commander.runner import Runner
from commander.sealing import EVENT_CHARS_MAX
from commander.settings import Settings, SettingsError, parse_address

_LOG = logging.getLogger(__name__)

# For the process's supervisor: the link is gone over a mistake of our own, or the agents' loop over one of theirs;
# every slot is stuck.
EXIT_BROKEN = 1
EXIT_STUCK = 70
# A thread that wants the interpreter waits this long for one that computes. Measured with a sync agent that
# computes without end beside one that speaks: 12.7 ms to the wire at p99 with the interpreter's own 5 ms, 1.6 ms
# with 0.5; a flood of tokens is a fifth slower for that. With 0.2 the flood is as fast, and a tool's result reaches
# an agent beside a hundred that flood in 5.3 ms instead of 9 at p50.
SWITCH_INTERVAL_S = 0.0002
# Young objects that start a collection, and how many such make the next older one start. The interpreter's own
# (700, 10, 10) collect everything several times a second under load, for 10 to 20 ms each; what long-lived cycles
# there are can wait.
GC_THRESHOLDS = (2_000, 10, 500)
# As many labels as a dispatcher takes of a commander, and as long.
LABELS_MAX = 64
LABEL_CHARS_MAX = 128
# When told to go at once, the link has this long for its Goodbye; and when it has left, so long has whatever else
# runs in this process.
LEAVE_GRACE_S = 1.0
# Agents that are of no use without a language model.
_MODELLED = {"commander.agents.assistant", "commander.agents.team"}


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops of this kind; "auto" is uvloop where it is installed."""
    if choice != "asyncio":
        try:
            import uvloop  # noqa: PLC0415 - not there on every platform
        except ImportError:
            if choice == "uvloop":
                raise
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def identity(settings: Settings, agents: Mapping[tuple[str, str], AnyAgent]) -> codec.Identity:
    """What this commander says of itself."""
    try:
        software = f"chatstream/{version('chatstream')}"
    except PackageNotFoundError:  # run from a folder, not installed
        software = "chatstream"
    return codec.Identity(
        commander_id=settings.commander_id or f"{socket.gethostname()}-{os.getpid()}",
        instance=uuid.uuid4().hex,
        software_version=software,
        agents=tuple(
            pb.AgentOffer(
                name=agent.name,
                version=agent.version,
                description=fit(agent.description, EVENT_CHARS_MAX),
                accepted_input=agent.accepts,
                on_restart=codec.ON_RESTART[agent.on_restart],
                parks=agent.parks,
            )
            for agent in agents.values()
        ),
        labels=_labels(settings),
        models=tuple(pb.ModelOffer(**asdict(offer)) for offer in offered_models(settings)),
        slots=settings.slots,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        max_message_bytes=settings.max_message_bytes,
    )


def _labels(settings: Settings) -> dict[str, str]:
    """The operator's, and the models by name, as long as there is room: for whoever routes by them, and who looks."""
    models = [(f"model.{name}", model[:LABEL_CHARS_MAX]) for name, model in named_models(settings).items()]
    told = {key: model for key, model in models if "," not in model and "=" not in model}
    room = LABELS_MAX - len(settings.labels)
    return {**dict(list(told.items())[: max(room, 0)]), **settings.labels}


def bounds(settings: Settings) -> CrossingBounds:
    """What one turn may hold and put on the link."""
    payload_bytes_max = settings.max_message_bytes - ENVELOPE_BYTES_MAX
    turn = Bounds(
        settings.outbox_packets,
        settings.outbox_bytes,
        min(settings.packet_bytes_max, payload_bytes_max),
    )
    team = TeamBounds(settings.team_members, settings.team_members_at_once, settings.team_answer_chars)
    return CrossingBounds(turn, payload_bytes_max, settings.messages_waiting_max, team)


@dataclass(frozen=True, slots=True)
class _Linked:
    """What lives in the link's thread."""

    loop: asyncio.AbstractEventLoop
    link: Link
    hub: Hub


class Commander:
    """A commander in this process. `run` belongs to the agents' thread; `drain` and `quit` to any.

    `orders` is a socket on which each byte is the number of a signal that was caught. `on_left` is called in the
    link's thread when the link has left for good.
    """

    def __init__(
        self,
        settings: Settings,
        agents: Mapping[tuple[str, str], AnyAgent],
        *,
        orders: socket.socket | None = None,
        on_left: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.identity = identity(settings, agents)
        self.metrics = Metrics()
        self._models = open_models(settings, os.environ, self.metrics)
        self._agents = agents
        self._orders = orders
        self._on_left = on_left
        self._linked: _Linked | None = None
        self._exit_code = 0
        self._is_ordered_to_go = False

    def __repr__(self) -> str:
        linked = self._linked
        where = "not started" if linked is None else f"{linked.link!r} {linked.hub!r}"
        return f"<Commander {self.identity.commander_id} {where}>"

    def run(
        self, agents_loop: asyncio.AbstractEventLoop, on_turning: Callable[[], None] = lambda: None
    ) -> int:
        """Serves until it is told to go, turning the loop of the agents; the exit code. Raises what broke that loop.

        `on_turning` is called in it each time that it begins to turn.
        """
        thread_id, endurance = threading.get_ident(), Endurance(agents_loop)

        def live() -> None:
            try:
                with asyncio.Runner(loop_factory=loop_factory(self.settings.event_loop)) as runner:
                    self._exit_code = runner.run(self._live_linked(agents_loop, thread_id))
            except Exception:  # noqa: BLE001 - told, with its traceback
                # Without its link a commander is of no use; its supervisor shall know.
                _LOG.critical("the link broke over a mistake in the commander", exc_info=True)
                self._exit_code = EXIT_BROKEN
            _call(agents_loop, endurance.end)
            self._on_left(self._exit_code)

        threading.Thread(target=live, name="link", daemon=True).start()
        endurance.run(on_turning)
        return self._exit_code

    def drain(self, reason: str) -> None:
        """Takes no more turns, finishes those it has, and goes. Any thread, once it is linked."""
        if self._linked is not None:
            link, deadline_s = self._linked.link, self.settings.drain_deadline_s
            _call(self._linked.loop, lambda: link.drain(reason, deadline_s))

    def quit(self, exit_code: int, reason: str) -> None:
        """Goes at once; what runs is cancelled, and not waited for. Any thread, once it is linked."""
        if self._linked is None:
            return
        link, hub = self._linked.link, self._linked.hub

        def go() -> None:
            link.leave(exit_code, reason, LEAVE_GRACE_S)
            hub.drain(0.0, lambda: None)

        _call(self._linked.loop, go)

    # -- the link's thread -----------------------------------------------------------------------------------

    async def _live_linked(self, agents_loop: asyncio.AbstractEventLoop, agents_thread_id: int) -> int:
        settings, loop = self.settings, asyncio.get_running_loop()
        crossing_bounds, doorbell = bounds(settings), Doorbell(loop)
        slots = Slots(
            tuple(self._agents),
            settings.slots,
            crossing_bounds.turn,
            stop_grace_s=settings.stop_grace_s,
            unlinked_keep_s=settings.unlinked_keep_s,
        )
        rotation = Rotation(settings.max_message_bytes)
        hub = Hub(slots, rotation, doorbell, crossing_bounds, self.metrics, loop, self._give_up)
        hub.run_with(Runner(self._agents, agents_loop, hub.ended, self.metrics, self._models))
        pulse = Pulse(agents_loop, agents_thread_id, settings.blocked_after_s)
        link = Link(settings, self.identity, hub, doorbell, pulse, self.metrics)
        self.metrics.watch(settings.slots, lambda: slots.stuck, lambda: hub.unacknowledged)
        self._linked = _Linked(loop, link, hub)
        if self._orders is not None:
            loop.add_reader(self._orders, self._ordered, self._orders)
        return await link.run()

    def _ordered(self, orders: socket.socket) -> None:
        for number in orders.recv(64):
            name = signal.Signals(number).name
            if self._is_ordered_to_go:
                _LOG.warning("%s again: going at once", name)
                self.quit(128 + number, f"{name} again")
            else:
                self._is_ordered_to_go = True
                self.drain(name)

    def _give_up(self) -> None:
        _LOG.critical(
            "every slot is held by an agent that ignored its stop: leaving with code %d, to be started anew",
            EXIT_STUCK,
        )
        self.quit(EXIT_STUCK, "every slot is stuck")


def serve(settings: Settings, agents: Mapping[tuple[str, str], AnyAgent]) -> int:
    """Serves the agents in this process until a signal or the dispatcher ends it; the exit code.

    Belongs to the main thread. SettingsError when the metrics' address can't be listened on.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # A series more for each that there is, of when it began: nobody asks for those.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no type for it
    orders, caught = socket.socketpair()
    for end in (orders, caught):
        end.setblocking(False)
    commander = Commander(settings, agents, orders=orders, on_left=_exit_soon)
    _LOG.info(
        "commander %s: agents %s; %d slots; dispatcher %s",
        commander.identity.commander_id,
        ", ".join(agent.label for agent in agents.values()),
        settings.slots,
        settings.dispatcher,
    )
    speechless = [each.label for each in agents.values() if each.function.__module__ in _MODELLED]
    if speechless and not named_models(settings):
        _LOG.warning(
            "%s: no language model: name one by --model PROVIDER:NAME, or by a table [models.NAME] of --config",
            ", ".join(speechless),
        )
    if settings.metrics_address:
        _serve_metrics(settings.metrics_address, commander.metrics)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # What is here now stays: a full collection, which halts every thread, need not look at it again. Measured with a
    # hundred agents that flood: 9 to 14 ms each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    return _run(commander, caught.fileno())


def _run(commander: Commander, caught: int) -> int:
    """The exit code. Each signal goes to the file descriptor `caught`."""
    runner = asyncio.Runner(loop_factory=loop_factory(commander.settings.event_loop))

    def catch_signals() -> None:
        # Whenever the loop runs, because it wants this place for itself.
        signal.set_wakeup_fd(caught, warn_on_full_buffer=False)

    try:
        exit_code = commander.run(runner.get_loop(), catch_signals)
    except Exception:  # noqa: BLE001 - told, with its traceback
        _LOG.critical("the agents' loop is broken: leaving with code %d", EXIT_BROKEN, exc_info=True)
        logging.shutdown()
        os._exit(EXIT_BROKEN)
    # What agents do while they are left behind is no ending of the commander's.
    with contextlib.suppress(BaseException):
        runner.close()
    return exit_code


def _serve_metrics(address: str, metrics: Metrics) -> None:
    place = parse_address(address)
    try:
        _, port = metrics.serve(place.host, place.port)
    except OSError as error:
        why = f"metrics_address: {address} can't be listened on: {error.strerror}; choose another, or none"
        raise SettingsError(why) from None
    host = f"[{place.host}]" if ":" in place.host else place.host
    _LOG.info("metrics at http://%s:%d/metrics", host, port)


def _exit_soon(exit_code: int) -> None:
    """In a daemon thread: agents that never end, or threads of theirs, can't keep the process alive."""
    time.sleep(LEAVE_GRACE_S)
    _LOG.warning("leaving behind what has not ended")
    logging.shutdown()
    os._exit(exit_code)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to tell any more
        loop.call_soon_threadsafe(callback)
