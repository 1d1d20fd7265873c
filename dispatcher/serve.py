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
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import prometheus_client
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher import auth, logs
from dispatcher.calls import Calls
from dispatcher.core import events
from dispatcher.core.events import DrainRequested, JournalChanged, LimitsChanged, ShutdownRequested
from dispatcher.core.limits import Limits
from dispatcher.core.router import Router
from dispatcher.hub import Hub
from dispatcher.identity import NOBODY, caller
from dispatcher.journal import Journal, Restored
from dispatcher.journal.memory import MemoryJournal
from dispatcher.journal.thoughts import ThoughtLog
from dispatcher.leaving import Leaving
from dispatcher.limits import LiveLimits, core_limits
from dispatcher.listening import StartError, bind, http_listener, server_options, tls_context
from dispatcher.metrics import Metrics, Snapshot
from dispatcher.patterns import PatternError
from dispatcher.policies import Policies
from dispatcher.policy_file import PolicyFileError
from dispatcher.pulse import Pulse
from dispatcher.requests import Requests
from dispatcher.rpc import admin, chat, codec, interaction
from dispatcher.rpc.interceptors import MetricsInterceptor
from dispatcher.rpc.policy_services import PolicyServices
from dispatcher.settings import Loaded, Settings, parse_address
from dispatcher.tables import of_kind
from dispatcher.tools.agent import agent_tools
from dispatcher.tools.contract import Tool, ToolLoadError
from dispatcher.tools.loading import load_tools
from dispatcher.tools.rules import Rules
from dispatcher.tools.runner import ToolRunner
from dispatcher.tools.sources import Sources, sources_of
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


def run(loaded: Loaded) -> int:
    """Serves until told to stop. Returns the process's exit code."""
    settings = loaded.settings
    logs.configure(settings.log_format, settings.log_level)
    try:
        tools = [*load_tools(settings.tools), *agent_tools(of_kind(loaded.tables, "agent"))]
        with asyncio.Runner(loop_factory=_loop_factory(settings.event_loop)) as runner:
            return _enduring(runner.get_loop(), _serve_and_leave(loaded, tools))
    except (StartError, ToolLoadError, auth.TokensError) as error:
        print(f"dispatcher: {error}", file=sys.stderr)
        return EXIT_USAGE


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # optional
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
    from dispatcher.journal.file import JournalError
    from dispatcher.journal.sqlite import SqliteJournal

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
    # A series more for each that there is, of when it began: nobody asks for those.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no type for it
    metrics = Metrics()
    policies = _policies(settings, metrics)
    rules = Rules(of_kind(loaded.tables, "tool"))
    runner = ToolRunner(tools, _runner_limits(settings), observe=metrics.tool_called, rules=rules)
    sources = sources_of(loaded.tables, runner)
    leaving = Leaving(settings.drain_deadline_s)
    services = PolicyServices(metrics)
    try:
        async with sources, _access(settings) as access, asyncio.TaskGroup() as tasks:
            router = Router(_core_limits(settings, policies, runner))
            hub = Hub(
                router,
                keeping.journal,
                Calls(
                    runner,
                    lambda: router.sessions,
                    lambda event: hub.submit(event),  # noqa: PLW0108 - the hub comes after what it calls
                    request_bytes_max=settings.request_bytes_max,
                    progress_s=settings.tool_progress_s,
                ),
                services,
                metrics,
                tasks,
                leaving.idle,
            )
            keeping.stalled.append(lambda is_stalled: _stalled(hub, is_stalled))
            _take_up(keeping, hub, runner)
            limits = LiveLimits(loaded, lambda changed: _apply(changed, policies, hub, runner))

            def tell_core() -> None:
                _tell_core(limits.settings, policies, hub, runner)

            runner.watch(tell_core)
            requests = Requests(hub, services, mint, settings.request_bytes_max)
            async with (
                _grpc_server(settings, access, hub, requests, metrics, runner, limits, leaving) as serving,
                _http_server(settings, access, hub, requests, metrics) as web,
            ):
                # Whoever reads that it is ready may tell it to go, and once more while it drains.
                with (
                    _metrics_server(settings, hub, metrics, sources, runner) as metrics_url,
                    leaving.on_signals(),
                    Pulse(settings.blocked_after_s),
                ):
                    following = tasks.create_task(policies.follow(settings.policy_poll_s, tell_core))
                    # What is here now stays: a full collection need not look at it again.
                    gc.collect()
                    gc.freeze()
                    gc.set_threshold(*GC_THRESHOLDS)
                    _announce(serving.bound, web.url, metrics_url, runner)
                    _miss_tools(rules, runner)
                    await leaving.wanted.wait()
                    following.cancel()
                    await _drain(hub, (serving, web), leaving)
            hub.close()
    except ExceptionGroup as group:
        # The group of tasks wraps what is raised in it; alone, it is what it was.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
    finally:
        await services.close()
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
        offers_bytes=max(0, settings.max_message_bytes - settings.request_bytes_max - START_ENVELOPE_BYTES),
    )


