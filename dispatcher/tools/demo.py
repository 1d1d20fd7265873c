"""The tools of the demo: real work on the user's words, without a key or a service.

An entry point names `TOOLS`, so `demo` is a tool spec. Nothing else in the dispatcher knows them.
"""

import functools
import os
import zoneinfo
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from dispatcher.tools.arguments import did_you_mean
from dispatcher.tools.contract import ToolArgumentsError, ToolContext, ToolError
from dispatcher.tools.demo_arithmetic import evaluate
from dispatcher.tools.demo_search import Found, search
from dispatcher.tools.python import tool

FOLDER_VARIABLE = "CHATSTREAM_DEMO_FOLDER"
TEXTS = Path(__file__).with_name("demo_texts")

# Cities people ask for whose zone has another city's name.
_CITIES = {
    "bangalore": "Asia/Kolkata",
    "barcelona": "Europe/Madrid",
    "beijing": "Asia/Shanghai",
    "boston": "America/New_York",
    "delhi": "Asia/Kolkata",
    "frankfurt": "Europe/Berlin",
    "geneva": "Europe/Zurich",
    "hamburg": "Europe/Berlin",
    "houston": "America/Chicago",
    "miami": "America/New_York",
    "milan": "Europe/Rome",
    "mumbai": "Asia/Kolkata",
    "munich": "Europe/Berlin",
    "new delhi": "Asia/Kolkata",
    "osaka": "Asia/Tokyo",
    "rio de janeiro": "America/Sao_Paulo",
    "san francisco": "America/Los_Angeles",
    "seattle": "America/Los_Angeles",
    "shenzhen": "Asia/Shanghai",
    "washington": "America/New_York",
}


class Calculated(TypedDict):
    expression: str
    result: int | float


class Clock(TypedDict):
    time_zone: str
    date: str
    time: str
    weekday: str
    utc_offset: str
    iso: str


@tool(timeout_s=5)
def calculate(expression: str) -> Calculated:
    """Calculates an arithmetic expression exactly.

    Knows + - * / // % ** and brackets, sqrt, round, abs, min, max, floor, ceil, exp, log, log2, log10, sin,
    cos, tan, pi and e.

    Args:
        expression: For example "2 * (3 + 4)" or "sqrt(2) / 10".
    """
    return {"expression": expression, "result": evaluate(expression)}


@tool(timeout_s=5)
def clock(time_zone: str = "UTC") -> Clock:
    """Tells the date and the time now, anywhere.

    Args:
        time_zone: A time zone such as "Europe/Paris", or a city such as "Tokyo".
    """
    zone = _zone(time_zone)
    now = datetime.now(zoneinfo.ZoneInfo(zone))
    iso = now.isoformat(timespec="seconds")
    return {
        "time_zone": zone,
        "date": f"{now:%Y-%m-%d}",
        "time": f"{now:%H:%M:%S}",
        "weekday": f"{now:%A}",
        "utc_offset": iso[len("2000-01-01T00:00:00") :],
        "iso": iso,
    }


@tool(timeout_s=10, concurrency=4)
def search_files(words: str, context: ToolContext, folder: str = "") -> Found:
    """Searches the lines of text files for words.

    Answers with file, line number and line, those with most of the words first.

    Args:
        words: The words to look for, in any order; case doesn't matter.
        folder: Only this folder of those that may be searched. Empty: all of them.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    root = Path(named) if named else TEXTS
    if not root.is_dir():
        raise ToolError(f"{FOLDER_VARIABLE} names {root}, which is no folder")
    return search(root, folder, words, context.cancelled.is_set)


TOOLS = [calculate, clock, search_files]


def _zone(asked: str) -> str:
    """The time zone's proper name. Raises ToolArgumentsError with the nearest names."""
    names = _zones()
    found = names.get(_folded(asked))
    if found is None:
        near = did_you_mean(asked, names.values()) or did_you_mean(asked, [each.title() for each in names])
        hint = near or "; a name such as Europe/Paris or a city is needed"
        raise ToolArgumentsError(f"time_zone {asked[:60]!r} is not known{hint}")
    return found


def _folded(name: str) -> str:
    return " ".join(name[:100].casefold().replace("_", " ").split())


@functools.cache
def _zones() -> dict[str, str]:
    """Zone by every name it is known by: its own, its city's, its city's with what comes before the comma."""
    available = sorted(zoneinfo.available_timezones())
    names: dict[str, str] = {}
    for zone in available:
        if "/" in zone and not zone.startswith(("Etc/", "SystemV/")):
            # "Indianapolis" is there three times: the zone with the shortest name is the usual one.
            names.setdefault(_folded(zone.rsplit("/", 1)[1]), zone)
    names |= _CITIES
    names |= {_folded(zone): zone for zone in available}
    return names
