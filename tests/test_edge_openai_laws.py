"""Laws of what OpenAI's clients are told: every ending has its word, and every number of a response gets the rest."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_edge_responses import require_lawful

from dispatcher.core.endings import ENDINGS, Ending
from dispatcher.core.packets import (
    Ended,
    Opened,
    Reset,
    SessionEvent,
    Started,
    Stop,
    ToolCall,
    ToolFailure,
    ToolOutcome,
    ToolResult,
    Usage,
)
from dispatcher.core.policy import Policy
from dispatcher.edge.openai_chunks import DONE, LENGTHS, ChatStream, Completion, Wishes, finish_reason
from dispatcher.edge.openai_errors import of_ending
from dispatcher.edge.rendering import Gap, GoAway, Lag, Slow, coalesced
from dispatcher.edge.responses_items import ResponseItems
from dispatcher.edge.responses_stream import EACH_MAX, ResponseStream, place_of
from dispatcher.journal import Entry

Said = list[tuple[str, str, object]]


def _entries(said: Said) -> list[Entry]:
    """As a journal has them: kind, text and body of each."""
    return [
        Entry(1_700_000_000_000 + offset, SessionEvent(offset, kind, 1, "", text, body))
        for offset, (kind, text, body) in enumerate(said, 1)
    ]


BEGUN: Said = [("opened", "", Opened("agent", "", {})), ("started", "", Started("c-1"))]


def _ended(ending: Ending, policy: str = "") -> Ended:
    stop = Stop("stop-1", "limit", "", 0, policy=policy) if policy else None
    return Ended(ending.value, "", 0, 0, Usage(), stop)


def _events(data: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: {")]


@pytest.mark.parametrize("ending", Ending, ids=lambda ending: ending.value)
def test_every_ending_is_an_answer_or_an_error_and_never_silence(ending: Ending) -> None:
    for policy in ("", *(each.value for each in Policy)):
        ended = _ended(ending, policy)
        entries = _entries([*BEGUN, ("content", "Word", None), ("ended", "", ended)])
        told = ChatStream("s-1", "e", Wishes()).events(entries)
        assert told.endswith(DONE)
        last = _events(told)[-1]
        reason = finish_reason(ended)
        status = ResponseItems("s-1", thoughts=False, takes_back=False)
        status.take(entries)
        if reason is None:
            assert last["error"]["code"] == ending.value
            assert of_ending(ended).status == ENDINGS[ending].http >= 400
            assert status.record()["error"]["type"] == ending.value
        else:
            assert last["choices"][0]["finish_reason"] == reason
            whole = Completion("s-1", "e", Wishes(), thoughts=False)
            whole.take(entries)
            assert json.loads(whole.body())["choices"][0]["finish_reason"] == reason
            assert status.record()["error"] is None
        cut = ending is Ending.LIMIT_EXCEEDED and policy in LENGTHS
        assert (reason == "length") == cut
        assert (status.record()["incomplete_details"] == {"reason": "max_output_tokens"}) == cut
        response = ResponseStream("s-1", thoughts=False).events(entries)
        assert _events(response)[-1]["type"] in (
            "response.completed", "response.incomplete", "response.failed",
        )  # fmt: skip
    assert finish_reason(_ended(ending)) != "length"


def test_only_what_ends_a_stream_is_told_of_what_is_no_event() -> None:
    ends = (Gap("e:9", "e:1", "forgotten"), GoAway("e:1", "away", 2000), Slow("e:1", 30))
    for notice in ends:
        chat, response = ChatStream("s-1", "e", Wishes()), ResponseStream("s-1", thoughts=False)
        for rendering in (chat, response):
            rendering.events(_entries(BEGUN))
            assert rendering.notice(Lag("coalesced", 1, 0)) == b""
        told = chat.notice(notice)
        assert told.endswith(DONE)
        assert _events(told)[0]["error"]["code"]
        assert chat.notice(notice) == b""
        (error,) = _events(response.notice(notice))
        # Whoever comes back with its number misses nothing.
        assert (error["type"], error["sequence_number"]) == ("error", EACH_MAX)


@st.composite
def sessions(draw: st.DrawFn) -> list[Entry]:
    """Whole ones, with calls that are answered, or not."""
    kinds = st.sampled_from(
        ["content", "content", "thought", "tool_call", "tool_result", "progress", "reset"]
    )
    said, calls = list(BEGUN), 0
    open_calls: list[str] = []
    for kind in draw(st.lists(kinds, max_size=25)):
        match kind:
            case "content":
                said.append((kind, draw(st.text(min_size=1, max_size=3)), None))
            case "thought":
                said.append((kind, "idea", draw(st.sampled_from(["Plan", "Do", ""]))))
            case "tool_call":
                calls += 1
                open_calls.append(f"c-{calls}")
                said.append((kind, "", ToolCall(open_calls[-1], "tool", '{"a": 1}')))
            case "tool_result" if open_calls:
                call_id = open_calls.pop(draw(st.integers(0, len(open_calls) - 1)))
                failure = draw(st.sampled_from([None, ToolFailure("failed", "no")]))
                said.append((kind, "", ToolResult(call_id, "tool", ToolOutcome("42", failure))))
            case "progress":
                said.append((kind, "", b""))
            case "reset":
                said.append((kind, "", Reset(1, "lost")))
                open_calls = []
    ending = draw(st.sampled_from([Ending.COMPLETED, Ending.STOPPED, Ending.AGENT_FAILED]))
    return _entries([*said, ("ended", "", _ended(ending))])


def _shown(entries: list[Entry], thoughts: bool) -> list[Entry]:
    return [entry for entry in entries if thoughts or entry.event.kind != "thought"]


@given(entries=sessions(), thoughts=st.booleans())
def test_every_number_gets_exactly_the_rest(entries: list[Entry], thoughts: bool) -> None:
    whole = ResponseStream("s-1", thoughts=thoughts)
    told = _events(whole.events(_shown(entries, thoughts)))
    require_lawful(told)
    assert whole.is_over
    for position, event in enumerate(told):
        offset, which = place_of(event["sequence_number"])
        again = ResponseStream("s-1", thoughts=thoughts)
        # What it has had is told whole, with the thoughts that it is not shown.
        again.recall(entries[: offset - 1])
        data = again.rest(entries[offset - 1], which + 1) + again.events(_shown(entries[offset:], thoughts))
        assert _events(data) == told[position + 1 :]


@given(entries=sessions())
def test_the_whole_is_what_the_last_attempt_said(entries: list[Entry]) -> None:
    kinds = [entry.event.kind for entry in entries]
    lost = len(kinds) - kinds[::-1].index("reset") if "reset" in kinds else 0
    text = "".join(entry.event.text for entry in entries[lost:] if entry.event.kind == "content")
    items = ResponseItems("s-1", thoughts=True, takes_back=True)
    items.take(entries)
    record = items.record()
    parts = itertools.chain.from_iterable(
        item["content"] for item in record["output"] if item["type"] == "message"
    )
    assert "".join(part["text"] for part in parts) == text
    assert record["status"] in ("completed", "cancelled", "failed")
    whole = Completion("s-1", "e", Wishes(), thoughts=True)
    whole.take(entries)
    assert json.loads(whole.body())["choices"][0]["message"]["content"] == text


@given(entries=sessions())
def test_text_that_is_joined_for_one_that_lags_is_the_same_text(entries: list[Entry]) -> None:
    for joined in (entries, coalesced(entries)):
        told = _events(ResponseStream("s-1", thoughts=True).events(joined))
        assert require_lawful(told) == require_lawful(
            _events(ResponseStream("s-1", thoughts=True).events(entries))
        )
        chat = _events(ChatStream("s-1", "e", Wishes()).events(joined))
        plain = _events(ChatStream("s-1", "e", Wishes()).events(entries))
        assert _text(chat) == _text(plain)


def _text(chunks: list[Any]) -> str:
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_an_ending_has_a_number_however_many_calls_it_leaves() -> None:
    calls: Said = [("tool_call", "", ToolCall(f"c-{n}", "tool", "{}")) for n in range(EACH_MAX + 5)]
    entries = _entries([*BEGUN, *calls, ("ended", "", _ended(Ending.COMPLETED))])
    told = _events(ResponseStream("s-1", thoughts=False).events(entries))
    numbers = [event["sequence_number"] for event in told]
    assert numbers == sorted(set(numbers))
    assert told[-1]["type"] == "response.completed"
    assert place_of(told[-1]["sequence_number"]) == (len(entries), EACH_MAX - 1)