def _policies(settings: Settings, metrics: Metrics) -> Policies:
    """Raises StartError."""
    policies = Policies(settings.policy_file, _deny(settings), settings.deny_hold_chars_max, metrics)
    try:
        policies.begin()
    except (PolicyFileError, PatternError) as error:
        raise StartError(str(error)) from None
    return policies


def _core_limits(settings: Settings, policies: Policies, runner: ToolRunner) -> Limits:
    book = policies.book(deny_stops=settings.deny_mode == "enforce")
    return core_limits(settings, book, _told_bytes(runner))


def _deny(settings: Settings) -> dict[str, str]:
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
    return patterns


@contextlib.asynccontextmanager
async def _access(settings: Settings) -> AsyncIterator[auth.Access]:
    """Who may come in, for as long as anybody does. Raises TokensError or StartError."""
    s = settings
    tokens = () if s.tokens_file is None else auth.load_tokens(s.tokens_file)
    if not s.jwt_jwks:
        yield _asking(auth.Access(tokens))
        return
    # Cryptography is slow to import, and most have no issuer.
    from dispatcher.signed_tokens import SignedTokens
    from dispatcher.signing_keys import KeyLimits, KeysError, SigningKeys

    limits = KeyLimits(s.jwt_refresh_s, s.jwt_refetch_s, s.jwt_stale_s, s.jwt_fetch_timeout_s)
    keys = SigningKeys(s.jwt_jwks, limits)
    try:
        await keys.begin()
    except KeysError as error:
        raise StartError(str(error)) from None
    keeping = asyncio.create_task(keys.keep())
    try:
        signed = SignedTokens(keys, s.jwt_audience, s.jwt_issuer, s.jwt_leeway_s)
        yield _asking(auth.Access(tokens, signed))
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


def _asking(access: auth.Access) -> auth.Access:
    """What serves requests begins in this context: where tokens are asked for, each is nobody's until it is known
    better."""
    if access.required:
        caller.set(NOBODY)
    return access


def _apply(settings: Settings, policies: Policies, hub: Hub, runner: ToolRunner) -> None:
    """Limits were changed by an operator."""
    _tell_core(settings, policies, hub, runner)
    runner.change_limits(_runner_limits(settings))


def _tell_core(settings: Settings, policies: Policies, hub: Hub, runner: ToolRunner) -> None:
    """Limits were changed, or policies, or the tools on offer, which take a part of each Start."""
    hub.submit(LimitsChanged(_core_limits(settings, policies, runner)))


class Serving(NamedTuple):
    """What is served: `not_serving` makes health say so, `go_away` tells viewers of sessions that go on without this
    process, `bound` is the address."""

    not_serving: Callable[[], Awaitable[None]]
    go_away: Callable[[str], None]
    bound: str


