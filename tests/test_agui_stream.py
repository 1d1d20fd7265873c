"""The events that AG-UI's clients are shown: of every ending, and of any events, over however many runs."""

import json
from typing import Any

import pytest
from agui_run import Run
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2

from dispatcher.core.endings import Ending
from dispatcher.core.packets import (
    Answer,
    Ended,
    Reset,
    SessionEvent,
    ToolCall,
    ToolOutcome,
    ToolResult,
    Usage,
    UserMessage,
)
from dispatcher.edge import agui_bodies
from dispatcher.edge.agui_bodies import Interrupt, RunBody, parse_interrupt
from dispatcher.edge.agui_stream import RunStream
from dispatcher.edge.bodies import parsed
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.rendering import GoAway, Lag, Slow
from dispatcher.journal import Entry

HI = {"id": "u-1", "role": "user", "content": "Hi"}


def _entry(
    offset: int, kind: str, text: str = "", body: object = None, agent: str = "", attempt: int = 1
) -> Entry:
    return Entry(1_700_000_000_000, SessionEvent(offset, kind, attempt, agent, text, body))


def _stream(*, thoughts: bool = True, is_older: bool = False, messages: Any = (HI,)) -> RunStream:
    run = agui_bodies.Run("t-1", "r-1", messages, is_older)
    return RunStream("s-1", "e0", run, thoughts=thoughts)


def _events(data: bytes) -> list[dict[str, Any]]:
    frames = data.decode().split("\n\n")
    assert frames.pop() == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("ending", Ending)
def test_every_ending_ends_the_run_and_leaves_nothing_open(ending: Ending, is_older: bool) -> None:
    stream = _stream(is_older=is_older)
    call = ToolCall("c", "t", "{}")
    entries = [
        _entry(1, "thought", "x", "Plan", "a"),
        _entry(2, "content", "y", agent="a/b"),
        _entry(3, "tool_call", body=call),
    ]
    ended = Ended(ending.value, "", 1, 0, Usage(1, 2, 0, "m"))
    run = Run(_events(stream.events([*entries, _entry(4, "ended", body=ended)])))
    assert len(run.of("tool")) == 1
    if ending is Ending.COMPLETED:
        assert run.last["outcome"] == {"type": "success"}
    elif ending in (Ending.STOPPED, Ending.DETACHED) and not is_older:
        assert run.last["outcome"] == {"type": "cancelled"}
    else:
        assert (run.last["type"], run.last["code"]) == ("RUN_ERROR", ending.value)
        assert run.last["message"] == ending.traits.advice
    assert ("usage" in run.last) is not is_older


def test_what_a_viewer_alone_is_told_comes_within_a_run() -> None:
    for notice in (Lag("thinned", 1, 2), GoAway("e0:1", "away", 1), Slow("e0:1", 1.0)):
        run = Run(_events(_stream().notice(notice)))
        assert run.last["type"] == ("CUSTOM" if isinstance(notice, Lag) else "RUN_ERROR")


