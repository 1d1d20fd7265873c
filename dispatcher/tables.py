"""What the tables of the settings file may say: `[mcp.NAME]`, `[http.NAME]`, `[grpc.NAME]`, one for each
server that tools come from, and `[tool.NAME]`, the rules for one tool.

Knows what a table looks like and what contradicts itself within one; reads secrets when asked to, each time anew, so
that a file that was rotated is taken up. Starts nothing. `settings.py` loads the tables, `serve.py` builds from them.
"""

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

# A token, a key, a password: what is larger is the wrong file.
SECRET_BYTES_MAX: Final = 65_536
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SecretError(Exception):
    """A secret isn't where the settings say. The message says which and what would be right, never the secret."""


class Secret(BaseModel):
    """A value told as text, or by where it is: `{ env = "NAME" }`, `{ file = "PATH" }`, with `before` in front."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    text: str | None = Field(default=None, repr=False)
    env: str | None = None
    file: Path | None = None
    before: str = ""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        told = [each for each in (self.text, self.env, self.file) if each is not None]
        if len(told) != 1:
            raise ValueError('should be a text, or { env = "NAME" }, or { file = "PATH" }')
        if self.env is not None and not _VARIABLE.fullmatch(self.env):
            raise ValueError('should name a variable, e.g. { env = "CRM_TOKEN" }')
        return self

    @model_serializer
    def _shown(self) -> object:
        """As it is printed: where it is, never what it is."""
        if self.text is not None:
            return "***"
        place = {"env": self.env} if self.env is not None else {"file": str(self.file)}
        return place | ({"before": self.before} if self.before else {})

    def read(self) -> str:
        """The value as of now. Raises SecretError."""
        if self.env is not None:
            value = os.environ.get(self.env)
            if not value:
                raise SecretError(f"the variable {self.env} is not set; set it, or name another")
        elif self.file is not None:
            try:
                with self.file.open(encoding="utf-8") as file:
                    value = file.read(SECRET_BYTES_MAX + 1).strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
                raise SecretError(f"{str(self.file)!r} can't be read: {why}") from None
            if not value or len(value) > SECRET_BYTES_MAX:
                size = "empty" if not value else f"over {SECRET_BYTES_MAX:,} characters"
                raise SecretError(f"{str(self.file)!r} is {size}; it should hold the secret alone")
        else:
            value = self.text or ""
        if not all(each.isprintable() or each == "\t" for each in value):
            raise SecretError("it holds control characters; one line of text is right")
        return self.before + value


def _secret(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError("should be the name of a header, e.g. Authorization")
    return name


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("should be the name of a variable, e.g. API_KEY")
    return name


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,32}", text):
        raise ValueError("should have at most 32 letters, digits, _ and -: models take no others in names")
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
        right = right and text.isprintable() and " " not in text and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ValueError(
            "should be an http or https address without a password, e.g. https://mcp.example.com/mcp"
        )
    return text


def _grpc_address(text: str) -> str:
    if (
        not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}|unix:/.+", text)
        or not text.isprintable()
    ):
        raise ValueError("should be HOST:PORT, [IPV6]:PORT or unix:/PATH, e.g. stock.internal:50051")
    return text


def _is_here(address: str) -> bool:
    """What is sent there does not leave this machine, whatever a resolver says."""
    return address.startswith("unix:") or _is_own(address.rpartition(":")[0].strip("[]"))


def _is_own(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_https_or_own(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_own(parts.hostname or "")


def _require_certificates(ca: Path | None) -> None:
    if ca is None:
        return
    try:
        ssl.create_default_context(cafile=str(ca))
    except OSError:  # an SSLError too
        raise ValueError(
            "tls_ca should be a file that this user can read, with certificates in PEM"
        ) from None


def _allowed_host(text: str) -> str:
    if not re.fullmatch(r"([A-Za-z0-9._-]+|[0-9A-Fa-f:]+)(:[0-9]{1,5})?", text):
        raise ValueError(
            "should be the name or address of a host, perhaps with a port, e.g. crm.internal:8443"
        )
    return text.lower()


def _word(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("should have no control characters, and be something")
    return text


SecretText = Annotated[Secret, BeforeValidator(_secret)]
HeaderName = Annotated[str, AfterValidator(_header)]
VariableName = Annotated[str, AfterValidator(_variable)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Url = Annotated[str, AfterValidator(_url)]
AllowedHost = Annotated[str, AfterValidator(_allowed_host)]
GrpcAddress = Annotated[str, AfterValidator(_grpc_address)]
Word = Annotated[str, AfterValidator(_word)]


class Table(BaseModel):
    """One table of the file. Units in the names, as in `Settings`."""

    # Built when one is there: most files have few of them, and a start should not wait for the others.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, allow_inf_nan=False, defer_build=True
    )


class Source(Table):
    """What is alike for all that tools come from."""

    # In front of each tool's name. None: the table's name and _.
    prefix: Prefix | None = None
    # For each of its tools; None: as for all.
    timeout_s: float | None = Field(default=None, ge=0.05, le=86_400)
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    output_bytes: int | None = Field(default=None, ge=256, le=67_108_864)
    # Those that do no more when run twice with the same key: they are run again after a crash.
    idempotent: list[Word] = Field(default_factory=list, max_length=1000)
    tools_max: int = Field(default=100, ge=1, le=1000)
    headers: dict[HeaderName, SecretText] = Field(default_factory=dict, max_length=100)
    # How long the dispatcher's start waits for it.
    start_wait_s: float = Field(default=5.0, ge=0, le=600)
    # Between two tries to reach it, doubled each time.
    restart_backoff_s: float = Field(default=1.0, ge=0.01, le=3600)
    restart_backoff_max_s: float = Field(default=60.0, ge=0.01, le=86_400)

    @model_validator(mode="after")
    def _backs_off(self) -> Self:
        if self.restart_backoff_max_s < self.restart_backoff_s:
            raise ValueError("restart_backoff_max_s should be at least restart_backoff_s")
        return self

    def prefix_of(self, name: str) -> str:
        """In front of its tools' names when the table is called `name`."""
        return f"{name}_" if self.prefix is None else self.prefix


