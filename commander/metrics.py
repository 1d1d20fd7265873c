"""What a commander has done and how it is, for Prometheus. Served when settings say where."""

from collections.abc import Callable
from functools import partial
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from commander.core.breaker import Breaker, State
from commander.core.turn import Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PACKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All of them, in a registry of their own. Any thread may call."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._turns_started = self._counter("turns_started", "Turns begun.", "agent")
        self._turns_ended = self._counter(
            "turns_ended",
            "Turns over: completed, failed, stopped, or lost to a newer attempt.",
            "agent outcome",
        )
        self._turns_running = self._gauge("turns_running", "Turns not over yet.", "agent")
        self._starts_refused = self._counter("starts_refused", "Starts not taken.", "code")
        self._slots = self._gauge("slots", "Sessions it can run at once.")
        self._link_up = self._gauge("link_up", "1 while linked to a dispatcher.")
        self._links_opened = self._counter("links_opened", "Links that were welcomed.")
        self._links_failed = self._counter("links_failed", "Links lost or refused, by status.", "code")
        self._message_packets = Histogram(
            "commander_message_packets",
            "Packets in one gRPC message.",
            buckets=_PACKETS,
            registry=self.registry,
        )
        self._packets_sent = self._counter("packets_sent", "Packets sent.")
        self._bytes_sent = self._counter("bytes_sent", "Bytes of the messages sent.")
        self._packets_ignored = self._counter("packets_ignored", "Packets of no use, by why.", "why")
        self._outbox_wait = self._histogram("outbox_wait_seconds", "Waits of agents for room.", "agent")
        self._stop = self._histogram("stop_seconds", "From a stop to each step of it.", "step")
        self._loop_blocked = self._counter("loop_blocked_seconds", "The agents' loop did not turn.")
        self._model_requests = self._counter(
            "model_requests", "Requests to language models, by what came of them.", "model outcome"
        )
        self._model_retries = self._counter("model_retries", "Requests made again, by why.", "model code")
        self._model_fallbacks = self._counter("model_fallbacks", "Requests handed on.", "model to")
        self._model_first_token = self._histogram(
            "model_first_token_seconds", "From a request to its first token.", "model"
        )
        self._model_tokens = self._counter(
            "model_tokens", "Tokens used: input, output, reasoning.", "model kind"
        )
        self._circuit = self._gauge(
            "model_circuit", "1 for the state that a provider's circuit is in.", "provider state"
        )
        self._circuit_failures = self._gauge(
            "model_circuit_failures", "Failures of a provider in a row.", "provider"
        )

    def link_opened(self) -> None:
        self._links_opened.inc()
        self._link_up.set(1)

    def link_closed(self) -> None:
        self._link_up.set(0)

    def link_failed(self, code: str) -> None:
        self._links_failed.labels(code).inc()

    def turn_started(self, agent: str) -> None:
        self._turns_started.labels(agent).inc()
        self._turns_running.labels(agent).inc()

    def turn_ended(self, agent: str, outcome: str) -> None:
        self._turns_ended.labels(agent, outcome).inc()
        self._turns_running.labels(agent).dec()

    def start_refused(self, code: str) -> None:
        self._starts_refused.labels(code).inc()

    def message_sent(self, packets: int, size_bytes: int) -> None:
        self._message_packets.observe(packets)
        self._packets_sent.inc(packets)
        self._bytes_sent.inc(size_bytes)

    def packet_ignored(self, why: str) -> None:
        self._packets_ignored.labels(why).inc()

    def outbox_waited(self, agent: str, waited_s: float) -> None:
        self._outbox_wait.labels(agent).observe(waited_s)

    def stop_came_to(self, step: str, after_s: float) -> None:
        self._stop.labels(step).observe(after_s)

    def loop_was_blocked(self, blocked_s: float) -> None:
        self._loop_blocked.inc(blocked_s)

    def model_requested(self, model: str, outcome: str) -> None:
        self._model_requests.labels(model, outcome).inc()

    def model_retried(self, model: str, code: str) -> None:
        self._model_retries.labels(model, code).inc()

    def model_fell_back(self, model: str, to: str) -> None:
        self._model_fallbacks.labels(model, to).inc()

    def model_began(self, model: str, after_s: float) -> None:
        self._model_first_token.labels(model).observe(after_s)

    def model_used(self, model: str, usage: Usage) -> None:
        self._model_tokens.labels(model, "input").inc(usage.input_tokens)
        self._model_tokens.labels(model, "output").inc(usage.output_tokens)
        self._model_tokens.labels(model, "reasoning").inc(usage.reasoning_tokens)

    def watch_circuit(self, provider: str, breaker: Breaker) -> None:
        """Asked for its state at each scrape."""
        for state in State:
            self._circuit.labels(provider, state.value).set_function(partial(_is_in, breaker, state))
        self._circuit_failures.labels(provider).set_function(lambda: float(breaker.failures))

    def watch(self, slots: int, stuck: Callable[[], int], unacknowledged: Callable[[], int]) -> None:
        """What is asked for at each scrape, from the scraper's thread."""
        self._slots.set(slots)
        self._gauge("slots_stuck", "Slots of agents that ignored their stop.").set_function(stuck)
        self._gauge("packets_unacknowledged", "Packets kept until the dispatcher has them.").set_function(
            unacknowledged
        )

    def serve(self, host: str, port: int) -> tuple[HTTPServer, int]:
        """Serves /metrics in a thread of its own: the server, and the port it has. OSError when it can't."""
        server, _ = start_http_server(port, host, self.registry)
        return server, server.server_port

    def _counter(self, name: str, told: str, labels: str = "") -> Counter:
        return Counter(f"commander_{name}", told, labels.split(), registry=self.registry)

    def _gauge(self, name: str, told: str, labels: str = "") -> Gauge:
        return Gauge(f"commander_{name}", told, labels.split(), registry=self.registry)

    def _histogram(self, name: str, told: str, labels: str = "") -> Histogram:
        return Histogram(f"commander_{name}", told, labels.split(), buckets=_SECONDS, registry=self.registry)


def _is_in(breaker: Breaker, state: State) -> float:
    return float(breaker.state is state)
