"""What a person at `dispatcher chat` and `watch` sees when commanders die, the dispatcher is started again, or it takes
no more: real processes against a real dispatcher."""

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asynchronous import asynchronous, soon
from console_server import run_cli, start_cli, terminal
from dispatcher_process import DispatcherProcess, running_dispatcher
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2

# The least grace that heartbeats allow which a busy machine does not miss.
QUICK = ("--heartbeat-interval-s", "1", "--detach-grace-s", "3.1", "--attempts-max", "2")


def asked(address: str, agent: str, *words: str) -> "asyncio.Task[tuple[int, str, str]]":
    return asyncio.ensure_future(run_cli("chat", "Hi", "--agent", agent, *words, address=address))


async def loses_one(address: str, agent: str, *words: str) -> tuple[Turn, int, str, str]:
    """A chat whose first commander leaves after it has said something."""
    async with linked(address, agent) as first:
        chat = asked(address, agent, *words)
        turn = await first.started()
        await turn.say("void")
        await turn.acknowledged(1)
        await first.leave()
        async with linked(address, agent, commander_id="second") as second:
            turn = await second.started()
            await turn.say("the answer")
            await turn.finish()
            return turn, *(await chat)


@pytest.fixture(scope="module")
def quick() -> Iterator[DispatcherProcess]:
    with running_dispatcher(*QUICK) as dispatcher:
        yield dispatcher


@asynchronous
async def test_what_a_lost_attempt_said_is_void_and_the_answer_follows(quick: DispatcherProcess) -> None:
    turn, status, out, err = await loses_one(quick.address, unique("agent"))
    void, mark, answer = out.partition("! ==== all above is void")
    assert "void\n" in void
    assert mark
    assert answer.splitlines()[1:] == [
        "commander second takes over: attempt 2, as the one before was lost",
        "the answer",
    ]
    assert err.splitlines()[0] == f"completed: session {turn.session_id}, 10 characters"
    assert err.splitlines()[1].startswith("the answer began anew once: ")
    assert status == 0
    # Whoever watches it later gets the same, and the answer alone.
    assert (await run_cli("watch", turn.session_id, address=quick.address))[1] == out
    alone = await run_cli("watch", turn.session_id, "--answer", address=quick.address)
    assert alone[:2] == (0, "the answer\n")


@asynchronous
async def test_the_answer_alone_is_the_last_attempts(quick: DispatcherProcess) -> None:
    _, status, out, _ = await loses_one(quick.address, unique("agent"), "--answer")
    assert (status, out) == (0, "the answer\n")


@asynchronous
async def test_scripts_see_the_reset_itself(quick: DispatcherProcess) -> None:
    _, status, out, _ = await loses_one(quick.address, unique("agent"), "--json")
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["opened", "started", "content", "reset", "started", "content", "ended"]
    assert events[3]["fields"]["discard_after"] == events[0]["cursor"]
    assert events[4]["attempt"] == 2
    assert status == 0


@asynchronous
async def test_an_attempt_that_continues_makes_nothing_void(quick: DispatcherProcess) -> None:
    offer = agent_pb2.AgentOffer(name=unique("agent"), on_restart=agent_pb2.ON_RESTART_CONTINUE)
    async with linked(quick.address, agents=[offer]) as first:
        chat = asked(quick.address, offer.name)
        turn = await first.started()
        await turn.say("half ")
        await turn.acknowledged(1)
        await first.leave()
        async with linked(quick.address, agents=[offer], commander_id="second") as second:
            turn = await second.started()
            await turn.say("whole")
            await turn.finish()
            status, out, err = await chat
    assert out.splitlines()[2:] == [
        "half ",
        "commander second takes over: attempt 2, as the one before was lost; what stands above stays",
        "whole",
    ]
    assert (status, err) == (0, f"completed: session {turn.session_id}, 10 characters\n")


@asynchronous
async def test_a_session_that_kills_its_commanders_says_what_to_do(quick: DispatcherProcess) -> None:
    agent = unique("agent")
    chat = asked(quick.address, agent)
    for _ in range(2):
        async with linked(quick.address, agent) as link:
            turn = await link.started()
            await turn.say("deadly")
            await turn.acknowledged(1)
    status, _, err = await chat
    said, advice, *_ = err.splitlines()
    assert said.startswith(
        f"poisoned: session {turn.session_id}, 6 characters; 2 commanders died while they ran it"
    )
    assert advice.startswith("what to do: Each worker that ran it died; their logs say of what.")
    assert status == 4


@asynchronous
async def test_what_no_agent_has_read_is_given_back_to_who_typed_it(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        terminal("chat", "Hi", "--agent", agent, address=dispatcher.address) as person,
    ):
        turn = await link.started()
        await person.sees("takes it")
        person.type("in short, please\n")
        await turn.heard("user_message")
        await turn.finish()
        assert await person.exit_status() == 0
    assert "given back, as no agent has read it; ask again: in short, please" in person.screen


