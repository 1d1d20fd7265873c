"""The agent `replay`: its recordings, how they are read and made, and how they are played over the real wire."""

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous
from chat_viewer import Conversation, Seen, conversing
from commander_process import running_commander
from dispatcher_process import ROOT, DispatcherProcess
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from commander.agents import recording, replay
from commander.agents.recorder import recorded
from commander.agents.recording import Line, RecordingError, parse
from dispatcher.record import event_record

DISPATCHER_FLAGS = ("--tools", "dispatcher.tools.demo:TOOLS")
SHIPPED = sorted(path.stem for path in replay.SHIPPED.glob("*.jsonl"))

# -- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ('{"content": "Hi"}', "content", "Hi"),
        ('{"thought": ["Planning", "Hm."]}', "thought", ("Planning", "Hm.")),
        ('{"tool_call": {"name": "clock"}}', "tool_call", {"name": "clock", "arguments": {}, "wait": True}),
        (
            '{"progress": {"text": "half", "percent": 50}}',
            "progress",
            {"text": "half", "current": None, "total": None, "percent": 50},
        ),
        (
            '{"question": {"text": "Which?"}}',
            "question",
            {"text": "Which?", "options": [], "schema": None, "expires_in_s": None},
        ),
        (
            '{"artifact": {"name": "a", "text": "é"}}',
            "artifact",
            {"name": "a", "mime_type": "text/plain", "content": "é".encode()},
        ),
        (
            '{"artifact": {"name": "a", "base64": "AP8="}}',
            "artifact",
            {"name": "a", "mime_type": "application/octet-stream", "content": b"\0\xff"},
        ),
        (
            '{"embedding": {"values": [1, 0.5]}}',
            "embedding",
            {"values": [1.0, 0.5], "name": "", "model": ""},
        ),
        (
            '{"usage": {"output_tokens": 3}}',
            "usage",
            {"input_tokens": 0, "output_tokens": 3, "reasoning_tokens": 0, "model": ""},
        ),
        (
            '{"error": {"code": "c", "message": "m"}}',
            "error",
            {"code": "c", "message": "m", "retryable": False, "retry_after_s": None},
        ),
    ],
)
def test_reads_a_line(text: str, kind: str, value: object) -> None:
    assert parse([text, "", "  \n"], "r") == [Line(0.0, kind, value)]


def test_reads_the_time() -> None:
    assert parse(['{"after_ms": 12.5, "content": ""}'], "r")[0].after_s == 0.0125


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Hello", "the line is no JSON: Expecting value"),
        ("[" * 200_000, "the line is nested too deeply"),
        ('{"after_ms": NaN, "content": ""}', "the line is no JSON: NaN is no number in JSON"),
        ('{"content": "\\ud800"}', "the line holds half of a surrogate pair, which is no text"),
        ('"Hello"', 'the line should be an object such as {"content": "Hello"}, not "Hello"'),
        ("{}", "it has none"),
        ('{"after_ms": 1}', "it has none"),
        (
            '{"contents": "Hi"}',
            'usage, error; it has "contents"',
        ),
        ('{"content": "Hi", "usage": {}}', 'it has "content", "usage"'),
        ('{"content": 1}', "content should be a text, not 1"),
        ('{"content": null}', "content should be a text, not nothing"),
        (
            '{"after_ms": -1, "content": ""}',
            "after_ms should be a number from 0 to 3600000, not -1",
        ),
        ('{"after_ms": true, "content": ""}', "after_ms should be a number from 0 to 3600000, not true"),
        ('{"thought": "Hm"}', 'thought should be two texts such as ["Planning", "Hm."], not "Hm"'),
        ('{"tool_call": "clock"}', "tool_call should be an object with name, arguments, wait, not"),
        ('{"tool_call": {}}', "tool_call.name should be a text, not nothing"),
        (
            '{"tool_call": {"name": "a", "args": {}}}',
            "tool_call.args is not known; tool_call may have name, ",
        ),
        (
            '{"tool_call": {"name": "a", "arguments": []}}',
            r"tool_call.arguments should be an object, not []",
        ),
        ('{"tool_call": {"name": "a", "wait": 1}}', "tool_call.wait should be true or false, not 1"),
        ('{"progress": {"text": "", "percent": 101}}', "progress.percent should be a number from 0 to 100"),
        ('{"progress": {"text": "", "total": "2"}}', 'progress.total should be a number, not "2"'),
        (
            '{"question": {"text": "", "options": [1]}}',
            r"question.options should be a list of texts, not [1]",
        ),
        ('{"question": {"text": "", "schema": 1}}', "question.schema should be an object, not 1"),
        ('{"artifact": {"name": "a"}}', "artifact should have text or base64, one of them"),
        ('{"artifact": {"name": "a", "text": "", "base64": ""}}', "text or base64, one of them"),
        ('{"artifact": {"name": "a", "base64": "?"}}', "artifact.base64 is no base64: "),
        ('{"embedding": {}}', "embedding.values should be a list of numbers, not nothing"),
        ('{"embedding": {"values": [1, "2"]}}', 'embedding.values[1] should be a number, not "2"'),
        ('{"usage": {"input_tokens": 1.5}}', "usage.input_tokens should be a whole number from 0, not 1.5"),
        ('{"error": {"code": "c"}}', "error.message should be a text, not nothing"),
        ('{"embedding": {"values": [1' + "0" * 400 + "]}}", "too large"),
    ],
)
def test_a_wrong_line_is_named_with_its_field_and_the_mend(text: str, why: str) -> None:
    with pytest.raises(RecordingError) as wrong:
        parse(['{"content": ""}', text], "r")
    assert str(wrong.value).startswith("r:2: ")
    assert why in str(wrong.value)


