"""Every address, limit and timeout of the dispatcher: its default, its bounds, and when to change it.

Three parts: what single values look like; the table, `Settings`, with what doesn't go together; and the
loader, which knows flags, environment and TOML and can say of each value where it came from. It opens no file
but the settings file and starts nothing. `cli.py` loads, `serve.py` builds from it, SetLimits changes it.

The commander has the same loader, word for word: the two packages share nothing but the contract, and a test
holds the copies together.
"""

import argparse
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv6Address, ip_address
from itertools import chain, combinations
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, cast, get_args, get_origin
from urllib.parse import urlsplit

import re2
from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from dispatcher.tables import TABLES

ENVIRONMENT: Final = "DISPATCHER_"


class SettingsError(Exception):
    """Settings that can't be used. The message is for the user: one problem a line, each with its origin."""


class ContradictionError(ValueError):
    """Values that are right and don't go together: `cases` has the fields with their values, and why."""

    def __init__(self, cases: list[tuple[dict[str, object], str]]) -> None:
        super().__init__("; ".join(f"{' and '.join(fields)}: {why}" for fields, why in cases))
        self.cases: Final = cases


# ---------------------------------------------------------------------------------------------------------
# What single values look like. Each message goes on from the value: "'x' should be …".
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or dial: a host and a port, or the path of a unix socket, which has neither."""

    host: str
    port: int
    path: str = ""

    @property
    def is_local(self) -> bool:
        """Only this machine can reach it. A name other than localhost may resolve to anything."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Read HOST:PORT, [IPV6]:PORT or unix:/PATH. Raises ValueError, which says what would be right."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("/") and path.isprintable() and len(path.encode()) <= 107:
            return Address("", 0, path)
        raise ValueError(
            "should be unix: and an absolute path of at most 107 bytes, e.g. unix:/run/chat.sock"
        )
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    try:
        if found is None or int(found[3]) > 65_535:
            raise ValueError
        if found[1]:
            IPv6Address(found[1])
        elif re.fullmatch(r"[0-9.]+", found[2]):
            ip_address(found[2])
    except ValueError:
        raise ValueError(
            "should be HOST:PORT or [IPV6]:PORT, e.g. 127.0.0.1:50051, with a port up to 65535; or unix:/PATH"
        ) from None
    return Address(found[1] or found[2], int(found[3]))


def _metrics_address(text: str) -> str:
    if text and parse_address(text).path:
        raise ValueError('should be HOST:PORT, or "" for off: metrics are not served on a unix socket')
    return text


def _http_address(text: str) -> str:
    if text and parse_address(text).path:
        raise ValueError('should be HOST:PORT, or "" for off: HTTP is not served on a unix socket')
    return text


