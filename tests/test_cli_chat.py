"""`dispatcher chat` and `watch` as real processes with pipes, against a scripted server."""

import asyncio
import contextlib
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from console_server import (
    PATIENCE_S,
    Stage,
    Tale,
    environment,
    play,
    run_cli,
    scripted_dispatcher,
    start_cli,
)
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.conclusion import refusal_text
from dispatcher.core.endings import REFUSALS, Refusal

BEGAN_ANEW = (
    "the answer began anew once: it is what follows the last `reset` event, "
    "which on a page is the last line that begins with '! ===='"
)


async def plain_answer(stage: Stage) -> None:
    tale = Tale()
    await stage.accept()
    await stage.tell(tale.opened(), tale.thought("Planning", "easy"), tale.content("Hello, "))
    await stage.tell(tale.content("world \x1b]0;evil\x07\u202e"), tale.ended())
    await stage.half_closed()


def test_an_answer_is_plain_lines_in_a_pipe() -> None:
    async def scene() -> None:
        async with scripted_dispatcher() as server:
            server.converse(plain_answer)
            status, out, err = await run_cli("chat", "Hi", address=server.address)
        assert out == ("session s-1, agent demo\nPlanning │ easy\nHello, world \\x1b]0;evil\\x07\\u202e\n")
        assert err == "completed: session s-1, 23 characters\n"
        assert status == 0

    play(scene())


def test_what_is_asked_is_what_was_typed() -> None:
    async def scene() -> None:
        asked = []

        async def script(stage: Stage) -> None:
            asked.append(await stage.accept())
            await stage.tell(Tale().ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            await run_cli(
                "chat", "Hi", "--agent", "demo", "--agent-version", "2", "--label", "region=eu", "--label",
                "tier=a=b", "--commander-label", "gpu=1", "--user", "u1", "--metadata", "k=v", "--no-thoughts",
                address=server.address,
            )  # fmt: skip
        ask = asked[0]
        assert ask == chat_pb2.Ask(
            agent="demo",
            agent_version="2",
            labels={"region": "eu", "tier": "a=b"},
            commander_labels={"gpu": "1"},
            messages=[agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[agent_pb2.ContentPart(text="Hi")])],
            metadata={"k": "v"},
            user_id="u1",
        )

    play(scene())


def test_json_is_an_object_a_line_and_knows_what_it_does_not_know() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            opened, unknown = tale.opened(), tale.event()
            unknown.MergeFromString(b"\xfa\x3f\x02hi")  # field 1023, which no version has yet
            await stage.tell(opened, unknown, tale.content("é\x1b"), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            status, out, err = await run_cli("chat", "Hi", "--json", address=server.address)
        records = [json.loads(line) for line in out.splitlines()]
        assert [record["event"] for record in records] == ["opened", "unknown", "content", "ended"]
        assert [record["cursor"] for record in records] == ["e1:1", "e1:2", "e1:3", "e1:4"]
        assert records[2]["fields"] == {"text": "é\x1b", "is_finish": False}
        assert "\x1b" not in out
        assert (status, err) == (0, "completed: session s-1, 2 characters\n")

    play(scene())


def test_the_ending_names_the_limit_that_made_it() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            await stage.accept()
            stop = agent_pb2.StopSignal(reason="LimitExceeded", policy="tool_calls_max")
            message = "tool_calls_max: more than 3 tool calls"
            await stage.tell(Tale().ended(chat_pb2.SESSION_ENDING_LIMIT_EXCEEDED, stop=stop, message=message))

        async with scripted_dispatcher() as server:
            server.converse(script)
            _, _, err = await run_cli("chat", "Hi", address=server.address)
        assert err == (
            "limit_exceeded: session s-1, 0 characters; tool_calls_max: more than 3 tool calls\n"
            "what to do: Ask for less, or have the limit that is named raised.\n"
        )

    play(scene())


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (chat_pb2.SESSION_ENDING_STOPPED, 3),
        (chat_pb2.SESSION_ENDING_AGENT_FAILED, 4),
        (chat_pb2.SESSION_ENDING_POLICY_BLOCKED, 4),
    ],
)
def test_the_exit_status_tells_the_ending(ending: chat_pb2.SessionEnding.ValueType, status: int) -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            await stage.accept()
            stop = agent_pb2.StopSignal(reason="Enough", actor="admin:alice")
            await stage.tell(Tale().ended(ending, stop=stop, retryable=True))

        async with scripted_dispatcher() as server:
            server.converse(script)
            code, _, err = await run_cli("chat", "Hi", address=server.address)
        name = chat_pb2.SessionEnding.Name(ending).removeprefix("SESSION_ENDING_").lower()
        assert err.splitlines()[0] == (
            f"{name}: session s-1, 0 characters; Enough by admin:alice; it may be tried again"
        )
        assert ("what to do: " in err) is (ending != chat_pb2.SESSION_ENDING_STOPPED)
        assert code == status

    play(scene())


