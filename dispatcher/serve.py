"""The one place that constructs: makes every part of a dispatcher, starts them in order, drains in order.

Start: tools, core, hub, gRPC with health and reflection, metrics; then it is ready and says so on standard
output. End, by SIGTERM, SIGINT or Admin.Drain: not ready, no new sessions, those that run may finish until the
deadline, then all that is left ends as `shutdown`; with a journal that lasts it is left as it stands, for the next
dispatcher on that journal. A second signal ends it at once; an Admin.Drain is none.
"""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import prometheus_client
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher import auth, logs
from dispatcher.core import events
from dispatcher.core.events import DrainRequested, JournalChanged, LimitsChanged, ShutdownRequested
from dispatcher.core.router import Router
from dispatcher.hub import Hub
from dispatcher.journal import Journal, Restored
from dispatcher.journal.file import JournalError
from dispatcher.journal.memory import MemoryJournal
from dispatcher.journal.sqlite import SqliteJournal
from dispatcher.journal.thoughts import ThoughtLog
from dispatcher.limits import LiveLimits, core_limits
from dispatcher.metrics import Metrics, Snapshot
from dispatcher.patterns import PatternError, Patterns, compile_patterns
from dispatcher.pulse import Pulse
from dispatcher.requests import Requests
from dispatcher.rpc import admin, chat, codec, interaction
from dispatcher.rpc.feed import SENT_RATIO
from dispatcher.rpc.interceptors import MetricsInterceptor
from dispatcher.settings import Loaded, Settings, parse_address
from dispatcher.tools.contract import Tool, ToolLoadError
from dispatcher.tools.loading import load_tools
from dispatcher.tools.runner import ToolRunner
from dispatcher.tools.station import RunnerLimits

log = logging.getLogger(__name__)

