"""Errors that servers send with a status of success: told in the provider's words, as what they are."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from model_scene import Scene, table
from model_server import Document, Finish, ModelServer, Raw, Step, says

from commander.models.refusals import ERROR_BYTES_MAX


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


# What came, its code, the status that it tells of, and some of its words.
SAID: list[tuple[object, str, int | None, str]] = [
    ({"error": {"message": "slow down", "code": 429}}, "model_rate_limited", 429, "slow down"),
    ({"error": {"message": "wait", "type": "rate_limit_error"}}, "model_rate_limited", None, "wait"),
    (
        {"error": {"code": 429, "message": "no more", "status": "RESOURCE_EXHAUSTED"}},
        "model_rate_limited",
        429,
        "no more",
    ),
    (
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        "model_quota_exhausted",
        None,
        "exceeded",
    ),
    (
        {"error": {"message": "maximum context length is 8192 tokens", "code": 400}},
        "model_context_too_long",
        400,
        "8192",
    ),
    (
        {"error": {"message": "it was filtered", "code": "content_filter"}},
        "model_content_filtered",
        None,
        "it was filtered",
    ),
    ({"error": {"message": "no such key", "type": "authentication_error"}}, "model_key_refused", None, "key"),
    ({"error": {"message": "who are you?", "code": "401"}}, "model_key_refused", 401, "who are you?"),
    (
        {"error": {"message": "it is full", "type": "overloaded_error"}},
        "model_unavailable",
        None,
        "it is full",
    ),
    ({"error": {"message": "out of memory", "code": 500}}, "model_unavailable", 500, "out of memory"),
    ({"error": {"message": "top_k: too many", "code": 422}}, "model_request_refused", 422, "top_k"),
    ({"error": {"message": "something odd"}}, "model_error", None, "something odd"),
    ({"error": {"code": "rate_limit_exceeded"}}, "model_rate_limited", None, "rate_limit_exceeded"),
    ({"error": "model 'x' not found, try pulling it first"}, "model_unknown", None, "try pulling it"),
    (
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
        "model_unknown",
        404,
        "does not exist",
    ),
    ({"detail": "Not authenticated"}, "model_key_refused", None, "Not authenticated"),
    ({"detail": [{"msg": "field required", "type": "missing"}]}, "model_error", None, "field required"),
    (
        {"type": "error", "error": {"type": "not_found_error", "message": "model: x"}},
        "model_unknown",
        None,
        "x",
    ),
    (
        [{"error": {"code": 403, "message": "disabled", "status": "PERMISSION_DENIED"}}],
        "model_key_refused",
        403,
        "",
    ),
]
DOCUMENTS: list[tuple[object, str, int | None, str]] = [
    ({"message": "Forbidden", "code": 403}, "model_key_refused", 403, "Forbidden"),
    ({"errors": [{"message": "no route to it", "code": 7003}]}, "model_error", None, "no route to it"),
]


@pytest.mark.parametrize(("document", "code", "status", "words"), SAID + DOCUMENTS)
def test_a_document_in_an_answer_s_place_is_told_as_the_error_that_it_is(
    server: ModelServer, document: object, code: str, status: int | None, words: str
) -> None:
    server.then([Document(document)])
    failure = asyncio.run(Scene({"fast": table(server, attempts=1)}).failure())
    assert (failure.code, failure.upstream_status, failure.has_begun) == (code, status, False)
    assert words in str(failure)


@pytest.mark.parametrize(("document", "code", "status", "words"), SAID)
@pytest.mark.parametrize("event", [b"", b"event: error\n"], ids=["unnamed", "error"])
def test_so_is_an_event_of_the_stream(
    server: ModelServer, event: bytes, document: object, code: str, status: int | None, words: str
) -> None:
    server.then(["word", Raw(event + b"data: " + json.dumps(document).encode() + b"\n\n")])
    heard = asyncio.run(Scene({"fast": table(server)}).heard())
    assert (heard.text, len(server.requests)) == ("word", 1)
    assert heard.failure is not None
    assert (heard.failure.code, heard.failure.has_begun) == (code, True)
    assert words in str(heard.failure)


@pytest.mark.parametrize("model", ["openai:m", "anthropic:m"])
def test_whatever_the_provider(server: ModelServer, model: str) -> None:
    document = {"error": {"message": "slow down", "code": 429}}
    for step in (Document(document), Raw(f"data: {json.dumps(document)}\n\n".encode())):
        server.then([step])
        failure = asyncio.run(Scene({"fast": table(server, model=model, attempts=1)}).failure())
        assert (failure.code, failure.retryable) == ("model_rate_limited", True)
        assert "slow down" in str(failure)


def test_what_fails_in_passing_is_tried_again_when_the_server_says(server: ModelServer) -> None:
    document = {"error": {"message": "slow down", "code": 429}}
    server.then([Document(document, {"Retry-After": "1"})], says("fine"))
    assert asyncio.run(Scene({"fast": table(server)}).heard()).text == "fine"
    first, second = server.requests
    assert second.came_at - first.came_at >= 1


def test_it_is_cut_and_tells_no_key(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    server.then([Document({"error": {"message": "no sk-hunter2-hunter2 " + "x" * 10_000}})])
    scene = Scene({"fast": table(server, api_key_env="THE_KEY")}, {"THE_KEY": "sk-hunter2-hunter2"})
    failure = asyncio.run(scene.failure())
    assert "hunter2" not in f"{failure} {caplog.text}"
    assert "no … xxx" in str(failure)
    assert len(str(failure)) < 500


ANSWERS: list[tuple[list[Step], str]] = [
    (["error", Finish()], "error"),
    (['{"error": "', '{"detail": "x"}', Finish()], '{"error": "{"detail": "x"}'),
    ([Raw(b': {"error": "a comment"}\n\n'), "fine", Finish()], "fine"),
    (
        ["x" * (2 * ERROR_BYTES_MAX) + '"error"', "error", Finish()],
        "x" * (2 * ERROR_BYTES_MAX) + '"error"error',
    ),
    ([*(["piece "] * 500), "error", Finish()], "piece " * 500 + "error"),
]


@pytest.mark.parametrize(("steps", "text"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_that_speaks_of_errors_is_one(server: ModelServer, steps: list[Step], text: str) -> None:
    server.then(steps)
    heard = asyncio.run(Scene({"fast": table(server)}).heard())
    assert (heard.text, heard.failure) == (text, None)


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "x" * ERROR_BYTES_MAX}},
        {"error": None},
        {"hello": "world"},
        [],
        {"choices": [{"message": {"role": "assistant", "content": "no stream"}}]},
    ],
    ids=["long", "null", "other", "list", "whole"],
)
def test_a_document_that_is_no_error_is_no_answer_either(server: ModelServer, document: object) -> None:
    server.then([Document(document)])
    assert asyncio.run(Scene({"fast": table(server)}).failure()).code == "model_malformed"