def _host(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", text):
        return text.lower()
    raise ValueError("should be the name of a host without a port, e.g. chat.example.com")


def _origin(text: str) -> str:
    if re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", text):
        return text.lower()
    raise ValueError("should be the origin of pages, without a path, e.g. https://app.example.com")


def _file(value: object) -> object:
    """No file is the empty text: TOML has no word for none, and an empty variable can undo a file's line."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("should be a path in UTF-8 without control characters")
    return None if value == "" else value


def _address(text: str) -> str:
    parse_address(text)
    return text


def _word(text: str) -> str:
    if not text.isprintable():
        raise ValueError("should have no control characters")
    return text


def _keys_place(text: str) -> str:
    """A path, or an address where nobody but its owner can answer."""
    why = "should be a file, or an https address without a password; http is right for this machine alone"
    if not text.isprintable():
        raise ValueError(why)
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
        is_here = Address(parts.hostname or "", parts.port or 0).is_local
    except ValueError:
        raise ValueError(why) from None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_here)
    if not is_safe or not parts.hostname or parts.username is not None or " " in text:
        raise ValueError(why)
    return text


def _tool(text: str) -> str:
    module, colon, name = text.partition(":")
    parts = (*module.split("."), *name.split(".")) if colon else module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ValueError("should be MODULE:OBJECT, e.g. my_tools:TOOLS, or the name of installed tools")
    return text


def _journal(text: str) -> str:
    kind, _, path = text.partition(":")
    if text != "memory" and not (kind == "sqlite" and path and path.isprintable()):
        raise ValueError("should be memory, or sqlite:PATH, e.g. sqlite:/var/lib/chat/journal.db")
    return text


def _pattern(text: str) -> str:
    options = re2.Options()
    options.log_errors = False
    try:
        matches_nothing = re2.compile(text, options).search("") is not None
    except re2.error as error:
        cause = error.args[0]
        why = cause.decode(errors="replace") if isinstance(cause, bytes) else cause
        raise ValueError(f"should be an RE2 pattern: {why}") from None
    except UnicodeEncodeError:
        raise ValueError("should be an RE2 pattern in UTF-8") from None
    if matches_nothing:
        raise ValueError("should not match the empty text: it would match every answer")
    return text


ListenAddress = Annotated[str, AfterValidator(_address)]
MetricsAddress = Annotated[str, AfterValidator(_metrics_address)]
HttpAddress = Annotated[str, AfterValidator(_http_address)]
Hosts = Annotated[list[Annotated[str, AfterValidator(_host)]], Field(max_length=1000)]
Origins = Annotated[list[Annotated[str, AfterValidator(_origin)]], Field(max_length=1000)]
JournalPlace = Annotated[str, AfterValidator(_journal)]
KeysPlace = Annotated[str, AfterValidator(_keys_place)]
Word = Annotated[str, AfterValidator(_word)]
File = Annotated[Path | None, BeforeValidator(_file)]
Tools = Annotated[list[Annotated[str, AfterValidator(_tool)]], Field(max_length=1000)]
Patterns = Annotated[list[Annotated[str, AfterValidator(_pattern)]], Field(max_length=1000)]
Mode = Literal["enforce", "observe"]


def setting(
    group: str,
    default: Any,
    description: str,
    least: float | None = None,
    most: float | None = None,
    *,
    changeable: bool = False,
    shape: str = "",
    separator: str = ",",
) -> Any:
    """A field: its group in --help, its default, one line for the user, and its bounds.

    `changeable` ones can be changed while the service runs. `shape` is what a text looks like, in capitals.
    `separator` parts the items of a list in a variable.
    """
    extra: dict[str, Any] = {"group": group, "changeable": changeable, "shape": shape, "separator": separator}
    return Field(default, description=description, ge=least, le=most, json_schema_extra=extra)


# ---------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------

LISTEN = "Where it listens"
TRUST = "Who may come in"
SILENCE = "Silence on a connection"
SIZES = "Connections and messages"
CREDIT = "Credit"
SESSIONS = "Sessions and their queue"
ENDS = "Lost links, stops and draining"
OPEN = "What a session may leave open"
LIMITS = "Limits on what a session says"
DENY = "Text that never leaves"
JOURNAL = "The journal"
VIEWERS = "Viewers"
HTTP = "HTTP"
TOOLS = "Tools"
LOGS = "Logs and the event loop"

# What SetLimits can change, and whether such a limit acts or is only tried out.
limit = partial(setting, changeable=True)
mode = partial(limit, LIMITS, "enforce")


class Settings(BaseModel):
    """What a dispatcher is told. Units in the names: _s seconds, _bytes, _chars code points, _max at most."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    grpc_address: ListenAddress = setting(
        LISTEN, "127.0.0.1:50051", "Where everybody connects. Port 0 takes a free one.", shape="ADDRESS"
    )
    http_address: HttpAddress = setting(
        LISTEN,
        "",
        "Where browsers and HTTP clients connect, e.g. 127.0.0.1:8080. Empty: off.",
        shape="ADDRESS",
    )
    metrics_address: MetricsAddress = setting(
        LISTEN, "127.0.0.1:9464", "Where Prometheus scrapes /metrics. Empty: off.", shape="ADDRESS"
    )
    metrics_public: bool = setting(
        LISTEN, False, "Let other machines reach metrics_address, which asks for no credentials."
    )

    insecure: bool = setting(
        TRUST, False, "Serve other machines without TLS and tokens, in a network that lets nobody else in."
    )
    tls_certificate: File = setting(TRUST, None, "The server's certificate chain, PEM. Needs tls_key.")
    tls_key: File = setting(TRUST, None, "The key of tls_certificate, PEM.")
    tls_client_ca: File = setting(
        TRUST, None, "Who must have signed a client's certificate, PEM. None: clients need no certificate."
    )
    tokens_file: File = setting(
        TRUST, None, "Who may come in, by which token, as what. None, and no jwt_jwks: everyone."
    )
    jwt_jwks: KeysPlace = setting(
        TRUST,
        "",
        "The keys of who signs tokens, JWTs: a JWK Set's file or https address. Needs jwt_audience.",
        shape="FILE|URL",
    )
    jwt_audience: Word = setting(TRUST, "", "What signed tokens for here have as aud.", shape="AUDIENCE")
    jwt_issuer: Word = setting(TRUST, "", "What they have as iss. Empty: whatever.", shape="ISSUER")
    jwt_leeway_s: float = setting(TRUST, 30.0, "How far the clock of who signs may be off.", 0, 600)
    jwt_refresh_s: float = setting(TRUST, 300.0, "The keys are read again when so old.", 0.1, 86_400)
    jwt_refetch_s: float = setting(
        TRUST, 5.0, "A token whose key is not there has them read again, but no sooner than this.", 0.1, 3600
    )
    jwt_stale_s: float = setting(
        TRUST, 3600.0, "While they can't be read, those of before serve on until so old.", 1, 604_800
    )
    jwt_fetch_timeout_s: float = setting(TRUST, 5.0, "Reading them may take so long.", 0.1, 60)

    heartbeat_interval_s: float = setting(
        SILENCE, 2.0, "Each side of a link is heard so often; this finds what pings can't.", 0.05, 60
    )
    heartbeats_missed: int = setting(
        SILENCE, 3, "So many silent intervals are a lost link. More for machines that stall.", 2, 20
    )
    keepalive_time_s: float = setting(
        SILENCE, 5.0, "Ping after so much silence. Measured: keeps a proxy that drops after 10 s.", 1, 600
    )
    ping_timeout_s: float = setting(
        SILENCE, 3.0, "Wait so long for a ping's answer. Measured: finds a frozen peer in 5.7 s.", 0.5, 60
    )
    tcp_user_timeout_s: float = setting(
        SILENCE, 10.0, "Wait so long for TCP's confirmation. Measured: at 1 s a blip ends all.", 2, 600
    )
    connection_idle_s: float = setting(
        SILENCE, 600.0, "Close a connection without calls after this. Measured: 15 s only churns.", 30, 86_400
    )

    max_message_bytes: int = setting(
        SIZES, 1_048_576, "The largest gRPC message, either way.", 65_536, 67_108_864
    )
    stream_ahead_bytes: int = setting(
        SIZES,
        16_384,
        "A stream may be ahead of its reader by so much. More for far commanders; when all is busy, more only waits.",
        4_096,
        16_777_216,
    )
    streams_per_connection: int = setting(
        SIZES, 250, "Calls at once. Measured: up to 1000, rapid resets hurt nobody else.", 1, 1000
    )
    links_max: int = setting(SIZES, 1000, "Commanders connected at once.", 1, 100_000)
    published_bytes_max: int = setting(
        SIZES,
        262_144,
        "So much of what was published is told to an agent that continues, if a message has room; else it restarts.",
        0,
        67_108_864,
    )
    request_bytes_max: int = setting(
        SIZES, 524_288, "The largest request, with the conversation it carries.", 1024, 67_108_864
    )

    credit_packets: int = limit(
        CREDIT, 64, "Packets not acknowledged yet. Measured: at 64, signals wait 1.6 to 7 ms.", 1, 65_536
    )
    credit_bytes: int = limit(CREDIT, 262_144, "Bytes not acknowledged yet.", 16_384, 67_108_864)
    ack_interval_s: float = limit(CREDIT, 0.2, "No acknowledgement that is due waits longer.", 0.01, 5)

    sessions_max: int = limit(
        SESSIONS, 10_000, "Sessions that have not ended; more are refused.", 1, 1_000_000
    )
    queue_sessions_max: int = limit(
        SESSIONS, 1000, "Sessions that wait for a slot; more are refused. 0: nobody waits.", 0, 1_000_000
    )
    queue_wait_s: float = limit(SESSIONS, 30.0, "A session waits so long for a slot.", 0, 3600)
    sessions_per_minute_max: int = limit(
        SESSIONS,
        60_000,
        "Sessions asked for in a minute; more are refused until they may come.",
        1,
        10_000_000,
    )
    user_sessions_max: int = limit(
        SESSIONS, 1000, "Sessions of one user that have not ended. Of users that have an id.", 1, 1_000_000
    )
    user_queue_sessions_max: int = limit(
        SESSIONS, 100, "Sessions of one user that wait for a slot. 0: they never wait.", 0, 1_000_000
    )
    user_sessions_per_minute_max: int = limit(
        SESSIONS, 1200, "Sessions that one user asks for in a minute.", 1, 10_000_000
    )

    detach_grace_s: float = limit(
        ENDS, 10.0, "A session whose link is lost waits so long for its commander to come back.", 0.1, 3600
    )
    attempts_max: int = limit(
        ENDS, 3, "So many commanders, one after the other, may run a session. 1: no failover.", 1, 100
    )
    restart_backoff_s: float = limit(
        ENDS,
        1.0,
        "The third attempt waits so long, each later one twice as long; the second begins at once.",
        0,
        600,
    )
    restart_backoff_max_s: float = limit(ENDS, 30.0, "No attempt waits longer than this.", 0, 600)
    stop_grace_s: float = limit(
        ENDS, 5.0, "A stopped agent has so long to end; then it is abandoned.", 0, 600
    )
    stop_received_s: float = limit(ENDS, 2.0, "A commander has so long to say it received a stop.", 0.1, 60)
    drain_deadline_s: float = setting(
        ENDS, 30.0, "Sessions have so long to end when the dispatcher is told to go.", 0, 86_400
    )

    messages_waiting_max: int = limit(
        OPEN, 32, "Messages a user may add before the agent reads them.", 1, 10_000
    )
    questions_open_max: int = limit(OPEN, 16, "Questions of an agent that wait for an answer.", 1, 10_000)
    question_wait_s: float = limit(
        OPEN, 3600.0, "A question waits so long, unless it says otherwise.", 0.1, 604_800
    )

    content_chars_max: int = limit(
        LIMITS, 2_000_000, "The longest content; more for long documents.", 1, 1 << 40
    )
    content_mode: Mode = mode("Whether content_chars_max ends a session or is only counted.")
    thought_chars_max: int = limit(LIMITS, 4_000_000, "The longest thoughts, all together.", 1, 1 << 40)
    thought_mode: Mode = mode("Whether thought_chars_max ends a session or is only counted.")
    tool_calls_max: int = limit(
        LIMITS, 200, "Tool calls; an agent that needs more is likely in a loop.", 0, 1_000_000
    )
    tool_calls_mode: Mode = mode("Whether tool_calls_max ends a session or is only counted.")
    repeated_calls_max: int = limit(
        LIMITS, 20, "The same tool call, with the same arguments; likely a loop. 0: no limit.", 0, 1_000_000
    )
    repeated_calls_mode: Mode = limit(
        LIMITS, "observe", "Whether repeated_calls_max ends a session or is only counted."
    )
    session_cost_dollars_max: float = limit(
        LIMITS, 0.0, "What a session may cost, by the policy file's prices. 0: no limit.", 0, 1e9
    )
    session_cost_mode: Mode = mode("Whether session_cost_dollars_max ends a session or is only counted.")
    user_cost_dollars_max: float = limit(
        LIMITS, 0.0, "What one user may spend within user_cost_window_s. 0: no limit.", 0, 1e9
    )
    user_cost_window_s: float = limit(
        LIMITS, 86_400.0, "What a user has spent counts for so long.", 1, 31_622_400
    )
    user_cost_mode: Mode = mode("Whether user_cost_dollars_max ends and refuses sessions or is only counted.")
    unpriced_models: Literal["free", "observe", "error"] = setting(
        LIMITS, "observe", "What a model is that the policy file has no price for, where it has prices."
    )
    output_tokens_max: int = limit(
        LIMITS, 10_000_000, "Output tokens, as its agent reports them.", 1, 1 << 40
    )
    output_tokens_mode: Mode = mode("Whether output_tokens_max ends a session or is only counted.")
    total_time_s: float = limit(LIMITS, 3600.0, "A session's time in all.", 0.1, 604_800)
    total_time_mode: Mode = mode("Whether total_time_s ends a session or is only counted.")
    first_token_s: float = limit(
        LIMITS,
        600.0,
        "Time to the first thought or content, from when a commander took it; models may be silent for minutes.",
        0.1,
        604_800,
    )
    first_token_mode: Mode = mode("Whether first_token_s ends a session or is only counted.")

    deny: Patterns = setting(
        DENY,
        [],
        "RE2; what matches is not shown, but for an artifact's bytes. Variable: one a line.",
        shape="PATTERN",
        separator="\n",
    )
    deny_file: File = setting(DENY, None, "More of them, one a line; lines that begin with # are comments.")
    deny_mode: Mode = limit(DENY, "enforce", "Whether a match ends a session or is only counted.")
    deny_hold_chars_max: int = setting(
        DENY,
        1024,
        "Text held back for a match to show; what is undecided for longer counts as one.",
        1,
        65_536,
    )
    deny_speakers_max: int = setting(
        DENY,
        1000,
        "Sub-agents of a session whose text is looked at at once; more count as a match.",
        1,
        100_000,
    )

    policy_file: File = setting(
        DENY,
        None,
        "Rules on what is said, as data, and services that judge it: observe, redact or stop. Read again on SIGHUP.",
    )
    review_chars_max: int = limit(
        DENY,
        65_536,
        "A session of which more waits for services to judge it gets no more credit until they did.",
        1,
        67_108_864,
    )
    policy_poll_s: float = setting(
        DENY,
        5.0,
        "The policy file is looked at so often, and read again when it is another. 0: never.",
        0,
        3600,
    )

    journal: JournalPlace = setting(
        JOURNAL,
        "memory",
        "Where events are kept: memory, gone with the process; or sqlite:PATH, a file that outlives it.",
        shape="JOURNAL",
    )
    journal_sync: Literal["process", "power"] = setting(
        JOURNAL,
        "process",
        "What a file outlives: the process's death; or a power cut too, which waits for the disk each time.",
    )
    journal_session_bytes: int = limit(
        JOURNAL, 67_108_864, "Events kept of one session; then its agent waits.", 16_384, 1 << 40
    )
    journal_bytes: int = limit(
        JOURNAL, 536_870_912, "Events kept of all; ended sessions make room first.", 16_384, 1 << 40
    )
    user_journal_bytes: int = limit(
        JOURNAL,
        268_435_456,
        "Events kept of one user's sessions; ended ones make room, then new ones are refused.",
        16_384,
        1 << 40,
    )
    journal_keep_s: float = limit(JOURNAL, 600.0, "An ended session can be read for so long.", 0, 2_592_000)
    journal_keep_sessions: int = limit(JOURNAL, 10_000, "Ended sessions kept, the latest.", 0, 1_000_000)
    journal_full_wait_s: float = limit(
        JOURNAL, 60.0, "A session waits so long for room; then it ends.", 0, 3600
    )

    viewers_per_session_max: int = setting(VIEWERS, 1000, "Viewers of one session at once.", 1, 100_000)
    viewer_write_s: float = setting(
        VIEWERS, 30.0, "A viewer that takes nothing for so long is closed.", 0.1, 3600
    )
    viewer_heartbeat_s: float = setting(
        VIEWERS, 15.0, "No viewer hears nothing for longer; proxies often cut at 30 s.", 0.05, 3600
    )
    viewer_coalesce_after_s: float = setting(
        VIEWERS, 0.5, "One over HTTP that lags for so long gets neighbouring text in one piece.", 0.01, 3600
    )
    viewer_thin_after_s: float = setting(
        VIEWERS, 5.0, "Then, besides, no thoughts and only the latest progress; content stays.", 0.01, 3600
    )

    http_hosts: Hosts = setting(
        HTTP,
        [],
        "Names by which it is called, besides localhost and addresses. None: any, where others may come in.",
        shape="HOST",
    )
    http_origins: Origins = setting(
        HTTP, [], "Pages of these origins may call it, by CORS, besides its own.", shape="ORIGIN"
    )
    http_connections_max: int = setting(HTTP, 10_000, "Connections at once.", 1, 1_000_000)
    http_header_bytes_max: int = setting(HTTP, 16_384, "The largest head of a request.", 1024, 65_536)
    http_header_s: float = setting(HTTP, 10.0, "A request's head arrives within this.", 0.1, 600)
    http_body_s: float = setting(HTTP, 30.0, "A request's body arrives within this.", 0.1, 600)
    http_idle_s: int = setting(
        HTTP, 75, "A connection without a request stays so long; longer than a proxy's own.", 1, 3600
    )
    http_left_stop_s: float = setting(
        HTTP,
        5.0,
        "What OpenAI's and other foreign clients ask for is stopped when nobody has watched it for so long.",
        0,
        86_400,
    )
    user_connections_max: int = setting(
        HTTP,
        100,
        "Requests, streams and WebSockets at once of one user, who has a token of its own.",
        1,
        100_000,
    )
    user_requests_per_minute_max: int = setting(
        HTTP, 1200, "Requests that such a user makes in a minute.", 1, 10_000_000
    )
    http_poll_s_max: float = setting(
        HTTP, 45.0, "The longest that a poll may wait; proxies often cut at 50 to 60 s.", 1, 3600
    )

    tools: Tools = setting(TOOLS, [], "A tool, or a list of them, to offer to agents.", shape="MODULE:OBJECT")
    tool_timeout_s: float = limit(TOOLS, 30.0, "A call's time, unless its tool says otherwise.", 0.05, 86_400)
    tool_output_bytes: int = limit(TOOLS, 262_144, "The largest result of a call, as JSON.", 256, 67_108_864)
    tool_arguments_bytes: int = limit(TOOLS, 262_144, "The largest arguments, as JSON.", 256, 67_108_864)
    tool_concurrency: int = limit(
        TOOLS, 16, "Calls of one tool at once, unless it says otherwise.", 1, 10_000
    )
    tool_calls_waiting_max: int = limit(
        TOOLS, 1000, "Calls of one tool that wait for their turn; more are refused with a hint.", 1, 1_000_000
    )
    tool_progress_s: float = setting(
        TOOLS, 0.2, "A call's progress is passed on so often at most; the rest is left out.", 0, 3600
    )
    tool_threads: int = setting(TOOLS, 32, "Threads for tools that are not async, all together.", 1, 1024)
    tool_failures_max: int = limit(
        TOOLS, 10, "A tool that fails so often in a row is left alone for a while. 0: never.", 0, 10_000
    )
    tool_open_s: float = limit(TOOLS, 30.0, "So long; then one call may try.", 0.05, 3600)
    session_tools_running_max: int = limit(TOOLS, 16, "Calls of one session at once; more wait.", 1, 10_000)
    park_after_s: float = limit(
        TOOLS,
        5.0,
        "A session that has waited for a person alone so long gives its slot to others.",
        0,
        86_400,
    )
    delegation_levels_max: int = limit(
        TOOLS, 4, "How many agents may have asked each other, one below the other. 0: none may ask.", 0, 16
    )
    delegated_answer_bytes_max: int = limit(
        TOOLS, 262_144, "The longest answer of an agent to another.", 256, 67_108_864
    )

    log_format: Literal["text", "json"] = setting(LOGS, "text", "text for people, json for collectors.")
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        LOGS,
        "info",
        "The least that is logged; debug adds what agents think, which may tell what users said.",
    )
    blocked_after_s: float = setting(
        LOGS, 1.0, "An event loop that has not turned for so long is blocked; the log says where.", 0.1, 60
    )
    event_loop: Literal["auto", "asyncio", "uvloop"] = setting(
        LOGS, "auto", "auto: uvloop where it is installed, measured to carry 5 to 40 % more messages."
    )

    @property
    def payload_bytes_max(self) -> int:
        """The largest thing that one packet carries. It has to fit into a message with its envelope."""
        return self.max_message_bytes * 7 // 8

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, field: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(field.field_name)].annotation in (int, float):
            raise ValueError("should be a number")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        cases = [
            ({each: getattr(self, each) for each in fields}, why) for fields, why in _contradictions(self)
        ]
        if cases:
            raise ContradictionError(cases)
        return self


