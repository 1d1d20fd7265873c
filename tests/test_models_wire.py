"""What the formats of Anthropic and Google become here, at real HTTP servers: text, reasoning, calls, tokens, ends; and
what of the environment a named server is sent. OpenAI's has the rest of the tests of models."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from model_scene import Scene, table
from model_server import ModelServer, Pause, Reset, Status, Step
from wire_formats import (
    anthropic_begin,
    anthropic_end,
    anthropic_part,
    anthropic_text,
    google_end,
    google_piece,
)

from commander.models.words import ToolCall

THINKING: list[dict[str, object]] = [
    {"type": "thinking_delta", "thinking": "Let me "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "c2ln"},
]
USE: dict[str, object] = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {}}
PIECES: list[dict[str, object]] = [
    {"type": "input_json_delta", "partial_json": '{"a": 1,'},
    {"type": "input_json_delta", "partial_json": ' "b": 2}'},
]
ANTHROPIC: list[Step] = [
    anthropic_begin(),
    *anthropic_part(0, {"type": "thinking", "thinking": "", "signature": ""}, *THINKING),
    *anthropic_text(1, "Hel", "lo"),
]
GOOGLE: list[Step] = [
    google_piece({"text": "Let me see.", "thought": True}),
    google_piece({"text": "Hel"}),
    google_piece({"text": "lo"}),
]
BEGUN = {"anthropic": ANTHROPIC, "google": GOOGLE}
ENDS: dict[str, list[Step]] = {"anthropic": [*anthropic_end(thinking_tokens=2)], "google": [google_end()]}
CALLS: dict[str, list[Step]] = {
    "anthropic": [*anthropic_part(2, USE, *PIECES), *anthropic_end("tool_use")],
    "google": [google_piece({"functionCall": {"name": "add", "args": {"a": 1, "b": 2}}}), google_end()],
}
CUT: dict[str, list[Step]] = {
    "anthropic": [anthropic_end("max_tokens")[0]],
    "google": [google_end("MAX_TOKENS")],
}
REFUSED: dict[str, list[Step]] = {"anthropic": [*anthropic_end("refusal")], "google": [google_end("SAFETY")]}
BOTH = pytest.mark.parametrize("provider", ["anthropic", "google"])


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def scene_of(provider: str, server: ModelServer, **more: object) -> Scene:
    base_url = f"http://127.0.0.1:{server.port}"
    return Scene({"fast": table(server, model=f"{provider}:m", base_url=base_url, **more)})


@BOTH
def test_text_reasoning_and_tokens(server: ModelServer, provider: str) -> None:
    server.then([*BEGUN[provider], *ENDS[provider]])
    heard = asyncio.run(scene_of(provider, server).heard())
    assert heard.failure is None
    assert (heard.text, heard.thoughts) == ("Hello", "Let me see.")
    usage = heard.used[0].usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (11, 5, 2)


@BOTH
def test_calls_of_tools(server: ModelServer, provider: str) -> None:
    server.then([*BEGUN[provider], *CALLS[provider]])

    async def calls() -> Sequence[ToolCall]:
        answer = scene_of(provider, server).model().stream("Add")
        async for _ in answer:
            pass
        return answer.calls

    (call,) = asyncio.run(calls())
    assert call.name == "add"
    assert call.arguments_json.replace(" ", "") == '{"a":1,"b":2}'


@BOTH
@pytest.mark.parametrize("begun", [1, None])
def test_an_answer_whose_end_is_not_announced_is_broken_off(
    server: ModelServer, provider: str, begun: int | None
) -> None:
    """However well the connection was closed: a proxy that has had enough closes it so."""
    server.then(BEGUN[provider][:begun])
    failure = asyncio.run(scene_of(provider, server).failure())
    assert failure.code == "model_malformed"


@BOTH
def test_an_answer_that_was_cut_at_its_limit_is_one(server: ModelServer, provider: str) -> None:
    server.then([*BEGUN[provider], *CUT[provider]])
    heard = asyncio.run(scene_of(provider, server).heard())
    assert (heard.text, heard.failure) == ("Hello", None)


@BOTH
def test_a_refusal_is_told(server: ModelServer, provider: str) -> None:
    server.then([*BEGUN[provider], *REFUSED[provider]])
    failure = asyncio.run(scene_of(provider, server).failure())
    assert (failure.code, failure.has_begun) == ("model_content_filtered", True)


@BOTH
@pytest.mark.parametrize(
    ("code", "step", "is_repeated"),
    [
        ("model_request_refused", Status(400, "messages: what is this?"), False),
        ("model_context_too_long", Status(400, "prompt is too long: 300000 tokens > 200000 maximum"), False),
        ("model_context_too_long", Status(400, "The input token count (9) exceeds the maximum"), False),
        ("model_key_refused", Status(400, "API key not valid. Please pass a valid API key."), False),
        ("model_key_refused", Status(401, "invalid x-api-key"), False),
        ("model_unknown", Status(404, "model: m"), False),
        ("model_rate_limited", Status(429, "slow down"), True),
        ("model_unavailable", Status(500, "oops"), True),
        ("model_unavailable", Status(529, "Overloaded"), True),
        ("model_unreachable", Reset(), True),
    ],
)
def test_failures_have_the_codes_that_they_have_everywhere(
    server: ModelServer, provider: str, code: str, step: Step, *, is_repeated: bool
) -> None:
    server.then([step], [*BEGUN[provider], *ENDS[provider]])
    heard = asyncio.run(scene_of(provider, server).heard())
    if is_repeated:
        assert (heard.text, heard.failure) == ("Hello", None)
    else:
        assert heard.failure is not None
        assert heard.failure.code == code
        assert isinstance(step, Status)
        assert heard.failure.upstream_status == step.status
        assert len(server.requests) == 1


@BOTH
@pytest.mark.parametrize("begun", [0, 2])
def test_whoever_leaves_is_gone_at_once(server: ModelServer, provider: str, begun: int) -> None:
    server.then([*BEGUN[provider][:begun], Pause()])

    async def leave() -> None:
        hearing = asyncio.ensure_future(scene_of(provider, server).heard())
        await asyncio.to_thread(server.wait_for)
        hearing.cancel()
        await asyncio.wait((hearing,))

    asyncio.run(leave())
    assert server.wait_left() > 0


@pytest.mark.parametrize("provider", ["openai-chat", "openai", "anthropic", "google"])
def test_a_named_server_is_sent_nothing_of_the_environment(
    server: ModelServer, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "sesame-1")
    monkeypatch.setenv("OPENAI_ORG_ID", "sesame-2")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "sesame-3")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Team-Key: sesame-4")
    server.then([Status(400, "no")])
    asyncio.run(scene_of(provider, server).failure())
    assert "sesame" not in str(server.requests[0].headers)
