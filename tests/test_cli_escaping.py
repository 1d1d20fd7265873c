"""Text from agents can't steer a terminal: laws of `console.escaping`, `console.view` and `record`."""

import io
import json
import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.escaping import json_line, safe_json, safe_line, safe_text
from dispatcher.console.terminal import Look, Page
from dispatcher.console.view import PageView
from dispatcher.record import event_record

# What a terminal may do something about, spelled by category here and by ranges in the code.
_NASTY = st.sampled_from(
    "\x00\x07\x08\r\n\t\x1b\x7f\x85\x9b\u061c\u200e\u2028\u202e\u2066\u2069\U000e0041[31m"
)
TEXTS = st.text(st.one_of(_NASTY, st.characters(exclude_categories=["Cs"])))
OWN_CODES = re.compile(r"\x1b\[(?:0|1|2|31|32|36)m|\r\x1b\[K")


def steering(text: str) -> set[str]:
    """The characters in `text` that are no newline and no tab, and could steer a terminal."""
    bidi = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    return {
        character
        for character in set(text) - {"\n", "\t"}
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in bidi
    }


@given(TEXTS)
def test_no_steering_character_gets_through(text: str) -> None:
    assert not steering(safe_text(text))
    assert not steering(safe_line(text))
    assert not set(safe_line(text)) & {"\n", "\t"}


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp", "Co"]) | st.sampled_from("\n\t"))
)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert safe_text(text) == text


@given(TEXTS)
def test_json_stays_the_same_value_and_harmless(text: str) -> None:
    encoded = safe_json(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(encoded) == {text: text}
    assert not steering(encoded)
    assert "\n" not in encoded


def test_what_is_escaped_can_be_read() -> None:
    assert safe_text("\x1b]0;title\x07") == r"\x1b]0;title\x07"
    assert safe_text("\u202egnp.exe") == r"\u202egnp.exe"
    assert safe_text("\U000e0041") == r"\U000e0041"
    assert safe_text("one\r\ntwo") == "one\ntwo"
    assert safe_line("one\r\n  two\tthree") == "one two three"


@st.composite
def events(draw: st.DrawFn) -> chat_pb2.SessionEvent:
    """Any kind of event with hostile text wherever there is text."""
    a, b, c = draw(TEXTS), draw(TEXTS), draw(TEXTS)
    error = agent_pb2.ErrorSignal(code=a, message=b, origin=agent_pb2.ERROR_ORIGIN_LLM)
    number = draw(st.floats())
    kinds: dict[str, object] = {
        "opened": chat_pb2.SessionOpened(agent=a, user_id=b),
        "started": chat_pb2.SessionStarted(commander_id=a),
        "thought": agent_pb2.ThoughtChain(step_name=a, delta=b),
        "content": agent_pb2.ContentChunk(text=a),
        "tool_call": agent_pb2.ToolCallRequest(tool_name=a, arguments_json=b),
        "tool_result": agent_pb2.ToolCallResult(
            tool_name=a, result_json=b, error=draw(st.none() | st.just(agent_pb2.ToolError(message=c)))
        ),
        "progress": agent_pb2.Progress(text=a, current=number, total=draw(st.floats())),
        "question": agent_pb2.Question(
            question_id=a, text=b, options=draw(st.lists(TEXTS)), response_schema_json=c
        ),
        "answer": agent_pb2.Answer(question_id=a, value_json=b),
        "agent_event": draw(
            st.sampled_from(
                [
                    agent_pb2.AgentEvent(started=agent_pb2.AgentStarted(description=a)),
                    agent_pb2.AgentEvent(completed=agent_pb2.AgentCompleted(summary=a)),
                    agent_pb2.AgentEvent(failed=agent_pb2.AgentFailed(error=error)),
                ]
            )
        ),
        "artifact": agent_pb2.Artifact(name=a, mime_type=b, data=b"x", is_last=draw(st.booleans())),
        "embedding": agent_pb2.Embedding(name=a, model=b, values=[number]),
        "usage": agent_pb2.Usage(model=a),
        "error": error,
        "reset": chat_pb2.Reset(reason=a, discard_after=chat_pb2.Cursor(epoch=b, offset=3)),
        "gap": chat_pb2.Gap(reason=a),
        "user_message": agent_pb2.UserMessage(text=a),
        "ended": chat_pb2.SessionEnded(name=a, message=b, stop=agent_pb2.StopSignal(reason=c)),
    }
    kind = draw(st.sampled_from(sorted(kinds)))
    event = chat_pb2.SessionEvent(session_id=a, agent=draw(st.just("") | TEXTS), attempt=2)
    getattr(event, kind).CopyFrom(kinds[kind])
    return event


@given(st.lists(events(), max_size=8), st.booleans())
def test_no_event_brings_a_code_of_its_own_to_the_page(
    told: list[chat_pb2.SessionEvent], colour: bool
) -> None:
    for live in (True, False):
        stream, notices = io.StringIO(), io.StringIO()
        view = PageView(Page(stream, Look(live=live, colour=live and colour, rich=True)), notices)
        for event in told:
            view.show(event)
            view.flush()
            if event.WhichOneof("event") == "question":
                view.prompt(event.question, again=True)
            view.notice(event.session_id)
        view.close()
        printed = stream.getvalue()
        assert not steering(OWN_CODES.sub("", printed) if live else printed)
        assert not steering(notices.getvalue())
        assert printed.endswith(("\n", "\x1b[K")) or not printed


@given(events())
def test_an_event_is_one_line_of_json_with_the_same_keys(event: chat_pb2.SessionEvent) -> None:
    line = json_line(event_record(event))
    assert not steering(line)
    assert "\n" not in line
    record = json.loads(line)
    assert list(record) == ["cursor", "event", "session_id", "attempt", "agent", "timestamp", "fields"]
    assert record["event"] == event.WhichOneof("event")