# Fields that don't go together, and why.
Contradictions = Iterator[tuple[tuple[str, ...], str]]


def _contradictions(told: Settings) -> Contradictions:
    """What would break a promise or could never take effect. What is merely odd is allowed."""
    yield from _open_doors(told)
    yield from _signed_by_anybody(told)
    yield from _silence_out_of_order(told)
    for part in ("request_bytes_max", "tool_output_bytes", "tool_arguments_bytes"):
        if getattr(told, part) > told.payload_bytes_max:
            why = (
                f"it has to fit into a message with all that goes with it: {part} must be at most 7/8 of that"
            )
            yield (part, "max_message_bytes"), why
    for name in ("session_cost_dollars_max", "user_cost_dollars_max"):
        if getattr(told, name) and told.policy_file is None:
            why = "without prices nobody knows what anything costs: give a policy_file that has some"
            yield (name, "policy_file"), why
    if told.credit_bytes > told.max_message_bytes * told.credit_packets:
        why = "so many can't carry so much: credit_bytes must be at most the product of the others"
        yield ("credit_bytes", "max_message_bytes", "credit_packets"), why
    if told.credit_bytes > told.journal_session_bytes:
        why = "the journal has to take what is under way: credit_bytes must be at most journal_session_bytes"
        yield ("credit_bytes", "journal_session_bytes"), why
    if told.journal_session_bytes > told.journal_bytes:
        why = "one session can't have more than all: journal_session_bytes must be at most journal_bytes"
        yield ("journal_session_bytes", "journal_bytes"), why


