"""docs/models.md, run word for word against a scripted server, and complete."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from model_server import Call, Finish, ModelServer, Request, Step, calls, says
from page import ROOT, Reader, blocks, unmarked

from commander.models.failures import FAILURES
from commander.models.table import ModelTable

PAGE = ROOT / "docs" / "models.md"
# Where the page says that a server is.
SERVER = "http://127.0.0.1:8000/v1"


def script(request: Request) -> list[Step]:
    """A model that says what it is told to, calculates with a tool, and knows one city."""
    last = request.messages[-1]
    if "response_format" in request.body:
        assert request.headers["authorization"] == "Bearer not-a-secret"
        return says(json.dumps({"city": "Lisbon"}))
    if last["content"].startswith("What the specialists found:"):
        return says("Four found something." if last["content"].count("## ") == 4 else "Too few.")
    if last["role"] == "tool":
        return says(f"It is {json.loads(last['content'])['result']}.")
    if "6 * 7" in last["content"]:
        return calls(Call("calculate", ['{"expression": "6 * 7"}']))
    return [*last["content"].removeprefix("Say: "), Finish()]


def test_every_example_runs(tmp_path: Path) -> None:
    page, folder = tmp_path / "models.md", tmp_path / "folder"
    folder.mkdir()
    with ModelServer(script) as server:
        text = PAGE.read_text().replace(SERVER, server.base_url)
        if not entry_points(
            group="chatstream.agents", name="team"
        ):  # an installation older than the metadata
            text = text.replace("commander run team ", "commander run commander.agents.team:team ")
        page.write_text(text)
        with Reader(page, folder) as reader:
            reader.read()
        assert len(server.requests) == 14
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) > 7


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


def test_every_key_and_every_failure_is_told() -> None:
    text = PAGE.read_text()
    for name in (*ModelTable.model_fields, *FAILURES):
        assert f"| `{name}` |" in text
