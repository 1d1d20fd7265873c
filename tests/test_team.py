"""Teams of sub-agents: what each says under its path, how each ends by itself, and that none outlives its block."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial

import pytest
from asynchronous import asynchronous, soon
from commander_here import serving
from hypothesis import given, settings
from hypothesis import strategies as st
from model_scene import table
from model_server import ModelServer, Pause, Status, says
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession, Welcoming
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import (
    AgentError,
    BlockingTurn,
    Member,
    MemberResult,
    Message,
    ModelFailed,
    Output,
    Published,
    QuestionUnanswered,
    Stopped,
    Turn,
    agent,
)
from commander.agent import AnyAgent
from commander.testing import AgentRun, Event, run_agent, running_agent

Said = AsyncIterator[str | Output]


def of(run: AgentRun, path: str) -> list[Event]:
    return [event for event in run.events if event.agent == path]


def ends(run: AgentRun) -> dict[str, str]:
    """By path, how each member's events ended."""
    told = [event for event in run.events if event.kind == "agent_event" and "started" not in event.fields]
    return {event.agent: next(iter(event.fields)) for event in told}


def says_of(run: AgentRun, path: str) -> str:
    return "".join(event.fields["text"] for event in of(run, path) if event.kind == "content")


# ---- what each says ----


async def speaks(turn: Turn) -> Said:
    """Says one of each."""
    yield turn.thought("Planning", f"about {turn.text}")
    yield turn.progress("half", percent=50)
    found = await turn.call_tool("find", q=turn.text)
    yield f"{found} "
    yield turn.content(await turn.ask(f"{turn.text}?"))
    yield turn.artifact("a.txt", b"x" * 40_000)
    yield turn.embedding([0.5])
    yield turn.usage(output_tokens=3)
    turn.summarize(f"knows {turn.text}")


@agent
async def pair(turn: Turn) -> Said:
    async with turn.team() as team:
        for name in ("left", "right"):
            team.start(name, speaks, text=name)
        yield "Both at work. "
    for name, result in team.results.items():
        yield f"{name}: {result.text}, {result.summary}; "


@asynchronous
async def test_all_that_a_member_says_and_asks_bears_its_path_in_its_order() -> None:
    run = await run_agent(pair, tools={"find": lambda q: q.upper()}, answers={"left?": "yes", "right?": "no"})
    for path in ("left", "right"):
        kinds = [event.kind for event in of(run, path)]
        assert kinds[:5] == ["agent_event", "thought", "progress", "tool_call", "content"]
        assert kinds[5:] == ["question", "content", *["artifact"] * 3, "embedding", "usage", "agent_event"]
        first, *_, last = of(run, path)
        assert first.fields["started"] == {"description": "Says one of each."}
        assert last.fields["completed"] == {"summary": f"knows {path}"}
        ids = {event.fields["artifact_id"] for event in of(run, path) if event.kind == "artifact"}
        assert ids == {f"{path}:artifact-1"}
        # Whoever asks first: an attempt that begins anew asks the same under the same ids.
        (asked,) = [event for event in of(run, path) if event.kind == "tool_call"]
        assert asked.fields["call_id"] == f"{path}:call-1"
    assert run.text == "Both at work. left: LEFT yes, knows left; right: RIGHT no, knows right; "
    assert run.usage.output_tokens == 6


@asynchronous
async def test_members_run_beside_each_other() -> None:
    met = asyncio.Barrier(3)

    async def meets(turn: Turn) -> str:
        await met.wait()
        return "met"

    @agent
    async def three(turn: Turn) -> str:
        async with turn.team() as team:
            members = [team.start(name, meets) for name in "abc"]
        return " ".join([(await member).text for member in members])

    assert (await run_agent(three)).text == "met met met"


