"""`commander ask` against dispatchers, above all one that knows the fixed table of the contract and nothing else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from minimal_dispatcher import MinimalDispatcher, Stop
from scripted_dispatcher import ScriptedDispatcher
from southwest.ai.agent.v1 import agent_pb2 as pb

PATIENCE_S = 60.0

AGENTS = """
import asyncio, sys
from commander import agent, QuestionUnanswered, ToolFailed

@agent
async def adder(turn):
    yield turn.thought("Plan", "add what was said")
    one, two = await asyncio.gather(turn.call_tool("add", n=1), turn.call_tool("add", n=2))
    yield turn.progress("half way")
    yield f"{turn.text}: {one} "
    yield f"and {two}"

@agent
def sync_adder(turn):
    yield f"{turn.text}: {turn.call_tool('add', n=1)}"

@agent
async def catcher(turn):
    try:
        await turn.call_tool("add")
    except ToolFailed as failure:
        yield f"{type(failure).__name__}: {failure.message}"

@agent
async def forever(turn):
    try:
        while True:
            yield "on and "
            await asyncio.sleep(0)
    finally:
        print("cleaned up", file=sys.stderr, flush=True)

@agent
async def deaf(turn):
    yield "begin"
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@agent
async def failing(turn):
    yield "begin "
    raise ValueError("no such city")

@agent
async def echo(turn):
    yield f"you said {await turn.ask('Which?', options=['Tokyo', 'Oslo'])}"

@agent
async def asker(turn):
    try:
        await turn.ask("Which?")
    except QuestionUnanswered as unanswered:
        yield unanswered.why
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(AGENTS)
    return tmp_path


def start(folder: Path, *arguments: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "commander", "ask", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("COMMANDER_")},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ask(folder: Path, address: str, agent: str, *flags: str) -> tuple[int, str, str]:
    process = start(folder, "hello", "--agent", f"my_agents:{agent}", "--dispatcher", address, *flags)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def add_ten(packet: Any) -> str | None:
    """The tool of these tests: it has seen the number, and answers without saying to which call."""
    if not packet.HasField("tool_call"):
        return None
    return str(json.loads(packet.tool_call.arguments_json)["n"] + 10)


@pytest.mark.parametrize(
    ("agent", "answer"), [("adder", "hello: 11 and 12\n"), ("sync_adder", "hello: 11\n")]
)
def test_a_turn_with_bare_results(folder: Path, agent: str, answer: str) -> None:
    with MinimalDispatcher(folder, add_ten) as dispatcher:
        code, out, err = ask(folder, dispatcher.address, agent)
    assert (code, out) == (0, answer), err
    content = [packet.content for packet in dispatcher.packets if packet.HasField("content")]
    assert "".join(chunk.text for chunk in content) == answer.strip()
    assert [chunk.is_finish for chunk in content] == [False] * (len(content) - 1) + [True]
    assert not any(packet.session_id for packet in dispatcher.packets)
    assert all(packet.timestamp for packet in dispatcher.packets)


def test_thoughts_and_all_else_are_told_aside(folder: Path) -> None:
    with MinimalDispatcher(folder, add_ten) as dispatcher:
        _, _, err = ask(folder, dispatcher.address, "adder")
    first, *between, last = err.splitlines()
    assert (first, last) == ("Plan: add what was said", "progress: half way")
    calls = ['call: add {"n": 1}', 'call: add {"n": 2}', "result: add 11", "result: add 12"]
    assert sorted(between) == sorted(calls)
    assert between.index(calls[0]) < between.index(calls[2])


