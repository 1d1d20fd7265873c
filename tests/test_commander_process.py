"""A real `commander run`: what it prints, how signals end it, what it does when the dispatcher freezes."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from commander_process import PATIENCE_S, running_commander
from scripted_dispatcher import ScriptedDispatcher, ScriptedLink, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

AGENTS = """
import asyncio, logging, sys, time
from commander import agent

@agent("caller", description="Waits for a tool")
async def caller(turn):
    yield "begin "
    yield str(await turn.call_tool("slow"))

@agent("blocker")
async def blocker(turn):
    yield "begin "
    await asyncio.sleep(0)
    time.sleep(600)

@agent("deaf")
async def deaf(turn):
    yield "begin "
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@agent("tidy")
async def tidy(turn):
    yield "begin "
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0.05)

@agent("failing")
async def failing(turn):
    yield "begin "
    try:
        await asyncio.sleep(600)
    finally:
        raise ValueError("while it ended")

@agent("finishing")
async def finishing(turn):
    yield "begin "
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        yield "as if nothing had been"

@agent("threaded")
def threaded(turn):
    yield "begin "
    turn.call_tool("slow")

@agent("talker")
async def talker(turn):
    try:
        while True:
            yield "on "
            await asyncio.sleep(0.005)
    finally:
        logging.getLogger("mine").warning("the talker was cancelled")

@agent("logging")
async def log(turn):
    logging.getLogger("mine").warning("from the agent")
    yield "logged"

async def leave():
    sys.exit("no key for the model")

async def interrupt():
    raise KeyboardInterrupt

async def linger():
    try:
        await asyncio.sleep(600)
    finally:
        sys.exit(9)

helpers = []

@agent("leaver")
async def leaver(turn):
    helpers.append(asyncio.create_task(linger()))
    await asyncio.sleep(0)
    yield "left"

@agent("vandal")
async def vandal(turn):
    loop = asyncio.get_running_loop()
    match turn.text:
        case "helper exits":
            helpers.append(asyncio.create_task(leave()))
        case "helper interrupts":
            helpers.append(asyncio.create_task(interrupt()))
        case "callback exits":
            loop.call_soon(sys.exit)
        case "stops the loop":
            loop.stop()
        case "cancels everything":
            for task in asyncio.all_tasks():
                task.cancel()
        case "breaks the loop":
            loop.time = None
    await asyncio.sleep(0)
    yield "harmless"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_agents.py").write_text(AGENTS)
    return tmp_path


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish(
    folder: Path, dispatcher: ScriptedDispatcher, number: signal.Signals, event_loop: str
) -> None:
    flags = ("--dispatcher", dispatcher.address, "--slots", "3", "--event-loop", event_loop)
    with running_commander(folder, "my_agents", *flags) as commander:
        link = dispatcher.accept()
        names = "caller, blocker, deaf, tidy, failing, finishing, threaded, talker, logging, leaver, vandal"
        started = commander.wait_for(f"agents {names}")
        assert "3 slots" in started
        assert dispatcher.address in started
        commander.wait_for("linked to")
        session = ScriptedSession(link, "s", agent="caller")
        call = session.next_of("tool_call")
        commander.tell(number)
        commander.wait_for(f"draining for at most 30 s: {number.name}")
        ScriptedSession(link, "late", agent="caller")
        assert link.expect_payload("refused", "late").refused.code == "draining"
        session.answer_call(call, '"end"')
        session.done()
        assert link.expect_payload("goodbye").goodbye.reason == number.name
        assert commander.wait() == 0
        # It leaves nothing behind, and says nothing that nobody understands.
        assert not [line for line in commander.lines if "Traceback" in line or "leaving behind" in line]
    assert session.content == "begin end"


def nothing_ended(link: ScriptedLink) -> bool:
    """Of no session came an end: the dispatcher gives them to another commander."""
    link.wait_over()
    return not link.seen(lambda packet: packet.WhichOneof("payload") in ("done", "error"))


ENDING = ("caller", "tidy", "failing", "finishing", "threaded")


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("ordered_by", ["signal", "dispatcher"])
def test_past_its_deadline_it_says_goodbye_when_its_agents_have_ended(
    folder: Path, dispatcher: ScriptedDispatcher, event_loop: str, ordered_by: str
) -> None:
    # Whoever waited for the grace of a stop would wait for ever.
    flags = ("--dispatcher", dispatcher.address, "--event-loop", event_loop, "--stop-grace-s", "600")
    with running_commander(folder, "my_agents", *flags, "--drain-deadline-s", "0.2") as commander:
        link = dispatcher.accept()
        for name in ENDING:
            ScriptedSession(link, name, agent=name).next()
        if ordered_by == "signal":
            commander.tell(signal.SIGTERM)
        else:
            link.send(pb.DownstreamPacket(drain=pb.Drain(reason="an update")))
        link.expect_payload("goodbye")
        assert nothing_ended(link)
        assert commander.wait() == 0
        commander.wait_for("the agent was stopped, and failed while it ended")