@asynchronous
async def test_a_team_within_a_team_has_paths_below_its_member_s() -> None:
    async def leaf(turn: Turn) -> str:
        return f"[{turn.path}]"

    async def branch(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("leaf", leaf)
            team.start("leaf", leaf)
        yield turn.path

    @agent
    async def tree(turn: Turn) -> Said:
        assert turn.path == ""
        async with turn.team() as team:
            team.start("branch", branch)
        async with turn.team() as team:
            # The name is taken, if in a team before: viewers tell the two apart.
            member = team.start("branch", branch)
            yield member.name

    run = await run_agent(tree)
    assert run.text == "branch-2"
    assert says_of(run, "branch") == "branch"
    assert says_of(run, "branch/leaf") == "[branch/leaf]"
    assert says_of(run, "branch/leaf-2") == "[branch/leaf-2]"
    assert says_of(run, "branch-2/leaf") == "[branch-2/leaf]"
    assert set(ends(run).values()) == {"completed"}
    assert len(ends(run)) == 6


@pytest.mark.parametrize(
    ("answer_as", "content", "thoughts"),
    [("content", "plan", {}), ("thought", "", {"quiet": "plan"}), ("kept", "", {})],
)
@asynchronous
async def test_an_answer_may_be_for_viewers_for_who_sees_thoughts_or_for_the_parent_alone(
    answer_as: str, content: str, thoughts: dict[str, str]
) -> None:
    async def quiet(turn: Turn) -> Said:
        yield "pl"
        yield turn.content("an")

    @agent
    async def asks(turn: Turn) -> str:
        async with turn.team() as team:
            member = team.start("quiet", quiet, answer_as=answer_as)  # type: ignore[arg-type]  # each of them
        return f"<{(await member).text}>"

    run = await run_agent(asks)
    assert run.text == "<plan>"
    assert says_of(run, "quiet") == content
    told = {
        event.fields["step_name"]: event.fields["delta"]
        for event in of(run, "quiet")
        if event.kind == "thought"
    }
    assert told == thoughts


@asynchronous
async def test_a_member_is_asked_what_it_is_told_and_has_the_rest_of_the_turn() -> None:
    async def tells(turn: Turn) -> str:
        asked = " | ".join(f"{message.role}: {message.text}" for message in turn.conversation)
        tools = ",".join(tool.name for tool in turn.tools)
        assert turn.time_left_s is not None
        return f"{asked}; {turn.metadata['lang']}; {turn.user_id}; {tools}"

    before = (Message("system", ("Be brief.",)), Message("user", ("Hi",)))

    @agent
    async def asks(turn: Turn) -> Said:
        async with turn.team() as team:
            members = [
                team.start("same", tells),
                team.start("own", tells, text="Go"),
                team.start("after", tells, text="Go", messages=turn.conversation[:1]),
                team.start("other", tells, messages=[Message("user", ("Ho",))]),
            ]
        for member in members:
            yield f"{(await member).text}\n"

    run = await run_agent(
        asks, before, metadata={"lang": "en"}, user_id="ada", tools={"find": str}, time_left_s=60
    )
    assert run.text.splitlines() == [
        "system: Be brief. | user: Hi; en; ada; find",
        "user: Go; en; ada; find",
        "system: Be brief. | user: Go; en; ada; find",
        "user: Ho; en; ada; find",
    ]


@asynchronous
async def test_ids_of_long_paths_are_short_and_each_path_s_own() -> None:
    async def calls(turn: Turn) -> str:
        return str([await turn.call_tool("find", q=q) for q in "xy"])

    async def nests(turn: Turn) -> Said:
        async with turn.team() as team:
            for number in range(3):
                team.start(f"{'n' * 40}{number}", calls)
            yield "nested"

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("m" * 40, nests)
            yield "on"

    run = await run_agent(root, tools={"find": lambda q: q})
    ids = {event.fields["call_id"] for event in run.events if event.kind == "tool_call"}
    assert len(ids) == 6
    assert max(map(len, ids)) < 64


@asynchronous
async def test_a_member_begins_anew_where_the_root_goes_on() -> None:
    async def tells(turn: Turn) -> str:
        return f"{turn.published} {turn.attempt}"

    @agent(on_restart="continue")
    async def root(turn: Turn) -> Said:
        assert turn.published is not None
        async with turn.team() as team:
            member = team.start("tells", tells, answer_as="kept")
        yield f"{turn.published.content} {(await member).text}"

    run = await run_agent(root, attempt=2, published=Published("so far"))
    assert run.text == "so far None 2"


@asynchronous
async def test_context_variables_of_members_do_not_mix() -> None:
    current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="unset")

    async def sets(turn: Turn) -> str:
        before = current.get()
        current.set(turn.text)
        await both.wait()
        return f"{before} {current.get()}"

    def sets_in_thread(turn: BlockingTurn) -> str:
        before = current.get()
        current.set(turn.text)
        return f"{before} {current.get()}"

    both = asyncio.Barrier(2)

    @agent
    async def asks(turn: Turn) -> str:
        current.set("root")
        async with turn.team() as team:
            a, b = team.start("a", sets, text="A"), team.start("b", sets, text="B")
            c = team.start("c", sets_in_thread, text="C")
        return f"{(await a).text}, {(await b).text}, {(await c).text}, {current.get()}"

    assert (await run_agent(asks)).text == "root A, root B, root C, root"


