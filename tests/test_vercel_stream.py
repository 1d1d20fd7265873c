"""The parts that Vercel's AI SDK is shown: of every ending, and of any events, whoever comes back wherever."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2
from ui_message import Message

from dispatcher.core.endings import Ending
from dispatcher.core.packets import (
    Answer,
    Ended,
    ErrorReport,
    Opened,
    Reset,
    SessionEvent,
    ToolCall,
    ToolOutcome,
    ToolResult,
    Usage,
    UserMessage,
)
from dispatcher.edge.native import embedded, json_bytes
from dispatcher.edge.rendering import coalesced
from dispatcher.edge.vercel_stream import MessageStream
from dispatcher.journal import Entry


def _entry(offset: int, kind: str, text: str = "", body: object = None, agent: str = "") -> Entry:
    return Entry(1_700_000_000_000, SessionEvent(offset, kind, 1, agent, text, body))


def test_a_failure_for_good_is_not_told_as_one_to_try_again() -> None:
    error = ErrorReport("model_key_refused", "llm", "session", "no")
    ended = Ended("model_failed", "no", 0, 0, Usage(), error=error)
    made = MessageStream("s-1", "e0", thoughts=True).events([_entry(1, "ended", body=ended)]).decode()
    (metadata,) = (
        part["messageMetadata"]
        for part in (json.loads(frame[frame.index("{") :]) for frame in made.split("\n\n")[:-2])
        if part["type"] == "message-metadata"
    )
    assert (metadata["retryable"], "retryAfterMs" in metadata) == (False, False)


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_has_its_last_part(ending: Ending) -> None:
    """And text that is open is closed first."""
    ended = Ended(ending.value, "", 1, 0, Usage(), unread=("m-1",))
    stream = MessageStream("s-1", "e0", thoughts=True)
    stream.events([_entry(1, "content", "x")])
    made = stream.events([_entry(2, "ended", body=ended)]).decode().split("\n\n")
    assert made[-2:] == ["data: [DONE]", ""]
    parts = [json.loads(frame[frame.index("{") :]) for frame in made[:-2]]
    assert parts[0] == {"type": "text-end", "id": "s-1:1"}
    kinds = [part["type"] for part in parts[1:]]
    metadata = parts[2 if ending is Ending.COMPLETED else 1]["messageMetadata"]
    assert (metadata["ending"], metadata["unreadMessageIds"]) == (ending.value, ["m-1"])
    if ending is Ending.COMPLETED:
        assert kinds == ["finish-step", "finish"]
        return
    assert metadata["retryable"] is ending.traits.retryable
    if ending in (Ending.STOPPED, Ending.DETACHED):
        assert kinds == ["message-metadata", "abort"]
        assert parts[-1]["reason"]
        return
    assert kinds == ["message-metadata", "error", "finish-step", "finish"]
    assert parts[-3]["errorText"] == ending.traits.advice
    reasons = {Ending.POLICY_BLOCKED: "content-filter", Ending.LIMIT_EXCEEDED: "length"}
    assert parts[-1]["finishReason"] == reasons.get(ending, "error")


@st.composite
def sessions(draw: st.DrawFn) -> list[Entry]:
    """Events of a session in any order that a fold could meet."""
    kinds = st.sampled_from(
        ["content", "thought", "tool_call", "tool_result", "question", "answer", "reset", "user_message"]
    )
    drawn = draw(
        st.lists(st.tuples(kinds, st.sampled_from(["", "a"]), st.sampled_from(["1", "2"])), max_size=25)
    )
    bodies: dict[str, Any] = {
        "thought": lambda which: which,
        "tool_call": lambda which: ToolCall(which, "t", "{}"),
        "tool_result": lambda which: ToolResult(which, "t", ToolOutcome("1")),
        "question": lambda which: agent_pb2.Question(question_id=which).SerializeToString(),
        "answer": lambda which: Answer(which, None, "declined"),
        "reset": lambda _: Reset(1, ""),
        "user_message": lambda which: UserMessage(which, "Hi"),
    }  # fmt: skip
    return [_entry(1, "opened", body=Opened("a", "", {}))] + [
        _entry(number, kind, "x", bodies[kind](which) if kind in bodies else None, agent)
        for number, (kind, agent, which) in enumerate(drawn, 2)
    ]


@given(sessions(), st.booleans())
def test_whoever_comes_back_is_shown_exactly_the_rest(entries: list[Entry], thoughts: bool) -> None:
    """After any event; with thoughts and without, of which the journal has all."""
    shown = [entry for entry in entries if thoughts or entry.event.kind != "thought"]
    whole = MessageStream("s-1", "e0", thoughts=thoughts)
    told = [whole.events([entry]) for entry in shown]
    # What the SDK would choke on fails here.
    Message(json.loads(line[6:]) for line in b"".join(told).decode().split("\n") if line.startswith("data:"))
    for cut in range(len(shown) + 1):
        again = MessageStream("s-1", "e0", thoughts=thoughts)
        up_to = shown[cut - 1].event.offset if cut else 0
        again.recall([entry for entry in entries if entry.event.offset <= up_to])
        assert [again.events([entry]) for entry in shown[cut:]] == told[cut:]


@given(sessions(), st.booleans(), st.lists(st.integers(0, 26)))
def test_one_that_lags_has_the_same_message_and_comes_back_to_it(
    entries: list[Entry], thoughts: bool, cuts: list[int]
) -> None:
    """However the pieces of text were joined for it, and wherever it went."""
    shown = [entry for entry in entries if thoughts or entry.event.kind != "thought"]
    parts: list[dict[str, Any]] = []
    after = 0
    for cut in [*sorted(cuts), len(shown)]:
        page = [entry for entry in shown[:cut] if entry.event.offset > after]
        stream = MessageStream("s-1", "e0", thoughts=thoughts)
        stream.recall([entry for entry in entries if entry.event.offset <= after])
        lines = stream.events(coalesced(page)).decode().split("\n")
        parts += [json.loads(line[6:]) for line in lines if line.startswith("data:")]
        after = page[-1].event.offset if page else after
    whole = MessageStream("s-1", "e0", thoughts=thoughts).events(shown).decode().split("\n")
    told = [json.loads(line[6:]) for line in whole if line.startswith("data:")]
    assert Message(parts).parts == Message(told).parts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":\r\n1}', {"a": 1}),
        (str(10**40), 10**40),
        ("[" * 500 + "]" * 500, None),
        ("[" * 100_000, "[" * 100_000),
        ("NaN", "NaN"),
        ("", ""),
        ('"\u2028"', "\u2028"),
    ],
)
def test_json_within_json_stays_what_it_was(text: str, value: object) -> None:
    made = json_bytes({"value": embedded(text)})
    assert len(made.decode().splitlines()) == 1
    if value is not None:
        assert json.loads(made)["value"] == value
