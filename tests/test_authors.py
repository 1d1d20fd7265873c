"""docs/authors.md, run word for word, and complete: every program and command on it is one that is run, every word
an author may import or call is on it."""

import inspect
import json
import re
from pathlib import Path

import pytest
from commander_process import running_commander
from page import ROOT, Reader, blocks, unmarked
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

import commander
import commander.errors
import commander.testing
import dispatcher.tools
from commander.agent import ON_RESTART
from commander.turn import Turn

PAGE = ROOT / "docs" / "authors.md"


def test_every_example_runs(tmp_path: Path) -> None:
    with Reader(PAGE, tmp_path) as reader:
        reader.read()
    assert reader.ran == sum(block.what.startswith("run: ") for block in blocks(PAGE)) > 20


@pytest.mark.parametrize("lines", [0, 2, 5])
@pytest.mark.parametrize("cut", [0, 7])
def test_the_agent_that_continues_goes_on_to_the_character(tmp_path: Path, lines: int, cut: int) -> None:
    (text,) = [block.text for block in blocks(PAGE) if block.what == "file: squares.py"]
    (tmp_path / "squares.py").write_text(text)
    whole = "".join(f"{number} squared is {number * number}.\n" for number in range(1, 6))
    said = "".join(whole.splitlines(keepends=True)[:lines])
    published = pb.Published(content=whole[: len(said) + cut], calls=[squared(n + 1) for n in range(lines)])
    with (
        ScriptedDispatcher() as dispatcher,
        running_commander(tmp_path, "squares.py", "--dispatcher", dispatcher.address),
    ):
        link = dispatcher.accept()
        assert link.hello.agents[0].on_restart == pb.ON_RESTART_CONTINUE
        session = ScriptedSession(link, "s", attempt=2, start=pb.Start(published=published))
        for number in range(lines + 1, 6):
            call = session.next_of("tool_call")
            assert call.tool_call.arguments_json == squared(number).request.arguments_json
            session.answer_call(call, squared(number).result.result_json)
        session.done()
    assert published.content + session.content == whole


def squared(number: int) -> pb.PublishedCall:
    arguments = json.dumps({"expression": f"{number} * {number}"})
    return pb.PublishedCall(
        request=pb.ToolCallRequest(tool_name="calculate", arguments_json=arguments),
        result=pb.ToolCallResult(call_id="call", result_json=json.dumps({"result": number * number})),
    )


@pytest.mark.parametrize("on_restart", ON_RESTART)
def test_every_way_to_go_on_after_a_death_is_told(on_restart: str) -> None:
    assert f'`"{on_restart}"`' in PAGE.read_text()


@pytest.mark.parametrize("language", ["python", "sh", "toml"])
def test_no_block_is_left_out(language: str) -> None:
    assert unmarked(PAGE, language) == 0


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(Turn) if not name.startswith("_")])
def test_all_that_a_turn_can_do_is_told(name: str) -> None:
    assert f"turn.{name}" in PAGE.read_text()


@pytest.mark.parametrize("name", [name for name in commander.__all__ if hasattr(commander.errors, name)])
def test_all_that_an_author_may_catch_or_raise_is_told(name: str) -> None:
    assert f"`{name}" in PAGE.read_text()


@pytest.mark.parametrize("name", [name for name in commander.testing.__all__ if name != "ScriptError"])
def test_all_of_the_testing_kit_is_told(name: str) -> None:
    assert re.search(rf"`{name}|\b{name}\(", PAGE.read_text())


@pytest.mark.parametrize(
    "name", ["tool", "ToolContext", "ToolError", "ToolDenied", "ToolArgumentsError", "ToolAway"]
)
def test_what_a_tool_s_author_imports_is_told(name: str) -> None:
    assert name in dispatcher.tools.__all__
    assert name in PAGE.read_text()