def _open_doors(told: Settings) -> Contradictions:
    if (told.tls_certificate is None) != (told.tls_key is None):
        yield ("tls_certificate", "tls_key"), "certificate and key belong together: give both or neither"
    if told.tls_client_ca and not told.tls_certificate:
        yield ("tls_client_ca", "tls_certificate"), "it needs TLS: give tls_certificate and tls_key"
    is_safe = told.tls_certificate and told.tls_key and (told.tokens_file or told.jwt_jwks)
    if not (is_safe or told.insecure or parse_address(told.grpc_address).is_local):
        why = (
            "other machines could come in without TLS or without a token. Three ways out: listen on"
            " 127.0.0.1, [::1] or unix:/PATH; give tls_certificate, tls_key and tokens_file or jwt_jwks; or set"
            " insecure = true (--insecure), in a network that lets nobody else in"
        )
        yield ("grpc_address", "tls_certificate", "tls_key", "tokens_file", "jwt_jwks", "insecure"), why
    if told.http_address and not (is_safe or told.insecure or parse_address(told.http_address).is_local):
        why = (
            "other machines could come in without TLS or without a token. Three ways out: listen on 127.0.0.1 or"
            " [::1]; give tls_certificate, tls_key and tokens_file or jwt_jwks; or set insecure = true (--insecure),"
            " in a network that lets nobody else in"
        )
        yield ("http_address", "tls_certificate", "tls_key", "tokens_file", "jwt_jwks", "insecure"), why
    is_open = told.metrics_public or told.insecure or not told.metrics_address
    if not (is_open or parse_address(told.metrics_address).is_local):
        why = (
            "other machines could read the metrics without credentials: listen on 127.0.0.1 or [::1], set"
            ' metrics_address = "" for none, or set metrics_public = true (--metrics-public)'
        )
        yield ("metrics_address", "metrics_public"), why
    listeners = ("grpc_address", "http_address", "metrics_address")
    for one, other in combinations(listeners, 2):
        address = getattr(told, one)
        if address and address == getattr(told, other) and parse_address(address).port:
            yield (one, other), "two listeners need two ports"
    if told.viewer_coalesce_after_s > told.viewer_thin_after_s:
        why = "text is joined before anything is left out: viewer_coalesce_after_s must be at most viewer_thin_after_s"
        yield ("viewer_coalesce_after_s", "viewer_thin_after_s"), why


