"""What Prometheus sees. Names and labels are defined here and nowhere else; docs/operating.md lists them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dispatcher.core.events import Count, Measure
from dispatcher.core.fleet import SlotState
from dispatcher.core.router import Router
from dispatcher.tools.breaker import STATES
from dispatcher.tools.contract import SourceState
from dispatcher.tools.station import ToolStats

_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

# Counted by the core, and by the edge: the name they use, what it is, its labels.
_COUNTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("sessions_opened", "Sessions opened.", ("agent",)),
    ("sessions_ended", "Sessions ended.", ("ending",)),
    ("sessions_refused", "Requests that opened no session.", ("reason",)),
    ("sessions_starved", "Sessions that got no credit because the journal had no room.", ()),
    ("starts_refused", "Starts that a commander refused.", ("reason",)),
    ("packets_dropped", "Packets that did not count.", ("reason",)),
    ("policy_violations", "What policies found.", ("policy", "mode")),
    ("rule_verdicts", "What single rules and patterns found, and what was done.", ("rule", "action")),
    ("policy_questions", "What services were asked about, by what they said.", ("service", "action")),
    ("cost_dollars", "What was used, by the prices of the policy file.", ("model",)),
    ("policy_reloads", "How often the policy file was read again, and what came of it.", ("outcome",)),
    ("resumes", "Sessions that a returning commander asked to resume.", ("verdict",)),
    ("attempts_lost", "Attempts whose commander was lost, and whose session another takes over.", ()),
    ("links_lost", "Links that ended without a goodbye.", ()),
    ("slots_stuck", "Slots whose agent ignored its stop.", ()),
    ("stops_unreceived", "Stops that a commander did not acknowledge in time.", ()),
    ("sessions_parked", "Sessions that gave back their slot while a person was asked.", ()),
    ("withdrawals", "Calls and questions that their agent waited for no longer.", ("what",)),
    ("approvals", "Calls that somebody had to allow, by what came of it.", ("outcome",)),
    ("delegations", "Sessions that sessions asked for, by what came of it.", ("outcome",)),
    ("tool_outcomes_dropped", "Tool outcomes that nobody waited for any more.", ()),
    ("viewers_degraded", "Viewers over HTTP that lagged, by what was done.", ("stage",)),
    (
        "http_requests",
        "HTTP requests answered; streams count when they begin.",
        ("method", "route", "status"),
    ),
)
_HISTOGRAMS: tuple[tuple[str, str, str, tuple[str, ...], tuple[float, ...]], ...] = (
    ("queue_wait_s", "session_queue_wait_seconds", "Wait for a slot.", (), _LONG),
    (
        "first_token_s",
        "session_first_token_seconds",
        "Start to first thought, content or question.",
        (),
        _LONG,
    ),
    ("first_content_s", "session_first_content_seconds", "Start to first content.", (), _LONG),
    ("session_s", "session_duration_seconds", "Opened to ended.", ("ending",), _LONG),
    ("stood_still_s", "stood_still_seconds", "Nothing was seen to for so long.", (), _SHORT),
    ("policy_question_s", "policy_question_seconds", "Asked to judged.", ("service",), _SHORT),
    ("stop_step_s", "stop_step_seconds", "Stop accepted to the step of the ladder.", ("step",), _SHORT),
)


_POLICY_FILE = "1 for the version of the policy file that is in force: the SHA-256 of its bytes begins so."
_SERVICE_OPEN = "1 while a service that failed again and again is left alone, and fails without being asked."
# What there is now, read at each scrape.
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "dispatcher_sessions": ("Sessions by state.", ("state",)),
    "dispatcher_slots": (
        "Slots by state and agent; a commander's slots count for each agent it serves.",
        ("state", "agent"),
    ),
    "dispatcher_commanders": ("Commanders by state.", ("state",)),
    "dispatcher_queue_length": ("Sessions waiting for a slot.", ()),
    "dispatcher_links": ("Links open.", ()),
    "dispatcher_journal_bytes": ("Size of the journal.", ()),
    "dispatcher_tool_source_up": (
        "What tools come from besides this process: 1 while it is there.",
        ("source",),
    ),
    "dispatcher_tool_source_losses": ("How often it went away since the start.", ("source",)),
    "dispatcher_tool_circuit": (
        "1 for the state that a tool's circuit breaker is in.",
        ("tool", "state"),
    ),
    "dispatcher_tool_circuit_failures": ("Failures of a tool in a row.", ("tool",)),
}


class Metrics:
    """The metrics of one dispatcher, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"dispatcher_{name}", text, labels, registry=self.registry)
            for name, text, labels in _COUNTERS
        }
        self._histograms = {
            key: Histogram(f"dispatcher_{name}", text, labels, registry=self.registry, buckets=buckets)
            for key, name, text, labels, buckets in _HISTOGRAMS
        }
        self._tool_calls = Counter(
            "dispatcher_tool_calls", "Tool calls by outcome.", ["tool", "outcome"], registry=self.registry
        )
        self._tool_seconds = Histogram(
            "dispatcher_tool_call_seconds",
            "Duration of tool calls.",
            ["tool"],
            registry=self.registry,
            buckets=_SHORT,
        )
        self._viewers = Gauge(
            "dispatcher_http_viewers", "Who watches a session over HTTP now.", ["way"], registry=self.registry
        )
        self._policy = Gauge("dispatcher_policy_file", _POLICY_FILE, ["version"], registry=self.registry)
        self._services_open = Gauge(
            "dispatcher_policy_service_open", _SERVICE_OPEN, ["service"], registry=self.registry
        )
        # Counted for each token, so they are plain numbers that a scrape reads.
        self.events_kept = 0
        self.packets_received = 0
        self.packets_unprocessed = 0
        self.registry.register(_Counted(self))

    def service_open(self, service: str, *, is_open: bool) -> None:
        self._services_open.labels(service).set(is_open)

    def policy_in_force(self, version: str) -> None:
        self._policy.clear()
        self._policy.labels(version).set(1)

    def count(self, effect: Count) -> None:
        counter = self._counters[effect.metric]
        (counter.labels(*effect.labels) if effect.labels else counter).inc(effect.amount)

    def measure(self, effect: Measure) -> None:
        histogram = self._histograms[effect.metric]
        (histogram.labels(*effect.labels) if effect.labels else histogram).observe(effect.seconds)

    @contextlib.contextmanager
    def viewing(self, way: str) -> Iterator[None]:
        """Somebody watches a session over HTTP, in this way, until it ends."""
        gauge = self._viewers.labels(way)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def kept(self, events: int) -> None:
        self.events_kept += events

    @contextlib.contextmanager
    def processing(self, packets: int) -> Iterator[None]:
        """So many packets were taken off a link, and have been processed when it ends."""
        self.packets_unprocessed += packets
        try:
            yield
        finally:
            self.packets_unprocessed -= packets
            self.packets_received += packets

    def tool_called(self, tool: str, outcome: str, seconds: float) -> None:
        self._tool_calls.labels(tool, outcome).inc()
        self._tool_seconds.labels(tool).observe(seconds)

    def table(self) -> list[tuple[str, str, tuple[str, ...], str]]:
        """Name, kind, labels and text of every metric, sorted: for the documentation."""
        rows = [(f"dispatcher_{name}_total", "counter", labels, text) for name, text, labels in _COUNTERS]
        rows += [
            (f"dispatcher_{name}", "histogram", labels, text) for _, name, text, labels, _ in _HISTOGRAMS
        ]
        rows += [
            ("dispatcher_tool_calls_total", "counter", ("tool", "outcome"), "Tool calls by outcome."),
            ("dispatcher_tool_call_seconds", "histogram", ("tool",), "Duration of tool calls."),
        ]
        rows.append(("dispatcher_http_viewers", "gauge", ("way",), "Who watches a session over HTTP now."))
        rows.append(("dispatcher_policy_file", "gauge", ("version",), _POLICY_FILE))
        rows.append(("dispatcher_policy_service_open", "gauge", ("service",), _SERVICE_OPEN))
        rows += [(name, "gauge", labels, text) for name, (text, labels) in _GAUGES.items()]
        for family in _Counted(self).collect():
            total = "_total" if family.type == "counter" else ""
            rows.append((family.name + total, family.type, (), family.documentation))
        return sorted(rows)

    def watch(self, snapshot: Callable[[], "Snapshot"]) -> None:
        """Adds the gauges of what there is now, read from `snapshot` at each scrape."""
        self.registry.register(_Now(snapshot))