# ---- how each ends ----


async def fails(turn: Turn) -> Said:
    yield "half"
    raise AgentError("the archive is closed", code="archive_closed", retryable=True, retry_after_s=60)


async def breaks(turn: Turn) -> str:
    return str(1 // int(turn.metadata.get("none", "0")))


@agent
async def goes_on(turn: Turn) -> Said:
    async with turn.team() as team:
        broken = team.start("breaks", breaks)
        failed = await team.start("fails", fails)
        assert isinstance(failed.error, AgentError)
        yield f"{failed.error.code} after {failed.text!r}. "
        well = team.start("well", speaks, text="it")
        # Its failure is a result like any other: nothing is raised.
        yield f"{type((await broken).error).__name__}. "
    yield f"{(await well).text}."


@asynchronous
async def test_one_that_fails_ends_alone_and_the_others_go_on() -> None:
    run = await run_agent(goes_on, tools={"find": lambda q: q}, answers={"it?": "is"})
    assert run.outcome == "completed"
    assert run.text == "archive_closed after 'half'. ZeroDivisionError. it is."
    assert ends(run) == {"breaks": "failed", "fails": "failed", "well": "completed"}
    error = of(run, "fails")[-1].fields["failed"]["error"]
    assert (error["code"], error["message"]) == ("archive_closed", "the archive is closed")
    assert (error["scope"], error["origin"]) == ("ERROR_SCOPE_AGENT", "ERROR_ORIGIN_COMMANDER")
    assert (error["retryable"], error["retry_after_ms"]) == (True, "60000")
    assert of(run, "breaks")[-1].fields["failed"]["error"]["error_type"] == "ZeroDivisionError"


@asynchronous
async def test_leaving_the_block_by_an_exception_ends_all_members_first() -> None:
    began, ended = asyncio.Barrier(3), list[str]()

    async def waits(turn: Turn) -> Said:
        try:
            await began.wait()
            yield "waiting"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(turn.path)

    def waits_in_thread(turn: BlockingTurn) -> Iterator[str]:
        try:
            yield "waiting"
            for message in turn.messages():
                yield message.text
        finally:
            ended.append(turn.path)

    @agent
    async def leaves(turn: Turn) -> Said:
        try:
            async with turn.team() as team:
                team.start("a", waits)
                team.start("b", waits)
                team.start("thread", waits_in_thread)
                await began.wait()
                raise KeyError("enough")
        except KeyError:
            yield " ".join(sorted(ended))

    run = await run_agent(leaves)
    assert run.text == "a b thread"
    assert ends(run) == dict.fromkeys(["a", "b", "thread"], "failed")
    assert of(run, "a")[-1].fields["failed"]["error"]["code"] == "member_cancelled"


@asynchronous
async def test_a_member_that_has_not_begun_is_never_told_of() -> None:
    async def never(turn: Turn) -> str:
        raise AssertionError

    @agent
    async def leaves(turn: Turn) -> Said:
        try:
            async with turn.team() as team:
                team.start("a", never)
                raise KeyError
        except KeyError:
            (member,) = team.members
            assert isinstance(member.result, MemberResult)
            yield str(member.result.error)

    run = await run_agent(leaves)
    assert (run.kinds(), run.text) == (["content"], "it was cancelled before it had ended")


@asynchronous
async def test_the_first_answer_may_be_enough() -> None:
    async def slow(turn: Turn) -> str:
        await asyncio.Event().wait()
        return "slow"

    async def quick(turn: Turn) -> str:
        return "quick"

    @agent
    async def races(turn: Turn) -> str:
        async with turn.team() as team:
            members: list[Member] = [team.start("slow", slow), team.start("quick", quick)]
            first = await next(asyncio.as_completed(members))
            for member in members:
                member.cancel()
        return f"{first.text} of {len(team.results)}: {members[0]!r}"

    run = await run_agent(races)
    assert run.text == "quick of 2: <Member slow: failed>"
    assert ends(run) == {"slow": "failed", "quick": "completed"}


@asynchronous
async def test_a_stop_ends_the_root_and_every_member_and_the_members_of_those() -> None:
    ended: list[str] = []
    began = asyncio.Barrier(4)

    async def waits(turn: Turn) -> Said:
        try:
            await began.wait()
            yield "on"
            await asyncio.Event().wait()
        finally:
            ended.append(turn.path)

    async def nests(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("inner", waits)
            yield "nested"
        ended.append("the block was left well")

    @agent
    async def root(turn: Turn) -> Said:
        try:
            async with turn.team() as team:
                team.start("nests", nests)
                team.start("a", waits)
                team.start("b", waits, answer_as="kept")
                await began.wait()
                yield "all on"
                await asyncio.Event().wait()
        finally:
            ended.append("root")

    async with running_agent(root) as run:
        await run.until_text("all on")
        run.stop()
        assert (await run.over()).outcome == "stopped"
    assert ended[-1] == "root"
    assert sorted(ended) == ["a", "b", "nests/inner", "root"]
    assert not ends(run)


@asynchronous
async def test_a_stop_reaches_members_of_a_root_that_does_not_hear_it() -> None:
    heard, deaf = asyncio.Event(), asyncio.Event()

    async def waits(turn: Turn) -> Said:
        try:
            yield "on"
            await asyncio.Event().wait()
        finally:
            heard.set()

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("a", waits)
            yield "on"
            while not deaf.is_set():
                try:
                    await deaf.wait()
                except asyncio.CancelledError:
                    continue

    async with running_agent(root) as run:
        await run.until_text("on")
        run.stop()
        await soon(heard.wait())
        assert not run.outcome
        deaf.set()
        await run.over()


# ---- sync members ----


def counts(turn: BlockingTurn) -> Iterator[str | Output]:
    for number in range(3):
        yield f"{number} "
    yield turn.thought("Adding", "up")
    turn.emit(f"{turn.call_tool('find', q=turn.text)} {turn.ask('Go on?')}")
    yield turn.artifact("b.txt", b"y")
    turn.summarize("counted")


@asynchronous
async def test_a_sync_member_has_a_thread_and_the_same_turn() -> None:
    threads: list[str] = []

    def whole(turn: BlockingTurn) -> str:
        threads.append(threading.current_thread().name)
        return turn.path

    @agent
    async def root(turn: Turn) -> str:
        async with turn.team() as team:
            member = team.start("counts", counts, text="up")
            team.start("whole", whole)
        return f"{(await member).summary}: {(await member).text}"

    run = await run_agent(root, tools={"find": lambda q: q * 2}, answers={"Go on?": "yes"})
    assert run.text == "counted: 0 1 2 upup yes"
    assert (says_of(run, "counts"), says_of(run, "whole")) == ("0 1 2 upup yes", "whole")
    assert [event.kind for event in of(run, "counts")][-2:] == ["artifact", "agent_event"]
    assert threads[0].startswith("whole of test-")


@asynchronous
async def test_a_sync_member_is_over_when_its_thread_is_whoever_cancels_its_task() -> None:
    went_on, was_told = threading.Event(), threading.Event()

    def works(turn: BlockingTurn) -> str:
        turn.emit("begin")
        went_on.wait()
        try:
            turn.emit("never")
        finally:
            was_told.set()
        return "never"

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            member = team.start("works", works)
            async for _ in turn.messages():
                break
            for task in asyncio.all_tasks():
                if task.get_name().startswith(member.path):
                    task.cancel()
            await asyncio.sleep(0)
            yield f"over: {member.is_over}; "
            went_on.set()
            result = await member
            yield f"told: {was_told.is_set()}, {getattr(result.error, 'code', '')}"

    async with running_agent(root) as run:
        await run.until("content")
        run.say("Go on")
        await run.over()
    assert run.text == "over: False; told: True, member_cancelled"


@asynchronous
async def test_a_stop_wakes_a_sync_member_wherever_it_waits() -> None:
    ended, on = threading.Semaphore(0), threading.Barrier(4)

    def waits(how: str, turn: BlockingTurn) -> Iterator[str]:
        try:
            on.wait()
            match how:
                case "ask":
                    turn.ask("Which?")
                case "tool":
                    turn.call_tool("never")
                case "messages":
                    list(turn.messages())
            yield "went on"
        finally:
            ended.release()

    async def never() -> None:
        await asyncio.Event().wait()

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            for how in ("ask", "tool", "messages"):
                team.start(how, partial(waits, how))
            await asyncio.to_thread(on.wait)
            yield "on"

    async with running_agent(root, tools={"never": never}) as run:
        await run.until_text("on")
        await run.until("question")
        run.stop()
        assert (await run.over()).outcome == "stopped"
    assert all(ended.acquire(blocking=False) for _ in range(3))


# ---- steering ----


@asynchronous
async def test_the_root_hears_the_user_and_passes_on_what_concerns_a_member() -> None:
    async def hears(turn: Turn) -> Said:
        async for message in turn.messages():
            yield f"<{message}>"
            if message.text == "enough":
                return

    async def deaf(turn: Turn) -> str:
        return f"{len(turn.take_messages())} messages"

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            member = team.start("hears", hears)
            team.start("deaf", deaf)
            async for message in turn.messages():
                member.tell(message.text)
                if message.text == "enough":
                    break
        yield (await member).text

    async with running_agent(root) as run:
        await run.until("content")
        run.say("shorter")
        run.say("enough")
        assert (await run.over()).text == "<shorter><enough>"
    assert says_of(run, "deaf") == "0 messages"


@asynchronous
async def test_one_that_listens_no_longer_takes_no_other_listener_along() -> None:
    async def hears(turn: Turn) -> Said:
        async def first() -> str:
            async for message in turn.messages():
                return f"<{message}>"
            return "none"

        async def impatient() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await first()

        heard = asyncio.ensure_future(first())
        await asyncio.gather(impatient(), impatient())
        yield "listens"
        yield await heard

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            member = team.start("hears", hears)
            async for message in turn.messages():
                member.tell(message.text)
                break
        yield "passed on"

    async with running_agent(root) as run:
        await run.until("content")
        run.say("Hi")
        await run.over()
    assert says_of(run, "hears") == "listens<Hi>"


@asynchronous
async def test_an_expired_question_of_a_member_is_its_own() -> None:
    async def asks(turn: Turn) -> str:
        try:
            return str(await turn.ask(f"{turn.path}?"))
        except QuestionUnanswered as unanswered:
            return unanswered.why

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            for name in ("a", "b"):
                team.start(name, asks)
            yield "asked"

    async with running_agent(root) as run:
        asked = [await run.until("question"), await run.until("question")]
        by_path = {event.agent: event.fields["question_id"] for event in asked}
        run.expire(by_path["a"])
        run.answer("yes", by_path["b"])
        await run.over()
    assert (says_of(run, "a"), says_of(run, "b")) == ("expired", "yes")


# ---- what can't be ----


async def nothing(turn: Turn) -> Said:
    yield "nothing"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "x" * 65, 7])