@asynchronous
async def test_a_refusal_says_when_to_come_back() -> None:
    agent = unique("agent")
    flags = ("--user-sessions-max", "1", "--sessions-per-minute-max", "1")
    with running_dispatcher(*flags) as dispatcher:
        async with linked(dispatcher.address, agent) as link:
            first = asked(dispatcher.address, agent, "--user", "ada")
            turn = await link.started()
            status, out, err = await asked(dispatcher.address, agent, "--user", "ada")
            assert (status, out) == (5, "")
            assert err.startswith(
                "dispatcher: refused: user_sessions_full (dispatcher): user_sessions_max is 1"
            )
            assert err.endswith("; too many sessions of this user; end one, or try again in 2 s\n")
            status, out, err = await asked(dispatcher.address, agent, "--user", "bob")
            assert (status, out) == (5, "")
            assert err.startswith(
                "dispatcher: refused: rate_limited (dispatcher): sessions_per_minute_max is 1"
            )
            assert "; too many sessions in too short a time; try again in " in err
            await turn.finish()
            assert (await first)[0] == 0


@asynchronous
async def test_a_restart_is_waited_for_and_the_session_goes_on_where_it_was(tmp_path: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    flags = ("--grpc-address", f"unix:{tmp_path}/socket", "--journal", f"sqlite:{tmp_path}/journal")
    with running_dispatcher(*flags) as first:
        async with linked(first.address, agent, **me) as link:
            chat = await start_cli("chat", "Hi", "--agent", agent, address=first.address)
            assert chat.stdout is not None
            turn = await link.started()
            await turn.say("half ")
            await turn.acknowledged(1)
            before = await soon(chat.stdout.readuntil(b"half "))
            first.signal(signal.SIGTERM)
            await link.heard("goodbye")
        assert await asyncio.to_thread(first.wait) == 0
    with running_dispatcher(*flags) as second:
        resume = agent_pb2.Resume(session_id=turn.session_id, attempt=1, last_sequence_sent=turn.sequence)
        async with linked(second.address, agent, **me, resumes=[resume]) as link:
            await link.write(turn.packet(content=agent_pb2.ContentChunk(text="whole")), turn.finished())
            out, err = await soon(chat.communicate())
    assert (before + out).decode().endswith("\nhalf whole\n")
    said = err.decode().splitlines()
    assert said[0].startswith(
        "the dispatcher goes away, and the session goes on: coming back in 2 s, behind "
    )
    assert all(line.startswith("it is not back yet (") for line in said[1:-2])  # one for each try too early
    assert said[-2:] == ["the stream is back", f"completed: session {turn.session_id}, 10 characters"]
    assert chat.returncode == 0


@asynchronous
async def test_a_restart_that_forgot_everything_is_said_plainly(tmp_path: Path) -> None:
    agent = unique("agent")
    flags = ("--grpc-address", f"unix:{tmp_path}/socket")
    with running_dispatcher(*flags) as first:
        async with linked(first.address, agent) as link:
            chat = await start_cli("chat", "Hi", "--agent", agent, address=first.address)
            assert chat.stdout is not None
            turn = await link.started()
            await turn.say("half")
            await soon(chat.stdout.readuntil(b"half"))
            first.signal(signal.SIGKILL)
            await asyncio.to_thread(first.wait)
    with running_dispatcher(*flags):
        out, err = await soon(chat.communicate())
    assert b"which was started again without what it had kept; nothing of it is to be had" in out
    assert err.decode().splitlines()[-1] == (
        f"dispatcher: session {turn.session_id} is gone: the dispatcher was started again without what it had kept; "
        "ask again with `dispatcher chat`"
    )
    assert chat.returncode == 4


@asynchronous
async def test_a_session_that_never_was_is_refused_alike_with_a_cursor(dispatcher: DispatcherProcess) -> None:
    for words in ((), ("--cursor", "e1:3")):
        status, _, err = await run_cli("watch", "s-none", *words, address=dispatcher.address)
        assert err == (
            "dispatcher: session s-none is not kept any more, or never was: `dispatcher sessions --all-ended` lists "
            "those that are kept\n"
        )
        assert status == 5
    # The same where the cursor is of this life.
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link:
        chat = asked(dispatcher.address, agent, "--json")
        turn = await link.started()
        await turn.finish()
        _, out, _ = await chat
    epoch = json.loads(out.splitlines()[0])["cursor"].rpartition(":")[0]
    cursor = f"{epoch}:3"
    status, out, err = await run_cli("watch", "s-none", "--cursor", cursor, address=dispatcher.address)
    assert out == "! the session is not kept; nothing of it is to be had\n"
    assert (status, "is not kept any more, or never was" in err) == (5, True)


@asynchronous
@pytest.mark.parametrize("left_s", ["0", "0.2"])
async def test_a_chat_that_is_killed_stops_its_session_where_that_was_asked(
    left_s: str, dispatcher: DispatcherProcess
) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link:
        words = ("chat", "Hi", "--agent", agent, "--stop-when-left", left_s)
        chat = await start_cli(*words, address=dispatcher.address)
        assert chat.stdout is not None
        turn = await link.started()
        await turn.say("half")
        await soon(chat.stdout.readuntil(b"half"))
        chat.send_signal(signal.SIGKILL)
        await soon(chat.communicate())
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_DETACHED
        status, _, err = await run_cli("watch", turn.session_id, address=dispatcher.address)
    assert err.startswith(f"detached: session {turn.session_id}, 4 characters")
    assert status == 4
