"""Messages as JSON for scripts: stable keys, plain types."""

import json

import pytest
from console_server import Tale
from google.protobuf.duration_pb2 import Duration
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.console.escaping import json_line
from dispatcher.console.outcome import Exit, exit_of
from dispatcher.record import enum_word, event_record, plain


def test_an_event() -> None:
    stop = agent_pb2.StopSignal(reason="UserCancel", code=agent_pb2.STOP_CODE_USER_CANCEL)
    event = Tale().ended(chat_pb2.SESSION_ENDING_STOPPED, stop=stop)
    record = event_record(event)
    fields = record.pop("fields")
    assert record == {
        "cursor": "e1:1", "event": "ended", "session_id": "s-1", "attempt": 1, "agent": "",
        "timestamp": 1_700_000_000_000,
    }  # fmt: skip
    assert isinstance(fields, dict)
    assert fields["ending"] == "stopped"
    assert fields["content_chars"] == 0
    assert fields["error"] is None
    assert fields["retry_after_ms"] is None
    assert isinstance(fields["stop"], dict)
    assert fields["stop"]["code"] == "user_cancel"


def test_every_key_is_there_whatever_is_set() -> None:
    for kind in (admin_pb2.SessionView, admin_pb2.CommanderView, admin_pb2.ToolView, admin_pb2.Limit):
        keys = {key.removesuffix("_s") for key in plain(kind())}
        assert keys == {field.name.removesuffix("_s") for field in kind.DESCRIPTOR.fields}


def test_types_are_those_of_json() -> None:
    view = admin_pb2.SessionView(
        age=Duration(seconds=3, nanos=500_000_000),
        labels={"b": "2", "a": "1"},
        content_chars=2**63,
        cursor=chat_pb2.Cursor(epoch="e:1", offset=2**63),
        open_questions=[agent_pb2.Question(text="?", expires_in=Duration(seconds=60))],
    )
    record = json.loads(json_line(plain(view)))
    assert record["age_s"] == 3.5
    assert record["labels"] == {"a": "1", "b": "2"}
    assert record["content_chars"] == 2**63
    assert record["cursor"] == f"e:1:{2**63}"
    assert record["open_questions"][0]["expires_in_s"] == 60
    assert record["ended"] is None
    assert plain(agent_pb2.Artifact(data=b"\x00\xff"))["data"] == "AP8="
    assert plain(admin_pb2.Limit(value=float("inf")))["value"] == "inf"


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    assert event_record(chat_pb2.SessionEvent(session_id="s"))["event"] == "unknown"
    assert enum_word(chat_pb2.SessionEnding.DESCRIPTOR, 99) == "unknown-99"
    assert plain(chat_pb2.SessionEnded(ending=99))["ending"] == "unknown-99"  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", chat_pb2.SessionEnding.values())
def test_every_ending_has_an_exit_status(ending: chat_pb2.SessionEnding.ValueType) -> None:
    expected = {
        chat_pb2.SESSION_ENDING_COMPLETED: Exit.COMPLETED,
        chat_pb2.SESSION_ENDING_STOPPED: Exit.STOPPED,
    }
    assert exit_of(ending) is expected.get(ending, Exit.FAILED)
