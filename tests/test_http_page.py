"""docs/http.md: its examples, run word for word, and complete: every field of a request and every event is on it."""

from pathlib import Path

import pytest
from page import ROOT, Reader, blocks, unmarked
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.edge.bodies import AskBody, BudgetsBody
from dispatcher.edge.native import NOTICES

PAGE = ROOT / "docs" / "http.md"
EVENTS = [field.name for field in chat_pb2.SessionEvent.DESCRIPTOR.oneofs_by_name["event"].fields]


def test_every_example_runs(tmp_path: Path) -> None:
    with Reader(PAGE, tmp_path) as reader:
        reader.read()
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) >= 8


@pytest.mark.parametrize("language", ["python", "sh"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize("name", [*AskBody.model_fields, *BudgetsBody.model_fields])
def test_every_field_of_a_request_is_told(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text()


@pytest.mark.parametrize("name", [*EVENTS, *NOTICES.values()])
def test_every_event_is_told(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text()