def test_content_that_differs_from_its_checksum_is_said_loudly() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.content("abc"), tale.ended(content_chars=4))

        async with scripted_dispatcher() as server:
            server.converse(script)
            status, _, err = await run_cli("chat", "Hi", address=server.address)
        assert "CONTENT DIFFERS: 3 characters" in err
        assert status == 4

    play(scene())


def test_content_is_checked_across_a_reset_and_sub_agents() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.opened(), tale.content("lost"))
            after = chat_pb2.Cursor(epoch="e1", offset=1)
            tale.text = ""
            await stage.tell(tale.event(reset=chat_pb2.Reset(discard_after=after, reason="commander lost")))
            await stage.tell(tale.content("kept", agent="a"), tale.content("too"), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            status, out, err = await run_cli("chat", "Hi", address=server.address)
        void, _, answer = out.partition("! ==== all above is void (commander lost); the answer follows\n")
        assert void == "session s-1, agent demo\nlost\n"
        assert answer == "[a] kept\ntoo\n"
        assert err.splitlines() == [
            "completed: session s-1, 7 characters",
            BEGAN_ANEW,
        ]
        assert status == 0

    play(scene())


def test_a_refusal_says_why() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            error = agent_pb2.ErrorSignal(
                code="no_such_agent", message="there is no agent x", retryable=True, retry_after_ms=2_500
            )
            await stage.receipt(await stage.heard(), "", error)

        async with scripted_dispatcher() as server:
            server.converse(script)
            status, out, err = await run_cli("chat", "Hi", "--agent", "x", address=server.address)
        assert err == (
            "dispatcher: refused: no_such_agent: there is no agent x; "
            "ask for an agent that is listed, or start a commander that serves it; try again in 2.5 s\n"
        )
        assert (status, out) == (5, "")

    play(scene())


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_and_its_advice_are_one_sentence(refusal: Refusal) -> None:
    error = agent_pb2.ErrorSignal(code=refusal.value, message="it is full", retry_after_ms=2_500)
    text = refusal_text(error)
    assert text.startswith(f"{refusal.value}: it is full; ")
    for part in text.split("; ")[1:]:
        assert part[0].islower(), part
    assert ". " not in text
    assert not text.endswith(".")


async def one_question(stage: Stage, heard: list[chat_pb2.ClientPacket]) -> None:
    tale = Tale()
    await stage.accept()
    await stage.tell(tale.question("Which?", "Berlin", "Bern"))
    heard.append(await stage.heard())
    await stage.receipt(heard[-1])
    await stage.tell(tale.answer(heard[-1].answer.value_json), tale.ended())


@pytest.mark.parametrize("through_a_file", [False, True])
def test_a_line_of_standard_input_answers(through_a_file: bool, tmp_path: Path) -> None:
    async def scene() -> None:
        heard: list[chat_pb2.ClientPacket] = []
        async with scripted_dispatcher() as server:
            server.converse(lambda stage: one_question(stage, heard))
            if through_a_file:
                answers = tmp_path / "answers"
                answers.write_text("nowhere\nbern\nleft alone\n")
                with answers.open("rb") as stdin:
                    process = await asyncio.create_subprocess_exec(
                        *command("chat", "Hi", "--dispatcher", server.address),
                        stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                        env=environment(),
                    )  # fmt: skip
                    err = (await process.communicate())[1].decode()
                    status = process.returncode
            else:
                status, _, err = await run_cli(
                    "chat", "Hi", stdin=b"nowhere\nbern\nleft alone\n", address=server.address
                )
        assert heard[0].answer.value_json == '"Bern"'
        assert err.splitlines()[0] == (
            "'nowhere' is none of the options: type a number from 1 to 2 or its text"
        )
        assert status == 0

    play(scene())


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dispatcher", *words]


@pytest.mark.parametrize("stdin", [b"", None])
def test_without_standard_input_a_question_is_declined(stdin: bytes | None) -> None:
    async def scene() -> None:
        heard: list[chat_pb2.ClientPacket] = []
        async with scripted_dispatcher() as server:
            server.converse(lambda stage: one_question(stage, heard))
            status, _, err = await run_cli("chat", "Hi", stdin=stdin, address=server.address)
        assert heard[0].answer.decline
        assert err.splitlines()[0] == "standard input has no answer: the question is declined: Which?"
        assert status == 0

    play(scene())


def test_an_answer_that_is_refused_is_asked_for_again() -> None:
    async def scene() -> None:
        values = []

        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.question("How many?", schema='{"type": "integer"}'))
            for error in (agent_pb2.ErrorSignal(code="unfit", message="at most 3"), None):
                packet = await stage.heard()
                values.append(packet.answer.value_json)
                await stage.receipt(packet, error=error)
            await stage.tell(tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            status, _, err = await run_cli("chat", "Hi", stdin=b"4\n3\n", address=server.address)
        assert values == ["4", "3"]
        assert err.splitlines()[0] == "refused: unfit: at most 3"
        assert status == 0

    play(scene())


def test_ctrl_c_without_a_terminal_stops_too() -> None:
    async def scene() -> None:
        opened = asyncio.Event()

        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.content("half an"))
            opened.set()
            packet = await stage.heard()
            assert packet.stop.reason == "UserCancel"
            await stage.receipt(packet)
            stop = agent_pb2.StopSignal(reason=packet.stop.reason)
            await stage.tell(tale.ended(chat_pb2.SESSION_ENDING_STOPPED, stop=stop))

        async with scripted_dispatcher() as server:
            server.converse(script)
            process = await start_cli("chat", "Hi", address=server.address)
            await opened.wait()
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_S):
                assert await process.stdout.read(7) == b"half an"
                process.send_signal(signal.SIGINT)
                out, err = await process.communicate()
        assert out == b"\n"
        assert err.decode().splitlines() == [
            "stopping; Ctrl-C again leaves at once",
            "stopped: session s-1, 7 characters; UserCancel",
        ]
        assert process.returncode == 3

    play(scene())