SERVICES: Final = (
    agent_pb2.DESCRIPTOR.services_by_name["AgentInteraction"].full_name,
    chat_pb2.DESCRIPTOR.services_by_name["Chat"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
)
# What may wait, unwritten, for one commander that doesn't read.
UNWRITTEN_BYTES_MAX: Final = 33_554_432
# How long the last bytes of a link, and of the server, may take when it goes.
FLUSH_S: Final = 2.0
# Young objects that start a collection, and how many such make the next older one start. The interpreter's own
# (700, 10, 10) collect everything, the journal's lists too, several times a second under load: 14 to 28 ms each time
# with a million events kept. Long-lived cycles can wait.
GC_THRESHOLDS: Final = (2_000, 10, 500)
# What a Start holds besides the request and the tools, generously.
START_ENVELOPE_BYTES: Final = 4_096
SNAPSHOT_S: Final = 5.0

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class StartError(Exception):
    """The dispatcher can't start as told. The message names the setting and the mend."""


def run(loaded: Loaded) -> int:
    """Serves until told to stop. Returns the process's exit code."""
    settings = loaded.settings
    logs.configure(settings.log_format, settings.log_level)
    try:
        tools = load_tools(settings.tools)
        with asyncio.Runner(loop_factory=_loop_factory(settings.event_loop)) as runner:
            return _enduring(runner.get_loop(), _serve_and_leave(loaded, tools))
    except (StartError, ToolLoadError, auth.TokensError) as error:
        print(f"dispatcher: {error}", file=sys.stderr)
        return EXIT_USAGE


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        if name == "uvloop":
            raise StartError("event_loop: uvloop is not installed; install it, or choose asyncio") from None
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _enduring(loop: asyncio.AbstractEventLoop, serving: Coroutine[Any, Any, int]) -> int:
    """Turns the loop until it has served, whatever tools do to it: a helper task of theirs that exits would take
    everybody's sessions along."""
    task = loop.create_task(serving)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                # It does not serve yet or any more, so this is a person's Ctrl-C.
                raise
            kind = type(error).__name__
            log.exception("%s in a task or a callback of a tool; the loop goes on", kind)
    return task.result()


async def _serve_and_leave(loaded: Loaded, tools: list[Tool]) -> int:
    async with _journal(loaded.settings) as keeping:
        code = await serve(loaded, tools, keeping)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left and (await asyncio.wait(left, timeout=FLUSH_S))[1]:
        # Tools that swallow their cancellation: the runner of the loop would wait for them for ever.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


class Keeping(NamedTuple):
    """A journal, what it has brought from a life before, once, and who is told when it can't keep anything, and when it
    can again."""

    journal: Journal
    restored: Callable[[], Restored]
    stalled: list[Callable[[bool], None]]


def in_memory(journal: Journal) -> Keeping:
    """One that brings nothing and never stalls."""
    return Keeping(journal, lambda: Restored((), ()), [])


@contextlib.asynccontextmanager
async def _journal(settings: Settings) -> AsyncIterator[Keeping]:
    """Raises StartError."""
    kind, _, path = settings.journal.partition(":")
    wants_thoughts = settings.log_level == "debug"
    if kind != "sqlite":
        memory = MemoryJournal(secrets.token_hex(4))
        yield in_memory(ThoughtLog(memory) if wants_thoughts else memory)
        return
    told: list[Callable[[bool], None]] = []

    def stalled(is_stalled: bool) -> None:
        for tell in told:
            tell(is_stalled)

    try:
        file = SqliteJournal.at(Path(path), power_safe=settings.journal_sync == "power", stalled=stalled)
    except JournalError as error:
        raise StartError(f"journal: {error}") from None
    try:
        yield Keeping(ThoughtLog(file) if wants_thoughts else file, file.restored, told)
    finally:
        await file.close()


def software_version() -> str:
    try:
        return f"chatstream/{version('chatstream')}"
    except PackageNotFoundError:
        return "chatstream"


def mint(kind: str) -> str:
    """A new id: its kind, and 96 random bits."""
    return f"{kind}-{secrets.token_hex(12)}"


async def serve(loaded: Loaded, tools: list[Tool], keeping: Keeping) -> int:
    """Serves in the running loop until a signal or Admin.Drain. Raises StartError."""
    settings = loaded.settings
    deny = _deny(settings)
    # A series more for each that there is, of when it began: nobody asks for those.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no type for it
    metrics = Metrics()
    runner = ToolRunner(tools, _runner_limits(settings), observe=metrics.tool_called)
    leaving = Leaving(settings.drain_deadline_s)
    try:
        async with asyncio.TaskGroup() as tasks:
            hub = Hub(
                Router(core_limits(settings, deny, _told_bytes(runner))),
                keeping.journal,
                runner,
                metrics,
                tasks,
                leaving.idle,
            )
            keeping.stalled.append(lambda is_stalled: _stalled(hub, is_stalled))
            _take_up(keeping, hub, runner)
            limits = LiveLimits(loaded, lambda changed: _apply(changed, deny, hub, runner))
            async with _grpc_server(settings, hub, metrics, runner, limits, leaving) as serving:
                # Whoever reads that it is ready may tell it to go, and once more while it drains.
                with (
                    _metrics_server(settings, hub, metrics) as metrics_url,
                    leaving.on_signals(),
                    Pulse(settings.blocked_after_s),
                ):
                    # What is here now stays: a full collection need not look at it again.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(*GC_THRESHOLDS)
                    _announce(serving.bound, metrics_url, runner)
                    await leaving.wanted.wait()
                    await _drain(hub, serving, leaving)
            hub.close()
    except ExceptionGroup as group:
        # The group of tasks wraps what is raised in it; alone, it is what it was.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
    finally:
        await runner.close()
    return 0


def _take_up(keeping: Keeping, hub: Hub, runner: ToolRunner) -> None:
    """Gives what the journal has brought to the hub, and holds nothing of it."""
    sessions, commanders = keeping.restored()
    if sessions:
        log.info("taking up %d sessions", len(sessions))
    now_ms = int(time.time() * 1000)
    hub.submit(events.Restored(sessions, commanders, now_ms, runner.idempotent_tools))


def _stalled(hub: Hub, is_stalled: bool) -> None:
    hub.submit(JournalChanged(is_stalled))


def _runner_limits(settings: Settings) -> RunnerLimits:
    return RunnerLimits(
        timeout_s=settings.tool_timeout_s,
        output_bytes=settings.tool_output_bytes,
        arguments_bytes=settings.tool_arguments_bytes,
        concurrency=settings.tool_concurrency,
        waiting=settings.tool_calls_waiting_max,
        output_bytes_max=settings.payload_bytes_max,
        threads=settings.tool_threads,
        failures=settings.tool_failures_max,
        open_s=settings.tool_open_s,
    )


def _deny(settings: Settings) -> Patterns | None:
    """The patterns of text that must not leave, named by where they stand. Raises StartError."""
    patterns = {f"deny {number}": pattern for number, pattern in enumerate(settings.deny, 1)}
    path = settings.deny_file
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise StartError(
                f"deny_file: {path} should be text in UTF-8: {error.reason} at byte {error.start}"
            ) from None
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                patterns[f"{path.name} line {number}"] = line.strip()
    try:
        return compile_patterns(patterns) if patterns else None
    except PatternError as error:
        raise StartError(str(error)) from None


def _apply(settings: Settings, deny: Patterns | None, hub: Hub, runner: ToolRunner) -> None:
    """Limits were changed by an operator."""
    hub.submit(LimitsChanged(core_limits(settings, deny, _told_bytes(runner))))
    runner.change_limits(_runner_limits(settings))


class Serving(NamedTuple):
    """What is served: `not_serving` makes health say so, `go_away` tells viewers of sessions that go on without this
    process, `bound` is the address."""

    not_serving: Callable[[], Awaitable[None]]
    go_away: Callable[[str], None]
    bound: str


class Leaving:
    """When to go, and how fast. `wanted` is set once; `deadline_s` is how long sessions may still take."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.wanted = asyncio.Event()
        # What signals mean; Admin.Drain may say otherwise.
        self._signal_deadline_s = deadline_s
        self._was_signalled = False
        self._over = asyncio.Event()
        self._patience: asyncio.Timeout | None = None

    def ask(self, deadline_s: float | None = None) -> None:
        """Wants it to go; asked again, the sooner deadline holds."""
        if not self.wanted.is_set():
            self.deadline_s = self.deadline_s if deadline_s is None else deadline_s
            self.wanted.set()
        elif deadline_s is not None:
            self.deadline_s = min(self.deadline_s, deadline_s)
            if self._patience is not None:
                sooner = asyncio.get_running_loop().time() + deadline_s
                self._patience.reschedule(min(sooner, self._patience.when() or sooner))

    def idle(self) -> None:
        """No session is left."""
        self._over.set()

    async def over(self) -> None:
        """Waits until no session is left, the deadline has passed, or somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.deadline_s) as self._patience:
                await self._over.wait()
        self._patience = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        """The first takes part in a drain that Admin.Drain began: supervisors send one and mean no hurry by it."""
        name = signal.Signals(number).name
        if self._was_signalled:
            log.warning("%s again: ending at once", name)
            self._over.set()
            return
        self._was_signalled = True
        self.ask(self._signal_deadline_s)
        log.info("%s: draining for up to %g s; send it again to end at once", name, self._left_s())

    def _left_s(self) -> float:
        due = self._patience.when() if self._patience is not None else None
        return self.deadline_s if due is None else round(due - asyncio.get_running_loop().time(), 1)


