"""The command: which measurements, in which order, within which time; and where what came out goes."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from grpc import aio

from bench import (
    calls,
    crowd,
    flooded,
    length,
    memory,
    opening,
    paced,
    stops,
    table,
    vectors,
    waits,
)
from bench.child import ROOT, ChildError
from bench.plan import QUICK, WHOLE, Plan
from bench.rows import Row
from bench.scene import Scene, started
from bench.tell import Tell
from bench.viewer import ViewerError

Measurement = Callable[[Plan, Scene, Tell], Awaitable[list[Row]]]
MEASUREMENTS: Final[dict[str, tuple[str, Measurement]]] = {
    "flooded": ("tokens per second, as fast as they are taken", flooded.measure),
    "paced": ("added latency and CPU per token at 50 tokens/s a session", paced.measure),
    "crowd": ("1,000 sessions × 50 tokens/s from four commander processes", crowd.measure),
    "waits": ("how long a tool call, a finish and a stop wait while sessions flood", waits.measure),
    "stops": ("from the stop's call to the cancellation, and to the last event", stops.measure),
    "calls": ("a tool call's round trip", calls.measure),
    "opening": ("opening a session, to its first event", opening.measure),
    "memory": ("memory per live session, and per 1,000 finished ones", memory.measure),
    "length": ("cost of a token against the length of the answer", length.measure),
    "vectors": ("a vector of 1,536 floats as Embedding against JSON", vectors.measure),
}

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130

_HOW_TO_READ = """
Each claim is a ratio of two things, measured in turns in one run on one machine (A B A B …): the pair, that is a
dispatcher with a journal that stamps what it keeps and a commander with the bench's agents, each a process of its
own; and the bare peer, a plain grpc.aio server and client that send a packet per token and a stream per session,
with the same messages, options and event loop. The ratio of each round's two values is taken first; shown are the
median of these ratios, the least and the greatest. Numbers of one machine mean little on another, ratios more; on a
machine that does other things too, look at the spread before you believe a median.

"to the journal" is when the dispatcher has kept a token: from then on no viewer can miss it. A goal that is not met
is printed as NO, and never makes the command fail.

measurements:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and prints the table. The exit code says whether it could, not how it came out."""
    arguments = _parser().parse_args(argv)
    names = arguments.only or list(MEASUREMENTS)
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
    except (ChildError, ViewerError) as error:
        report.failed("starting", error)
    report.write()
    return EXIT_INTERRUPTED if interrupted else EXIT_FAILED if report.failures else 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, MEASUREMENTS))
    listed = "\n".join(f"  {name:<{width}}  {what}" for name, (what, _) in MEASUREMENTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures the pair of dispatcher and commander against a bare gRPC stream.",
        epilog=_HOW_TO_READ + listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute, and rough")
    parser.add_argument(
        "--only",
        action="append",
        choices=MEASUREMENTS,
        metavar="NAME",
        help="this measurement; may be repeated",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the results go; default: bench/results/TIME.json"
    )
    return parser


class Report:
    """What has come out so far: shown line by line, and written as JSON at the end."""

    def __init__(self, plan: Plan, path: Path) -> None:
        self.failures: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self._plan = plan
        self._path = path
        self._began = time.monotonic()
        self._machine = table.machine()
        self._neighbours = table.Neighbours()

    def begin(self) -> None:
        facts = ", ".join(f"{name} {value}" for name, value in self._machine.items())
        print(f"{facts}\n\n{table.header()}", flush=True)

    def measured(self, name: str, rows: Sequence[Row]) -> None:
        self.rows += table.document(name, rows)
        print("\n".join(table.lines(name, rows)), flush=True)

    def failed(self, name: str, error: BaseException | str) -> None:
        self.failures.append(f"{name}: {error or type(error).__name__}")
        print(f"bench: {self.failures[-1]}", file=sys.stderr, flush=True)

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


async def run(plan: Plan, names: Sequence[str], report: Report) -> None:
    """Measures what is named, in the order of the table, as long as there is time."""
    began = time.monotonic()
    report.begin()
    async with started() as scene:
        await flooded.warm_up(scene)
        for name, (_, measure) in MEASUREMENTS.items():
            left_s = plan.bound_s - (time.monotonic() - began)
            if name not in names:
                continue
            if left_s <= 0:
                report.failed(name, f"left out: {plan.bound_s:g} s are over")
                continue
            try:
                tell = _teller(name)
                at = time.monotonic()
                async with asyncio.timeout(min(left_s, plan.measurement_s)):
                    report.measured(name, await measure(plan, scene, tell))
                tell(f"took {time.monotonic() - at:.1f} s")
            except TimeoutError:
                report.failed(name, f"given up: it took longer than {min(left_s, plan.measurement_s):.0f} s")
                return
            except (ChildError, ViewerError, aio.AioRpcError, ExceptionGroup) as error:
                report.failed(name, _first(error))
                return


def _first(error: Exception) -> Exception:
    """Of what tasks raised together, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _teller(name: str) -> Tell:
    return lambda what: print(f"bench: {name}: {what}", file=sys.stderr, flush=True)


async def _until_told(running: Awaitable[None]) -> None:
    """Ends in order by SIGTERM too, as by Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await running
