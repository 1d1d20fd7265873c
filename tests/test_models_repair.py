"""What a model says is fit to be passed on, whatever came: characters in halves, numbers that count nothing."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_scene import Scene, table
from model_server import ModelServer, Raw

from commander.models.repair import TOKENS_MAX, Repair
from commander.models.words import Finished, Reasoning, Text, Tokens, ToolCall


@given(st.text(), st.data())
def test_however_text_is_cut_it_comes_out_whole(text: str, data: st.DataObject) -> None:
    encoded = text.encode("utf-16-le")
    units = [encoded[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(encoded), 2)]
    repair, said = Repair(), ""
    while units:
        count = data.draw(st.integers(1, len(units)))
        piece = repair.said(Text("".join(units[:count])))
        assert isinstance(piece, Text)
        said, units = said + piece.text, units[count:]
    assert said + repair.rest() == text


@given(st.lists(st.text(st.characters(codec=None, categories=["Cs", "Lu"]))))
def test_whatever_comes_can_be_encoded(texts: list[str]) -> None:
    repair = Repair()
    for text in texts:
        for kind in (Text, Reasoning):
            said = repair.said(kind(text))
            assert isinstance(said, Text | Reasoning)
            said.text.encode()
        call = repair.said(ToolCall(text, text, text))
        assert isinstance(call, ToolCall)
        (call.call_id + call.name + call.arguments_json).encode()
    repair.rest().encode()


def test_what_was_odd_is_not_sent_again_as_it_came() -> None:
    repair = Repair()
    assert repair.said(Finished(native="theirs")) == Finished(native="theirs")
    repair.said(Text("\ud83d"))
    assert repair.said(Finished(native="theirs")) == Finished()
    assert repair.rest() == "\N{REPLACEMENT CHARACTER}"
    assert repair.rest() == ""


@given(st.one_of(st.integers(), st.floats(), st.none(), st.text()))
def test_counts_are_counts(number: object) -> None:
    tokens = Repair().said(Tokens(number, number, number))  # type: ignore[arg-type]  # as a server may send it
    assert isinstance(tokens, Tokens)
    assert isinstance(tokens.input, int)
    assert 0 <= tokens.input == tokens.output == tokens.reasoning <= TOKENS_MAX


def raw(value: object) -> Raw:
    return Raw(f"data: {json.dumps(value)}\n\n".encode())


def delta(finish: str | None = None, **told: object) -> Raw:
    return raw({"id": "c", "choices": [{"index": 0, "delta": told, "finish_reason": finish}]})


def test_an_emoji_in_two_pieces_is_one() -> None:
    pieces = [delta(content="a\ud83d"), delta(content="\ude00b"), delta(content="\ud83d"), delta("stop")]
    with ModelServer([delta(reasoning_content="x\ud83d"), *pieces]) as server:
        heard = asyncio.run(Scene({"fast": table(server)}).heard())
    assert heard.failure is None
    assert (heard.thoughts, heard.text) == ("x", "a😀b�")


# The libraries warn of such counts, and go on.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2**70, 1.5, -3, "many"])
def test_odd_usage_fails_no_answer(count: object) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}
    with ModelServer([delta(content="Hi"), delta("stop"), raw({"choices": [], "usage": usage})]) as server:
        heard = asyncio.run(Scene({"fast": table(server)}).heard())
    assert (heard.text, heard.failure) == ("Hi", None)
    assert all(0 <= used.usage.output_tokens <= TOKENS_MAX for used in heard.used)