class Web(NamedTuple):
    """What is served over HTTP, at `url`: as `Serving`."""

    not_serving: Callable[[], Awaitable[None]]
    go_away: Callable[[str], None]
    url: str


async def _drain(hub: Hub, edges: tuple[Serving | Web, ...], leaving: Leaving) -> None:
    why = "the dispatcher goes away"
    for edge in edges:
        await edge.not_serving()
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
        for edge in edges:
            edge.go_away(why)


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
    access: auth.Access,
    hub: Hub,
    requests: Requests,
    metrics: Metrics,
    runner: ToolRunner,
    limits: LiveLimits,
    leaving: Leaving,
) -> AsyncIterator[Serving]:
    """Serves gRPC."""
    interceptors: list[aio.ServerInterceptor] = [MetricsInterceptor(metrics.registry)]
    if access.required:
        interceptors.append(auth.AuthInterceptor(access))
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
    runner.watch(lambda: down.offer(_offers(runner)))
    link_service = interaction.Interaction(hub, down, metrics, mint, stream_limits, settings.links_max)
    view_limits = chat.ViewLimits(
        settings.request_bytes_max,
        settings.max_message_bytes,
        settings.viewer_write_s,
        settings.viewer_heartbeat_s,
        settings.viewers_per_session_max,
    )
    chat_service = chat.ChatService(hub, requests, view_limits)
    admin_service = admin.AdminService(
        hub, chat_service, runner, limits, mint, leaving.ask, settings.max_message_bytes
    )
    health_service = health.aio.HealthServicer()
    server.add_generic_rpc_handlers(
        (interaction.handlers(link_service), chat.handlers(chat_service), admin.handlers(admin_service))
    )
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = bind(server, settings)
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


