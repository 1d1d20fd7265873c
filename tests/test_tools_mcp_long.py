"""Which call an answer is for that was too long: never another one than its own, however its members stand."""

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.tools.lines import HEAD_BYTES
from dispatcher.tools.mcp_long import UncertainError, call_of

LONG = "x" * 3_000
ANYTHING = st.recursive(
    st.none() | st.integers() | st.text() | st.just(LONG) | st.just('"id":7}') | st.just(',"id":7}'),
    lambda s: st.lists(s) | st.dictionaries(st.sampled_from(["id", "a", '"id"', ',"id"', "result"]), s),
)
ORDERS = st.sampled_from(list(permutations(["jsonrpc", "id", "result"])))


def call_in(text: str) -> int | None:
    line = text.encode()
    return call_of(line[:HEAD_BYTES], line[-HEAD_BYTES:])


@given(ANYTHING, ORDERS, st.sampled_from([(",", ":"), (", ", ": ")]))
def test_a_call_is_the_answers_own(result: Any, order: Any, separators: tuple[str, str]) -> None:
    told = {"jsonrpc": "2.0", "id": 41, "result": {"inner": result, "more": LONG}}
    text = json.dumps({name: told[name] for name in order}, separators=separators, ensure_ascii=False)
    assert call_in(text) == 41


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": LONG, "id": 7}},
        {"params": {"id": 7, "result": LONG}, "method": "x", "jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {"result": LONG}},
        {"jsonrpc": "2.0", "id": 7, "params": {"result": LONG}, "method": "sampling/createMessage"},
    ],
)
def test_what_asks_or_tells_answers_nothing(message: Any) -> None:
    assert call_in(json.dumps(message)) is None


@pytest.mark.parametrize("text", ["y" * 2_000, "{" + "y" * 2_000, "{" * 2_000, '{"a": ' + "1" * 2_000, ""])
def test_what_is_no_message_answers_nothing(text: str) -> None:
    assert call_in(text) is None


@pytest.mark.parametrize("end", ['"id": "x"}', '"id": 7, "more": 1}', '"a": {"id": 7}}', "", '"x\\"id": 7}'])
def test_an_answer_without_a_number_that_is_certain_is_uncertain(end: str) -> None:
    with pytest.raises(UncertainError):
        call_in('{"result": "' + LONG + '", ' + end)


def test_a_number_that_breaks_off_is_none() -> None:
    text = '{"result": {}, "jsonrpc": "2.0", "id": 1'
    with pytest.raises(UncertainError):
        call_of(text.encode(), b"x" * HEAD_BYTES)