@pytest.mark.parametrize(("agents", "slots"), [(["deaf", "tidy"], 9), (["blocker"], 9), (["deaf"], 1)])
def test_an_agent_that_swallows_its_cancellation_holds_the_goodbye_up_for_its_grace_alone(
    folder: Path, dispatcher: ScriptedDispatcher, agents: list[str], slots: int
) -> None:
    flags = ("--dispatcher", dispatcher.address, "--slots", str(slots), "--stop-grace-s", "0.2")
    with running_commander(folder, "my_agents", *flags, "--drain-deadline-s", "0.2") as commander:
        link = dispatcher.accept()
        for name in agents:
            ScriptedSession(link, name, agent=name).next()
        commander.tell(signal.SIGTERM)
        link.expect_payload("goodbye")
        assert nothing_ended(link)
        assert commander.wait() == 0
        commander.wait_for("abandoned: the agent ignored its stop")


@pytest.mark.parametrize("agent", ["caller", "blocker", "deaf"])
@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
def test_a_second_signal_ends_it_at_once_whatever_runs(
    folder: Path, dispatcher: ScriptedDispatcher, agent: str, event_loop: str
) -> None:
    flags = ("--dispatcher", dispatcher.address, "--event-loop", event_loop)
    with running_commander(folder, "my_agents", *flags) as commander:
        link = dispatcher.accept()
        ScriptedSession(link, "s", agent=agent).next()
        commander.tell(signal.SIGTERM)
        commander.wait_for("draining")
        commander.tell(signal.SIGTERM)
        link.expect_payload("goodbye")
        assert nothing_ended(link)
        assert commander.wait() == 128 + signal.SIGTERM


def test_when_every_slot_is_stuck_it_ends_though_its_main_thread_is_blocked(
    folder: Path, dispatcher: ScriptedDispatcher
) -> None:
    with running_commander(
        folder, "my_agents:blocker", "--dispatcher", dispatcher.address, "--slots", "1"
    ) as commander:
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        session.stop(grace_ms=50)
        session.stop_ack(pb.STOP_PHASE_ABANDONED)
        link.expect_payload("goodbye")
        assert commander.wait() == 70
        commander.wait_for("every slot is held by an agent that ignored its stop")


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("how", "told", "where"),
    [
        ("helper exits", "SystemExit", "in leave"),
        ("helper interrupts", "KeyboardInterrupt", "in interrupt"),
        ("callback exits", "SystemExit", "SystemExit"),
        ("stops the loop", "stop()", "caller n/1"),
    ],
)
def test_an_agent_that_would_end_the_loop_does_not_end_its_neighbours(
    folder: Path, dispatcher: ScriptedDispatcher, event_loop: str, how: str, told: str, where: str
) -> None:
    flags = ("--dispatcher", dispatcher.address, "--event-loop", event_loop)
    with running_commander(folder, "my_agents", *flags) as commander:
        link = dispatcher.accept()
        neighbour = ScriptedSession(link, "n", agent="caller")
        call = neighbour.next_of("tool_call")
        vandal = ScriptedSession(link, "v", agent="vandal", text=how)
        assert vandal.done().outcome == pb.OUTCOME_COMPLETED
        assert told in commander.wait_for("the agents' loop goes on")
        commander.wait_for(where)
        neighbour.answer_call(call, '"end"')
        assert neighbour.done().outcome == pb.OUTCOME_COMPLETED
        # And a signal still finds its way.
        commander.tell(signal.SIGTERM)
        link.expect_payload("goodbye")
        assert commander.wait() == 0


def test_who_is_cancelled_by_another_agent_may_be_tried_again(
    folder: Path, dispatcher: ScriptedDispatcher
) -> None:
    with running_commander(folder, "my_agents", "--dispatcher", dispatcher.address) as commander:
        link = dispatcher.accept()
        neighbour = ScriptedSession(link, "n", agent="caller")
        neighbour.next_of("tool_call")
        ScriptedSession(link, "v", agent="vandal", text="cancels everything").done()
        done = neighbour.done()
        assert done.outcome == pb.OUTCOME_FAILED
        assert done.error.retryable
        assert ScriptedSession(link, "next", agent="logging").done().outcome == pb.OUTCOME_COMPLETED
        commander.tell(signal.SIGTERM)
        assert commander.wait() == 0


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
def test_what_a_helper_left_behind_does_is_no_exit_code(
    folder: Path, dispatcher: ScriptedDispatcher, event_loop: str
) -> None:
    flags = ("--dispatcher", dispatcher.address, "--event-loop", event_loop)
    with running_commander(folder, "my_agents", *flags) as commander:
        link = dispatcher.accept()
        ScriptedSession(link, "s", agent="leaver").done()
        commander.tell(signal.SIGTERM)
        assert commander.wait() == 0


