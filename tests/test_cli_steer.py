"""`dispatcher answer` and `say`, and what `session` shows for them: real processes against a real dispatcher."""

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asynchronous import asynchronous
from chat_viewer import Seen, conversing
from console_server import RefusalError, Stage, run_cli, scripted_dispatcher
from dispatcher_process import DispatcherProcess, running_dispatcher
from grpc import StatusCode
from scripted_commander import Turn, linked, unique
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

CHOICE = agent_pb2.Question(question_id="q1", text="Which?", options=["Berlin", "Bern"])
NUMBER = agent_pb2.Question(question_id="q2", text="How many?", response_schema_json='{"type": "integer"}')


async def in_a_session(
    dispatcher: DispatcherProcess,
    scene: Callable[[Turn, Seen], Awaitable[None]],
    *questions: agent_pb2.Question,
) -> None:
    """Plays the scene while a session runs that somebody else has opened."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        for question in questions:
            await turn.send(question=question)
        if questions:
            await seen.until("question", len(questions))
        await scene(turn, seen)


@pytest.mark.parametrize(("typed", "right"), [("2", '"Bern"'), ("bern", '"Bern"')])
@asynchronous
async def test_an_option_is_answered_by_its_number_or_its_text(
    dispatcher: DispatcherProcess, typed: str, right: str
) -> None:
    async def scene(turn: Turn, seen: Seen) -> None:
        words = ("answer", turn.session_id, "q1", typed)
        status, out, err = await run_cli(*words, address=dispatcher.address)
        assert (status, out, err) == (0, f"{turn.session_id} question q1 answered: {right}\n", "")
        assert (await turn.heard("answer")).answer.value_json == right
        assert (await seen.until("answer")).answer.value_json == right

    await in_a_session(dispatcher, scene, CHOICE)


@asynchronous
async def test_a_schema_is_answered_with_json_and_a_question_can_be_declined(
    dispatcher: DispatcherProcess,
) -> None:
    async def scene(turn: Turn, seen: Seen) -> None:
        session = turn.session_id
        status, out, _ = await run_cli("answer", session, "q2", "17", "--json", address=dispatcher.address)
        assert status == 0
        assert json.loads(out) == {"session_id": session, "question_id": "q2", "declined": False, "value": 17}
        assert (await turn.heard("answer")).answer.value_json == "17"
        status, out, _ = await run_cli("answer", session, "q1", "--decline", address=dispatcher.address)
        assert (status, out) == (0, f"{session} question q1 declined\n")
        assert (await turn.heard("answer")).answer.cancelled.why == "declined"

    await in_a_session(dispatcher, scene, CHOICE, NUMBER)


@asynchronous
async def test_an_answer_that_does_not_fit_leaves_the_question_open(dispatcher: DispatcherProcess) -> None:
    async def scene(turn: Turn, seen: Seen) -> None:
        for question, typed, hint in (
            ("q1", "3", "type a number from 1 to 2 or its text"),
            ("q2", "1.5", "answer.value_json: "),
            ("q2", "many", 'type one that fits {"type": "integer"}'),
            ("q9", "x", "is not an open question; open: q1, q2; `dispatcher session"),
        ):
            words = ("answer", turn.session_id, question, typed)
            status, out, err = await run_cli(*words, address=dispatcher.address)
            assert (status, out) == (5, "")
            assert hint in err
            assert err.count("\n") == 1
        _, out, _ = await run_cli("session", turn.session_id, address=dispatcher.address)
        shown = [line.split(maxsplit=1)[1] for line in out.splitlines() if line.startswith("question")]
        assert shown == ["q1: Which? (Berlin / Bern)", "q2: How many?"]

    await in_a_session(dispatcher, scene, CHOICE, NUMBER)


@asynchronous
async def test_what_is_said_reaches_the_agent_and_has_an_id(dispatcher: DispatcherProcess) -> None:
    async def scene(turn: Turn, seen: Seen) -> None:
        words = ("say", turn.session_id, "shorter, please")
        status, out, _ = await run_cli(*words, "--json", address=dispatcher.address)
        assert status == 0
        told = json.loads(out)
        message = (await turn.heard("user_message")).user_message
        assert message.text == "shorter, please"
        assert told == {"session_id": turn.session_id, "message_id": message.message_id}
        status, out, _ = await run_cli(*words, address=dispatcher.address)
        again = (await turn.heard("user_message")).user_message.message_id
        assert (status, out) == (0, f"{turn.session_id} was told, as message {again}\n")

    await in_a_session(dispatcher, scene)


@asynchronous
async def test_a_session_that_can_not_be_told_anything(dispatcher: DispatcherProcess) -> None:
    async def scene(turn: Turn, seen: Seen) -> None:
        await turn.finish()
        await seen.ended()
        for words in (("say", turn.session_id, "Hi"), ("answer", turn.session_id, "q1", "x")):
            status, out, err = await run_cli(*words, address=dispatcher.address)
            assert (status, out) == (5, "")
            assert "it has ended: completed; nothing can be told to it any more; ask again with" in err
        for words in (("say", "s-none", "Hi"), ("answer", "s-none", "q1", "x")):
            status, out, err = await run_cli(*words, address=dispatcher.address)
            assert (status, out) == (5, "")
            assert err.startswith(
                "dispatcher: session s-none is not kept any more, or never was: `dispatcher sessions --all-ended`"
            )

    await in_a_session(dispatcher, scene)


@asynchronous
async def test_more_than_an_agent_reads_is_refused_with_what_to_do() -> None:
    async def scene(turn: Turn, seen: Seen) -> None:
        for expected in (0, 5):
            status, _, err = await run_cli("say", turn.session_id, "Hi", address=dispatcher.address)
            assert status == expected
        assert "messages_waiting_max allows no more; wait until the agent has read some" in err

    with running_dispatcher("--messages-waiting-max", "1") as dispatcher:
        await in_a_session(dispatcher, scene)


@asynchronous
async def test_each_role_may_what_is_its_own(tmp_path: Path) -> None:
    files = {}
    tables = []
    for role in ("application", "commander", "admin"):
        secret = secrets.token_hex(16)
        files[role] = tmp_path / role
        files[role].write_text(secret)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        tables.append(f'[[tokens]]\nname = "{role}"\nrole = "{role}"\nsha256 = "{digest}"\n')
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("\n".join(tables))
    agent = unique("agent")
    with running_dispatcher("--tokens-file", str(tokens)) as dispatcher:
        async with (
            linked(dispatcher.address, agent, token=files["commander"].read_text()) as link,
            conversing(dispatcher.address, token=files["application"].read_text()) as talk,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.send(question=NUMBER)
            await turn.send(question=CHOICE)
            await seen.until("question", 2)

            async def told(role: str, *words: str) -> tuple[int, str]:
                shown = ("--token-file", str(files[role]))
                status, _, err = await run_cli(*words, *shown, address=dispatcher.address)
                return status, err

            for words in (("say", turn.session_id, "Hi"), ("answer", turn.session_id, "q2", "17")):
                status, err = await told("commander", *words)
                assert status == 5
                assert "needs application or admin): use a token of another role" in err
            # It may not look at the question, and so says in JSON what is no text.
            assert await told("application", "answer", turn.session_id, "q2", "17") == (0, "")
            assert (await turn.heard("answer")).answer.value_json == "17"
            status, err = await told("application", "answer", turn.session_id, "q1", "2")
            assert (status, 'one of "Berlin", "Bern" is right' in err) == (5, True)
            assert await told("application", "answer", turn.session_id, "q1", "Bern") == (0, "")
            assert (await turn.heard("answer")).answer.value_json == '"Bern"'
            assert await told("admin", "say", turn.session_id, "Hi") == (0, "")


@asynchronous
async def test_a_value_or_to_decline() -> None:
    for words in (("answer", "s", "q"), ("answer", "s", "q", "x", "--decline")):
        status, out, err = await run_cli(*words, address="127.0.0.1:1")
        assert (status, out) == (2, "")
        assert "say what to answer, or --decline: one of the two" in err


@asynchronous
async def test_what_may_have_arrived_is_not_said_twice() -> None:
    async def breaks(stage: Stage) -> None:
        packet: chat_pb2.ClientPacket = await stage.heard()
        assert packet.message.text == "Hi"
        raise RefusalError(StatusCode.UNAVAILABLE, "broken")

    async with scripted_dispatcher() as server:
        server.converse(breaks)
        status, out, err = await run_cli("say", "s-1", "Hi", address=server.address)
    assert (status, out) == (6, "")
    assert err == (
        "dispatcher: it is not known whether this arrived (broken): `dispatcher watch s-1` shows it if it did\n"
    )