@asynchronous
async def test_a_name_that_can_be_no_part_of_a_path_is_refused(name: object) -> None:
    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start(name, nothing)  # type: ignore[arg-type]
        yield "never"

    run = await run_agent(root)
    assert run.failure is not None
    assert "a member's name should be 1 to 64 printable characters without blanks and slashes" in (
        run.failure.message
    )
    assert repr(name)[:20] in run.failure.message


WRONG = [
    (lambda turn, team: team.start("a", nothing(turn)), "itself, not what it returns"),
    (lambda turn, team: team.start("a", "nothing"), "should be an agent, or a function of a turn, not str"),
    (lambda turn, team: team.start("a", nothing, text=7), "text should be a str, not int"),
    (lambda turn, team: team.start("a", nothing, answer_as="loud"), "should be one of 'content', 'thought',"),
    (lambda turn, team: turn.team().start("a", nothing), "async with turn.team() as team"),
    (
        lambda turn, team: team.start("a", nothing, messages="Hi"),
        "messages should be a list of Message, not str",
    ),
    (
        lambda turn, team: team.start("a", nothing, messages=["Hi"]),
        "messages[0] should be a Message, not str",
    ),
]


@pytest.mark.parametrize(("does", "right"), WRONG)
@asynchronous
async def test_what_an_author_gets_wrong_is_told(does: object, right: str) -> None:
    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            does(turn, team)  # type: ignore[operator]
        yield "never"

    run = await run_agent(root)
    assert run.failure is not None
    assert right in run.failure.message
    assert not ends(run)