def _signed_by_anybody(told: Settings) -> Contradictions:
    if told.jwt_jwks and not told.jwt_audience:
        why = "a token made for any other service would do here: jwt_audience must say what those for here have as aud"
        yield ("jwt_jwks", "jwt_audience"), why
    for name in ("jwt_audience", "jwt_issuer"):
        if getattr(told, name) and not told.jwt_jwks:
            yield (
                (name, "jwt_jwks"),
                "it is looked for in signed tokens alone: give jwt_jwks, or leave it out",
            )
    if told.jwt_stale_s < told.jwt_refresh_s:
        why = (
            "the keys would be too old before they are read again: jwt_stale_s must be at least jwt_refresh_s"
        )
        yield ("jwt_stale_s", "jwt_refresh_s"), why


def _silence_out_of_order(told: Settings) -> Contradictions:
    if told.heartbeat_interval_s * told.heartbeats_missed >= told.detach_grace_s:
        why = (
            "a commander may see only after heartbeat_interval_s × heartbeats_missed that its link is lost,"
            " and its sessions would be given up by then: detach_grace_s must be more"
        )
        yield ("heartbeat_interval_s", "heartbeats_missed", "detach_grace_s"), why
    if told.ping_timeout_s > told.keepalive_time_s:
        why = "a ping ends before the next is due: ping_timeout_s must be at most keepalive_time_s"
        yield ("ping_timeout_s", "keepalive_time_s"), why
    if told.tcp_user_timeout_s <= told.ping_timeout_s:
        why = "TCP would give up before the ping does: tcp_user_timeout_s must be more than ping_timeout_s"
        yield ("tcp_user_timeout_s", "ping_timeout_s"), why