def test_a_reader_that_leaves_is_no_traceback() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.opened())
            with contextlib.suppress(grpc.aio.BaseError):  # when the client has left
                while True:
                    await stage.tell(tale.content("x" * 10_000))

        async with scripted_dispatcher() as server:
            server.converse(script)
            words = shlex.join(command("chat", "Hi", "--dispatcher", server.address))
            process = await asyncio.create_subprocess_exec(
                "bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(),
            )  # fmt: skip
            async with asyncio.timeout(PATIENCE_S):
                out, err = await process.communicate()
        assert (out, err) == (b"session s-1, agent demo\n", b"")
        assert process.returncode == 141

    play(scene())


def test_watch_shows_all_from_a_cursor_on() -> None:
    async def scene() -> None:
        asked = []

        async def script(stage: Stage) -> None:
            asked.append(await stage.heard())
            tale = Tale()
            tale.content("not shown")
            await stage.tell(tale.thought("Planning", "hm"), tale.content("shown"), tale.ended())

        async with scripted_dispatcher() as server:
            server.scripts["WatchSession"].append(script)
            status, out, err = await run_cli("watch", "s-1", "--cursor", "e1:1", address=server.address)
        assert (asked[0].session_id, asked[0].cursor.epoch, asked[0].cursor.offset) == ("s-1", "e1", 1)
        assert out == "Planning │ hm\nshown\n"
        assert (status, err) == (0, "completed: session s-1, 14 characters\n")

    play(scene())


