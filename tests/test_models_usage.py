"""What an answer has cost: counted once, of every answer that cost something, within the budget of each model."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from model_scene import Scene, table
from model_server import Finish, ModelServer, Raw


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def piece(text: str, output_tokens: int) -> Raw:
    """A piece with all that has been used up to then, as some servers send it."""
    usage = {
        "prompt_tokens": 1_000,
        "completion_tokens": output_tokens,
        "total_tokens": 1_000 + output_tokens,
    }
    chunk = {
        "id": "chat-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "scripted",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        "usage": usage,
    }
    return Raw(f"data: {json.dumps(chunk)}\n\n".encode())


@pytest.mark.parametrize("parameters", [{}, {"extra_body": {"top_k": 3}}], ids=["plain", "extra"])
def test_usage_that_comes_with_every_piece_is_counted_once(
    server: ModelServer, parameters: dict[str, object]
) -> None:
    pieces = [piece("w", number) for number in range(1, 101)]
    server.then([*pieces, Finish("stop", 1_000, 100)])
    heard = asyncio.run(Scene({"fast": table(server, parameters=parameters)}).heard())
    (used,) = heard.used
    assert (heard.text, used.usage.input_tokens, used.usage.output_tokens) == ("w" * 100, 1_000, 100)
    body = server.requests[0].body
    assert body["stream_options"] == {"include_usage": True}
    assert body.get("top_k") == (3 if parameters else None)


def test_an_answer_that_was_filtered_has_cost_its_tokens(server: ModelServer) -> None:
    server.then(["half", Finish("content_filter", 11, 5)], [Finish("content_filter", 11, 5)])
    scene = Scene({"fast": table(server)})
    for has_begun in (True, False):
        heard = asyncio.run(scene.heard())
        (used,) = heard.used
        assert (used.usage.input_tokens, used.usage.output_tokens) == (11, 5)
        assert heard.failure is not None
        assert (heard.failure.code, heard.failure.has_begun) == ("model_content_filtered", has_begun)