class _Counted(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        now = self._metrics
        return [
            CounterMetricFamily("dispatcher_events_kept", "Events journalled.", value=now.events_kept),
            CounterMetricFamily(
                "dispatcher_packets_received", "Packets processed.", value=now.packets_received
            ),
            GaugeMetricFamily(
                "dispatcher_packets_unprocessed",
                "Packets received but not yet processed.",
                value=now.packets_unprocessed,
            ),
        ]


class Snapshot:
    """The gauges' values, taken in the event loop's thread."""

    def __init__(
        self,
        router: Router,
        sources: Sequence[SourceState] = (),
        tools: Mapping[str, ToolStats] | None = None,
    ) -> None:
        self.sources = sources
        self.circuits: dict[tuple[str, ...], int] = {
            (tool, state): int(stats.circuit == state)
            for tool, stats in (tools or {}).items()
            for state in STATES
        }
        self.circuit_failures: dict[tuple[str, ...], int] = {
            (tool,): stats.failures for tool, stats in (tools or {}).items()
        }
        self.sessions: dict[str, int] = {
            "queued": 0,
            "starting": 0,
            "running": 0,
            "detached": 0,
            "parked": 0,
            "ended": 0,
        }
        for session in router.sessions.values():
            self.sessions[session.state.value] += 1
        self.slots: dict[tuple[str, ...], int] = {}
        self.commanders: dict[str, int] = {"ready": 0, "draining": 0, "detached": 0}
        for commander in router.fleet.commanders.values():
            self.commanders[commander.state.value] += 1
            states = {"free": commander.free} | {s.value: commander.count(s) for s in SlotState}
            for agent in {offer.name for offer in commander.hello.agents}:
                for state, number in states.items():
                    key = (state, agent)
                    self.slots[key] = self.slots.get(key, 0) + number
        self.queued = router.queued
        self.links = len(router.fleet.links)
        self.journal_bytes = router.kept_bytes


class _Now(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Nothing: registering must not take a snapshot."""
        return []

    def collect(self) -> list[Metric]:
        now = self._snapshot()
        values: dict[str, dict[tuple[str, ...], int]] = {
            "dispatcher_sessions": {(state,): number for state, number in now.sessions.items()},
            "dispatcher_slots": dict(now.slots),
            "dispatcher_commanders": {(state,): number for state, number in now.commanders.items()},
            "dispatcher_queue_length": {(): now.queued},
            "dispatcher_links": {(): now.links},
            "dispatcher_journal_bytes": {(): now.journal_bytes},
            "dispatcher_tool_source_up": {(each.name,): int(each.is_up) for each in now.sources},
            "dispatcher_tool_source_losses": {(each.name,): each.losses for each in now.sources},
            "dispatcher_tool_circuit": dict(now.circuits),
            "dispatcher_tool_circuit_failures": dict(now.circuit_failures),
        }
        families: list[Metric] = []
        for name, (text, labels) in _GAUGES.items():
            family = GaugeMetricFamily(name, text, labels=labels)
            for key, number in values[name].items():
                family.add_metric(key, number)
            families.append(family)
        return families