def test_watch_tells_of_a_gap() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            gap = chat_pb2.Gap(reason="trimmed", available_from=chat_pb2.Cursor(epoch="e1", offset=5))
            tale.offset = 4
            await stage.tell(chat_pb2.SessionEvent(session_id="s-1", gap=gap), tale.ended(content_chars=9))

        async with scripted_dispatcher() as server:
            server.scripts["WatchSession"].append(script)
            status, out, err = await run_cli("watch", "s-1", address=server.address)
        assert (
            out
            == "! the part behind what was asked for is no longer kept; what follows begins with event e1:5\n"
        )
        assert err.splitlines()[-1] == "CONTENT IS NOT WHOLE: part of it was no longer to be had"
        assert status == 4

    play(scene())


async def begins_anew(stage: Stage, **ended: Any) -> None:
    tale = Tale()
    await stage.accept()
    await stage.tell(tale.opened(), tale.thought("Planning", "hm"), tale.content("void"))
    tale.text = ""
    after = chat_pb2.Cursor(epoch="e1", offset=1)
    await stage.tell(tale.event(reset=chat_pb2.Reset(discard_after=after)))
    await stage.tell(tale.content("the \x1b "), tale.content("answer"), tale.ended(**ended))


def test_the_answer_alone_is_only_what_counts() -> None:
    async def scene() -> None:
        async with scripted_dispatcher() as server:
            server.converse(begins_anew)
            status, out, err = await run_cli("chat", "Hi", "--answer", address=server.address)
        assert out == "the \x1b answer\n"
        assert err.splitlines() == ["completed: session s-1, 12 characters", BEGAN_ANEW]
        assert status == 0

    play(scene())


@pytest.mark.parametrize(
    "ended", [{"content_chars": 4}, {"ending": chat_pb2.SESSION_ENDING_COMMANDER_LOST, "message": "c1 died"}]
)
def test_of_an_answer_that_is_not_whole_nothing_is_printed(ended: dict[str, Any]) -> None:
    async def scene() -> None:
        async with scripted_dispatcher() as server:
            server.converse(lambda stage: begins_anew(stage, **ended))
            status, out, err = await run_cli("chat", "Hi", "--answer", address=server.address)
        assert (status, out) == (4, "")
        assert "CONTENT DIFFERS" in err or "what to do: The worker was lost; try again." in err

    play(scene())


def test_questions_are_told_beside_the_answer_alone() -> None:
    async def scene() -> None:
        heard: list[chat_pb2.ClientPacket] = []
        async with scripted_dispatcher() as server:
            server.converse(lambda stage: one_question(stage, heard))
            words = ("chat", "Hi", "--answer")
            _, out, err = await run_cli(*words, stdin=b"2\n", address=server.address)
        assert heard[0].answer.value_json == '"Bern"'
        assert out == "\n"
        assert err.splitlines()[:3] == ["? Which?", "  1. Berlin", "  2. Bern"]

    play(scene())


def test_what_nobody_read_is_given_back() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            message = agent_pb2.UserMessage(message_id="m-1", text="shorter,\nplease")
            await stage.heard()
            await stage.tell(tale.event(user_message=message), tale.ended(unread_message_ids=["m-1", "m-0"]))

        async with scripted_dispatcher() as server:
            server.scripts["WatchSession"].append(script)
            _, _, err = await run_cli("watch", "s-1", address=server.address)
        assert err.splitlines()[1:] == [
            "given back, as no agent has read it; ask again: shorter, please",
            "given back, as no agent has read it: message m-0, which was added before what was shown",
        ]

    play(scene())