async def _drain(hub: Hub, serving: Serving, leaving: Leaving) -> None:
    why = "the dispatcher goes away"
    await serving.not_serving()
    hub.submit(DrainRequested(why))
    await leaving.over()
    hands_over = hub.journal.is_lasting
    hub.submit(ShutdownRequested(mint("stop"), why, hands_over=hands_over))
    if hands_over:
        left = hub.router.live
        log.info(
            "left %d sessions as they stand, to be taken up when a dispatcher is back on this journal", left
        )
        try:
            await asyncio.wait_for(hub.kept(), FLUSH_S)
        except TimeoutError:
            log.warning("the journal can't be written: what was not told anybody may be lost")
        serving.go_away(why)


def _offers(runner: ToolRunner) -> list[agent_pb2.ToolOffer]:
    return [
        agent_pb2.ToolOffer(
            name=offer.name,
            description=offer.description,
            parameters_schema_json=offer.parameters_schema_json,
        )
        for offer in runner.offers()
    ]


def _told_bytes(runner: ToolRunner) -> int:
    """What each Start holds besides what is a session's own."""
    return sum(offer.ByteSize() for offer in _offers(runner)) + START_ENVELOPE_BYTES


@contextlib.asynccontextmanager
async def _grpc_server(
    settings: Settings,
    hub: Hub,
    metrics: Metrics,
    runner: ToolRunner,
    limits: LiveLimits,
    leaving: Leaving,
) -> AsyncIterator[Serving]:
    """Serves gRPC."""
    interceptors: list[aio.ServerInterceptor] = [MetricsInterceptor(metrics.registry)]
    if settings.tokens_file is not None:
        interceptors.append(auth.AuthInterceptor(auth.load_tokens(settings.tokens_file)))
    server = aio.server(interceptors=interceptors, options=server_options(settings))
    offers = _offers(runner)
    told_bytes = _told_bytes(runner)
    if settings.request_bytes_max + told_bytes > settings.max_message_bytes:
        raise StartError(
            f"request_bytes_max: {settings.request_bytes_max} and the descriptions of the tools, {told_bytes} "
            f"bytes, have to fit one message: at most {max(0, settings.max_message_bytes - told_bytes)} is right, "
            "or raise max_message_bytes on both sides"
        )
    down = codec.Downstream(
        max_message_bytes=settings.max_message_bytes,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        software_version=software_version(),
        instance=mint("dispatcher"),
        tools=offers,
    )
    stream_limits = interaction.StreamLimits(settings.max_message_bytes, UNWRITTEN_BYTES_MAX, FLUSH_S)
    link_service = interaction.Interaction(hub, down, metrics, mint, stream_limits, settings.links_max)
    view_limits = chat.ViewLimits(
        settings.request_bytes_max,
        settings.max_message_bytes,
        settings.viewer_write_s,
        settings.viewers_per_session_max,
    )
    chat_service = chat.ChatService(hub, Requests(hub, mint), view_limits)
    admin_service = admin.AdminService(
        hub, chat_service, runner, limits, mint, leaving.ask, settings.max_message_bytes
    )
    health_service = health.aio.HealthServicer()
    server.add_generic_rpc_handlers(
        (interaction.handlers(link_service), chat.handlers(chat_service), admin.handlers(admin_service))
    )
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = _bind(server, settings)
    ours = asyncio.all_tasks()
    await server.start()
    for service in ("", *SERVICES):
        await health_service.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield Serving(health_service.enter_graceful_shutdown, chat_service.go_away, bound)
    finally:
        # Clients that half-close in time get OK; the others are told, before gRPC cancels what is left.
        leave = asyncio.get_running_loop().call_later(FLUSH_S / 2, chat_service.leave)
        await server.stop(FLUSH_S)
        leave.cancel()
        # What gRPC cancelled ends some turns of the loop later, and logs a traceback when the loop is gone by then.
        if calls := asyncio.all_tasks() - ours:
            await asyncio.wait(calls, timeout=FLUSH_S)


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's options, with the names that take effect: measured, see docs/operating.md."""
    s = settings
    return [
        ("grpc.keepalive_time_ms", int(s.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(s.tcp_user_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(s.ping_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.bdp_probe", 0),
        # A client may ping somewhat more often than we would ourselves, as clocks and loads differ.
        ("grpc.http2.min_ping_interval_without_data_ms", int(s.keepalive_time_s * 900)),
        ("grpc.max_connection_idle_ms", int(s.connection_idle_s * 1000)),
        ("grpc.max_concurrent_streams", s.streams_per_connection),
        ("grpc.max_receive_message_length", s.max_message_bytes),
        ("grpc.max_send_message_length", s.max_message_bytes * SENT_RATIO),
        ("grpc.http2.settings_timeout", 5000),
        ("grpc.server_handshake_timeout_ms", 5000),
        ("grpc.max_metadata_size", 8192),
        # Two servers on one port would share its calls in silence.
        ("grpc.so_reuseport", 0),
    ]


def _bind(server: aio.Server, settings: Settings) -> str:
    """Takes the address. Returns it as bound. Raises StartError."""
    told = settings.grpc_address
    address = parse_address(told)
    if address.path and _somebody_listens(address.path):
        # grpc would take over the path of a living server without a word.
        raise StartError(f"grpc_address: {told} is taken by another process; choose another, or end that one")
    if address.path and not Path(address.path).parent.is_dir():
        raise StartError(
            f"grpc_address: {told}: there is no folder {Path(address.path).parent}; make it first"
        )
    try:
        if settings.tls_certificate is None:
            port = server.add_insecure_port(told)
        else:
            port = server.add_secure_port(told, _credentials(settings))
    except RuntimeError:
        raise StartError(
            f"grpc_address: {told} can't be bound; is it taken by another process? Choose another with "
            "--grpc-address, or port 0 for any that is free"
        ) from None
    return told if address.path else f"{told.rpartition(':')[0]}:{port}"


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _credentials(settings: Settings) -> grpc.ServerCredentials:
    """Raises StartError."""

    def content(path: Path | None) -> bytes | None:
        return None if path is None else path.read_bytes()

    _try_certificates(settings)
    key, certificate = content(settings.tls_key), content(settings.tls_certificate)
    assert key is not None
    assert certificate is not None
    client_ca = content(settings.tls_client_ca)
    return grpc.ssl_server_credentials(
        [(key, certificate)], client_ca, require_client_auth=client_ca is not None
    )


def _try_certificates(settings: Settings) -> None:
    """grpc says of a certificate that it can't use only that the address can't be bound. Raises StartError."""
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    assert certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a password that is never right, an encrypted key is an error and no question at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        raise StartError(
            f"tls_certificate, tls_key: {key} is not the key of {certificate}"
            if mismatch
            else f"tls_certificate, tls_key: {certificate} should be a certificate chain and {key} its key, "
            "both in PEM, the key not encrypted"
        ) from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, ValueError):
            raise StartError(f"tls_client_ca: {client_ca} should hold certificates in PEM") from None


@contextlib.contextmanager
def _metrics_server(settings: Settings, hub: Hub, metrics: Metrics) -> Iterator[str]:
    """Serves metrics, where an address is set, from a thread of its own. Gives their URL, or nothing."""
    if not settings.metrics_address:
        yield ""
        return
    loop = asyncio.get_running_loop()

    async def snapshot() -> Snapshot:
        return Snapshot(hub.router)

    metrics.watch(lambda: asyncio.run_coroutine_threadsafe(snapshot(), loop).result(SNAPSHOT_S))
    address = parse_address(settings.metrics_address)
    try:
        server, thread = start_http_server(address.port, address.host, metrics.registry)
    except OSError as error:
        raise StartError(
            f"metrics_address: {settings.metrics_address} can't be bound: {error.strerror}; choose another "
            'with --metrics-address, port 0 for any that is free, or "" for none'
        ) from None
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _announce(bound: str, metrics_url: str, runner: ToolRunner) -> None:
    tools = ", ".join(offer.name for offer in runner.offers()) or "none"
    log.info("tools: %s", tools)
    seen = f"; metrics at {metrics_url}" if metrics_url else ""
    print(f"dispatcher: ready at {bound}{seen}", flush=True)
