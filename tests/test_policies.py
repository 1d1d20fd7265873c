"""Policies in force, in a real dispatcher: what viewers, agents and tools get, what is counted and written down, and
another file while it runs."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import asking, conversing
from dispatcher_process import DispatcherProcess, running_dispatcher, serve_and_fail
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import agent_pb2

CARD = '[rule.card]\npattern = \'[0-9]{4}\'\naction = "redact"\non = ["any"]\nmark = "[card]"\n'


def stops(word: str) -> str:
    return f'[rule.word]\nliterals = ["{word}"]\naction = "stop"\n'


def put(path: Path, text: str) -> Path:
    """Replaces the file at once, as who edits policies should."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    return new.rename(path)


async def counted(dispatcher: DispatcherProcess, name: str) -> float:
    return (await asyncio.to_thread(dispatcher.scrape)).get(name, 0)


async def in_force(dispatcher: DispatcherProcess) -> list[str]:
    metrics = await asyncio.to_thread(dispatcher.scrape)
    return [name.split('"')[1] for name in metrics if name.startswith("dispatcher_policy_file{")]


def trail(dispatcher: DispatcherProcess) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in dispatcher.log]
    return [line for line in lines if line["logger"] == "dispatcher.audit"]


@asynchronous
async def test_what_is_redacted_reaches_nobody_and_is_counted_and_written_down(tmp_path: Path) -> None:
    path = put(tmp_path / "policies.toml", CARD + stops("secret"))
    flags = ("--policy-file", str(path), "--log-format", "json", "--tools", "dispatcher.tools.demo:TOOLS")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent, "my card is 1234")
            turn = await link.started()
            (message,) = turn.start.messages
            assert message.parts[0].text == "my card is [card]"
            await turn.say("it ends in 12", agent="team/one")
            await turn.say("34, right?", agent="team/one")
            await turn.call("no_such_tool", '{"card": "1234", "n": 1.50}', "c1")
            assert (await turn.result()).call_id == "c1"
            called = await seen.until("tool_call")
            assert called.tool_call.arguments_json == '{"card": "[card]", "n": 1.50}'
            await turn.say("a sec")
            await turn.say("ret")
            ended = await seen.ended()
            assert (ended.name, ended.message) == (
                "policy_blocked",
                "policy_file: rule 'word' matches the content of the agent from character 2 on",
            )
            assert seen.text == "it ends in [card], right?a "
        assert await counted(dispatcher, 'dispatcher_rule_verdicts_total{action="redact",rule="card"}') == 3
        assert await counted(dispatcher, 'dispatcher_rule_verdicts_total{action="stop",rule="word"}') == 1
        await asyncio.to_thread(dispatcher.wait_for_log, "ended: policy_blocked")
        told = [
            (line["rule"], line["action"], line["kind"], line.get("agent"), line["position"])
            for line in trail(dispatcher)
        ]
        assert told == [
            ("card", "redact", "user", None, "11"),
            ("card", "redact", "content", "team/one", "11"),
            ("card", "redact", "tool_call", None, "0"),
            ("word", "stop", "content", None, "2"),
        ]
        assert {line["session"] for line in trail(dispatcher)} == {turn.session_id}
        assert not [line for line in dispatcher.log if "1234" in line or "secret" in line]


@asynchronous
async def test_what_the_user_says_stops_before_any_agent_hears_it(tmp_path: Path) -> None:
    path = put(tmp_path / "policies.toml", stops("forbidden") + 'on = ["user"]\n')
    with running_dispatcher("--policy-file", str(path)) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            part = agent_pb2.ContentPart(json='{"a": "forbi\\u0064den"}')
            messages = [agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[part])]
            seen = await talk.ask(agent, client_ref="1", messages=messages)
            assert (await seen.ended()).name == "policy_blocked"
            seen = await talk.ask(agent, "all is well", client_ref="2")
            turn = await link.started()
            await turn.say("forbidden")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "forbidden"