def test_a_recording_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordingError, match="r: it is empty"):
        parse(["", "\n"], "r")
    with pytest.raises(
        RecordingError, match="r:1: the line has 1,048,577 characters; at most 1,048,576 may be"
    ):
        parse([" " * (recording.LINE_CHARS_MAX - 1) + "{}"], "r")
    monkeypatch.setattr(recording, "LINES_MAX", 1_000)
    with pytest.raises(RecordingError, match=r"r:1002: a recording has at most 1,000 lines"):
        parse(["", *['{"content": ""}'] * 1_001], "r")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["text", "name", "values", "code"]), inner)
    ),
)


_KEYS = (
    "content",
    "thought",
    "tool_call",
    "progress",
    "question",
    "artifact",
    "embedding",
    "usage",
    "error",
    "after_ms",
)


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON) | _JSON)
def test_any_line_is_right_or_told_wrong(told: object) -> None:
    with contextlib.suppress(RecordingError):
        parse([json.dumps(told)], "r")


# -- finding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_is_right(name: str) -> None:
    assert replay.load(name, replay.SHIPPED)
    assert replay.load(f"{name}.jsonl", replay.SHIPPED)


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_text('{"content": "secret"}\n')
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "mine.jsonl").write_text('{"content": "mine"}\n')
    (folder / "link.jsonl").symlink_to(outside)
    assert replay.load("mine", folder)
    for name in ("../outside", "link", str(outside), "", ".", "..", "/etc/passwd", "a\0b", "mine/../mine"):
        with pytest.raises(RecordingError, match=r"there is no recording .*; there are "):
            replay.load(name, folder)
    with pytest.raises(RecordingError, match=r"there are mine$"):
        replay.load("mein", folder)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"CHATSTREAM_RECORDINGS names .*, which is no folder"):
        replay.load("a", tmp_path / "nowhere")
    with pytest.raises(RecordingError, match="there are none"):
        replay.load("a", tmp_path)
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(RecordingError, match=r"b\.jsonl: it can't be read"):
        replay.load("b", tmp_path)


def test_a_recording_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text in ("one", "three"):
        path.write_text(json.dumps({"content": text}))
        assert replay.load("a", tmp_path)[0].value == text


# -- over the wire -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of the tests' own, beside those that are shipped."""
    made = tmp_path_factory.mktemp("recordings")
    for path in replay.SHIPPED.glob("*.jsonl"):
        (made / path.name).write_bytes(path.read_bytes())
    everything = [
        {"thought": ["Planning", "Hm."]},
        {"content": "a"},
        {"embedding": {"values": [0.5, 0.25], "name": "v"}},
        {"artifact": {"name": "x", "base64": base64.b64encode(bytes(range(256)) * 100).decode()}},
        {"tool_call": {"name": "calculate", "arguments": {"expression": "1/0"}}},
        {"tool_call": {"name": "nobody"}},
        {"content": "b"},
    ]
    (made / "everything.jsonl").write_text("\n".join(map(json.dumps, everything)))
    (made / "wrong.jsonl").write_text('{"content": "a"}\n{"content": 1}\n')
    return made


