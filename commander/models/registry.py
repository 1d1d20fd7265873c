"""The language models there are, by the names that the settings give them: the only place that connects.

Made when the commander starts: names, keys and fallbacks are judged then. A connection is made when a model is first
used, in a thread, because the libraries below take a second or two to import. From then on all belongs to the agents'
loop.
"""

import asyncio
import difflib
import importlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, cast

from commander.core.breaker import Breaker
from commander.core.retry import Schedule
from commander.errors import ModelFailed
from commander.metrics import Metrics
from commander.models import providers
from commander.models import table as tables
from commander.models.abilities import Offer, offer
from commander.models.failures import Trouble
from commander.models.table import DEFAULT, ModelTable
from commander.models.words import Connection, Provider, Secret
from commander.settings import Settings, SettingsError

_LOG = logging.getLogger(__name__)
# Providers of installed packages; by a name that one of them takes, pydantic-ai is not asked.
GROUP: Final = "chatstream.models"
KEY_BYTES_MAX: Final = 16_384
# What is told of what a provider says.
SAID_CHARS_MAX: Final = 240
# Variables by whose names something is secret. Shorter values are words.
_SECRET_VARIABLE: Final = re.compile(r"(?i)(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)(_|$)")
_SECRET_CHARS_MIN: Final = 8
MISSING: Final = "language models need the extra llm: pip install 'chatstream[llm]'"


# Makes a connection, in a thread. Raises Trouble.
Connect = Callable[[Connection], Provider]


class Entry:
    """One model: its table, its connection, and what is shared by all that use it."""

    def __init__(
        self,
        name: str,
        table: ModelTable,
        key: Secret | None,
        breaker: Breaker,
        connect: Connect,
        secrets: Sequence[Secret] = (),
    ) -> None:
        """`secrets` are told to nobody, the key or not: a provider's library may know more than this one."""
        self.name = name
        self.table = table
        self.breaker = breaker
        self.schedule = Schedule(
            table.attempts, table.retry_first_s, table.retry_factor, table.retry_after_max_s
        )
        self.places = asyncio.Semaphore(table.concurrency)
        self._key = key
        self._connect = connect
        self._secrets = (*secrets, *([key] if key else ()))
        self._provider: Provider | None = None
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Entry {self.name} {self.table.model} {self.breaker!r}>"

    async def provider(self) -> Provider:
        """The connection, made once. Trouble for a table that can't be connected."""
        async with self._connecting:
            if self._provider is None:
                self._provider = await asyncio.to_thread(self._connect, self._connection())
            return self._provider

    def hide(self, text: str) -> str:
        """The text without any key."""
        # The longest first: one may be within another.
        for secret in sorted(self._secrets, key=lambda each: -len(each.reveal())):
            text = secret.hidden_in(text)
        return text

    def told(self, text: str) -> str:
        """What may be told of what a provider says: on one line, without any key, and cut only then, because a part
        of a key is one as well."""
        text = self.hide(" ".join(text.split()))
        return text if len(text) <= SAID_CHARS_MAX else text[: SAID_CHARS_MAX - 1] + "…"

    def _connection(self) -> Connection:
        table = self.table
        provider, _, model = table.model.partition(":")
        silence_s = max(table.first_token_s, table.silence_s) + 1
        return Connection(provider, model, table.base_url or "", self._key, table.parameters, silence_s)