@asynchronous
async def test_no_member_begins_once_its_agent_has_ended_or_is_to_end() -> None:
    turns: list[Turn] = []
    late: list[BaseException] = []
    begun: list[str] = []

    async def begins(turn: Turn) -> str:
        begun.append(turn.path)
        return "Here I am."

    async def starts_one(turn: Turn) -> None:
        try:
            async with turn.team() as team:
                team.start("late", begins)
        except asyncio.CancelledError as error:
            late.append(error)
            raise

    @agent
    async def root(turn: Turn) -> Said:
        turns.append(turn)
        yield "begin"
        try:
            if turn.text == "stop":
                await asyncio.Event().wait()
        finally:
            if turn.text == "stop":
                await starts_one(turn)

    async with running_agent(root, "stop") as run:
        await run.until_text("begin")
        run.stop()
        assert (await run.over()).outcome == "stopped"
    assert (await run_agent(root, "end")).outcome == "completed"
    with pytest.raises(Stopped):
        await starts_one(turns[1])
    assert [type(each) for each in late] == [Stopped, Stopped]
    assert begun == []


@asynchronous
async def test_a_team_is_opened_in_the_agents_loop_and_in_no_other() -> None:
    async def opens(turn: Turn) -> None:
        async with turn.team() as team:
            team.start("a", nothing)

    @agent
    async def root(turn: Turn) -> Said:
        await asyncio.to_thread(lambda: asyncio.run(opens(turn)))
        yield "never"

    run = await run_agent(root)
    assert run.failure is not None
    assert "its members run in the agents' loop" in run.failure.message
    assert not ends(run)


