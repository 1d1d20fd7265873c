"""The command: which measurements, in which order, within which time; and where what came out goes."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop

from bench import (
    calls,
    crowd,
    failover,
    flooded,
    journals,
    length,
    memory,
    opening,
    overload,
    paced,
    resuming,
    stops,
    table,
    vectors,
    waits,
    web_crowd,
    web_flooded,
    web_idle,
    web_paced,
)
from bench.child import ROOT
from bench.plan import QUICK, WHOLE, Plan
from bench.rows import Row
from bench.scene import Scene, started
from bench.tell import Tell

# Its rows come as soon as they are finished: what comes in the way later doesn't take them.
Measurement = Callable[[Plan, Scene, Tell], AsyncGenerator[list[Row]]]
# By name: what it is, and how it is done.
Measurements = Mapping[str, tuple[str, Measurement]]
MEASUREMENTS: Final[Measurements] = {
    "flooded": ("tokens per second, as fast as they are taken", flooded.measure),
    "paced": ("added latency and CPU per token at 50 tokens/s a session", paced.measure),
    "crowd": ("1,000 sessions × 50 tokens/s from four commander processes", crowd.measure),
    "waits": ("how long a tool call, a finish and a stop wait while sessions flood", waits.measure),
    "stops": ("from the stop's call to the cancellation, and to the last event", stops.measure),
    "calls": ("a tool call's round trip", calls.measure),
    "opening": ("opening a session, to its first event", opening.measure),
    "journals": ("a journal in a file against one in memory", journals.measure),
    "overload": ("latency of what is admitted, beside a flood of refused requests", overload.measure),
    "resuming": ("from a connection's reset to where all goes on", resuming.measure),
    "failover": ("from a commander's death to another's first token", failover.measure),
    "memory": ("memory per live session, and per 1,000 finished ones", memory.measure),
    "length": ("cost of a token against the length of the answer", length.measure),
    "web-flooded": ("over HTTP: tokens per second at the viewers", web_flooded.measure),
    "web-paced": (
        "over HTTP: latency at 50 tokens/s a session, and of one session's many viewers",
        web_paced.measure,
    ),
    "web-crowd": ("over HTTP: 1,000 sessions × 50 tokens/s with a viewer each", web_crowd.measure),
    "web-idle": ("over HTTP: an idle viewer's memory, a stop, a client that leaves", web_idle.measure),
    "vectors": ("a vector of 1,536 floats as Embedding against JSON", vectors.measure),
}

# Several of them by one name.
GROUPS: Final = {"web": [name for name in MEASUREMENTS if name.startswith("web-")]}

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130

_HOW_TO_READ = """
Each claim is a ratio of two things, measured in turns in one run on one machine (A B A B …): the pair, that is a
dispatcher with a journal that stamps what it keeps and a commander with the bench's agents, each a process of its
own; and the bare peer, a plain grpc.aio server and client that send a packet per token and a stream per session,
with the same messages, options and event loop. The ratio of each round's two values is taken first; shown are the
median of these ratios, the least and the greatest. Numbers of one machine mean little on another, ratios more; on a
machine that does other things too, look at the spread before you believe a median.

Over HTTP (web-…) the pair is compared with two things that are written without it: (a) the same agent streamed by
plain starlette on uvicorn, in one process with no hop at all; (b) the same two hops, from a worker by one WebSocket
with a JSON message for each token to a relay, and from there by starlette to the viewer. A row's note says with
which.

"to the journal" is when the dispatcher has kept a token: from then on no viewer can miss it. Where the column of the
bare peer holds something else, such as the journal in memory or what the settings allow, the row's note says so. A
goal that is not met is printed as NO, and never makes the command fail. A measurement that fails or takes too long is
given up: what it had finished is kept, the table says what is missing and why, the others go on with processes of their
own, and the command exits with 1.