def test_as_json_it_is_one_object_a_line(folder: Path) -> None:
    with MinimalDispatcher(folder, add_ten) as dispatcher:
        code, out, _ = ask(folder, dispatcher.address, "adder", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert told[0] == {"type": "thought", "step_name": "Plan", "delta": "add what was said"}
    assert told[1] == {
        "type": "tool_call",
        "tool_name": "add",
        "arguments_json": '{"n": 1}',
        "call_id": "call-1",
    }
    results = [each for each in told if each["type"] == "tool_result"]
    assert results[0] == {"type": "tool_result", "call_id": "", "tool_name": "add", "result_json": "11"}
    assert len(results) == 2
    assert told[-2:] == [{"type": "content", "is_finish": True}, {"type": "ended", "outcome": "completed"}]


def test_a_bare_failure_is_an_exception_too(folder: Path) -> None:
    failed = '{"error": {"code": "not_found", "message": "no tool add"}}'
    with MinimalDispatcher(
        folder, lambda packet: failed if packet.HasField("tool_call") else None
    ) as dispatcher:
        code, out, _ = ask(folder, dispatcher.address, "catcher")
    assert (code, out) == (0, "ToolNotFound: no tool add\n")


def test_a_stop_is_the_last_word_for_a_script_too(folder: Path) -> None:
    with MinimalDispatcher(folder, lambda _: Stop("RiskControl")) as dispatcher:
        code, out, _ = ask(folder, dispatcher.address, "forever", "--json")
    assert code == 3
    assert json.loads(out.splitlines()[-1]) == {
        "type": "ended",
        "outcome": "stopped",
        "message": "RiskControl",
    }


def test_a_question_is_answered_by_a_line_that_is_piped_in(folder: Path) -> None:
    with MinimalDispatcher(folder) as dispatcher:
        process = start(
            folder,
            "hello",
            "--agent",
            "my_agents:echo",
            "--dispatcher",
            dispatcher.address,
            stdin=subprocess.PIPE,
        )
        out, err = process.communicate("Tokyo\n", timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, "you said Tokyo\n"), err
    assert "Which? [Tokyo / Oslo]" in err


def test_nothing_is_no_question(folder: Path) -> None:
    process = start(folder, " ", "--agent", "my_agents:echo")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert err == "commander: TEXT: is empty; say what to ask\n"


def test_a_stop_is_obeyed(folder: Path) -> None:
    with MinimalDispatcher(folder, lambda _: Stop("RiskControl")) as dispatcher:
        code, _, err = ask(folder, dispatcher.address, "forever")
    assert code == 3
    assert "cleaned up" in err
    assert "stopped: RiskControl" in err
    assert not any(packet.content.is_finish for packet in dispatcher.packets)


def test_more_messages_than_may_wait_end_it_and_none_is_dropped(folder: Path) -> None:
    with ScriptedDispatcher() as dispatcher:
        agent = ("--agent", "my_agents:forever", "--dispatcher", dispatcher.address)
        process = start(folder, "hello", *agent, "--messages-waiting-max", "1")
        link = dispatcher.accept()
        link.expect_payload("content")
        for text in ("one", "two"):
            link.send(pb.DownstreamPacket(user_message=pb.UserMessage(text=text)))
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert "stopped: messages: 1 wait for the agent" in err


def test_a_stop_is_obeyed_over_an_agent_that_ignores_it(folder: Path) -> None:
    with MinimalDispatcher(folder, lambda _: Stop("RiskControl")) as dispatcher:
        code, _, err = ask(folder, dispatcher.address, "deaf", "--stop-grace-s", "0.1")
    assert code == 3
    assert "ignored its stop for 0.1 s" in err


def test_ctrl_c_stops(folder: Path) -> None:
    with MinimalDispatcher(folder) as dispatcher:
        process = start(folder, "hello", "--agent", "my_agents:forever", "--dispatcher", dispatcher.address)
        assert process.stdout is not None
        assert process.stdout.read(7) == "on and "
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 3
    assert "cleaned up" in err
    assert "Traceback" not in err


def test_an_agent_that_fails_says_why_to_both(folder: Path) -> None:
    with MinimalDispatcher(folder) as dispatcher:
        code, out, err = ask(folder, dispatcher.address, "failing")
    assert code == 4
    assert out == "begin \n"
    assert "error: no such city" in err
    assert dispatcher.packets[-1].HasField("error")


def test_a_dispatcher_that_ends_the_call_in_the_middle(folder: Path) -> None:
    class Ends(Exception):  # noqa: N818 - it is none of the product's
        pass

    def end(_: Any) -> str | None:
        raise Ends

    with MinimalDispatcher(folder, end) as dispatcher:
        code, _, err = ask(folder, dispatcher.address, "forever")
    assert code == 4
    assert "the dispatcher ended the call" in err
    assert "Core" not in err


def test_an_ending_that_is_not_ok_is_no_success(folder: Path) -> None:
    with MinimalDispatcher(folder, add_ten) as dispatcher:
        dispatcher.ending = grpc.StatusCode.DATA_LOSS
        code, _, err = ask(folder, dispatcher.address, "adder")
    assert code == 4
    assert "DATA_LOSS: because" in err


def test_a_question_without_anybody_to_ask(folder: Path) -> None:
    with MinimalDispatcher(folder) as dispatcher:
        code, out, err = ask(folder, dispatcher.address, "asker")
    assert (code, out) == (0, "nobody_to_ask\n")
    assert "Which?" in err


def test_nobody_there(folder: Path) -> None:
    code, _, err = ask(folder, "127.0.0.1:1", "adder")
    assert code == 6
    assert err.startswith("no dispatcher at 127.0.0.1:1: start one with `dispatcher serve`")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--agent", "my_agents"], "it holds several agents; name one of: adder"),
        (["--agent", "my_agents:add"], "there is no 'add' in it; there are: adder"),
        (["--dispatcher", "nowhere"], "HOST:PORT"),
    ],
)
def test_wrong_words(folder: Path, arguments: list[str], told: str) -> None:
    process = start(folder, "hello", *arguments)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert told in err
    assert "Traceback" not in err