@pytest.fixture(scope="module")
def address(dispatcher: DispatcherProcess, folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(replay.FOLDER_VARIABLE, str(folder))
        with running_commander(ROOT, "replay", "--dispatcher", dispatcher.address) as commander:
            commander.wait_for("linked to")
            yield dispatcher.address


async def _played(talk: Conversation, recording: str = "", **told: str) -> Seen:
    metadata = {"recording": recording} if recording else {}
    return await talk.ask("replay", include_thoughts=True, metadata={**metadata, **told})


@asynchronous
async def test_plays_one_when_none_is_named(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _played(talk)
        ended = await seen.ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_COMPLETED
    assert seen.text == "Hello. This is a recording, and it sounds the same every time."
    assert ended.usage == agent_pb2.Usage(input_tokens=7, output_tokens=12, model="recorded")


@asynchronous
async def test_plays_everything_there_is(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _played(talk, "everything")
        ended = await seen.ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_COMPLETED, ended
    assert seen.text == "ab"
    assert list(seen.of("embedding")[0].embedding.values) == [0.5, 0.25]
    assert b"".join(event.artifact.data for event in seen.of("artifact")) == bytes(range(256)) * 100
    codes = [event.tool_result.error.code for event in seen.of("tool_result")]
    assert codes == [agent_pb2.TOOL_ERROR_CODE_INVALID_ARGUMENTS, agent_pb2.TOOL_ERROR_CODE_NOT_FOUND]


@asynchronous
async def test_asks_and_waits_for_an_answer(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _played(talk, "research")
        question = (await seen.until("question")).question
        assert seen.text == ""
        answer = chat_pb2.AnswerQuestion(question_id=question.question_id, decline=True)
        await talk.request("1", answer=answer)
        assert (await seen.ended()).ending == chat_pb2.SESSION_ENDING_COMPLETED
    tools = [event.tool_call.tool_name for event in seen.of("tool_call")]
    assert tools == ["search_files", "clock"]
    assert len(seen.of("tool_result")) == 2
    assert seen.of("artifact")[0].artifact.name == "note.txt"
    assert seen.text.startswith("A cursor is the number of an event")


@asynchronous
async def test_fails_as_it_was_recorded(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _played(talk, "failure")
        ended = await seen.ended()
    assert seen.text == "The answer is forty"
    assert ended.ending == chat_pb2.SESSION_ENDING_AGENT_FAILED
    assert (ended.error.code, ended.error.retryable, ended.error.retry_after_ms) == (
        "rate_limited",
        True,
        2_000,
    )


@asynchronous
async def test_repeats_as_fast_as_it_goes(address: str) -> None:
    async with conversing(address) as talk:
        seen = await _played(talk, "steady", repeat="200", speed="0")
        ended = await seen.ended()
    assert ended.ending == chat_pb2.SESSION_ENDING_COMPLETED
    assert len(seen.text.split()) == 50 * 200


@asynchronous
async def test_keeps_its_time(address: str) -> None:
    """Never quicker than recorded; how much slower is the machine's affair."""
    async with conversing(address) as talk:
        seen = await _played(talk, "steady", speed="4")
        await seen.ended()
    contents = seen.of("content")
    # 49 steps of 5 ms, less what the first came late.
    assert contents[-1].timestamp - seen.of("started")[0].timestamp >= 240


@pytest.mark.parametrize(
    ("told", "code", "message"),
    [
        ({"recording": "stedy"}, "invalid_recording", "recording: there is no recording 'stedy'; there are steady"),
        ({"recording": "../steady"}, "invalid_recording", "recording: there is no recording '../steady'"),
        ({"recording": "wrong"}, "invalid_recording", "recording: wrong.jsonl:2: content should be a text, not 1"),
        ({"speed": "-1"}, "invalid_metadata", "speed: '-1' should be a number from 0 to 1000"),
        ({"repeat": "0"}, "invalid_metadata", "repeat: '0' should be a number from 1 to 1000000"),
    ],
)  # fmt: skip
def test_what_it_is_told_wrong_is_named(address: str, told: dict[str, str], code: str, message: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with conversing(address) as talk:
            ended = await (await _played(talk, **told)).ended()
        assert ended.ending == chat_pb2.SESSION_ENDING_AGENT_FAILED
        assert ended.error.code == code
        assert ended.error.message.startswith(f"metadata {message}")

    scene()


# -- making ---------------------------------------------------------------------------------------------------


def _recorded(seen: Seen) -> list[dict[str, Any]]:
    return list(recorded([event_record(event) for event in seen.events]))


@asynchronous
async def test_what_is_recorded_is_what_was_played(address: str, folder: Path) -> None:
    for name in ("greeting", "everything", "failure"):
        async with conversing(address) as talk:
            original = await _played(talk, name)
            await original.ended()
            lines = _recorded(original)
            (folder / "copy.jsonl").write_text("\n".join(map(json.dumps, lines)))
            copy = await talk.ask(
                "replay", client_ref=name, include_thoughts=True, metadata={"recording": "copy"}
            )
            await copy.ended()
            assert copy.text == original.text
            assert _timeless(_recorded(copy)) == _timeless(lines)


def _timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without their times, and text in one piece however it was cut on the way."""
    joined: list[dict[str, Any]] = []
    for line in lines:
        told = {key: value for key, value in line.items() if key != "after_ms"}
        if joined and "content" in told and "content" in joined[-1]:
            joined[-1]["content"] += told["content"]
        elif joined and "thought" in told and joined[-1].get("thought", [""])[0] == told["thought"][0]:
            joined[-1]["thought"][1] += told["thought"][1]
        else:
            joined.append(told)
    return joined


def _event(kind: str, offset: int, at_ms: int, **fields: object) -> dict[str, Any]:
    return {"cursor": f"e:{offset}", "event": kind, "timestamp": at_ms, "fields": fields}


def _call(offset: int, call_id: str) -> dict[str, Any]:
    return _event("tool_call", offset, 100, tool_name="t", arguments_json='{"a": 1}', call_id=call_id)


def test_calls_that_overlapped_do_so_again() -> None:
    result = {"tool_name": "t", "result_json": "1", "error": None}
    events = [
        _event("started", 1, 0, commander_id="c"),
        _call(2, "x"),
        _call(3, "y"),
        _event("tool_result", 4, 500, call_id="y", **result),
        _event("tool_result", 5, 700, call_id="x", **result),
        _event("content", 6, 710, text="done"),
    ]
    call = {"name": "t", "arguments": {"a": 1}}
    assert list(recorded(events)) == [
        {"after_ms": 100, "tool_call": {**call, "wait": False}},
        {"after_ms": 0, "tool_call": {**call, "wait": True}},
        # The time that the tools took is theirs.
        {"after_ms": 10, "content": "done"},
    ]


def test_what_a_reset_discarded_was_never_said() -> None:
    events = [
        _event("content", 1, 0, text="kept"),
        _event("content", 2, 10, text="lost"),
        _event("reset", 3, 20, discard_after="e:1", reason="commander lost"),
        _event("started", 4, 30, commander_id="c"),
        _event("content", 5, 70, text=" and more"),
        _event("answer", 6, 90, question_id="q", value_json="1", cancelled=None),
    ]
    assert list(recorded(events)) == [
        {"after_ms": 0, "content": "kept"},
        {"after_ms": 40, "content": " and more"},
    ]


def test_an_artifact_in_pieces_becomes_one() -> None:
    def piece(offset: int, content: bytes, *, is_last: bool) -> dict[str, Any]:
        encoded = base64.b64encode(content).decode()
        return _event(
            "artifact", offset, 0, name="a", mime_type="b/c", data=encoded, is_last=is_last, artifact_id="1"
        )

    (line,) = recorded([piece(1, b"ab", is_last=False), piece(2, b"c", is_last=True)])
    assert parse([json.dumps(line)], "r")[0].value["content"] == b"abc"


# -- the command line -----------------------------------------------------------------------------------------


def _run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "commander.agents.replay", *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=60,
    )


def test_records_from_standard_input(tmp_path: Path) -> None:
    event = {**_event("content", 1, 0, text="Grüße"), "session_id": "s", "attempt": 1, "agent": ""}
    made = _run("record", stdin=json.dumps(event) + "\n\n")
    assert (made.returncode, made.stderr) == (0, "")
    path = tmp_path / "made.jsonl"
    path.write_text(made.stdout)
    checked = _run("check", str(path))
    assert (checked.returncode, checked.stdout) == (0, f"{path}: 1 lines, 0 s\n")


@pytest.mark.parametrize(
    ("stdin", "why"),
    [
        ("Hello", "replay: line 1: it is no JSON: "),
        ("{}", "replay: line 1: it is no event; lines as `dispatcher chat --json` prints them are needed"),
        ("[]\n", "replay: line 1: it is no event"),
        (
            '{"event": "content", "fields": [], "timestamp": 1, "cursor": "e:x"}',
            "replay: line 1: it is no event",
        ),
    ],
)
def test_what_is_no_event_is_told(stdin: str, why: str) -> None:
    made = _run("record", stdin=stdin)
    assert made.returncode == 2
    assert made.stderr.startswith(why)
    assert "Traceback" not in made.stderr


def test_a_file_that_is_no_recording_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"content": "\xff"}')
    assert replay.main(["check", str(path)]) == 2
    assert (
        capsys.readouterr().err
        == "replay: a.jsonl:1: the line holds half of a surrogate pair, which is no text\n"
    )
