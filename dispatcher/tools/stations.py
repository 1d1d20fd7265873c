"""All tools on offer, each at its station: those given at the start, and those of sources that come and go.

What agents are told follows from here: `offers`, and `watchers` that are called when there are others. Belongs to
`runner.py` and lives in its event loop.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from dispatcher.tools.contract import Tool, ToolLoadError, ToolOffer, require_name
from dispatcher.tools.schema import SOURCE_SCHEMA_BYTES_MAX, ArgumentsSchema, schema_text
from dispatcher.tools.station import RunnerLimits, Station, source_of

# Tools of a source, and what is wrong with those that it can't give.
Make = Callable[[], tuple[Sequence[Tool], list[str]]]
# Asks the runner to offer these instead of what the source has offered so far; gives what is wrong with which.
Offer = Callable[[str, Make], Awaitable[list[str]]]

# Tags and lengths of an offer's three fields and its own, each at most five bytes long.
OFFER_ENVELOPE_BYTES: Final = 24


def strangers(idempotent: Iterable[str], names: Collection[str]) -> list[str]:
    """What is wrong with a source's list of tools that may be run again, by its own names."""
    return [
        f"idempotent has {each[:100]!r}, which is none of the tools that it offers"
        for each in idempotent
        if each not in names
    ]


class Stations:
    """Stations by the name of their tool, in the order of the offers."""

    def __init__(self, tools: Iterable[Tool], limits: RunnerLimits) -> None:
        """Raises ToolLoadError."""
        self.by_name: dict[str, Station] = {}
        self.watchers: list[Callable[[], None]] = []
        # Their tool is not on offer any more, and they still have calls.
        self._closing: set[Station] = set()
        for tool in tools:
            require_name(tool)
            if tool.name in self.by_name:
                raise ToolLoadError(f"tool {tool.name!r} is given twice; give one of the two another name")
            self.by_name[tool.name] = Station(tool, limits)
        self.offers: tuple[ToolOffer, ...] = self._offers()

    def __repr__(self) -> str:
        return f"<Stations {len(self.by_name)}, {len(self._closing)} closing>"

    @property
    def all(self) -> list[Station]:
        """Those with calls left over from tools that are gone included."""
        return [*self.by_name.values(), *self._closing]

    def checking(self, source: str, make: Make, limits: RunnerLimits) -> Callable[[], "Checked"]:
        """What takes long of `replace`, to be called in a thread: it sees nothing but what was here before."""
        kept, before = self._without(source)
        left_bytes = _bytes_max(limits) - sum(map(_told_bytes, kept.values()))
        return partial(_checked, make, {name: each.schema for name, each in before.items()}, left_bytes)

    def replace(self, source: str, checked: "Checked", limits: RunnerLimits) -> list[str]:
        """What `source` offers from now on; a tool that is the same as before keeps its station. One that can't be
        offered is left out: returns why, for each."""
        kept, before = self._without(source)
        left_bytes = _bytes_max(limits) - sum(map(_told_bytes, kept.values()))
        fresh: dict[str, Station] = {}
        problems = list(checked.problems)
        for tool, schema in checked.tools:
            try:
                station = _stationed(tool, schema, before, kept | fresh, limits)
                _require_room(station.offer, left_bytes)
            except ToolLoadError as error:
                problems.append(str(error))
                continue
            left_bytes -= _told_bytes(station)
            fresh[tool.name] = station
        gone = {each for each in before.values() if each not in fresh.values()}
        self._closing = {each for each in self._closing | gone if each.live or each.places.waiting}
        self.by_name = kept | fresh
        self._tell()
        return problems

    def _without(self, source: str) -> tuple[dict[str, Station], dict[str, Station]]:
        """The tools of others, and those of `source`."""
        kept = {name: each for name, each in self.by_name.items() if source_of(each.tool) != source}
        return kept, {name: each for name, each in self.by_name.items() if name not in kept}

    def _tell(self) -> None:
        offers = self._offers()
        if offers != self.offers:
            self.offers = offers
            for changed in self.watchers:
                changed()

    def _offers(self) -> tuple[ToolOffer, ...]:
        return tuple(station.offer for station in self.by_name.values())


class Checked(NamedTuple):
    """Tools whose schemas are right, and what is wrong with the rest."""

    tools: list[tuple[Tool, ArgumentsSchema]]
    problems: list[str]


def _checked(make: Make, known: Mapping[str, ArgumentsSchema], left_bytes: float) -> Checked:
    """A schema takes a thousand times as long to check as to compare: those that are known are not checked again, nor
    those that could not be offered anyway. Raises whatever `make` raises."""
    tools, problems = make()
    checked: list[tuple[Tool, ArgumentsSchema]] = []
    for tool in tools:
        try:
            require_name(tool)
            text = schema_text(tool.name, tool.parameters_schema, SOURCE_SCHEMA_BYTES_MAX)
            offer = ToolOffer(tool.name, tool.description, text)
            _require_room(offer, left_bytes)
            schema = known.get(tool.name)
            if schema is None or schema.text != text:
                schema = ArgumentsSchema(tool.name, text)
        except ToolLoadError as error:
            problems.append(str(error))
            continue
        left_bytes -= _offer_bytes(offer)
        checked.append((tool, schema))
    return Checked(checked, problems)


def _stationed(
    tool: Tool,
    schema: ArgumentsSchema,
    before: dict[str, Station],
    taken: dict[str, Station],
    limits: RunnerLimits,
) -> Station:
    """Raises ToolLoadError."""
    if tool.name in taken:
        raise ToolLoadError(
            f"tool {tool.name!r} is already given by {source_of(taken[tool.name].tool)}; name one of the two apart, "
            "by a prefix perhaps"
        )
    station = before.get(tool.name)
    return station if station is not None and station.take_on(tool, schema) else Station(tool, limits, schema)


def _bytes_max(limits: RunnerLimits) -> float:
    return math.inf if limits.offers_bytes is None else limits.offers_bytes


def _require_room(offer: ToolOffer, left_bytes: float) -> None:
    if _offer_bytes(offer) > left_bytes:
        raise ToolLoadError(f"tool {offer.name!r}: with it, the tools on offer would not fit a message")


def _told_bytes(station: Station) -> int:
    return _offer_bytes(station.offer)


def _offer_bytes(offer: ToolOffer) -> int:
    """What an agent is told of a tool takes in a message."""
    texts = (offer.name, offer.description, offer.parameters_schema_json)
    return sum(len(text.encode("utf-8", "replace")) for text in texts) + OFFER_ENVELOPE_BYTES