def test_with_its_loop_broken_it_ends_without_a_word_and_without_an_end_for_anybody(
    folder: Path, dispatcher: ScriptedDispatcher
) -> None:
    flags = ("--dispatcher", dispatcher.address, "--event-loop", "asyncio")
    with running_commander(folder, "my_agents", *flags) as commander:
        link = dispatcher.accept()
        ScriptedSession(link, "n", agent="caller").next_of("tool_call")
        ScriptedSession(link, "v", agent="vandal", text="breaks the loop")
        assert commander.wait() == 1
        commander.wait_for("the agents' loop is broken")
        link.wait_over()
        assert not link.seen(lambda packet: packet.WhichOneof("payload") in ("done", "goodbye"))


def test_a_signal_that_comes_before_the_link_ends_it_too(folder: Path) -> None:
    with running_commander(folder, "my_agents", "--dispatcher", "127.0.0.1:1") as commander:
        commander.wait_for("no link to 127.0.0.1:1")
        commander.tell(signal.SIGTERM)
        assert commander.wait() == 0


def test_a_frozen_dispatcher_is_noticed_and_another_one_found(folder: Path) -> None:
    frozen = subprocess.Popen(
        [sys.executable, "-m", "tests.scripted_dispatcher", "0.2"],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert frozen.stdout is not None
        address = frozen.stdout.readline().strip()
        flags = ("--dispatcher", address, "--connect-timeout-s", "0.5", "--reconnect-max-s", "0.2")
        with running_commander(folder, "my_agents", *flags) as commander:
            commander.wait_for("linked to")
            os.kill(frozen.pid, signal.SIGSTOP)
            assert "nothing heard of it for" in commander.wait_for("lost link")
            commander.wait_for("no link")
            os.kill(frozen.pid, signal.SIGCONT)
            assert frozen.stdout.readline().startswith("linked")
            # The second greeting, once it reads again.
            assert frozen.stdout.readline().startswith("linked")
    finally:
        frozen.kill()
        frozen.wait(PATIENCE_S)
        if frozen.stdout is not None:
            frozen.stdout.close()


def test_one_that_was_frozen_hears_that_its_turns_are_fenced_and_says_nothing_of_them(
    folder: Path, dispatcher: ScriptedDispatcher
) -> None:
    with running_commander(
        folder, "my_agents", "--dispatcher", dispatcher.address, "--slots", "1"
    ) as commander:
        first = dispatcher.accept()
        ScriptedSession(first, "s", agent="talker").next()
        commander.tell(signal.SIGSTOP)
        # Frozen for longer than the dispatcher waits: its link is gone, and the session runs elsewhere.
        dispatcher.welcoming.verdicts["s"] = pb.ResumeVerdict(fenced=pb.Fenced(why="attempt 2 runs"))
        first.kill()
        first.wait_over()
        commander.tell(signal.SIGCONT)
        second = dispatcher.accept()
        assert [(resume.session_id, resume.attempt) for resume in second.hello.resumes] == [("s", 1)]
        commander.wait_for("cancelled: fenced: attempt 2 runs")
        commander.wait_for("the talker was cancelled")
        commander.wait_for("ended: lost")
        # Its slot is free, for this very session too.
        newer = ScriptedSession(second, "s", agent="logging", attempt=3)
        newer.done()
        assert newer.content == "logged"
        assert not second.seen(lambda packet: packet.session_id == "s" and packet.attempt == 1)


def test_metrics_and_json_logs(folder: Path, dispatcher: ScriptedDispatcher) -> None:
    flags = ("--dispatcher", dispatcher.address, "--metrics-address", "127.0.0.1:0", "--log-format", "json")
    with running_commander(folder, "my_agents", *flags) as commander:
        link = dispatcher.accept()
        ScriptedSession(link, "s-1", agent="logging").done()
        line = json.loads(commander.wait_for("from the agent"))
        assert (line["logger"], line["level"], line["session"], line["attempt"]) == (
            "mine",
            "warning",
            "s-1",
            1,
        )
        commander.wait_for("ended: completed")
        url = json.loads(commander.wait_for("metrics at"))["message"].removeprefix("metrics at ")
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - its own address
            metrics = answer.read().decode()
    assert 'commander_turns_ended_total{agent="logging",outcome="completed"} 1.0' in metrics
    assert 'commander_turns_running{agent="logging"} 0.0' in metrics
    assert "commander_link_up 1.0" in metrics
    assert "commander_slots 100.0" in metrics
    assert "commander_slots_stuck 0.0" in metrics
    assert "commander_packets_unacknowledged 0.0" in metrics
    for line in commander.lines:
        assert json.loads(line)["message"]


def test_an_address_that_is_taken_is_told_as_one_sentence(
    folder: Path, dispatcher: ScriptedDispatcher
) -> None:
    with running_commander(
        folder, "my_agents", "--metrics-address", f"127.0.0.1:{dispatcher.port}"
    ) as commander:
        assert commander.wait() == 2
        assert "metrics_address" in commander.wait_for("can't be listened on")
        assert not [line for line in commander.lines if "Traceback" in line]