@asynchronous
async def test_too_deep_a_path_ends_the_member_that_wants_it() -> None:
    async def deeper(turn: Turn) -> Said:
        async with turn.team() as team:
            result = await team.start("d" * 40, deeper)
            yield str(result.error or "")

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("d" * 40, deeper)
            yield "deep"

    run = await run_agent(root)
    failed = [event.fields["failed"]["error"] for event in run.events if "failed" in event.fields]
    assert len(failed) == 1
    assert "has 122 characters; at most 96 are right" in failed[0]["message"]
    assert run.outcome == "completed"


# ---- over a link ----


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@agent
async def crowd(turn: Turn) -> Said:
    """As many members as the user says."""
    running = 0
    most = 0

    async def member(turn: Turn) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return "."

    async with turn.team() as team:
        for _ in range(int(turn.text)):
            team.start("member", member, answer_as="kept")
    yield f"{len(team.results)}, {most} at once"


def test_a_team_is_bounded_at_once_and_in_all(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, crowd, team_members=20, team_members_at_once=3):
        link = dispatcher.accept()
        fits = ScriptedSession(link, "fits", text="20")
        assert fits.done().outcome == pb.OUTCOME_COMPLETED
        assert fits.content == "20, 3 at once"
        error = ScriptedSession(link, "many", text="21").done().error
    assert error.code == "team_too_large"
    assert "this turn has had 20 members, and team_members allows no more" in error.message