@contextlib.asynccontextmanager
async def _http_server(
    settings: Settings, access: auth.Access, hub: Hub, requests: Requests, metrics: Metrics
) -> AsyncIterator[Web]:
    """Serves HTTP, where an address is set."""

    async def nothing() -> None:
        """Nobody asks for its health."""

    if not settings.http_address:
        yield Web(nothing, lambda _: None, "")
        return
    # A fifth of what there is to import, and of the start: only where it is served.
    from starlette.routing import Route, WebSocketRoute

    from dispatcher.edge.agents import Agents
    from dispatcher.edge.agui import AguiRuns
    from dispatcher.edge.app import application
    from dispatcher.edge.door import Doors
    from dispatcher.edge.flusher import Flusher
    from dispatcher.edge.foreign import Foreign, ForeignLimits
    from dispatcher.edge.guard import Callers, UserLimits, Users
    from dispatcher.edge.health import Health
    from dispatcher.edge.openai import OpenAi
    from dispatcher.edge.openapi import Description
    from dispatcher.edge.page import Page
    from dispatcher.edge.protocol import ConnectionLimits, EdgeConfig
    from dispatcher.edge.reading import BodyLimits
    from dispatcher.edge.responses import Responses
    from dispatcher.edge.server import EdgeServer
    from dispatcher.edge.sessions import Sessions, SessionsLimits
    from dispatcher.edge.showing import ShowLimits
    from dispatcher.edge.vercel import VercelChats
    from dispatcher.edge.viewers import Viewers
    from dispatcher.edge.websocket import SocketLimits, Sockets

    show_limits = ShowLimits(
        settings.viewer_coalesce_after_s,
        settings.viewer_thin_after_s,
        settings.viewer_write_s,
        settings.viewer_heartbeat_s,
    )
    viewers = Viewers(hub, Flusher(), metrics, show_limits, settings.viewers_per_session_max)
    # Base64 and escapes take more room than what they stand for.
    body = BodyLimits(settings.request_bytes_max * 2, settings.http_body_s)
    sessions = Sessions(hub, requests, viewers, SessionsLimits(body, settings.http_poll_s_max))
    callers = Callers(access)
    users = Users(UserLimits(settings.user_connections_max, settings.user_requests_per_minute_max))
    sockets = Sockets(
        hub, requests, viewers, callers, users, SocketLimits(settings.viewer_write_s, settings.http_header_s)
    )
    foreign_limits = ForeignLimits(body, settings.http_left_stop_s)
    foreign = Foreign(hub, requests, viewers, foreign_limits)
    chats = VercelChats(hub, requests, viewers, foreign_limits)
    runs = AguiRuns(hub, requests, viewers, foreign_limits)
    health, description = Health(), Description(software_version())
    routes: list[Route | WebSocketRoute] = [
        *health.routes(),
        *sessions.routes(),
        *sockets.routes(),
        *OpenAi(foreign).routes(),
        *Responses(foreign).routes(),
        *chats.routes(),
        *runs.routes(),
        *description.routes(),
        *Agents(hub).routes(),
        *Page().routes(),
    ]
    open_paths = ("/healthz", "/readyz", "/openapi.json", "/", "/page/")
    description.tell(routes, open_paths)
    doors = Doors(_hosts(settings), frozenset(settings.http_origins))
    app = application(routes, doors, metrics, callers, users, open_paths)
    limits = ConnectionLimits(
        settings.http_connections_max,
        settings.http_header_bytes_max,
        settings.http_header_s,
        settings.http_idle_s,
        body.bytes_max,
        settings.viewer_heartbeat_s,
        settings.viewer_write_s,
    )
    config = EdgeConfig(app, limits, tls_context(settings))
    server = EdgeServer(config)
    listener = http_listener(settings)
    scheme = "http" if settings.tls_certificate is None else "https"
    host, port = listener.getsockname()[:2]

    def go_away(why: str) -> None:
        viewers.go_away(why)
        foreign.go_away(why)

    async with server.serving(listener):
        try:
            yield Web(health.leave, go_away, f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        finally:
            go_away("the dispatcher goes away")
            sockets.go_away()


def _hosts(settings: Settings) -> frozenset[str] | None:
    """Where nobody has to say who they are, a name that was made to lead here could use a browser of this machine."""
    address = parse_address(settings.http_address)
    is_any = not settings.http_hosts and not address.is_local
    return None if is_any else frozenset(settings.http_hosts)


@contextlib.contextmanager
def _metrics_server(
    settings: Settings, hub: Hub, metrics: Metrics, sources: Sources, tools: ToolRunner
) -> Iterator[str]:
    """Serves metrics, where an address is set, from a thread of its own. Gives their URL, or nothing."""
    if not settings.metrics_address:
        yield ""
        return
    loop = asyncio.get_running_loop()

    async def snapshot() -> Snapshot:
        return Snapshot(hub.router, sources.states(), tools.stats())

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
        # Its thread looks twice a second alone whether it is to end, and the loop would wait for that: this wakes it.
        with contextlib.suppress(OSError):  # not everywhere
            server.socket.shutdown(socket.SHUT_RDWR)
        server.shutdown()
        server.server_close()
        thread.join()


def _miss_tools(rules: Rules, runner: ToolRunner) -> None:
    """A rule with a slip in its name would leave a tool open to everybody, in silence."""
    for name in sorted(rules.names - {offer.name for offer in runner.offers()}):
        log.warning(
            "tool.%s: there is no such tool, or not yet; dispatcher tools shows those that there are", name
        )


def _announce(bound: str, url: str, metrics_url: str, runner: ToolRunner) -> None:
    tools = ", ".join(offer.name for offer in runner.offers()) or "none"
    log.info("tools: %s", tools)
    web = f"; HTTP at {url}" if url else ""
    seen = f"; metrics at {metrics_url}" if metrics_url else ""
    print(f"dispatcher: ready at {bound}{web}{seen}", flush=True)