measurements:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and prints the table. The exit code says whether it could, not how it came out."""
    arguments = _parser().parse_args(argv)
    told = arguments.only or MEASUREMENTS
    names = [each for name in told for each in GROUPS.get(name, [name])]
    path = arguments.json or ROOT / "bench" / "results" / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    plan = QUICK if arguments.quick else WHOLE
    report = Report(plan, path)
    interrupted = False
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_told(run(plan, names, report)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        interrupted = True
        print("bench: interrupted; its processes have ended", file=sys.stderr)
        for name in report.missing(names):
            report.left_out(name, "the bench was interrupted")
    report.write()
    return EXIT_INTERRUPTED if interrupted else report.exit_code


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, MEASUREMENTS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, (what, _) in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures the pair of dispatcher and commander against a bare gRPC stream.",
        epilog=_HOW_TO_READ + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a minute or two, and rough")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*MEASUREMENTS, *GROUPS],
        metavar="NAME",
        help="this measurement, or with web all of web-…; may be repeated",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the results go; default: bench/results/TIME.json"
    )
    return parser


class Report:
    """What has come out so far: shown line by line, and written as JSON at the end."""

    def __init__(self, plan: Plan, path: Path) -> None:
        # Each measurement that is missing, and why: `measurement`, `why`.
        self.failures: list[dict[str, str]] = []
        self.rows: list[dict[str, Any]] = []
        self._plan = plan
        self._path = path
        # The measurement whose rows are being shown, and those that are whole.
        self._shown = ""
        self._whole: list[str] = []
        self._began = time.monotonic()
        self._machine = table.machine()
        self._neighbours = table.Neighbours()

    def begin(self) -> None:
        facts = ", ".join(f"{name} {value}" for name, value in self._machine.items())
        print(f"{facts}\n\n{table.header()}", flush=True)

    def measured(self, name: str, rows: Sequence[Row]) -> None:
        """Rows of a measurement; there may be more of them to come."""
        self.rows += table.document(name, rows)
        self._show(name, table.lines(rows))

    def whole(self, name: str) -> None:
        """All its rows have come."""
        self._whole.append(name)

    def left_out(self, name: str, why: str) -> None:
        """Says in the table that a measurement, or its rest, is missing. Of a `why` of many lines it has the first."""
        self.failures.append({"measurement": name, "why": why})
        what = "the rest not measured" if self._shown == name else "not measured"
        self._show(name, [f"  {what}: {why.splitlines()[0]}"])
        print(f"bench: {name}: {what}: {why}", file=sys.stderr, flush=True)

    def _show(self, name: str, lines: Sequence[str]) -> None:
        title = [] if self._shown == name else [name]
        self._shown = name
        print("\n".join([*title, *lines]), flush=True)

    @property
    def exit_code(self) -> int:
        return EXIT_FAILED if self.failures else 0

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those that are neither whole nor left out."""
        told = {*self._whole, *(each["measurement"] for each in self.failures)}
        return [name for name in names if name not in told]

    def write(self) -> None:
        cores = self._neighbours.cores()
        print(f"\nother programs used {cores:.1f} of {self._machine['cores']} cores meanwhile", flush=True)
        document = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._began, 1),
            "machine": self._machine,
            "other_programs_cores": round(cores, 2),
            "quick": self._plan is QUICK,
            "failures": self.failures,
            "rows": self.rows,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        print(f"bench: {document['seconds']} s; written to {self._path}", file=sys.stderr)


async def run(
    plan: Plan, names: Sequence[str], report: Report, measurements: Measurements = MEASUREMENTS
) -> None:
    """Measures what is named, in the order of the table, as long as there is time. What can't be measured is left
    out, and the next one gets processes of its own: those of one that was given up may still be at it."""
    over_at = time.monotonic() + plan.bound_s
    report.begin()
    waiting = [name for name in measurements if name in names]
    while waiting:
        try:
            async with started() as scene:
                await flooded.warm_up(scene)
                fit = True
                while waiting and fit:
                    name = waiting.pop(0)
                    fit = await _measured(name, measurements[name][1], plan, scene, report, over_at)
        except Exception as error:  # noqa: BLE001 - whatever it is, what came out until then is shown
            for name in waiting or ("the end of its processes",):
                report.left_out(name, f"no processes to measure: {_told(error)}")
            return


async def _measured(
    name: str, measure: Measurement, plan: Plan, scene: Scene, report: Report, over_at: float
) -> bool:
    """Measures one. False when the scene may not be fit for another."""
    began_at = time.monotonic()
    bound_s = min(over_at - began_at, plan.measurement_s)
    if bound_s <= 0:
        report.left_out(name, f"the bench's {plan.bound_s:g} s were over")
        return True
    tell = _teller(name)
    limit = asyncio.timeout(bound_s)
    try:
        async with limit:
            async with aclosing(measure(plan, scene, tell)) as finished:
                async for rows in finished:
                    report.measured(name, rows)
            report.whole(name)
    except Exception as error:  # noqa: BLE001 - one that fails takes no other with it
        late = limit.expired()
        report.left_out(name, f"it took longer than {bound_s:.0f} s" if late else _told(error))
        return False
    tell(f"took {time.monotonic() - began_at:.1f} s")
    return True


def _told(error: BaseException) -> str:
    """Of what tasks raised together, the first; its kind, and what it says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _teller(name: str) -> Tell:
    return lambda what: print(f"bench: {name}: {what}", file=sys.stderr, flush=True)


async def _until_told(running: Awaitable[None]) -> None:
    """Ends in order by SIGTERM too, as by Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await running
