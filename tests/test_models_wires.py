"""Anthropic's and OpenAI's own APIs, spoken by scripted servers: the same of each, and what each has besides."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from model_server import Finish, Raw, Status, Thought
from provider_cases import Api, Cases, Failure, unquoted
from provider_wires import SIGNATURE, Messages, Responses, named

from commander.models import Reply, ToolCall, ToolReturn


def _overloaded(words: str) -> bytes:
    return named("error", error={"type": "overloaded_error", "message": words})


def _blocks(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Of Anthropic's messages."""
    contents = [each["content"] for each in body["messages"] if isinstance(each["content"], list)]
    return [block for content in contents for block in content if block["type"] == kind]


def _text(content: object) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)  # type: ignore[attr-defined]


ANTHROPIC = Api(
    "anthropic:claude-sonnet-5",
    Messages,
    key=lambda request: request.headers["authorization"].removeprefix("Bearer "),
    system=lambda body: _text(body["system"]),
    returns=lambda body: {
        each["tool_use_id"]: _text(each["content"]) for each in _blocks(body, "tool_result")
    },
    images=lambda body: [
        each["source"]["url"] if each["source"]["type"] == "url" else unquoted(each["source"]["data"])
        for each in _blocks(body, "image")
    ],
    schema=lambda body: [body.get("output_config"), body.get("output_format"), body.get("system")],
    tools=lambda body: [tool["name"] for tool in body["tools"]],
    may_not_call=lambda body: "tools" not in body or body.get("tool_choice") == {"type": "none"},
    tokens_max=lambda body: body["max_tokens"],
    thought=lambda body: [each["signature"] for each in _blocks(body, "thinking")] == [SIGNATURE],
    failures=(
        Failure(Status(401, "invalid x-api-key", "authentication_error"), "model_key_refused", 401),
        Failure(Status(403, "not for you", "permission_error"), "model_key_refused", 403),
        Failure(
            Status(404, "model: claude-none", "not_found_error"), "model_unknown", 404, words="claude-none"
        ),
        Failure(
            Status(429, "slow down", "rate_limit_error", {"Retry-After": "31"}), "model_rate_limited", 429, 31
        ),
        Failure(Status(529, "Overloaded", "overloaded_error"), "model_unavailable", 529),
        Failure(Status(500, "Internal server error", "api_error"), "model_unavailable", 500),
        Failure(
            Status(400, "prompt is too long: 210000 tokens > 200000 maximum", "invalid_request_error"),
            "model_context_too_long",
            400,
        ),
        Failure(Status(413, "Request exceeds the size", "request_too_large"), "model_context_too_long", 413),
        Failure(
            Status(400, "Your credit balance is too low", "invalid_request_error"),
            "model_quota_exhausted",
            400,
        ),
        Failure(Status(400, "temperature: 0 to 1", "invalid_request_error"), "model_request_refused", 400),
        Failure(
            Status(400, "Output blocked by content filtering policy", "invalid_request_error"),
            "model_content_filtered",
            400,
        ),
        Failure(Raw(_overloaded("too many")), "model_unavailable", 529, words="too many"),
        Failure(Raw(b"event: message_start\ndata: {nope\n\n"), "model_malformed"),
    ),
)