@asynchronous
@pytest.mark.parametrize("by", ["signal", "poll"])
async def test_another_file_is_taken_up_by_new_sessions_and_a_bad_one_is_not(tmp_path: Path, by: str) -> None:
    path = put(tmp_path / "policies.toml", stops("red"))
    poll_s = "0" if by == "signal" else "0.05"
    with running_dispatcher("--policy-file", str(path), "--policy-poll-s", poll_s) as dispatcher:

        def hang_up() -> None:
            if by == "signal":
                dispatcher.signal(signal.SIGHUP)

        agent = unique("agent")
        (first,) = await in_force(dispatcher)
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            before = await talk.ask(agent)
            turn = await link.started()
            await turn.say("a re")
            await before.until_text("a ")
            put(path, stops("blue"))
            hang_up()
            reloads = 'dispatcher_policy_reloads_total{outcome="%s"}'
            await eventually(lambda: counted(dispatcher, reloads % "loaded"))
            (second,) = await in_force(dispatcher)
            assert first != second
            # The one under way keeps what it began with, and what it holds.
            await turn.say("d")
            assert (await before.ended()).name == "policy_blocked"
            assert before.text == "a "
            put(path, stops("blue") + "[rule.bad]\npattern = '('\naction = 'stop'\n")
            hang_up()
            await asyncio.to_thread(dispatcher.wait_for_log, "rule.bad.pattern: missing )")
            await asyncio.to_thread(dispatcher.wait_for_log, f"version {second} stays in force")
            assert await counted(dispatcher, reloads % "failed") >= 1
            assert await in_force(dispatcher) == [second]
            after = await talk.ask(agent, client_ref="2")
            turn = await link.started()
            await turn.say("red and blue")
            assert (await after.ended()).name == "policy_blocked"
            assert after.text == "red and "


@asynchronous
async def test_an_agent_that_asks_for_the_same_again_and_again_is_stopped() -> None:
    flags = ("--repeated-calls-max", "2", "--repeated-calls-mode", "enforce", "--log-format", "json")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            for number, arguments in enumerate(('{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 2}')):
                await turn.call("no_such_tool", arguments, f"c{number}")
                await turn.result()
            await turn.call("no_such_tool", '{"a":1,"b":2}', "again")
            ended = await seen.ended()
            assert ended.name == "limit_exceeded"
            assert ended.message.startswith("repeated_calls_max: more than 2 times the same tool call")
            assert (await turn.stopped()).policy == "repeated_calls_max"
            assert len(seen.of("tool_call")) == 3
        name = 'dispatcher_policy_violations_total{mode="enforce",policy="repeated_calls_max"}'
        assert await counted(dispatcher, name) == 1
        await asyncio.to_thread(dispatcher.wait_for_log, "ended: ")
        (told,) = trail(dispatcher)
        assert (told["policy"], told["action"], told["session"]) == (
            "repeated_calls_max",
            "stop",
            turn.session_id,
        )


PRICES = '[price."small"]\ninput_dollars = 1000\noutput_dollars = 10_000\n'


@asynchronous
async def test_a_session_ends_when_it_has_cost_too_much_and_its_user_waits(tmp_path: Path) -> None:
    path = put(tmp_path / "policies.toml", PRICES)
    flags = (
        "--session-cost-dollars-max",
        "1",
        "--user-cost-dollars-max",
        "1.5",
        "--user-cost-window-s",
        "3600",
    )
    with running_dispatcher("--policy-file", str(path), *flags) as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent, user_id="ada")
            turn = await link.started()
            used = {"input_tokens": 100, "output_tokens": 50, "model": "small"}
            await turn.send(usage=used)
            await turn.say("half of it")
            await turn.send(usage={"model": "dear", "output_tokens": 5})
            await turn.send(usage=used)
            ended = await seen.ended()
            assert ended.name == "limit_exceeded"
            assert ended.message.startswith("session_cost_dollars_max: it has cost more than 1 dollars")
            assert seen.text == "half of it"
            # What is only told at the end counts for the user, and takes nothing back.
            seen = await talk.ask(agent, client_ref="2", user_id="ada")
            turn = await link.started()
            await link.write(turn.finished(usage={"input_tokens": 500, "model": "small"}))
            assert (await seen.ended()).name == "completed"
            refused = await talk.request("3", ask=asking(agent, user_id="ada"))
            assert refused.error.code == "rate_limited"
            assert "user_cost_dollars_max is 1.5 in 3600 s" in refused.error.message
            await talk.ask(agent, client_ref="4", user_id="bob")
        name = 'dispatcher_cost_dollars_total{model="small"}'
        assert await counted(dispatcher, name) == pytest.approx(1.7)
        name = 'dispatcher_policy_violations_total{mode="observe",policy="unpriced_models"}'
        assert await counted(dispatcher, name) == 1


def test_a_file_that_can_not_be_used_refuses_the_start(tmp_path: Path) -> None:
    path = put(tmp_path / "policies.toml", "[rule.a]\npattern = 'a+'\naction = 'redact'\n")
    ended = serve_and_fail("--policy-file", str(path))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"dispatcher: {path}: rule.a.pattern: may match without end")
    assert "Traceback" not in ended.stderr