def test_an_answer_that_is_kept_is_bounded(dispatcher: ScriptedDispatcher) -> None:
    async def talks(turn: Turn) -> Said:
        for _ in range(4):
            yield "1234567"

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            kept = team.start("kept", talks, answer_as="kept")
            shown = team.start("shown", talks)
        yield f"{(await kept).error} {(await shown).text} {(await shown).is_cut}"

    with serving(dispatcher.address, root, team_answer_chars=20):
        session = ScriptedSession(dispatcher.accept(), "s")
        session.done()
    assert "the answer of 'kept' has more than 20 characters; team_answer_chars" in session.content
    # What viewers were shown is whole; what is kept of it is cut.
    assert session.content.count("1234567") == 6
    assert session.content.endswith(f"{'1234567' * 3}"[:20] + " True")


def test_a_slow_viewer_makes_all_members_wait_alike() -> None:
    said = {"a": 0, "b": 0, "thread": 0}

    async def floods(turn: Turn) -> Said:
        while said[turn.path] < 3_000:
            said[turn.path] += 1
            yield "x" * 100

    def floods_in_thread(turn: BlockingTurn) -> Iterator[str]:
        while said[turn.path] < 3_000:
            said[turn.path] += 1
            yield "x" * 100

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("a", floods)
            team.start("b", floods)
            team.start("thread", floods_in_thread)
            yield "on"

    # What may be under way, in the outbox, and of each member one more.
    most = 8 * 16_384 + 32_768 + 3 * 100
    with (
        ScriptedDispatcher(Welcoming(heartbeat_s=0.2)) as dispatcher,
        serving(dispatcher.address, root, outbox_packets=64, outbox_bytes=32_768),
    ):
        session = ScriptedSession(dispatcher.accept(), "s", credit=8)
        for _ in range(8):
            session.next(acked=False)
        held_back = session.link.expect(lambda each: each.session_id == "s" and each.HasField("heartbeat"))
        assert held_back.heartbeat.phase == pb.HEARTBEAT_PHASE_GENERATING
        assert 100 * sum(said.values()) <= most
        assert all(said.values())
        session.ack(session.last_sequence)
        session.done()
    assert said == {"a": 3_000, "b": 3_000, "thread": 3_000}
    assert len(session.content) == 3 * 3_000 * 100 + len("on")


@agent
async def asks_models(turn: Turn) -> Said:
    async def specialist(turn: Turn) -> Said:
        async for output in turn.model().stream(turn.text):
            yield output

    def blocking(turn: BlockingTurn) -> Iterator[str | Output]:
        yield from turn.model().stream(turn.text)

    async with turn.team() as team:
        first = team.start("first", specialist, text="one")
        second = team.start("second", blocking, text="two")
    for result in (await first, await second):
        error = result.error
        yield f"{error.code if isinstance(error, ModelFailed) else result.text}; "


