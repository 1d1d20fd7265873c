"""`dispatcher chat` on a pseudo-terminal, used as a person would: what is seen, typed and interrupted."""

import asyncio
import re

import pytest
from console_server import Stage, Tale, environment, play, scripted_dispatcher, terminal
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

CODES = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]")


async def stopped(stage: Stage, tale: Tale) -> None:
    """Plays the rest of a session that is stopped by its user."""
    packet = await stage.heard()
    assert packet.stop.reason == "UserCancel"
    await stage.receipt(packet)
    stop = agent_pb2.StopSignal(reason=packet.stop.reason, code=agent_pb2.STOP_CODE_USER_CANCEL)
    await stage.tell(tale.ended(chat_pb2.SESSION_ENDING_STOPPED, stop=stop))


def test_a_whole_session() -> None:
    async def scene() -> None:
        heard = []

        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.opened(), tale.thought("Planning", "hm\x1b[2J"))
            await stage.tell(tale.event(progress=agent_pb2.Progress(text="reading", percent=50)))
            call = agent_pb2.ToolCallRequest(tool_name="search", arguments_json='{"q": "' + "x" * 99 + '"}')
            await stage.tell(tale.event(tool_call=call))
            await stage.tell(tale.question("Which?", "Berlin", "Bern"))
            for _ in range(2):  # the answer, and what is said in between
                heard.append(await stage.heard())
                await stage.receipt(heard[-1])
                if heard[-1].HasField("answer"):
                    await stage.tell(tale.answer('"Bern"'), tale.content("It "))
            await stage.tell(tale.content("rains."), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address) as person:
                await person.sees("(Ctrl-D declines)")
                person.type("Basel\n")
                await person.sees("is none of the options")
                person.type("2\n")
                await person.sees("It ")
                person.type("in short, please\n")
                status = await person.exit_status()
        assert heard[0].answer.value_json == '"Bern"'
        assert heard[1].message.text == "in short, please"
        assert status == 0
        screen = person.screen
        assert "\x1b[2mPlanning │ \x1b[0m\x1b[2mhm\\x1b[2J\x1b[0m\r\n" in screen
        assert "████████████░░░░░░░░░░░░  50 % reading\r\x1b[K" in screen
        assert "\x1b[1m→ search " in screen
        assert "completed: session s-1, 9 characters\r\n" in screen
        (call,) = (line for line in CODES.sub("", screen).splitlines() if line.startswith("→"))
        assert len(call) == 60

    play(scene())


def test_ctrl_c_stops_and_shows_the_ending() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.content("It was a dark and"))
            await stopped(stage, tale)

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address) as person:
                await person.sees("dark and")
                person.type("\x03")
                assert await person.exit_status() == 3
        lines = person.screen.splitlines()
        assert lines[-2:] == [
            "stopping; Ctrl-C again leaves at once",
            "stopped: session s-1, 17 characters; UserCancel",
        ]

    play(scene())


def test_a_second_ctrl_c_leaves_at_once() -> None:
    async def scene() -> None:
        left, told = asyncio.Event(), asyncio.Event()

        async def script(stage: Stage) -> None:
            await stage.accept()
            await stage.tell(Tale().content("deaf"))
            packet = await stage.heard()
            assert packet.HasField("stop")
            told.set()
            await stage.left(left)

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address) as person:
                await person.sees("deaf")
                person.type("\x03")
                await person.sees("Ctrl-C again leaves")
                await told.wait()  # or the script may never come to hear that the person left
                person.type("\x03")
                assert await person.exit_status() == 130
            await left.wait()
        assert person.screen.splitlines()[-1].startswith("left; session s-1 may still run")

    play(scene())


def test_ctrl_d_declines() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.question("Sure?"))
            packet = await stage.heard()
            assert packet.answer.decline
            await stage.receipt(packet)
            cancelled = agent_pb2.Answer(
                question_id="q1", cancelled=agent_pb2.AnswerCancelled(why="declined")
            )
            await stage.tell(tale.event(answer=cancelled), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address) as person:
                await person.sees("declines")
                person.type("\x04")
                await person.sees("= no answer: declined")
                assert await person.exit_status() == 0

    play(scene())


def test_several_questions_are_answered_one_after_the_other() -> None:
    async def scene() -> None:
        heard = []

        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.question("First?", name="q1"), tale.question("Second?", name="q2"))
            heard.append((await stage.heard()).answer)
            heard.append((await stage.heard()).answer)
            await stage.tell(tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address) as person:
                await person.sees("Second?")
                person.type("one\n")
                await person.sees("one")
                person.type("two\n")
                assert await person.exit_status() == 0
        assert [(answer.question_id, answer.value_json) for answer in heard] == [
            ("q1", '"one"'),
            ("q2", '"two"'),
        ]
        assert person.screen.count("? First?") == 2  # again, as the second was asked below it

    play(scene())


@pytest.mark.parametrize(
    ("env", "bar"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False), ({"TERM": ""}, False)]
)
def test_no_colour_where_it_is_not_wanted(env: dict[str, str], bar: bool) -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.opened(), tale.event(progress=agent_pb2.Progress(text="x", percent=50)))
            await stage.tell(tale.thought("Planning", "hm"), tale.ended())

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address, env=environment(**env)) as person:
                assert await person.exit_status() == 0
        assert set(CODES.findall(person.screen)) == ({"\x1b[K"} if bar else set())
        assert ("█" in person.screen) is bar

    play(scene())


def test_watch_is_left_by_ctrl_c() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            await stage.tell(Tale().content("going on"))
            await stage.left()

        async with scripted_dispatcher() as server:
            server.scripts["WatchSession"].append(script)
            async with terminal("watch", "s-1", address=server.address) as person:
                await person.sees("going on")
                person.type("\x03")
                assert await person.exit_status() == 130, person.screen
        assert "Traceback" not in person.screen

    play(scene())


def test_a_table_fits_the_terminal() -> None:
    async def scene() -> None:
        async with scripted_dispatcher() as server:
            offer = agent_pb2.AgentOffer(name="demo", description="word " * 40)
            listing = chat_pb2.AgentListing(offer=offer, slots=4, slots_free=3)
            server.answers["ListAgents"] = lambda _: chat_pb2.ListAgentsResponse(agents=[listing])
            async with terminal("agents", address=server.address) as person:
                assert await person.exit_status() == 0
        heading, row = CODES.sub("", person.screen).splitlines()
        assert heading.split() == ["AGENT", "VERSION", "COMMANDERS", "SLOTS", "USED", "MODELS", "DESCRIPTION"]
        assert len(row) == 60
        assert row.endswith("…")

    play(scene())


def test_a_line_that_comes_too_late_is_shown_again() -> None:
    async def scene() -> None:
        async def script(stage: Stage) -> None:
            tale = Tale()
            await stage.accept()
            await stage.tell(tale.opened())
            refused, unheard = await stage.heard(), await stage.heard()
            assert unheard.message.text == "and in rhyme"
            ended = agent_pb2.ErrorSignal(code="session_ended", message="it has ended: completed")
            await stage.receipt(refused, error=ended)
            await stage.tell(tale.ended())
            await stage.half_closed()

        async with scripted_dispatcher() as server:
            server.converse(script)
            async with terminal("chat", "Hi", address=server.address) as person:
                await person.sees("session s-1")
                person.type("in short\nand in rhyme\n")
                assert await person.exit_status() == 0
        said = [line for line in person.screen.splitlines() if "session" in line][1:]
        assert said[:2] == [
            "refused: session_ended: it has ended: completed; not told: in short",
            "the session ended before this was confirmed: and in rhyme",
        ]

    play(scene())
