"""Where one tool is worked: the limits it runs under now, its places, its calls, and what came of them.

Decides nothing about a call; that is `runner.py`. Lives in the runner's event loop.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from dispatcher.tools.breaker import Breaker
from dispatcher.tools.call import Call
from dispatcher.tools.contract import Tool, ToolLoadError, ToolOffer, require_positive
from dispatcher.tools.places import Places
from dispatcher.tools.schema import ArgumentsSchema


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """The limits for all tools, and the defaults for those that don't say."""

    # A tool's answer is waited for by a person.
    timeout_s: float = 30.0
    # A quarter of a message: several results then fit one batch.
    output_bytes: int = 262_144
    # What a tool may ask for as its own output_bytes: less than a message of the link has. None: the default
    # message's 1 MiB, less an eighth for what goes with it, or output_bytes where that is more.
    output_bytes_max: int | None = None
    arguments_bytes: int = 262_144
    # Per tool. Half of the threads, so that one tool that hangs can't take them all.
    concurrency: int = 16
    # Calls that may wait for a place, per tool: a thousand sessions may ask in the same moment.
    waiting: int = 1_000
    # For all tools that block.
    threads: int = 32
    # What tools on offer may take in a message that tells an agent of all of them. None: whatever they take.
    offers_bytes: int | None = None
    # A tool that fails so often in a row is left alone for so long; see `breaker.py`. 0: never.
    failures: int = 10
    open_s: float = 30.0

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        for each in fields(self):
            if each.name not in ("failures", "offers_bytes") or getattr(self, each.name):
                require_positive(each.name, getattr(self, each.name), whole=not each.name.endswith("_s"))
        if self.output_bytes > self.output_bytes_ceiling:
            raise ValueError(
                f"output_bytes is {self.output_bytes:,}; at most output_bytes_max, "
                f"{self.output_bytes_ceiling:,}, may be"
            )

    @property
    def output_bytes_ceiling(self) -> int:
        return self.output_bytes_max or max(917_504, self.output_bytes)


@dataclass(frozen=True, slots=True)
class ToolStats:
    """What a tool does and has done."""

    # At work now, those included whose answer is no longer waited for.
    running: int
    # Of those: timed out or cancelled, and still not ended.
    abandoned: int
    waiting: int
    # Requests so far, those under way included.
    calls: int
    # Requests answered, by "ok" or failure code.
    outcomes: Mapping[str, int]
    # The limits it runs under.
    timeout_s: float
    output_bytes: int
    concurrency: int
    # Its circuit breaker is open: calls are refused for a while.
    is_open: bool
    # The breaker's state, one of breaker.STATES, and how many calls in a row have failed.
    circuit: str
    failures: int
    # Where it comes from: "module:function", or a table of the settings such as "mcp.files".
    source: str
    # What it works with is away: calls are refused until it is back.
    is_away: bool


def source_of(tool: Tool) -> str:
    """Where a tool comes from, as shown to operators: what it says itself, or where its type is from."""
    return str(getattr(tool, "source", "") or f"{type(tool).__module__}:{type(tool).__qualname__}")


class Station:
    """Where one tool is worked: its limits now, its places, its calls, what came of them."""

    def __init__(self, tool: Tool, limits: RunnerLimits, schema: ArgumentsSchema | None = None) -> None:
        """`schema` is the tool's, where it was checked already. Raises ToolLoadError."""
        self.tool = tool
        wanted = tool.limits.output_bytes or 0
        if wanted > limits.output_bytes_ceiling:
            raise ToolLoadError(
                f"tool {tool.name!r}: output_bytes is {wanted:,}; at most {limits.output_bytes_ceiling:,} fit a "
                "message"
            )
        self.schema = schema or ArgumentsSchema(tool.name, tool.parameters_schema)
        self.offer = ToolOffer(tool.name, tool.description, self.schema.text)
        self.live: set[Call] = set()
        self.calls = 0
        self.outcomes: Counter[str] = Counter()
        # A moving mean of how long a run takes: the hint for those who must come back.
        self.mean_s = 0.0
        self.places = Places(1, 1)
        self.breaker = Breaker(limits.failures, limits.open_s)
        self.limit(limits)

    def take_on(self, tool: Tool, schema: ArgumentsSchema) -> bool:
        """Works this tool from now on, with the same places and numbers, where it is the same to whoever calls it."""
        is_same = self.offer == ToolOffer(tool.name, tool.description, schema.text)
        if is_same and tool.limits == self.tool.limits and source_of(tool) == source_of(self.tool):
            self.tool = tool
            return True
        return False

    def limit(self, limits: RunnerLimits) -> None:
        own = self.tool.limits
        self.timeout_s = own.timeout_s or limits.timeout_s
        self.output_bytes = min(own.output_bytes or limits.output_bytes, limits.output_bytes_ceiling)
        self.places.resize(own.concurrency or limits.concurrency, limits.waiting)
        self.breaker.failures_max, self.breaker.open_s = limits.failures, limits.open_s

    def leave(self, call: Call) -> None:
        """The call has ended for good."""
        self.live.discard(call)
        self.places.give_back()
        took_s = time.monotonic() - call.began_at
        self.mean_s = took_s if self.mean_s == 0.0 else 0.8 * self.mean_s + 0.2 * took_s

    def retry_after_s(self) -> float:
        """When a place may be had by somebody who comes back; a guess between 0.1 s and a minute."""
        return min(max(self.mean_s * (self.places.waiting + 1) / self.places.places, 0.1), 60.0)

    def stats(self) -> ToolStats:
        abandoned = sum(call.cancelled.is_set() for call in self.live)
        return ToolStats(
            running=self.places.taken,
            abandoned=abandoned,
            waiting=self.places.waiting,
            calls=self.calls,
            outcomes=MappingProxyType(dict(self.outcomes)),
            timeout_s=self.timeout_s,
            output_bytes=self.output_bytes,
            concurrency=self.places.places,
            is_open=self.breaker.is_open,
            circuit=self.breaker.state,
            failures=self.breaker.failures,
            source=source_of(self.tool),
            is_away=bool(getattr(self.tool, "is_away", False)),
        )