@st.composite
def sessions(draw: st.DrawFn) -> list[Entry]:
    """Events of a session in any order that a fold could meet, and its ending."""
    plain = [
        "content",
        "thought",
        "tool_call",
        "tool_result",
        "question",
        "answer",
        "reset",
        "user_message",
        "usage",
    ]
    kinds = st.sampled_from([*plain, "started", "completed", "failed", "progress"])
    agents = st.sampled_from(["", "a", "a/b"])
    drawn = draw(st.lists(st.tuples(kinds, agents, st.sampled_from(["1", "2"])), max_size=25))
    bodies: dict[str, Any] = {
        "thought": lambda which, _: which,
        "tool_call": lambda which, _: ToolCall(which, "t", "{}"),
        "tool_result": lambda which, _: ToolResult(which, "t", ToolOutcome("1")),
        "question": lambda which, _: agent_pb2.Question(question_id=which).SerializeToString(),
        "answer": lambda which, _: Answer(which, None, "declined"),
        "reset": lambda *_: Reset(1, ""),
        "user_message": lambda _, number: UserMessage(f"m-{number}", "Hi"),
        "usage": lambda *_: agent_pb2.Usage(input_tokens=1).SerializeToString(),
        "started": lambda *_: agent_pb2.AgentEvent(started=agent_pb2.AgentStarted()).SerializeToString(),
        "completed": lambda *_: agent_pb2.AgentEvent(
            completed=agent_pb2.AgentCompleted()
        ).SerializeToString(),
        "failed": lambda *_: agent_pb2.AgentEvent(failed=agent_pb2.AgentFailed()).SerializeToString(),
        "progress": lambda *_: b"",
    }
    entries = []
    attempt, calls = 1, set()
    for number, (kind, agent, which) in enumerate(drawn, 2):
        attempt += kind == "reset"
        if kind == "tool_call":
            # Unique within an attempt; whoever asks again hears the same.
            if (attempt, which) in calls:
                continue
            calls.add((attempt, which))
        body = bodies[kind](which, number) if kind in bodies else None
        name = "agent_event" if kind in ("started", "completed", "failed") else kind
        path = agent if kind not in ("reset", "user_message", "answer", "tool_result") else ""
        entries.append(
            _entry(number, name, "x", body, path or ("a" if name == "agent_event" else ""), attempt)
        )
    used = sum(entry.event.kind == "usage" for entry in entries)
    ended = Ended("completed", "", 0, 0, Usage(input_tokens=used))
    return [*entries, _entry(len(drawn) + 2, "ended", body=ended)]


@given(sessions(), st.booleans(), st.booleans())
def test_any_session_is_lawful_runs_whose_messages_are_what_counts(
    entries: list[Entry], thoughts: bool, is_older: bool
) -> None:
    """A run up to each question; the next goes on behind it, with the messages that its client has by then."""
    messages: list[dict[str, Any]] = [HI]
    after = used = 0
    said = ""
    while after < entries[-1].event.offset:
        stream = _stream(thoughts=thoughts, is_older=is_older, messages=messages)
        if after:
            stream.recall([entry for entry in entries if entry.event.offset <= after])
        data = b""
        for entry in [entry for entry in entries if entry.event.offset > after]:
            after = entry.event.offset
            kind = entry.event.kind
            if kind == "content":
                said += "x"
            elif kind == "reset":
                said = ""
            if kind != "thought" or thoughts:
                data += stream.events([entry])
            if kind == "question":
                assert stream.interrupted is not None
                break
        run = Run(_events(data), messages)
        messages = run.messages
        used += sum(each["inputTokens"] for each in run.last.get("usage", []))
        if run.last.get("outcome", {}).get("type") == "interrupt":
            assert run.interrupt["id"] == str(stream.interrupted)
        # An answer lost on its way is shown once more, the same.
        assert len({each["id"] for each in messages}) == len(messages)
    assert run.text == said
    assert len(run.of("user")) == 1 + sum(entry.event.kind == "user_message" for entry in entries)
    assert len(run.of("tool")) == len([each for each in run.messages if "toolCalls" in each])
    assert is_older or used == sum(entry.event.kind == "usage" for entry in entries)


@given(st.text("s-1:é", min_size=1), st.integers(0, 10**12), st.integers(0, 9), st.text(min_size=1))
def test_an_interrupts_id_is_read_as_it_was_written(
    session_id: str, offset: int, attempt: int, question_id: str
) -> None:
    interrupt = Interrupt(session_id.replace(":", "-"), offset, attempt, question_id)
    assert parse_interrupt(str(interrupt)) == interrupt


@given(st.text())
def test_any_text_is_an_interrupts_id_or_none(text: str) -> None:
    found = parse_interrupt(text)
    assert found is None or found.question_id


def test_a_conversation_is_no_deeper_than_can_be_told_back() -> None:
    """A reset tells the client's own messages."""
    refused = []
    for depth in (10, 150, 190, 250, 400):
        deep = "[" * depth + "]" * depth
        text = f'{{"threadId": "t", "runId": "r", "messages": [{{"role": "user", "content": "x", "more": {deep}}}]}}'
        try:
            body = parsed(RunBody, text.encode())
        except ProblemError:
            refused.append(depth)
            continue
        stream = RunStream("s-1", "e0", body.run, thoughts=False)
        assert Run(_events(stream.events([_entry(2, "reset", body=Reset(1, ""))])))
    assert 150 not in refused
