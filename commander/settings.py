"""Every address, limit and timeout of the commander: its default, its bounds, and when to change it.

Three parts: what single values look like; the table, `Settings`, with what doesn't go together; and the
loader, which knows flags, environment and TOML and can say of each value where it came from. It opens no file
but the settings file and starts nothing. `cli.py` loads, `serve.py` builds from it.

The dispatcher has the same loader, word for word: the two packages share nothing but the contract, and a test
holds the copies together.
"""

import argparse
import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, cast, get_args, get_origin

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

from commander.models import table as model_table

ENVIRONMENT: Final = "COMMANDER_"


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


def _file(value: object) -> object:
    """No file is the empty text: TOML has no word for none, and an empty variable can undo a file's line."""
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("should be a path in UTF-8 without control characters")
    return None if value == "" else value


def _dispatcher(text: str) -> str:
    address = parse_address(text)
    if not (address.path or address.port):
        raise ValueError("should have a port from 1 to 65535")
    return text


def _commander_id(text: str) -> str:
    if len(text) > 128 or not text.isprintable() or " " in text:
        raise ValueError("should have at most 128 characters, none of them a space or a control character")
    return text


def _pairs(value: object) -> object:
    """Flags and variables tell a table as KEY=VALUE, TOML as a table."""
    if not isinstance(value, list):
        return value
    parts = [str(item).partition("=") for item in value]
    pairs = {key: text for key, _, text in parts}
    if len(pairs) < len(parts) or not all(equals for _, equals, _ in parts):
        raise ValueError("should be KEY=VALUE, each key once")
    return pairs


def _label(text: str) -> str:
    if not 0 < len(text) <= 128 or not text.isprintable() or "," in text or "=" in text:
        raise ValueError("should have 1 to 128 characters, none of them a comma, = or a control character")
    return text


def _model(text: str) -> str:
    # A name of a table has no colon; that there is such a table is looked up when all are known.
    if text and not (model_table.NAME.fullmatch(text) or model_table.is_model(text)):
        raise ValueError(
            "should be PROVIDER:NAME, e.g. openai-chat:qwen3, or the NAME of a table [models.NAME]"
        )
    return text


def _if_told(check: Callable[[str], str]) -> AfterValidator:
    """None of it is the empty text, which can undo a file's line. Whoever put a key or a password there is told so
    without it being said once more."""

    def checked(text: str) -> str:
        try:
            return check(text) if text else text
        except ValueError as error:
            raise model_table.refusal([("its value", str(error))]) from None

    return AfterValidator(checked)


DispatcherAddress = Annotated[str, AfterValidator(_dispatcher)]
MetricsAddress = Annotated[str, AfterValidator(_metrics_address)]
File = Annotated[Path | None, BeforeValidator(_file)]
CommanderId = Annotated[str, AfterValidator(_commander_id)]
Label = Annotated[str, AfterValidator(_label)]
Labels = Annotated[dict[Label, Label], BeforeValidator(_pairs), Field(max_length=64)]
ModelTables = Annotated[dict[str, dict[str, Any]], BeforeValidator(model_table.checked)]
ModelName = Annotated[str, AfterValidator(_model)]
BaseUrl = Annotated[str, _if_told(model_table.check_url)]
Variable = Annotated[str, _if_told(model_table.check_variable)]


def setting(
    group: str,
    default: Any,
    description: str,
    least: float | None = None,
    most: float | None = None,
    *,
    shape: str = "",
    separator: str = ",",
) -> Any:
    """A field: its group in --help, its default, one line for the user, and its bounds.

    `shape` is what a text looks like, in capitals. `separator` parts the items of a list in a
    variable.
    """
    extra: dict[str, Any] = {"group": group, "shape": shape, "separator": separator}
    return Field(default, description=description, ge=least, le=most, json_schema_extra=extra)


# ---------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------

SELF = "Who it is"
DIAL = "Where it connects, and by what right"
RETURN = "Connecting and coming back"
SILENCE = "Silence on a connection"
SIZES = "Packets and what may wait"
TEAMS = "Sub-agents of a turn"
MODELS = "Language models"
ENDS = "Stops, draining and blocked agents"
LOGS = "Metrics, logs and the event loop"


