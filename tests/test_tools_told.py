"""What is told of a call besides its outcome: viewers hear how far it is, its agent not all of a long result."""

import json
from collections.abc import Iterator

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import linked, unique

from dispatcher.tables import ToolTable
from dispatcher.tools.rules import Rules

TOOLS = '''
import asyncio
from dispatcher.tools import ToolContext

async def count(to: int, context: ToolContext) -> str:
    """Counts."""
    for number in range(to):
        context.progress(f"number {number}", current=number, total=to)
        await asyncio.sleep(0)
    return "x" * 100

def in_thread(context: ToolContext) -> int:
    """Says something in a thread."""
    context.progress("half", current=float("nan"))
    return 7

TOOLS = [count, in_thread]
'''


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    place = tmp_path_factory.mktemp("counting")
    (place / "counts.py").write_text(TOOLS)
    (place / "dispatcher.toml").write_text("[tool.count]\ntold_chars_max = 20\n")
    flags = ("--config", str(place / "dispatcher.toml"), "--tools", "counts:TOOLS", "--tool-progress-s", "0")
    with running_dispatcher(*flags, environ={"PYTHONPATH": str(place)}) as dispatcher:
        yield dispatcher


@asynchronous
async def test_viewers_see_how_far_a_call_is_and_all_that_came_of_it(counting: DispatcherProcess) -> None:
    name = unique("agent")
    async with linked(counting.address, name) as link, conversing(counting.address) as talk:
        seen = await talk.ask(name)
        turn = await link.started()
        await turn.call("count", '{"to": 3}', call_id="c1")
        result = await turn.result()
        assert json.loads(result.result_json) == {"begin": "x" * 20, "chars": 100, "shortened": True}
        await turn.call("in_thread", call_id="c2")
        assert (await turn.result()).result_json == "7"
        await turn.finish()
        await seen.ended()
    told = [event.progress for event in seen.of("progress")]
    assert [(each.text, each.call_id) for each in told] == [
        ("number 0", "c1"),
        ("number 1", "c1"),
        ("number 2", "c1"),
        ("half", "c2"),
    ]
    assert (told[2].current, told[2].total) == (2, 3)
    assert not told[3].HasField("current"), "what is no number is not told"
    whole, _ = seen.of("tool_result")
    assert json.loads(whole.tool_result.result_json) == "x" * 100


@pytest.mark.parametrize(
    ("result_json", "told"),
    [
        ('"' + "é" * 17 + '"', {"begin": "é" * 16, "chars": 17, "shortened": True}),
        ('"' + "é" * 16 + '"', None),
        (r'"\ud83d\ude00\ud83d\ude00"', None),
        ('{"a": "0123456789"}', {"begin": '{"a": "012345678', "chars": 19, "shortened": True}),
        ("[1]", None),
    ],
)
def test_of_a_long_result_the_begin_is_told(result_json: str, told: object) -> None:
    rules = Rules({"long": ToolTable(told_chars_max=16)})
    assert (json.loads(rules.told("long", result_json)) if told else rules.told("long", result_json)) == (
        told or ""
    )
    assert rules.told("another", result_json) == ""
