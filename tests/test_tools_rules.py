"""Rules for one tool: who may call it, how often, and whether it really runs."""

import asyncio
import json
from pathlib import Path

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from dispatcher_process import running_dispatcher
from hypothesis import given
from hypothesis import strategies as st
from scripted_commander import linked
from southwest.ai.agent.v1 import agent_pb2
from tool_scene import Gate, ask, code_of, message_of, until

from dispatcher.tables import ToolTable
from dispatcher.tools import PythonTool, RunnerLimits, ToolError, ToolRunner
from dispatcher.tools.rules import Rules


def ruled(ran: list[int], **keys: object) -> ToolRunner:
    def note(number: int = 0) -> str:
        ran.append(number)
        return "done"

    return ToolRunner([PythonTool(note)], rules=Rules({"note": ToolTable.model_validate(keys)}))


@pytest.mark.parametrize(
    ("keys", "agent", "user", "may"),
    [
        ({}, "any", "", True),
        ({"agents": ["clerk"]}, "clerk", "", True),
        ({"agents": ["clerk"]}, "thief", "ada", False),
        ({"agents": ["clerk"]}, "", "", False),
        ({"agents": []}, "clerk", "ada", False),
        ({"users": ["ada"]}, "any", "ada", True),
        ({"users": ["ada"]}, "any", "", False),
        ({"agents": ["clerk"], "users": ["ada"]}, "clerk", "bob", False),
        ({"agents": ["clerk"], "users": ["ada"]}, "clerk", "ada", True),
    ],
)
def test_who_may_and_who_may_not(keys: dict[str, object], agent: str, user: str, may: bool) -> None:
    ran: list[int] = []

    @asynchronous
    async def scene() -> None:
        # Who may not, does not learn what the arguments should be either.
        arguments = {"number": 1} if may else {"number": "x"}
        outcome = await ruled(ran, **keys).run(ask("note", arguments, session_agent=agent, user_id=user))
        assert code_of(outcome) == ("ok" if may else "denied")

    scene()
    assert ran == [1] * may


@asynchronous
async def test_a_dry_run_answers_with_what_would_have_run() -> None:
    ran: list[int] = []
    runner = ruled(ran, dry_run=True)
    outcome = await runner.run(ask("note", {"number": 7}))
    assert json.loads(outcome.result_json) == {"dry_run": True, "tool": "note", "arguments": {"number": 7}}
    assert code_of(await runner.run(ask("note", {"number": "x"}))) == "invalid_arguments"
    assert ran == []


@asynchronous
async def test_a_call_that_is_refused_for_want_of_a_place_is_not_counted() -> None:
    gate = Gate()
    runner = ToolRunner(
        [PythonTool(gate.pass_in_thread)],
        RunnerLimits(concurrency=1, waiting=1),
        rules=Rules({"pass_in_thread": ToolTable(calls_per_minute_max=3)}),
    )
    running = asyncio.create_task(runner.run(ask("pass_in_thread")))
    await gate.wait_begun()
    waiting = asyncio.create_task(runner.run(ask("pass_in_thread")))
    await until(lambda: runner.stats()["pass_in_thread"].waiting == 1)
    for _ in range(5):
        assert "as many as may" in message_of(await runner.run(ask("pass_in_thread")))
    gate.opened.set()
    assert [code_of(each) for each in await asyncio.gather(running, waiting)] == ["ok", "ok"]
    assert code_of(await runner.run(ask("pass_in_thread"))) == "ok"
    assert "3 times a minute" in message_of(await runner.run(ask("pass_in_thread")))
    await runner.close()


@asynchronous
async def test_calls_over_the_rate_are_told_when_to_come_back() -> None:
    ran: list[int] = []
    runner = ruled(ran, calls_per_minute_max=2)
    outcomes = [await runner.run(ask("note", {"number": number})) for number in range(3)]
    assert [code_of(outcome) for outcome in outcomes] == ["ok", "ok", "failed"]
    assert "it may be called 2 times a minute; nothing ran" in message_of(outcomes[2])
    assert outcomes[2].error is not None
    assert outcomes[2].error.retryable
    assert 0 < (outcomes[2].error.retry_after_s or 0) <= 30
    assert ran == [0, 1]


@given(st.integers(1, 100), st.lists(st.floats(0, 100), max_size=200))
def test_no_minute_has_more_than_twice_the_rate_and_the_hint_is_true(most: int, waits: list[float]) -> None:
    rules = Rules({"note": ToolTable(calls_per_minute_max=most)})
    now, ran = 0.0, []
    for wait in waits:
        now += wait
        try:
            rules.spend("note", now)
        except ToolError as error:
            now += (error.retry_after_s or 0.0) + 1e-6
            rules.spend("note", now)
        ran.append(now)
    for begin in ran:
        assert sum(begin <= each < begin + 60 for each in ran) <= 2 * most


def test_tools_without_a_rule_are_not_counted() -> None:
    rules = Rules({"other": ToolTable(calls_per_minute_max=1)})
    for _ in range(10):
        rules.spend("note", 0.0)
    rules.require_may(ask("note"))


def test_rules_of_the_file_hold_for_the_agent_of_the_session(tmp_path: Path) -> None:
    config = tmp_path / "chat.toml"
    config.write_text(
        'tools = ["demo"]\n[tool.calculate]\nagents = ["clerk"]\n[tool.calculat]\ndry_run = true\n'
    )

    @asynchronous
    async def scene(address: str) -> None:
        for agent, code in (("clerk", "UNSPECIFIED"), ("thief", "DENIED")):
            async with linked(address, agent) as link, conversing(address) as talk:
                seen = await talk.ask(agent)
                turn = await link.started()
                await turn.call("calculate", '{"expression": "6 * 7"}')
                result = await turn.result()
                assert agent_pb2.ToolErrorCode.Name(result.error.code) == f"TOOL_ERROR_CODE_{code}"
                await turn.finish()
                await seen.ended()

    with running_dispatcher("--config", str(config)) as dispatcher:
        assert "tool.calculat: there is no such tool" in dispatcher.wait_for_log("tool.calculat")
        scene(dispatcher.address)