class Settings(BaseModel):
    """What a commander is told. Units in the names: _s seconds, _bytes, _max at most."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    commander_id: CommanderId = setting(
        SELF, "", "Its name, for one process at a time. Empty: host name and process id.", shape="NAME"
    )
    labels: Labels = setting(SELF, {}, "For routing, e.g. region=eu. In the variable: with commas between.")
    slots: int = setting(
        SELF, 100, "Sessions it runs at once; as many as its models or its memory bear.", 1, 10_000
    )

    dispatcher: DispatcherAddress = setting(
        DIAL, "127.0.0.1:50051", "The dispatcher to work for.", shape="ADDRESS"
    )
    tls: bool = setting(DIAL, False, "Encrypt. The dispatcher's certificate is checked, its name too.")
    tls_ca: File = setting(DIAL, None, "Who must have signed it, PEM. None: whom this machine trusts.")
    tls_certificate: File = setting(
        DIAL, None, "A certificate to show, where it is demanded, PEM. Needs tls_key."
    )
    tls_key: File = setting(DIAL, None, "The key of tls_certificate, PEM.")
    token_file: File = setting(DIAL, None, "The token that lets it in, alone in a file.")

    connect_timeout_s: float = setting(
        RETURN, 5.0, "Wait so long for a connection. Measured: 20 s unbounded, at a frozen peer.", 0.1, 60
    )
    reconnect_first_s: float = setting(
        RETURN, 0.2, "The first wait before coming back, by lot from 0; it doubles.", 0.01, 60
    )
    reconnect_max_s: float = setting(
        RETURN, 5.0, "The longest of these waits. Longer spares a dispatcher of many commanders.", 0.01, 600
    )
    unlinked_keep_s: float = setting(
        RETURN, 60.0, "Turns outlive a lost link so long; then they are cancelled.", 0, 3600
    )

    heartbeat_interval_s: float = setting(
        SILENCE, 2.0, "Be heard so often, unless the dispatcher says otherwise.", 0.05, 60
    )
    heartbeats_missed: int = setting(
        SILENCE, 3, "So many silent intervals are a lost link. More for machines that stall.", 2, 20
    )
    keepalive_time_s: float = setting(
        SILENCE, 5.0, "Ping after so much silence; at less than the dispatcher's it hangs up.", 1, 600
    )
    ping_timeout_s: float = setting(
        SILENCE, 3.0, "Wait so long for a ping's answer. Measured: finds a frozen peer in 5.7 s.", 0.5, 60
    )
    tcp_user_timeout_s: float = setting(
        SILENCE, 10.0, "Wait so long for TCP's confirmation. Measured: at 1 s a blip ends all.", 2, 600
    )

    max_message_bytes: int = setting(
        SIZES, 1_048_576, "The largest gRPC message; the dispatcher may want less.", 65_536, 67_108_864
    )
    packet_bytes_max: int = setting(
        SIZES, 16_384, "Longer text is cut; smaller packets keep signals quick.", 256, 262_144
    )
    outbox_packets: int = setting(
        SIZES, 256, "What a turn may have said and not yet sent; then its generator waits.", 1, 65_536
    )
    outbox_bytes: int = setting(SIZES, 262_144, "Bytes of it; then its generator waits.", 256, 67_108_864)
    messages_waiting_max: int = setting(
        SIZES,
        1_000,
        "Messages of the user that wait for the agent; one more fails the turn. No less than the dispatcher lets wait.",
        1,
        10_000,
    )

    team_members: int = setting(
        TEAMS, 100, "Sub-agents of one turn in all; a dispatcher takes 1,000 of a session.", 1, 1_000
    )
    team_members_at_once: int = setting(
        TEAMS, 16, "Of one team, so many run at once; the rest wait for their place.", 1, 1_000
    )
    team_answer_chars: int = setting(
        TEAMS, 1_000_000, "So much of a sub-agent's answer is kept for who started it.", 1, 100_000_000
    )

    model: ModelName = setting(
        MODELS,
        "",
        "The default model: PROVIDER:NAME, or the name of a table. Empty: the first table.",
        shape="MODEL",
    )
    base_url: BaseUrl = setting(
        MODELS, "", "Where that PROVIDER:NAME is; openai-chat wants one.", shape="URL"
    )
    api_key_env: Variable = setting(
        MODELS,
        "",
        "The variable with its key. Empty: the provider's own, or none at a base_url.",
        shape="VARIABLE",
    )
    models: ModelTables = setting(
        MODELS, {}, "Models by name: tables [models.NAME] of the settings file, see docs/models.md."
    )
    breaker_failures: int = setting(
        MODELS, 5, "So many failures of a provider in a row open its circuit; 0: never.", 0, 1_000
    )
    breaker_open_s: float = setting(
        MODELS, 30.0, "Then it is left alone so long before one request tries again.", 0.1, 3_600
    )

    stop_grace_s: float = setting(ENDS, 5.0, "A stop that names no time gives an agent so long.", 0, 600)
    drain_deadline_s: float = setting(
        ENDS, 30.0, "Turns have so long to end when the commander is told to go.", 0, 86_400
    )
    blocked_after_s: float = setting(
        ENDS, 1.0, "An agents' loop that has not turned for so long is blocked; the log says where.", 0.1, 60
    )

    metrics_address: MetricsAddress = setting(
        LOGS, "", "Where Prometheus scrapes /metrics. Empty: off.", shape="ADDRESS"
    )
    metrics_public: bool = setting(
        LOGS, False, "Let other machines reach metrics_address, which asks for no credentials."
    )
    log_format: Literal["text", "json"] = setting(LOGS, "text", "text for people, json for collectors.")
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        LOGS, "info", "The least that is logged."
    )
    event_loop: Literal["auto", "asyncio", "uvloop"] = setting(
        LOGS, "auto", "auto: uvloop where it is installed, measured to carry 5 to 40 % more messages."
    )

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
    yield from _models(told)
    if told.ping_timeout_s > told.keepalive_time_s:
        why = "a ping ends before the next is due: ping_timeout_s must be at most keepalive_time_s"
        yield ("ping_timeout_s", "keepalive_time_s"), why
    if told.tcp_user_timeout_s <= told.ping_timeout_s:
        why = "TCP would give up before the ping does: tcp_user_timeout_s must be more than ping_timeout_s"
        yield ("tcp_user_timeout_s", "ping_timeout_s"), why
    if told.reconnect_first_s > told.reconnect_max_s:
        why = "the first wait is the shortest: reconnect_first_s must be at most reconnect_max_s"
        yield ("reconnect_first_s", "reconnect_max_s"), why
    if told.packet_bytes_max >= told.max_message_bytes:
        why = "a packet has to fit into a message: packet_bytes_max must be less"
        yield ("packet_bytes_max", "max_message_bytes"), why
    if told.packet_bytes_max > told.outbox_bytes:
        why = "a packet has to fit into the outbox: packet_bytes_max must be at most outbox_bytes"
        yield ("packet_bytes_max", "outbox_bytes"), why


def _models(told: Settings) -> Contradictions:
    if told.model and ":" not in told.model and told.model not in told.models:
        there_are = f"there are {', '.join(told.models)}" if told.models else "there is none"
        yield ("model",), f"there is no table [models.{told.model}] ({there_are}); or name a PROVIDER:NAME"
    if ":" not in told.model:
        for name in ("base_url", "api_key_env"):
            if getattr(told, name):
                yield (
                    (name, "model"),
                    f"{name} goes with a model of the form PROVIDER:NAME; a table has its own",
                )
    elif model_table.DEFAULT in told.models:
        why = (
            f"a PROVIDER:NAME is called {model_table.DEFAULT}, and so is a table: name that table another way"
        )
        yield ("model",), why


def _open_doors(told: Settings) -> Contradictions:
    if (told.tls_certificate is None) != (told.tls_key is None):
        yield ("tls_certificate", "tls_key"), "certificate and key belong together: give both or neither"
    for file in ("tls_ca", "tls_certificate"):
        if getattr(told, file) and not told.tls:
            yield (file, "tls"), f"without TLS it has no effect: set tls = true (--tls), or leave {file} out"
    if told.token_file and not told.tls and not parse_address(told.dispatcher).is_local:
        why = (
            "the token would cross the network in plain text: set tls = true (--tls), reach the dispatcher at"
            " 127.0.0.1, [::1] or unix:/PATH, or leave token_file out"
        )
        yield ("token_file", "dispatcher", "tls"), why
    is_open = told.metrics_public or not told.metrics_address
    if not (is_open or parse_address(told.metrics_address).is_local):
        why = (
            "other machines could read the metrics without credentials: listen on 127.0.0.1 or [::1], set"
            ' metrics_address = "" for none, or set metrics_public = true (--metrics-public)'
        )
        yield ("metrics_address", "metrics_public"), why


# What tables the file may have, by the word in front of a name: none.
TABLES: Final[Mapping[str, type[BaseModel]]] = {}


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