def test_a_stop_closes_the_models_connections_of_all_members(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then([Pause()])
    with serving(dispatcher.address, asks_models, models={"fast": table(server)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        server.wait_for(2)
        session.stop()
        server.wait_left(1)
        server.wait_left(2)
        session.stop_ack(pb.STOP_PHASE_APPLIED)


def test_a_member_that_ignores_its_stop_holds_its_slot_and_is_told_once_more(
    dispatcher: ScriptedDispatcher,
) -> None:
    ignored: list[int] = []

    async def stubborn(turn: Turn) -> Said:
        yield "on"
        for number in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ignored.append(number)

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            team.start("stubborn", stubborn)
            yield "on"

    with serving(dispatcher.address, root, stop_grace_s=0.2, slots=2):
        session = ScriptedSession(dispatcher.accept(), "s")
        while "onon" not in session.content:
            session.next()
        session.stop()
        session.stop_ack(pb.STOP_PHASE_ABANDONED)
        session.stop_ack(pb.STOP_PHASE_APPLIED)
    assert ignored == [0, 1]


def test_a_model_that_fails_is_the_failure_of_its_member(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then(
        lambda request: [Status(402, "no credit")] if request.messages[0]["content"] == "one" else says("OK")
    )
    with serving(dispatcher.address, asks_models, models={"fast": table(server)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        assert session.done().outcome == pb.OUTCOME_COMPLETED
    assert session.content.endswith("model_quota_exhausted; OK; ")
    (failed,) = [each for each in session.other if each.agent_event.HasField("failed")]
    error = failed.agent_event.failed.error
    assert (failed.agent, error.origin, error.upstream_status) == ("first", pb.ERROR_ORIGIN_LLM, 402)
    assert error.scope == pb.ERROR_SCOPE_AGENT
    (used,) = [each for each in session.other if each.HasField("usage")]
    assert (used.agent, used.usage.output_tokens) == ("second", 3)


def test_what_members_spend_the_turn_has_spent(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    async def asks(turn: Turn) -> str:
        return str(await turn.model().answer("Hi"))

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            first = await team.start("first", asks, answer_as="kept")
            second = await team.start("second", asks, answer_as="kept")
        yield f"{first.text} {getattr(second.error, 'code', '')}"

    server.then(says("OK", output_tokens=10))
    with serving(dispatcher.address, root, models={"fast": table(server, output_tokens_max=10)}):
        session = ScriptedSession(dispatcher.accept(), "s")
        session.done()
    assert session.content == "OK model_budget_spent"


# ---- the law: whatever members say, whatever becomes of them ----

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)),
        st.tuples(st.just("think"), st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)),
        st.tuples(st.just("breathe"), st.just("")),
        st.tuples(st.just("fail"), st.just("")),
    ),
    max_size=8,
)


async def acts(actions: list[tuple[str, str]], turn: Turn) -> Said:
    for action, text in actions:
        match action:
            case "say":
                yield text
            case "think":
                yield turn.thought("Thinking", text)
            case "breathe":
                await asyncio.sleep(0)
            case "fail":
                raise AgentError("as scripted")


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=5))
def test_each_member_s_words_are_whole_and_in_order_and_it_ends_once(
    scripts: list[list[tuple[str, str]]],
) -> None:
    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            for number, actions in enumerate(scripts):
                team.start(f"m{number}", partial(acts, actions))
        for result in team.results.values():
            yield result.text

    run = asyncio.run(run_agent(root))
    assert run.outcome == "completed"
    for number, actions in enumerate(scripts):
        path = f"m{number}"
        done = actions[: [each for each, _ in actions].index("fail")] if has_fail(actions) else actions
        assert says_of(run, path) == "".join(text for action, text in done if action == "say")
        thought = "".join(event.fields["delta"] for event in of(run, path) if event.kind == "thought")
        assert thought == "".join(text for action, text in done if action == "think")
        told = [next(iter(event.fields)) for event in of(run, path) if event.kind == "agent_event"]
        assert told == ["started", "failed" if has_fail(actions) else "completed"]
    assert run.text == "".join(says_of(run, f"m{number}") for number in range(len(scripts)))


def has_fail(actions: list[tuple[str, str]]) -> bool:
    return any(action == "fail" for action, _ in actions)


def test_an_agent_may_be_a_member_as_it_is(dispatcher: ScriptedDispatcher) -> None:
    @agent("greeter", description="Greets")
    async def greeter(turn: Turn) -> Said:
        yield f"Hello, {turn.text}"

    members: list[AnyAgent] = [greeter]

    @agent
    async def root(turn: Turn) -> Said:
        async with turn.team() as team:
            for member in members:
                team.start(member.name, member, text="Ada")
        yield "."

    with serving(dispatcher.address, root):
        session = ScriptedSession(dispatcher.accept(), "s")
        started = session.next()
        assert (started.agent, started.agent_event.started.description) == ("greeter", "Greets")
        said = session.next()
        assert (said.agent, said.content.text) == ("greeter", "Hello, Ada")
        session.done()