class McpTable(Source):
    """`[mcp.NAME]`: a server that speaks MCP, as a process of ours or at an address."""

    command: list[Word] = Field(default_factory=list, max_length=1000)
    cwd: Path | None = None
    env: dict[VariableName, SecretText] = Field(default_factory=dict, max_length=1000)
    url: Url | None = None
    # By the server's own names; empty: all.
    tools: list[Word] = Field(default_factory=list, max_length=1000)
    # How long any try to reach it may take.
    connect_s: float = Field(default=30.0, ge=0.1, le=600)
    # It is asked for its tools so often, which also shows whether it is there.
    refresh_s: float = Field(default=30.0, ge=0.1, le=86_400)
    # The longest message taken from it.
    message_bytes_max: int = Field(default=4_194_304, ge=4096, le=1_073_741_824)

    # The longest list of its tools, or page of one: reading it holds up all that goes on, for a few ms at most.
    listing_bytes_max: int = Field(default=262_144, ge=4096, le=16_777_216)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError('should have either command, e.g. ["npx", "some-server"], or url')
        if self.url and (self.env or self.cwd):
            raise ValueError("env and cwd are for a command's process; for a url, headers carry secrets")
        if self.command and self.headers:
            raise ValueError("headers go to a url; a command gets secrets by env")
        if self.url and self.headers and not _is_https_or_own(self.url):
            raise ValueError(
                "headers would be sent in the clear: https is right, or a server of this machine"
            )
        return self


class HttpTable(Source):
    """`[http.NAME]`: a service over HTTP, described by an OpenAPI document."""

    # A file, or an address.
    openapi: Word
    # None: the document's first.
    server: Url | None = None
    # By operationId, or "GET /path"; empty: all.
    operations: list[Word] = Field(default_factory=list, max_length=1000)
    # These may be no public addresses, and without https: a name, or a name and a port.
    allow_hosts: list[AllowedHost] = Field(default_factory=list, max_length=1000)
    tls_ca: Path | None = None
    connect_s: float = Field(default=10.0, ge=0.1, le=600)
    answer_bytes_max: int = Field(default=4_194_304, ge=256, le=1_073_741_824)
    redirects_max: int = Field(default=5, ge=0, le=20)
    document_bytes_max: int = Field(default=8_388_608, ge=256, le=1_073_741_824)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if "://" in self.openapi:
            _url(self.openapi)
        _require_certificates(self.tls_ca)
        return self


