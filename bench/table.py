"""The table for people, and the same for programs."""

import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.rows import Row, Spread

_WIDTH = 58


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    packages = {name: _version(name) for name in ("grpcio", "protobuf", "uvloop", "chatstream")}
    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        **packages,
    }


class Neighbours:
    """How much of the machine other programs have used since this was made: the noise in the numbers."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = _machine_busy_s()
        self._own_s = _own_busy_s()

    def cores(self) -> float:
        """On average. To be asked when the processes of the bench have ended: only then their time is known."""
        others_s = _machine_busy_s() - self._busy_s - (_own_busy_s() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._began))


def _machine_busy_s() -> float:
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _own_busy_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def header() -> str:
    titles = ("", "ChatStream", "bare", "ratio (least – most)", "goal", "met")
    return _line(titles)


def lines(rows: Sequence[Row]) -> list[str]:
    """A measurement's part of the table."""
    told = []
    for row in rows:
        goal = met = ""
        if row.goal is not None:
            unit = " ×" if row.goal.of == "ratio" else f" {row.unit}"
            goal = f"{'≥' if row.goal.sense == 'at least' else '≤'} {row.goal.bound:g}{unit}"
            met = "yes" if row.met else "NO"
        ratio = "" if row.theirs is None else "–"
        if row.ratio is not None:
            ratio = f"{_number(row.ratio.median)} × ({_number(row.ratio.least)} – {_number(row.ratio.most)})"
        ours = f"{_number(row.ours.median)} {row.unit}"
        theirs = "" if row.theirs is None else f"{_number(row.theirs.median)} {row.unit}"
        told.append(_line((f"  {row.what}", ours, theirs, ratio, goal, met)))
        spread = _spread(row.ours, row.theirs)
        told.append(f"  {'':{_WIDTH - 2}} {spread}{'; ' + row.note if row.note else ''}")
    return told


def document(name: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A measurement's part of the JSON."""
    return [{"measurement": name, **_plain(asdict(row)), "met": row.met} for row in rows]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value._asdict() if isinstance(value, Spread) else value for key, value in row.items()}


def _line(cells: Sequence[str]) -> str:
    what, ours, theirs, ratio, goal, met = cells
    return f"{what:<{_WIDTH}} {ours:>17} {theirs:>17} {ratio:>27} {goal:>9} {met:>4}".rstrip()


def _spread(ours: Spread, theirs: Spread | None) -> str:
    told = f"{_number(ours.least)} – {_number(ours.most)}"
    return told if theirs is None else f"{told} against {_number(theirs.least)} – {_number(theirs.most)}"


def _number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if abs(value) < 10 else 1}f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