def _items(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Of the input of Responses."""
    return [each for each in body["input"] if each.get("type") == kind]


def _parts(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    contents = [each["content"] for each in body["input"] if isinstance(each.get("content"), list)]
    return [part for content in contents for part in content if part["type"] == kind]


def _told(body: dict[str, Any]) -> str:
    roles = ("system", "developer")
    said = [_text(each["content"]) for each in body["input"] if each.get("role") in roles]
    return "".join([body.get("instructions") or "", *said])


def _failed(code: str, words: str) -> bytes:
    response = {"id": "r", "object": "response", "status": "failed", "output": [], "model": "m", "tools": []}
    error = {"code": code, "message": words}
    return named("response.failed", sequence_number=1, response={**response, "error": error})


OPENAI = Api(
    "openai:gpt-5",
    Responses,
    at="/v1",
    key=lambda request: request.headers["authorization"].removeprefix("Bearer "),
    system=_told,
    returns=lambda body: {each["call_id"]: each["output"] for each in _items(body, "function_call_output")},
    images=lambda body: [
        each["image_url"] if each["image_url"].startswith("http") else unquoted(each["image_url"])
        for each in _parts(body, "input_image")
    ],
    schema=lambda body: body["text"]["format"],
    tools=lambda body: [tool["name"] for tool in body["tools"]],
    may_not_call=lambda body: body.get("tool_choice") == "none",
    tokens_max=lambda body: body["max_output_tokens"],
    thought=lambda body: [each["encrypted_content"] for each in _items(body, "reasoning")] == [SIGNATURE],
    failures=(
        Failure(Status(401, "Incorrect API key provided: sk-x", "invalid_api_key"), "model_key_refused", 401),
        Failure(Status(404, "The model `x` does not exist", "model_not_found"), "model_unknown", 404),
        Failure(
            Status(429, "slow down", "rate_limit_exceeded", {"Retry-After": "31"}),
            "model_rate_limited",
            429,
            31,
        ),
        Failure(Status(429, "check your plan", "insufficient_quota"), "model_quota_exhausted", 429),
        Failure(Status(529, "overloaded"), "model_unavailable", 529),
        Failure(Status(503, "The engine is overloaded", "overloaded"), "model_unavailable", 503),
        Failure(
            Status(400, "Your input exceeds the context window", "context_length_exceeded"),
            "model_context_too_long",
            400,
        ),
        Failure(
            Status(400, "your prompt was flagged", "content_policy_violation"), "model_content_filtered", 400
        ),
        Failure(Status(400, "temperature: too hot", "invalid_value"), "model_request_refused", 400),
        Failure(Raw(_failed("server_error", "it broke")), "model_unavailable", 500, words="it broke"),
        Failure(Raw(_failed("rate_limit_exceeded", "slow")), "model_rate_limited", 429, words="slow"),
        Failure(
            Raw(
                named("error", sequence_number=1, code="context_length_exceeded", message="long", param=None)
            ),
            "model_context_too_long",
            400,
            words="long",
        ),
        Failure(Raw(b"data: {nope\n\n"), "model_malformed"),
    ),
)


class TestAnthropic(Cases):
    @pytest.fixture
    def api(self) -> Api:
        return ANTHROPIC


class TestOpenAI(Cases):
    @pytest.fixture
    def api(self) -> Api:
        return OPENAI


def test_the_reasoning_of_open_models_is_thoughts_too() -> None:
    """Their servers send the text of it, where OpenAI's own sends summaries."""
    api = Api(**{**vars(OPENAI), "wire": partial(Responses, raw=True), "model": "openai:gpt-oss-120b"})
    with api.scene(Thought("Let me "), Thought("see."), "Hello", Finish()) as (scene, _):
        heard = asyncio.run(scene.heard())
    assert (heard.thoughts, heard.text, heard.failure) == ("Let me see.", "Hello", None)


def test_a_refusal_in_the_stream_is_told_in_the_model_s_words() -> None:
    with OPENAI.scene(Finish("content_filter")) as (scene, _):
        assert "the model refuses: I won't." in str(asyncio.run(scene.failure()))


def test_an_error_in_the_middle_of_an_answer_ends_it_in_the_provider_s_words() -> None:
    for api, error in ((ANTHROPIC, _overloaded("too many")), (OPENAI, _failed("server_error", "too many"))):
        with api.scene("half", Raw(error)) as (scene, _):
            heard = asyncio.run(scene.heard())
        assert heard.text == "half"
        assert heard.failure is not None
        assert (heard.failure.code, heard.failure.has_begun) == ("model_unavailable", True)
        assert "too many" in str(heard.failure)


def test_failures_of_tools_are_told_to_anthropic_as_such() -> None:
    call = ToolCall("c-1", "add", json.dumps({"a": 1}))
    with ANTHROPIC.scene("Sorry.", Finish()) as (scene, server):
        asyncio.run(scene.heard(["Add!", Reply("", (call,)), ToolReturn(call, "no", failed=True)]))
    (result,) = _blocks(server.requests[0].body, "tool_result")
    assert result["is_error"] is True