class GrpcTable(Source):
    """`[grpc.NAME]`: a gRPC service of somebody else's, whose server describes it by reflection."""

    address: GrpcAddress
    # Its full name: package and all.
    service: Word
    # Empty: all that are no streams.
    methods: list[Word] = Field(default_factory=list, max_length=1000)
    tls: bool = True
    # None: the system's.
    tls_ca: Path | None = None
    connect_s: float = Field(default=10.0, ge=0.1, le=600)
    refresh_s: float = Field(default=60.0, ge=0.1, le=86_400)
    message_bytes_max: int = Field(default=4_194_304, ge=4096, le=1_073_741_824)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.tls_ca is not None and not self.tls:
            raise ValueError("tls_ca is for tls = true")
        _require_certificates(self.tls_ca)
        if self.headers and not self.tls and not _is_here(self.address):
            raise ValueError(
                "headers would be sent in the clear: tls = true is right, or a server of this machine"
            )
        return self


class Reached(Table):
    """How a gRPC service of somebody else's is reached that is asked on the way of what people say."""

    address: GrpcAddress
    tls: bool = True
    # None: the system's.
    tls_ca: Path | None = None
    headers: dict[HeaderName, SecretText] = Field(default_factory=dict, max_length=100)

    @model_validator(mode="after")
    def _is_reached(self) -> Self:
        if self.tls_ca is not None and not self.tls:
            raise ValueError("tls_ca is for tls = true")
        _require_certificates(self.tls_ca)
        if not self.tls and not _is_here(self.address):
            raise ValueError(
                "what is said would be sent in the clear: tls = true is right, or a service of this machine"
            )
        return self


class AgentTable(Table):
    """`[agent.NAME]`: an agent that is offered to others as the tool NAME."""

    agent: Word
    agent_version: str = ""
    # What it can be asked for, as models read it.
    description: Word
    timeout_s: float = Field(default=600.0, ge=0.05, le=86_400)


class ToolTable(Table):
    """`[tool.NAME]`: rules for one tool, wherever it comes from."""

    # By the agent that the session is with, and by the session's user. None: everybody; empty: nobody.
    agents: list[Word] | None = Field(default=None, max_length=1000)
    users: list[Word] | None = Field(default=None, max_length=10_000)
    calls_per_minute_max: int | None = Field(default=None, ge=1, le=1_000_000)
    # Of a longer result the agent is told the begin; viewers have the whole.
    told_chars_max: int | None = Field(default=None, ge=16, le=67_108_864)
    # Somebody who may answer the session's questions has to allow each call; how long that is waited for.
    ask: bool = False
    ask_s: float | None = Field(default=None, gt=0, le=31_536_000)
    dry_run: bool = False

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.ask_s is not None and not self.ask:
            raise ValueError("ask_s is for ask = true")
        return self


# By the word in front of the name.
TABLES: Final[Mapping[str, type[Table]]] = {
    "mcp": McpTable,
    "http": HttpTable,
    "grpc": GrpcTable,
    "agent": AgentTable,
    "tool": ToolTable,
}


def secrets_of(values: Mapping[str, Secret], where: str, *, is_header: bool = True) -> dict[str, str]:
    """What the secrets are now. Raises SecretError that names the key."""
    found = {}
    for name, secret in values.items():
        try:
            found[name] = secret.read()
        except SecretError as error:
            raise SecretError(f"{where}.{name}: {error}") from None
        if is_header and not found[name].isascii():
            raise SecretError(f"{where}.{name}: it goes into a header; ASCII alone is right")
    return found


def of_kind(tables: Mapping[str, Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """The tables of a kind, by name."""
    return tables.get(kind, {})