# ---------------------------------------------------------------------------------------------------------
# The loader
# ---------------------------------------------------------------------------------------------------------

# What a source says: fields, their values as told, and the places where they are told.
Told = Iterator[tuple[str, object, str]]


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each field's value came from: a flag, a variable, a file's line, or "default"."""

    settings: Settings
    origins: Mapping[str, str]
    # By kind and name: [KIND.NAME]. They stand in the file alone.
    tables: Mapping[str, Mapping[str, BaseModel]] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add flags for these fields, in groups, and --config and --print-config. `load` judges the values."""
    group = parser.add_argument_group(
        "Configuration",
        f"A setting can be a flag, a variable ({ENVIRONMENT}… in capitals) or a line of a TOML file (with _"
        " for -). The flag wins over the variable, the variable over the file.",
    )
    group.add_argument("--config", metavar="FILE", help=f"The TOML file; also {_variable('config')}.")
    group.add_argument("--print-config", action="store_true", help="Print all settings with their origins.")
    groups: dict[str, Any] = {}
    for name in names:
        field = Settings.model_fields[name]
        title = _extra(name)["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        how: dict[str, Any] = {"metavar": metavar(name)}
        if field.annotation is bool:
            how = {"action": argparse.BooleanOptionalAction}
        elif _is_plural(name):
            how["action"] = "append"
        default = "none" if field.default in (None, "", [], {}) else _toml(field.default).strip('"')
        often = " May be given more than once." if _is_plural(name) else ""
        text = f"{field.description}{often} Default: {default}.".replace("%", "%%")
        groups[title].add_argument(_flag(name), dest=name, default=None, help=text, **how)


def metavar(name: str) -> str:
    """What a field's value looks like, in capitals: the unit of a number, the shape of anything else."""
    kind = Settings.model_fields[name].annotation
    if kind in (int, float):
        unit = next(word for word in reversed(name.split("_")) if word.endswith("s") or word == "concurrency")
        return {"s": "SECONDS", "chars": "CHARACTERS", "concurrency": "CALLS"}.get(unit, unit.upper())
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    if get_origin(kind) is dict:
        return "KEY=VALUE"
    if kind is bool:
        return "{true,false}"
    return "FILE" if kind == Path | None else cast("str", _extra(name)["shape"])


def load(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Loaded:
    """Flags over environment over the settings file over defaults; a list that is told replaces, never adds.

    `arguments` come from a parser that `add_arguments` was called with; what else they hold is left alone.
    Raises SettingsError with every problem there is.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    tables: dict[str, dict[str, BaseModel]] = {}
    sources = (
        _from_file(arguments, environ, problems, tables),
        _from_environment(environ, problems),
        _from_flags(arguments),
    )
    for name, value, origin in chain.from_iterable(sources):
        values[name], origins[name] = value, origin
    return replace(_judged(values, origins, problems), tables=tables)


def render(loaded: Loaded) -> str:
    """All settings as TOML that can be loaded again, each with the origin of its value. Opens no file."""
    lines: list[str] = []
    title = ""
    for name in Settings.model_fields:
        if (group := _extra(name)["group"]) != title:
            title = group
            lines += ["", f"# {title}"]
        lines.append(f"{name} = {_toml(getattr(loaded.settings, name))}  # {_one_line(loaded.origins[name])}")
    for kind, named in loaded.tables.items():
        for name, table in named.items():
            told = table.model_dump(mode="json", exclude_unset=True, exclude_none=True)
            lines += ["", f"[{kind}.{name}]", *(f"{key} = {_toml(value)}" for key, value in told.items())]
    return "\n".join(lines[1:]) + "\n"


def _extra(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", Settings.model_fields[name].json_schema_extra)


def _is_plural(name: str) -> bool:
    return get_origin(Settings.model_fields[name].annotation) in (list, dict)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return ENVIRONMENT + name.upper()


def _from_file(
    arguments: argparse.Namespace,
    environ: Mapping[str, str],
    problems: list[str],
    tables: dict[str, dict[str, BaseModel]],
) -> Told:
    flag, variable = getattr(arguments, "config", None), environ.get(_variable("config"))
    path = flag or variable
    if not path:
        return
    try:
        lines = tomllib.loads(Path(path).read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        why = (
            f"can't be read: {error.strerror}"
            if isinstance(error, OSError)
            else f"is not TOML in UTF-8: {error}"
        )
        problems.append(f"{'--config' if flag else _variable('config')}: {path!r} {why}")
        return
    for name, value in lines.items():
        if name in Settings.model_fields:
            if isinstance(value, dict) and (kind := _kind_meant(name)):
                problems.append(f"{path}: {name}: is a setting, and no table; did you mean [{kind}.NAME]?")
                continue
            yield name, value, f"{path}: {name}"
        elif name in TABLES:
            tables[name] = dict(_tables(path, name, value, problems))
        else:
            known = (*Settings.model_fields, *TABLES)
            problems.append(f"{path}: {name}: {_no_such_setting(name.lower(), known)}")


def _kind_meant(name: str) -> str:
    """The kind of tables that was meant by a setting's name, or empty: it may be a table itself."""
    kinds = {*TABLES, *(each for each, field in Settings.model_fields.items() if field.default == {})}
    near = [] if name in kinds else difflib.get_close_matches(name, kinds, n=1)
    return near[0] if near else ""


def _tables(path: str, kind: str, told: object, problems: list[str]) -> Iterator[tuple[str, BaseModel]]:
    """The tables [KIND.NAME] that are right, by name."""
    if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
        problems.append(f"{path}: {kind}: should be tables with a name each, e.g. [{kind}.mine]")
        return
    for name, values in told.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            problems.append(f"{path}: {kind}.{name}: its name should have 1 to 64 letters, digits, _ and -")
            continue
        try:
            yield name, TABLES[kind].model_validate(values)
        except ValidationError as error:
            known = TABLES[kind].model_fields
            wrong = (_wrong_in_table(each, known) for each in error.errors(include_url=False))
            problems += [f"{path}: {kind}.{name}{each}" for each in wrong]


def _wrong_in_table(error: ErrorDetails, known: Iterable[str]) -> str:
    """One line: the key, what, and what would be right; never a value, which may be a secret."""
    words = [each for each in error["loc"] if each != "[key]"]
    key = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in words)
    if error["type"] == "extra_forbidden" and len(words) == 1:
        near = difflib.get_close_matches(str(words[0]), known, n=1)
        return f"{key}: there is no such key; " + (
            f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        )
    if error["type"] == "missing":
        return f"{key}: is missing"
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    if error["type"] in ("list_type", "tuple_type"):
        return f'{key}: should be a valid list, e.g. ["one", "two"]'
    return f"{key}: {error['msg'].removeprefix('Input ')}"


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Told:
    # Kubernetes tells each pod of all services by variables. Those of a service named like this program are
    # not meant for it: X_SERVICE_HOST and, with the same X, X_SERVICE_PORT, X_PORT, X_PORT_50051_TCP …
    services = [
        variable.removesuffix("SERVICE_HOST") for variable in environ if variable.endswith("_SERVICE_HOST")
    ]
    foreign = tuple(f"{service}{word}_" for service in services for word in ("SERVICE", "PORT"))
    names = {_variable(name): name for name in (*Settings.model_fields, "config")}
    for variable in sorted(environ):
        name = names.get(variable)
        if name in Settings.model_fields:
            yield name, _from_text(name, environ[variable]), variable
        elif name is None and variable.startswith(ENVIRONMENT) and not f"{variable}_".startswith(foreign):
            problems.append(f"{variable}: {_no_such_setting(variable.upper(), names)}")


def _from_flags(arguments: argparse.Namespace) -> Told:
    for name in Settings.model_fields:
        if (value := getattr(arguments, name, None)) is not None:
            yield name, value, "--no" + _flag(name)[1:] if value is False else _flag(name)


def _from_text(name: str, text: str) -> object:
    """The value of a variable: lists are parted, all else is left to the field."""
    if not _is_plural(name):
        return text
    separator = _extra(name)["separator"]
    items = map(str.strip, text.split(",")) if separator == "," else text.split(separator)
    return [item for item in items if item]


def _no_such_setting(told: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(told, names, n=1)
    return "there is no such setting; " + (f"did you mean {near[0]}?" if near else "--help lists them all")


def _judged(values: Mapping[str, object], origins: Mapping[str, str], problems: list[str]) -> Loaded:
    """Settings made of `values`; or raises, with `problems`, what is wrong by itself and what contradicts."""
    wrong = [error for error in _errors(values) if error["loc"]]
    names = {error["loc"][0] for error in wrong}
    problems += [_wrong_by_itself(error, origins) for error in wrong]
    # Contradictions are looked for among what is right by itself, or a default would be blamed.
    right = {name: value for name, value in values.items() if name not in names}
    for case in chain.from_iterable(error["ctx"]["error"].cases for error in _errors(right)):
        if names.isdisjoint(case[0]):
            told = ", ".join(f"{name} = {_toml(value)} ({origins[name]})" for name, value in case[0].items())
            problems.append(f"{told}: {case[1]}")
    for name, value in right.items():
        if metavar(name) == "FILE" and isinstance(value, str) and not _is_readable(value):
            problems.append(f"{origins[name]}: {value!r} should be a file that this user can read")
    if problems:
        raise SettingsError("\n".join(map(_one_line, problems)))
    return Loaded(Settings.model_validate(values), MappingProxyType(dict(origins)))


def _errors(values: Mapping[str, object]) -> list[ErrorDetails]:
    try:
        Settings.model_validate(values)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _is_readable(path: str) -> bool:
    return not path or (os.access(path, os.R_OK) and not Path(path).is_dir())


def _wrong_by_itself(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """One line: where, what, and what would be right."""
    name = str(error["loc"][0])
    field = Settings.model_fields[name]
    told = repr(error["input"])
    if field.annotation in (int, float):
        least = next(bound.ge for bound in field.metadata if isinstance(bound, Ge))
        most = next(bound.le for bound in field.metadata if isinstance(bound, Le))
        number = "a whole number" if field.annotation is int else "a number"
        right = f"should be {number} of {metavar(name).lower()} from {least} to {most}"
    elif field.annotation is bool:
        right = "should be true or false"
    elif error["type"] == "value_error":
        right = str(error["ctx"]["error"])
    else:
        right = error["msg"].removeprefix("Input ")
    # A variable takes several with commas between them; a flag takes one.
    is_one = _is_plural(name) and origins[name].startswith("--")
    if is_one and _extra(name)["separator"] == "," and "," in told:
        right += f"; for several, give {origins[name]} several times"
    return f"{origins[name]}: {told if len(told) <= 200 else told[:200] + '…'} {right}"


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    # JSON escapes all that TOML wants escaped, but for DEL.
    return json.dumps("" if value is None else str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def change(loaded: Loaded, changes: Mapping[str, float | str]) -> Loaded:
    """Change limits while the dispatcher runs: all that are named, or none and SettingsError."""
    changeable = [name for name in Settings.model_fields if _extra(name)["changeable"]]
    for name in changes:
        if name in Settings.model_fields and name not in changeable:
            raise SettingsError(f"{name}: it can't be changed while the dispatcher runs")
        if name not in changeable:
            raise SettingsError(_one_line(f"{name}: {_no_such_setting(name, changeable)}"))
    values = {**loaded.settings.model_dump(), **{name: _as_typed(told) for name, told in changes.items()}}
    judged = _judged(values, {**loaded.origins, **{name: f"SetLimits: {name}" for name in changes}}, [])
    return replace(judged, tables=loaded.tables)


def _as_typed(told: float | str) -> float | str:
    """A request has floats alone: whoever typed 0 is not to read that 0.0 should be a whole number."""
    return int(told) if isinstance(told, float) and repr(told).endswith(".0") else told
