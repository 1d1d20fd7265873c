"""The description at /openapi.json is true: every endpoint is tried with what it allows and with what it does not, and
answers with nothing that it does not tell."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import schemathesis
from asynchronous import PATIENCE_S, asynchronous
from commander_here import serving
from dispatcher_process import DispatcherProcess, running_dispatcher
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from scripted_commander import unique
from web_viewer import browsing

from commander import Turn, agent

EXAMPLES = 25
FOREIGN = {"openai", "vercel", "ag-ui"}
QUICK = unique("quick")


@agent(QUICK)
async def quick(turn: Turn) -> AsyncIterator[str]:
    """Says one word, and asks nothing."""
    yield "Hello"


@contextlib.contextmanager
def _served() -> Iterator[DispatcherProcess]:
    flags = ("--http-address", "127.0.0.1:0", "--journal-keep-sessions", "50", "--http-poll-s-max", "60")
    with running_dispatcher(*flags) as dispatcher, serving(dispatcher.address, quick):
        yield dispatcher


@pytest.fixture(scope="module")
def served() -> Iterator[DispatcherProcess]:
    with _served() as dispatcher:
        yield dispatcher


def test_every_endpoint_is_as_described(served: DispatcherProcess) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        # Every endpoint is tried alone, so that one that is wrong is named.
        _try(found.ok())


def _try(operation: Any) -> None:
    # What other clients send has a form that is described elsewhere, and agents can't be told all that it allows.
    excluded: list[Any] = [positive_data_acceptance] if FOREIGN.intersection(operation.tags or ()) else []

    @given(case=operation.as_strategy())
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
    def tried(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(timeout=PATIENCE_S, excluded_checks=excluded)

    tried()


@asynchronous
async def test_every_endpoint_has_its_description(served: DispatcherProcess) -> None:
    async with browsing(served.url) as client:
        told = (await client.get("/openapi.json")).json()
        assert told["openapi"].startswith("3.1")
        named = {f"{method.upper()} {path}" for path, methods in told["paths"].items() for method in methods}
        assert {
            "POST /v1/sessions",
            "GET /v1/sessions",
            "GET /v1/sessions/{session_id}",
            "GET /v1/sessions/{session_id}/events",
            "POST /v1/sessions/{session_id}/stop",
            "POST /v1/sessions/{session_id}/answers/{question_id}",
            "POST /v1/sessions/{session_id}/messages",
            "POST /v1/chat/completions",
            "GET /v1/models",
            "GET /v1/models/{model}",
            "POST /v1/responses",
            "GET /v1/responses/{response_id}",
            "POST /v1/responses/{response_id}/cancel",
            "POST /api/chat",
            "GET /api/chat/{chat_id}/stream",
            "POST /api/chat/{chat_id}/stop",
            "POST /ag-ui",
            "POST /ag-ui/{agent}",
        } <= named
        for methods in told["paths"].values():
            for operation in methods.values():
                assert operation["summary"], operation
