"""What an answer has cost: counted once, of every answer that cost something, within the budget of each model."""

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
from model_scene import Scene, table
from model_server import Finish, ModelServer, Raw, Status, says
from page import ROOT

from commander.conversation import Blob, Message


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


# ---- the budget ----


def test_answers_at_once_share_one_budget(server: ModelServer) -> None:
    server.then([*["w"] * 100, Finish(output_tokens=100)])

    async def ten() -> list[tuple[int, str]]:
        scene = Scene({"fast": table(server, output_tokens_max=100)})
        heard = await asyncio.gather(*(scene.heard() for _ in range(10)))
        assert (await scene.failure()).code == "model_budget_spent"
        return [(len(each.text), each.failure.code if each.failure else "") for each in heard]

    came = asyncio.run(ten())
    assert sum(chars for chars, _ in came) <= 100
    assert {code for _, code in came} <= {"", "model_budget_spent"}
    assert len(server.requests) <= 10


def test_an_answer_that_breaks_off_or_tells_no_usage_has_spent_what_it_said(server: ModelServer) -> None:
    bare = Raw(b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
    for last in (bare, None):
        server.then([*["w"] * 60, *([] if last is None else [last])])
        scene = Scene({"fast": table(server, output_tokens_max=100)})
        asyncio.run(scene.heard())
        server.then(says("more"))
        asyncio.run(scene.heard())
        assert server.requests[-1].body["max_tokens"] == 40


def test_one_answer_alone_may_spend_all_of_it(server: ModelServer) -> None:
    server.then([*["word "] * 20, Finish(output_tokens=20)])
    heard = asyncio.run(Scene({"fast": table(server, output_tokens_max=20)}).heard())
    assert (heard.text, heard.failure) == ("word " * 20, None)


def test_a_fallback_is_asked_and_counted_by_its_own_table(server: ModelServer) -> None:
    server.then([Status(500)])
    with ModelServer(says("fine", output_tokens=30)) as other:
        tables = {
            "fast": table(server, fallbacks=["deep"], attempts=1, system="Be fast.", output_tokens_max=500),
            "deep": table(other, system="Be deep.", output_tokens_max=50),
        }
        scene = Scene(tables)
        assert asyncio.run(scene.heard()).text == "fine"
        (request,) = other.requests
        assert request.messages[0] == {"role": "system", "content": "Be deep."}
        assert request.body["max_tokens"] == 50
        assert scene.counted("commander_model_tokens_total", model="deep", kind="output") == 30
        assert scene.counted("commander_model_tokens_total", model="fast", kind="output") == 0
        asyncio.run(scene.heard())
        assert other.requests[1].body["max_tokens"] == 20
        asyncio.run(scene.heard(system="Mine."))
    assert server.requests[0].messages[0] == {"role": "system", "content": "Be fast."}
    assert server.requests[0].body["max_tokens"] == server.requests[2].body["max_tokens"] == 500
    assert server.requests[2].messages[0] == {"role": "system", "content": "Mine."}


def test_a_fallback_that_reads_no_pictures_is_passed_over(server: ModelServer) -> None:
    picture = Message("user", ("What?", Blob("image/png", b"png")))
    server.then([Status(500)])
    with ModelServer() as second, ModelServer(says("a cat")) as third:
        tables = {
            "fast": table(server, fallbacks=["b", "c"], attempts=1),
            "b": table(second, accepts=[]),
            "c": table(third),
        }
        assert asyncio.run(Scene(tables).heard(picture)).text == "a cat"
        assert not second.requests


def test_usage_bears_the_name_that_the_page_of_policies_has_a_price_for(server: ModelServer) -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    assert "`small` for the `openai-chat:small`" in text
    priced = re.findall(r'^\[price\."?([^"\]]+)', text, re.MULTILINE)
    for name in priced:
        scene = Scene({"fast": table(server, model=f"openai-chat:{name}")})
        assert asyncio.run(scene.heard()).used[0].usage.model == name
    assert "small" in priced
