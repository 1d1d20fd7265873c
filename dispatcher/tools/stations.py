"""All tools on offer, each at its station: those given at the start, and those of sources that come and go.

What agents are told follows from here: `offers`, and `watchers` that are called when there are others. Belongs to
`runner.py` and lives in its event loop.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final

from dispatcher.tools.contract import Tool, ToolLoadError, ToolOffer, require_name
from dispatcher.tools.station import RunnerLimits, Station, source_of

# Tags and lengths of an offer's three fields and its own, each at most five bytes long.
OFFER_ENVELOPE_BYTES: Final = 24


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

    def replace(self, source: str, tools: Iterable[Tool], limits: RunnerLimits) -> list[str]:
        """What `source` offers from now on; a tool that is the same as before keeps its station. One that can't be
        offered is left out: returns why, for each."""
        kept = {name: each for name, each in self.by_name.items() if source_of(each.tool) != source}
        before = {name: each for name, each in self.by_name.items() if name not in kept}
        left_bytes = math.inf if limits.offers_bytes is None else limits.offers_bytes
        left_bytes -= sum(map(_told_bytes, kept.values()))
        fresh: dict[str, Station] = {}
        problems: list[str] = []
        for tool in tools:
            try:
                station = _stationed(tool, before, kept | fresh, limits)
                if _told_bytes(station) > left_bytes:
                    raise ToolLoadError(
                        f"tool {tool.name!r}: with it, the tools on offer would not fit a message"
                    )
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

    def _tell(self) -> None:
        offers = self._offers()
        if offers != self.offers:
            self.offers = offers
            for changed in self.watchers:
                changed()

    def _offers(self) -> tuple[ToolOffer, ...]:
        return tuple(station.offer for station in self.by_name.values())


def _stationed(
    tool: Tool, before: dict[str, Station], taken: dict[str, Station], limits: RunnerLimits
) -> Station:
    """Raises ToolLoadError."""
    require_name(tool)
    if tool.name in taken:
        raise ToolLoadError(
            f"tool {tool.name!r} is already given by {source_of(taken[tool.name].tool)}; name one of the two apart, "
            "by a prefix perhaps"
        )
    station = before.get(tool.name)
    return station if station is not None and station.take_on(tool) else Station(tool, limits)


def _told_bytes(station: Station) -> int:
    """What an agent is told of a tool takes in a message."""
    offer = station.offer
    texts = (offer.name, offer.description, offer.parameters_schema_json)
    return sum(len(text.encode("utf-8", "replace")) for text in texts) + OFFER_ENVELOPE_BYTES