class Models:
    """All of them. `metrics` is told what happens."""

    def __init__(self, entries: Mapping[str, Entry], default: str, metrics: Metrics) -> None:
        self._entries = dict(entries)
        self._default = default
        self.metrics = metrics

    def __repr__(self) -> str:
        return f"<Models {', '.join(self._entries) or 'none'}>"

    def entry(self, name: str) -> Entry:
        """Of this name, or the default one for the empty name. ModelFailed lists those there are."""
        wanted = name or self._default
        if name == DEFAULT and name not in self._entries:
            wanted = self._default
        if wanted in self._entries:
            return self._entries[wanted]
        if not self._entries:
            told = (
                "this commander has no language models: name one by --model PROVIDER:NAME, or by a table [models.NAME]"
                " of its settings file"
            )
        else:
            near = difflib.get_close_matches(name, self._entries, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            told = f"there is no language model {name[:80]!r}; {meant}there are {', '.join(self._entries)}"
        raise ModelFailed(told, code="model_not_configured", model=name)

    def route(self, entry: Entry) -> list[Entry]:
        """The model and its fallbacks, and theirs, each once, in the order to ask them."""
        found = {entry.name: entry}
        self._follow(entry, found)
        return list(found.values())

    def _follow(self, entry: Entry, found: dict[str, Entry]) -> None:
        for name in entry.table.fallbacks:
            if name not in found:
                found[name] = self._entries[name]
                self._follow(self._entries[name], found)

    def breakers(self) -> Iterator[tuple[str, Breaker]]:
        """By circuit, each once."""
        yield from {entry.table.circuit: entry.breaker for entry in self._entries.values()}.items()


def open_models(
    settings: Settings, environ: Mapping[str, str], metrics: Metrics, connect: Connect | None = None
) -> Models:
    """The registry of these settings. SettingsError for a key that isn't there, and for a default that is no model.
    Who gives `connect` makes the connections."""
    told, default = _tables(settings)
    problems: list[str] = []
    breakers: dict[str, Breaker] = {}
    entries: dict[str, Entry] = {}
    secrets = _secrets(environ)
    for name, table in told.items():
        if connect is None:
            problems += _unknown_provider(name, table, environ)
        breaker = breakers.setdefault(
            table.circuit, Breaker(settings.breaker_failures, settings.breaker_open_s)
        )
        problems += _unknown_parameters(name, table)
        key = _key(name, table, environ, problems)
        entries[name] = Entry(name, table, key, breaker, connect or _connect, secrets)
    if problems:
        raise SettingsError("\n".join(problems))
    models = Models(entries, default, metrics)
    for circuit, breaker in breakers.items():
        metrics.watch_circuit(circuit, breaker)
    return models


def named_models(settings: Settings) -> dict[str, str]:
    """The models by name, each as PROVIDER:NAME: what may be told of them to anybody."""
    return {name: table.model for name, table in _tables(settings)[0].items()}


def offered_models(settings: Settings) -> list[Offer]:
    """What else may be told of them to anybody, in the order of the settings."""
    return [offer(name, table) for name, table in _tables(settings)[0].items()]


def _tables(settings: Settings) -> tuple[dict[str, ModelTable], str]:
    """All tables, and which is the default."""
    told = tables.read(settings.models)
    if not settings.model:
        return told, next(iter(told), "")
    if settings.model in told:
        return told, settings.model
    given = {
        "model": settings.model,
        "base_url": settings.base_url or None,
        "api_key_env": settings.api_key_env or None,
    }
    return {DEFAULT: ModelTable.model_validate(given), **told}, DEFAULT


def _secrets(environ: Mapping[str, str]) -> list[Secret]:
    """What the libraries may send by themselves, or a proxy quote."""
    texts = {
        text.strip() for variable, text in environ.items() if _SECRET_VARIABLE.search(variable) is not None
    }
    return [Secret(text) for text in texts if len(text) >= _SECRET_CHARS_MIN]


def _key(name: str, table: ModelTable, environ: Mapping[str, str], problems: list[str]) -> Secret | None:
    if table.api_key_env:
        key = environ.get(table.api_key_env, "").strip()
        # One with small letters may be the key itself, where its name belongs.
        shown = f" {table.api_key_env}" if table.api_key_env.isupper() else " that it names"
        where = f"[models.{name}] api_key_env: the variable{shown}"
        if not key:
            problems.append(f"{where} is not set: set it, or name another")
    elif table.api_key_file:
        where = f"[models.{name}] api_key_file: {table.api_key_file!r}"
        try:
            with Path(table.api_key_file).open("rb") as file:
                key = file.read(KEY_BYTES_MAX + 1).decode().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            problems.append(f"{where} can't be read: {why}")
            return None
        if not key:
            problems.append(f"{where} is empty: it should hold the key alone")
    else:
        _check_usual(name, table, environ, problems)
        return None
    if not _is_key(key):
        problems.append(f"{where} holds no key: one line of printable characters is right")
        return None
    return Secret(key) if key else None


def _unknown_provider(name: str, table: ModelTable, environ: Mapping[str, str]) -> Iterator[str]:
    """What can be said against the provider before its library is imported; what may still be right is logged."""
    own = {each.name for each in entry_points(group=GROUP)}
    if table.provider in own:
        return
    where = f"[models.{name}] model = {table.model!r}"
    if told := providers.mistaken(table.provider, own):
        yield f"{where}: {told}"
    elif not (table.base_url or table.api_key_env or table.api_key_file):
        why = providers.keyless(table.provider, environ)
        if why:
            _LOG.warning("%s: %s", where, why)


def _check_usual(name: str, table: ModelTable, environ: Mapping[str, str], problems: list[str]) -> None:
    """The variable that the provider's library takes by itself, as it is: OPENAI_API_KEY for openai-chat."""
    variable = f"{table.provider.partition('-')[0].upper()}_API_KEY"
    if table.base_url is None and not _is_key(environ.get(variable, "")):
        problems.append(
            f"[models.{name}] the variable {variable} holds no key: one line of printable characters is right"
        )


def _unknown_parameters(name: str, table: ModelTable) -> list[str]:
    """Parameters that the library does not know; a provider of an installed package may."""
    unknown = [f"[models.{name}] {wrong}" for wrong in tables.unknown_parameters(table)]
    return unknown if unknown and not entry_points(group=GROUP, name=table.provider) else []


def _is_key(text: str) -> bool:
    return (
        len(text) <= KEY_BYTES_MAX and text.isascii() and " " not in text and (text.isprintable() or not text)
    )


def _connect(connection: Connection) -> Provider:
    """In a thread: this imports, for a second or two."""
    found = entry_points(group=GROUP, name=connection.provider)
    try:
        if found:
            make = cast("Callable[[Connection], Provider]", next(iter(found)).load())
            return make(connection)
        adaptor = importlib.import_module("commander.models.adaptor")
    except Trouble:
        raise
    except ModuleNotFoundError as error:
        if not found and (error.name or "").partition(".")[0] in ("pydantic_ai", "httpx2"):
            raise Trouble("model_not_configured", MISSING) from None
        raise Trouble("model_not_configured", f"{connection.provider}: {error}") from None
    except Exception as error:  # noqa: BLE001 - a package of somebody else's; told as one sentence
        told = f"provider {connection.provider!r} can't be loaded: {type(error).__name__}: {error}"
        raise Trouble("model_not_configured", told) from None
    return cast("Provider", adaptor.Adaptor(connection))
