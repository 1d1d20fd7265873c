"""Google's own API, spoken by a scripted server."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from model_server import Finish, Raw, Status, event_of
from provider_cases import Api, Cases, Failure, unquoted
from provider_wires import SIGNATURE, Contents


def _parts(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part for content in body["contents"] for part in content["parts"] if kind in part]


def _images(body: dict[str, Any]) -> Iterator[bytes | str]:
    for part in (part for content in body["contents"] for part in content["parts"]):
        if "inlineData" in part:
            yield unquoted(part["inlineData"]["data"])
        elif "fileData" in part:
            yield part["fileData"]["fileUri"]


def _returned(part: dict[str, Any]) -> str:
    """What a tool returned, or its failure."""
    return "".join(part["functionResponse"]["response"].values())


def _called(body: dict[str, Any]) -> str | None:
    mode: str | None = body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode")
    return mode


def _error(code: int, status: str, words: str) -> bytes:
    return event_of({"error": {"code": code, "message": words, "status": status}})


QUOTA = "You exceeded your current quota"
GOOGLE = Api(
    "google:gemini-3-pro-preview",
    Contents,
    key=lambda request: request.headers["x-goog-api-key"],
    system=lambda body: "".join(part["text"] for part in body["systemInstruction"]["parts"]),
    returns=lambda body: {
        part["functionResponse"]["id"]: _returned(part) for part in _parts(body, "functionResponse")
    },
    images=lambda body: [*_images(body)],
    schema=lambda body: [body["generationConfig"], body.get("systemInstruction")],
    tools=lambda body: [
        each["name"] for tool in body["tools"] for each in tool.get("functionDeclarations", ())
    ],
    may_not_call=lambda body: "tools" not in body or _called(body) == "NONE",
    tokens_max=lambda body: body["generationConfig"]["maxOutputTokens"],
    takes_addresses=False,
    # Its client takes a comment for an answer that makes no sense.
    begins=b"\n\n",
    thought=lambda body: next(iter(_parts(body, "functionCall")))["thoughtSignature"] == SIGNATURE,
    failures=(
        Failure(
            Status(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT"),
            "model_key_refused",
            400,
        ),
        Failure(Status(403, "not for you", "PERMISSION_DENIED"), "model_key_refused", 403),
        Failure(Status(404, "models/x is not found", "NOT_FOUND"), "model_unknown", 404),
        Failure(
            Status(429, QUOTA, "RESOURCE_EXHAUSTED", {"Retry-After": "31"}), "model_rate_limited", 429, 31
        ),
        Failure(Status(503, "The model is overloaded.", "UNAVAILABLE"), "model_unavailable", 503),
        Failure(Status(500, "An internal error", "INTERNAL"), "model_unavailable", 500),
        Failure(
            Status(
                400,
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
                "INVALID_ARGUMENT",
            ),
            "model_context_too_long",
            400,
        ),
        Failure(Status(400, "temperature: 0 to 2", "INVALID_ARGUMENT"), "model_request_refused", 400),
        Failure(
            Status(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
            "model_request_refused",
            400,
        ),
        Failure(Raw(_error(503, "UNAVAILABLE", "too many")), "model_unavailable", 503, words="too many"),
        Failure(Raw(_error(429, "RESOURCE_EXHAUSTED", QUOTA)), "model_rate_limited", 429),
        Failure(
            Raw(event_of({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "m"})),
            "model_content_filtered",
        ),
        Failure(Raw(b"data: {nope\n\n"), "model_malformed"),
    ),
)


class TestGoogle(Cases):
    @pytest.fixture
    def api(self) -> Api:
        return GOOGLE


def test_it_is_asked_for_a_stream_of_events() -> None:
    with GOOGLE.scene("Hello", Finish()) as (scene, server):
        assert asyncio.run(scene.heard()).text == "Hello"
    path = server.requests[0].path
    assert path.endswith("/models/gemini-3-pro-preview:streamGenerateContent?alt=sse")


def test_an_error_in_the_middle_of_an_answer_ends_it_in_the_provider_s_words() -> None:
    with GOOGLE.scene("half", Raw(_error(503, "UNAVAILABLE", "too many"))) as (scene, _):
        heard = asyncio.run(scene.heard())
    assert heard.text == "half"
    assert heard.failure is not None
    assert (heard.failure.code, heard.failure.has_begun) == ("model_unavailable", True)
    assert "too many" in str(heard.failure)
