"""Tools that come and go while the dispatcher runs: made and checked beside the loop, once, and no more than may be."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from asynchronous import asynchronous
from tool_scene import ask, code_of

from dispatcher.tools import RunnerLimits, Tool, ToolContext, ToolLimits, ToolRunner

ANY: dict[str, object] = {"type": "object"}
WIDE: dict[str, object] = {"type": "object", "properties": {f"p{n}": {"enum": ["a"]} for n in range(2_000)}}


@dataclass
class There:
    """A tool of somewhere else."""

    name: str
    parameters_schema: Mapping[str, object] = field(default_factory=lambda: ANY)
    description: str = ""
    limits: ToolLimits = field(default_factory=ToolLimits)
    source: str = "there"

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        return "done"


async def offered(runner: ToolRunner, *tools: Tool, source: str = "there") -> list[str]:
    return await runner.replace(source, lambda: (tools, []))


@asynchronous
async def test_tools_are_made_in_a_thread_and_what_is_wrong_is_told() -> None:
    made_in: list[threading.Thread] = []

    def make() -> tuple[Sequence[Tool], list[str]]:
        made_in.append(threading.current_thread())
        return [There("a"), There("b c"), There("d", {"type": "nonsense"}), There("a")], ["and e is odd"]

    runner = ToolRunner([])
    problems = await runner.replace("there", make)
    assert [offer.name for offer in runner.offers()] == ["a"]
    assert [each.split(":")[0] for each in problems[:3]] == ["and e is odd", "tool 'b c'", "tool 'd'"]
    assert "'a' is already given by there" in problems[3]
    assert made_in != [threading.main_thread()]
    await runner.close()


@asynchronous
async def test_what_making_raises_is_raised_and_changes_nothing() -> None:
    def make() -> tuple[Sequence[Tool], list[str]]:
        raise KeyError("x")

    runner = ToolRunner([])
    await offered(runner, There("a"))
    with pytest.raises(KeyError):
        await runner.replace("there", make)
    assert [offer.name for offer in runner.offers()] == ["a"]
    await runner.close()


@asynchronous
async def test_a_schema_that_is_known_is_not_checked_again() -> None:
    async def taken_s() -> float:
        began_s = time.process_time()
        assert await offered(runner, There("a", WIDE)) == []
        return time.process_time() - began_s

    runner = ToolRunner([])
    first_s = await taken_s()
    assert code_of(await runner.run(ask("a"))) == "ok"
    assert min([await taken_s() for _ in range(5)]) < first_s / 5
    # And it is worked where it was.
    assert runner.stats()["a"].calls == 1
    await runner.close()


@asynchronous
async def test_another_schema_of_the_same_name_is_another_tool() -> None:
    runner = ToolRunner([])
    await offered(runner, There("a"))
    await offered(runner, There("a", {"type": "object", "required": ["x"]}))
    assert code_of(await runner.run(ask("a"))) == "invalid_arguments"
    await runner.close()


@asynchronous
async def test_what_can_not_be_offered_anyway_is_not_checked() -> None:
    runner = ToolRunner([], RunnerLimits(offers_bytes=200))
    await offered(runner, There("first"), source="elsewhere")
    long = "x" * 150
    wrong = {"type": long}
    assert await offered(runner, There("a"), There("b", wrong), There("c")) == [
        "tool 'b': with it, the tools on offer would not fit a message"
    ]
    huge = await offered(runner, There("d", {"type": "object", "title": "x" * 70_000}))
    assert huge == ["tool 'd': its schema is over 65,536 bytes of JSON"]
    await runner.close()
