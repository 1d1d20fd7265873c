"""Every way a session ends, and every refusal: each has its number, name, statuses, counter and row."""

from http import HTTPStatus
from pathlib import Path
from typing import get_args

import grpc
import pytest
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.core import events
from dispatcher.core.endings import ENDINGS, FINISHED, REFUSALS, Ending, Refusal, Traits, traits_of
from dispatcher.core.events import Count, Measure
from dispatcher.core.limits import Limits
from dispatcher.core.packets import AgentOffer, Ended, ErrorReport, Hello, StopCode, Usage
from dispatcher.core.policy import MEANINGS, Policy
from dispatcher.core.router import Router
from dispatcher.metrics import Metrics
from dispatcher.rpc import codec

README = Path(__file__).resolve().parent.parent / "README.md"
# Not in HTTP's own list, but what everybody calls a client that is gone.
CLIENT_CLOSED = 499

EVERY: list[Ending | Refusal] = [*Ending, *Refusal]


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how.value)
def test_what_it_means_to_every_edge(how: Ending | Refusal) -> None:
    traits = how.traits
    assert grpc.StatusCode[traits.grpc]
    assert traits.http == CLIENT_CLOSED or HTTPStatus(traits.http)
    assert (traits.http == HTTPStatus.OK) == (traits.grpc == "OK") == (how is Ending.COMPLETED)
    assert traits.advice.endswith(".")
    # Who may try again is told when; who may not is told nothing of the kind.
    assert (traits.retry_after_s is not None) == traits.retryable
    assert how.value == how.name.lower()


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how.value)
def test_its_row_in_the_readme(how: Ending | Refusal) -> None:
    rows = [
        line
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{how.value}` |")
    ]
    assert len(rows) == 1, f"README.md has {len(rows)} rows for {how.value}: run make docs"
    assert f"| {how.traits.grpc} | {how.traits.http} |" in rows[0]


@pytest.mark.parametrize("table", [ENDINGS, REFUSALS], ids=["endings", "refusals"])
def test_numbers_are_used_once(table: dict[object, Traits]) -> None:
    numbers = [traits.number for traits in table.values()]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_no_way_to_end_is_missing() -> None:
    assert set(ENDINGS) == set(Ending)
    assert set(REFUSALS) == set(Refusal)


@pytest.mark.parametrize(
    ("name", "number"),
    [item for item in chat_pb2.SessionEnding.items() if item[1]],
    ids=str,
)
def test_the_contract_and_the_table_agree(name: str, number: int) -> None:
    ending = Ending(name.removeprefix("SESSION_ENDING_").lower())
    assert ending.traits.number == number


def test_the_contract_has_every_ending() -> None:
    assert len(chat_pb2.SessionEnding.keys()) == len(Ending) + 1
    assert chat_pb2.SessionEnding.Value("SESSION_ENDING_UNSPECIFIED") == 0


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
def test_what_viewers_are_told_of_it(ending: Ending) -> None:
    wire = codec.session_ended(Ended(ending.value, "why", 3, 0xFFFFFFFF, Usage(1, 2, 3, "m")))
    assert wire.ending == ending.traits.number
    assert (wire.name, wire.message, wire.retryable) == (ending.value, "why", ending.traits.retryable)
    assert wire.HasField("retry_after_ms") == ending.traits.retryable
    assert (wire.content_chars, wire.content_crc32, wire.usage.output_tokens) == (3, 0xFFFFFFFF, 2)


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
def test_its_counter(ending: Ending) -> None:
    metrics = Metrics()
    metrics.count(Count("sessions_ended", (ending.value,)))
    metrics.measure(Measure("session_s", 2.0, (ending.value,)))
    labels = {"ending": ending.value}
    assert metrics.registry.get_sample_value("dispatcher_sessions_ended_total", labels) == 1
    assert metrics.registry.get_sample_value("dispatcher_session_duration_seconds_sum", labels) == 2


@pytest.mark.parametrize("refusal", Refusal, ids=lambda refusal: refusal.value)
def test_the_counter_of_a_refusal(refusal: Refusal) -> None:
    metrics = Metrics()
    metrics.count(Count("sessions_refused", (refusal.value,)))
    labels = {"reason": refusal.value}
    assert metrics.registry.get_sample_value("dispatcher_sessions_refused_total", labels) == 1


@pytest.mark.parametrize("code", get_args(StopCode))
def test_every_stop_ends_a_session_as_it_says(code: StopCode) -> None:
    """What the stop answers, what the session bears and what its viewers read are one ending."""
    router = Router(Limits())
    router.step(events.LinkOpened("l1", "peer", "m1"), 0.0)
    hello = Hello("c1", "i1", "test/1", (AgentOffer("echo"),), {}, 1, 0, ())
    router.step(events.HelloReceived("l1", hello), 0.0)
    router.step(events.SessionRequested("s1", "echo", None), 0.0)
    effects = router.step(events.StopRequested("s1", "stop-1", code, "Why"), 1.0)
    stopped = next(effect for effect in effects if isinstance(effect, events.Stopped))
    told = next(effect.events[-1].body for effect in effects if isinstance(effect, events.Append))
    session = router.sessions["s1"]
    assert isinstance(told, Ended)
    assert session.ending is not None
    assert stopped.ending == told.ending == session.ending.value
    assert told.stop is not None
    assert codec.STOP_CODES[codec.stop_signal(told.stop).code] == code


@pytest.mark.parametrize("policy", Policy, ids=lambda policy: policy.value)
def test_every_policy_has_an_ending_and_a_code(policy: Policy) -> None:
    assert policy in MEANINGS
    assert policy.ending in (
        Ending.POLICY_BLOCKED,
        Ending.POLICY_UNAVAILABLE,
        Ending.LIMIT_EXCEEDED,
        Ending.DEADLINE_EXCEEDED,
    )
    assert policy.stop_code in get_args(StopCode)


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
@pytest.mark.parametrize(("retry_after_ms", "again_s"), [(None, None), (9_000, 9.0), (2**64 - 1, 604_800.0)])
def test_who_failed_says_whether_to_try_again(
    ending: Ending, retry_after_ms: int | None, again_s: float | None
) -> None:
    for retryable in (True, False):
        error = ErrorReport("code", "llm", "session", "why", "", retryable, retry_after_ms)
        ended = Ended(ending.value, "why", 0, 0, Usage(), error=error)
        wire, traits = codec.session_ended(ended), traits_of(ended)
        assert (wire.retryable, wire.retry_after_ms) == (traits.retryable, (traits.retry_after_s or 0) * 1000)
        if ending not in FINISHED:
            assert traits == ending.traits
        else:
            table_s = ending.traits.retry_after_s if again_s is None else again_s
            assert (traits.retryable, traits.retry_after_s) == (retryable, table_s if retryable else None)


@pytest.mark.parametrize(
    ("code", "upstream_status", "http"),
    [
        ("model_context_too_long", 400, 400),
        ("model_content_filtered", None, 400),
        ("model_rate_limited", 429, 429),
        ("model_key_refused", 401, 502),
        ("model_key_refused", 400, 502),
        ("model_unknown", 404, 502),
        ("model_unavailable", 503, 502),
        ("of_somebody_else", 400, 400),
        ("of_somebody_else", 429, 429),
        ("of_somebody_else", 401, 502),
    ],
)
def test_the_status_says_whose_fault_it_is(code: str, upstream_status: int | None, http: int) -> None:
    error = ErrorReport(code, "llm", "session", "why", upstream_status=upstream_status)
    for ending, status in ((Ending.MODEL_FAILED, http), (Ending.AGENT_FAILED, 502)):
        assert traits_of(Ended(ending.value, "why", 0, 0, Usage(), error=error)).http == status
