"""The dispatcher's restart, with real processes: with a journal in a file all goes on where it stood, with the one in
memory everybody is told plainly that it does not."""

import asyncio
import resource
import signal
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import Seen, asking, conversing, viewing
from dialling import administering, chatting
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from scripted_commander import Link, Turn, hello, linked, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

TOOLS = '''
import asyncio
from pathlib import Path
from dispatcher.tools import tool

RUNS = Path(__file__).with_name("runs")

def note(word: str) -> str:
    """Notes that it ran."""
    with RUNS.open("a") as file:
        file.write(word + "\\n")
    return word

async def hang(word: str) -> str:
    """Notes that it ran, and never ends by itself."""
    note(word)
    await asyncio.Event().wait()
    return word

@tool(idempotent=True)
async def hang_once(word: str) -> str:
    """Notes that it ran, and never ends by itself the first time."""
    ran_before = RUNS.exists() and word in RUNS.read_text()
    note(word)
    if not ran_before:
        await asyncio.Event().wait()
    return word

TOOLS = [note, hang, hang_once]
'''


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "noting.py").write_text(TOOLS)
    return tmp_path


def dispatcher_at(place: Path, *flags: str) -> AbstractContextManager[DispatcherProcess]:
    """One life on the journal in that folder."""
    flags = ("--journal", f"sqlite:{place / 'journal'}", "--tools", "noting:TOOLS", *flags)
    return running_dispatcher(*flags, environ={"PYTHONPATH": str(place)})


@contextmanager
def killed_after(life: AbstractContextManager[DispatcherProcess]) -> Iterator[DispatcherProcess]:
    """A dispatcher that ends by SIGKILL."""
    with life as process:
        yield process
        process.signal(signal.SIGKILL)
        process.wait()


def least_size(place: Path) -> int:
    """Of the journal's files, bytes."""
    return min(path.stat().st_size for path in place.glob("journal*"))


def runs(place: Path) -> list[str]:
    path = place / "runs"
    return path.read_text().split() if path.exists() else []


def resumed(turn: Turn, *, signals: int) -> agent_pb2.Resume:
    return agent_pb2.Resume(
        session_id=turn.session_id,
        attempt=turn.attempt,
        last_sequence_sent=turn.sequence,
        last_signal_received=signals,
    )


def subscription(session_id: str, cursor: chat_pb2.Cursor | None = None) -> chat_pb2.SubscribeRequest:
    return chat_pb2.SubscribeRequest(session_id=session_id, cursor=cursor)


def id_of(seen: Seen) -> str:
    return seen.events[0].session_id


@asynchronous
async def test_all_goes_on_where_it_stood_after_kill_9(place: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with dispatcher_at(place) as first:
        async with (
            linked(first.address, agent, slots=1, **me) as link,
            conversing(first.address) as talk,
            chatting(first.address) as chat,
        ):
            seen = await talk.ask(agent, user_id="u1", idempotency_key="k1", include_thoughts=True)
            turn = await link.started()
            queued = await talk.ask(agent, client_ref="2")
            await turn.say("Noted: ")
            await turn.call("note", '{"word": "once"}', call_id="c1")
            assert (await turn.result()).result_json == '"once"'
            await turn.call("hang", '{"word": "hung"}', call_id="c2")
            await turn.ask("q1")
            await talk.request("1", message=chat_pb2.AddMessage(text="be quick"))
            await turn.heard("user_message")
            await seen.until("user_message")
            await eventually(lambda: _now(runs(place)), lambda noted: noted == ["once", "hung"])
            async with viewing(chat.Subscribe(subscription(turn.session_id)), turn.session_id) as (_, half):
                await half.until("user_message")
                first.signal(signal.SIGKILL)
                first.wait()
    said = seen.events
    with dispatcher_at(place) as second:
        async with (
            chatting(second.address) as chat,
            viewing(
                chat.Subscribe(subscription(turn.session_id, half.events[-1].cursor)), turn.session_id
            ) as (
                viewer,
                rest,
            ),
            conversing(second.address) as talk,
        ):
            again = await talk.ask(agent, client_ref="again", user_id="u1", idempotency_key="k1")
            # The first result was had, the message not.
            resume = resumed(turn, signals=1)
            async with linked(second.address, agent, slots=1, **me, resumes=[resume]) as link:
                (verdict,) = link.welcome.resumes
                assert verdict.resumed.next_sequence == turn.sequence + 1
                about = link.arrived[turn.session_id]
                assert (await link.heard("user_message", turn.session_id)).user_message.text == "be quick"
                result = (await link.heard("tool_result", turn.session_id)).tool_result
                assert (result.call_id, result.error.code) == (
                    "c2",
                    agent_pb2.TOOL_ERROR_CODE_UNKNOWN_OUTCOME,
                )
                # A repeat of the call that has an outcome gets that, and runs nothing.
                call = agent_pb2.ToolCallRequest(
                    call_id="c1", tool_name="note", arguments_json='{"word": "once"}'
                )
                text = "Noted: done"
                done = agent_pb2.Done(
                    outcome=agent_pb2.OUTCOME_COMPLETED,
                    content_chars=len(text),
                    content_crc32=zlib.crc32(text.encode()),
                )
                await link.write(turn.packet(tool_call=call))
                assert (await link.heard("tool_result", turn.session_id)).tool_result.result_json == '"once"'
                answer = chat_pb2.AnswerQuestion(question_id="q1", value_json='"yes"')
                packet = chat_pb2.ClientPacket(session_id=turn.session_id, answer=answer)
                await talk.send(packet)
                assert not (await talk.receipt()).HasField("error")
                assert (await link.heard("answer", turn.session_id)).answer.value_json == '"yes"'
                await link.write(
                    turn.packet(content=agent_pb2.ContentChunk(text="done")), turn.packet(done=done)
                )
                ended = await rest.ended()
                assert (ended.name, ended.content_chars) == ("completed", len(text))
                assert about["stop"].empty()
                # What waited still waited.
                assert (await link.started()).session_id == id_of(queued)
            await again.ended()
            assert [event.cursor for event in again.events[: len(said)]] == [event.cursor for event in said]
            assert again.events == half.events + rest.events
            assert await viewer.status() == (grpc.StatusCode.OK, "")
    assert runs(place) == ["once", "hung"]


async def _now(value: list[str]) -> list[str]:
    return value


async def _beats(link: Link) -> int:
    return link.order.count("heartbeat")


@asynchronous
async def test_an_idempotent_tool_runs_once_more_with_the_same_key(place: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with killed_after(dispatcher_at(place)) as first:
        async with linked(first.address, agent, **me) as link, conversing(first.address) as talk:
            await talk.ask(agent)
            turn = await link.started()
            await turn.call("hang_once", '{"word": "again"}', call_id="c1")
            await eventually(lambda: _now(runs(place)), lambda noted: noted == ["again"])
    with dispatcher_at(place) as second:
        async with linked(second.address, agent, **me, resumes=[resumed(turn, signals=0)]) as link:
            result = (await link.heard("tool_result", turn.session_id)).tool_result
            assert (result.call_id, result.result_json) == ("c1", '"again"')
    assert runs(place) == ["again", "again"]


@asynchronous
async def test_an_ended_session_is_read_in_another_life(place: Path) -> None:
    agent = unique("agent")
    with killed_after(dispatcher_at(place)) as first:
        async with linked(first.address, agent) as link, conversing(first.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("whole")
            await turn.finish()
            await seen.ended()
    with dispatcher_at(place) as second:
        async with chatting(second.address) as chat, administering(second.address) as admin:
            for event, left in ((seen.events[0], seen.events[1:]), (seen.events[-1], [])):
                request = subscription(turn.session_id, event.cursor)
                async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, rest):
                    assert (await viewer.status()).code is grpc.StatusCode.OK
                    assert rest.events == left
            view = await admin.GetSession(admin_pb2.GetSessionRequest(session_id=turn.session_id))
            assert view.session.ended.name == "completed"


@asynchronous
async def test_a_restart_forgets_nothing_that_is_held_back(place: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with killed_after(dispatcher_at(place, "--deny", "secret")) as first:
        async with linked(first.address, agent, **me) as link, conversing(first.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("the ")
            await turn.say("sec")
            await turn.acknowledged(1)
            await seen.until_text("the ")
    with dispatcher_at(place, "--deny", "secret") as second:
        async with (
            linked(second.address, agent, **me, resumes=[resumed(turn, signals=0)]) as link,
            chatting(second.address) as chat,
        ):
            assert link.welcome.resumes[0].resumed.next_sequence == 2
            request = subscription(turn.session_id, seen.events[-1].cursor)
            async with viewing(chat.Subscribe(request), turn.session_id) as (_, rest):
                # What was not acknowledged comes once more, whether it had come or not.
                held = turn.packet(sequence=2, content=agent_pb2.ContentChunk(text="sec"))
                await link.write(held, turn.packet(content=agent_pb2.ContentChunk(text="ret")))
                assert (await rest.ended()).name == "policy_blocked"
                assert rest.text == ""


@asynchronous
async def test_a_commander_that_does_not_come_back_is_replaced(place: Path) -> None:
    agent = unique("agent")
    with killed_after(dispatcher_at(place)) as first:
        async with linked(first.address, agent) as link, conversing(first.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("half")
            await seen.until_text("half")
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "0.5")
    with dispatcher_at(place, *flags) as second:
        async with linked(second.address, agent) as link, chatting(second.address) as chat:
            turn = await link.started()
            assert turn.attempt == 2
            request = subscription(turn.session_id, seen.events[-1].cursor)
            async with viewing(chat.Subscribe(request), turn.session_id) as (_, rest):
                await turn.say("whole")
                await turn.finish()
                await rest.ended()
                assert rest.text == "whole"
                assert rest.kinds[0] == "reset"


@asynchronous
async def test_sigterm_leaves_sessions_as_they_stand_and_tells_viewers_where_to_go_on(place: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with dispatcher_at(place) as first:
        async with (
            linked(first.address, agent, **me) as link,
            conversing(first.address) as talk,
            chatting(first.address) as chat,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("half ")
            await turn.acknowledged(1)
            session_id = turn.session_id
            async with viewing(chat.Subscribe(subscription(session_id)), session_id) as (viewer, half):
                await half.until_text("half")
                await seen.until_text("half")
                first.signal(signal.SIGTERM)
                for each in (viewer, talk):
                    status = await each.status()
                    assert status.code is grpc.StatusCode.UNAVAILABLE
                    assert "come back with the cursor" in status.details
                    (goaway,) = each.goaways
                    assert (goaway.session_id, goaway.cursor) == (session_id, half.events[-1].cursor)
                    assert goaway.retry_after_ms > 0
                    assert goaway.reason
            await link.heard("goodbye")
            assert (await link.status()).code is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(first.wait) == 0
    with dispatcher_at(place) as second:
        async with linked(second.address, agent, **me, resumes=[resumed(turn, signals=0)]) as link:
            assert link.welcome.resumes[0].resumed.next_sequence == 2
            await link.write(turn.packet(content=agent_pb2.ContentChunk(text="done")), turn.finished())
            async with chatting(second.address) as chat:
                request = subscription(session_id, goaway.cursor)
                async with viewing(chat.Subscribe(request), session_id) as (_, rest):
                    assert (await rest.ended()).content_chars == len("half done")
                    assert rest.text == "done"


@asynchronous
async def test_what_a_commander_told_of_its_models_outlives_kill_9(place: Path) -> None:
    agent, commander_id = unique("agent"), unique("commander")
    fast = agent_pb2.ModelOffer(name="fast", model="openai-chat:qwen3", takes_images=False, calls_tools=True)
    deep = agent_pb2.ModelOffer(name="deep")
    with killed_after(dispatcher_at(place)) as first:
        async with (
            linked(first.address, agent, commander_id=commander_id, models=[fast, deep]) as link,
            conversing(first.address) as talk,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("half ")
            await seen.until_text("half ")
            first.signal(signal.SIGKILL)
            first.wait()
    with dispatcher_at(place) as second:
        async with chatting(second.address) as chat, administering(second.address) as admin:
            (listing,) = (await chat.ListAgents(chat_pb2.ListAgentsRequest())).agents
            assert (listing.offer.name, list(listing.models)) == (agent, [deep, fast])
            (view,) = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
            assert (view.commander_id, list(view.models)) == (commander_id, [deep, fast])


@asynchronous
async def test_with_the_journal_in_memory_everybody_is_told_that_it_began_anew() -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with killed_after(running_dispatcher()) as first:
        async with linked(first.address, agent, **me) as link, conversing(first.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("half")
            await seen.until_text("half")
    with running_dispatcher() as second:
        async with linked(second.address, agent, **me, resumes=[resumed(turn, signals=0)]) as link:
            assert link.welcome.resumes[0].WhichOneof("verdict") == "unknown"
        async with chatting(second.address) as chat:
            cursor = seen.events[-1].cursor
            request = subscription(turn.session_id, cursor)
            async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, rest):
                status = await viewer.status()
                assert status.code is grpc.StatusCode.NOT_FOUND
                assert "began anew" in status.details
                (told,) = rest.events
                assert (told.gap.reason, told.gap.requested) == ("other_epoch", cursor)
                assert told.gap.available_from.epoch not in ("", cursor.epoch)


@asynchronous
async def test_the_welcome_is_first_though_a_stop_waits(place: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with dispatcher_at(place, "--journal-sync", "power") as dispatcher:
        async with conversing(dispatcher.address) as talk, administering(dispatcher.address) as admin:
            for _ in range(5):
                async with linked(dispatcher.address, agent, **me) as link:
                    seen = await talk.ask(agent, client_ref=unique("ask"))
                    turn = await link.started()
                await admin.StopSession(admin_pb2.StopSessionRequest(session_id=turn.session_id))
                async with opened_link(dispatcher.address) as link:
                    named = hello(agent, **me, resumes=[resumed(turn, signals=0)])
                    await link.write(agent_pb2.UpstreamPacket(hello=named))
                    await link.heard("welcome")
                    assert next(iter(link.order)) == "welcome"
                    await link.heard("stop", turn.session_id)
                assert (await seen.ended()).name == "stopped"


@asynchronous
async def test_whoever_asks_and_half_closes_sees_it_all(place: Path) -> None:
    agent = unique("agent")
    with dispatcher_at(place, "--journal-sync", "power") as dispatcher:
        async with linked(dispatcher.address, agent, slots=20) as link:
            for _ in range(10):
                async with conversing(dispatcher.address) as talk:
                    await talk.send(chat_pb2.ClientPacket(client_ref="1", ask=asking(agent)))
                    await talk.half_close()
                    turn = await link.started()
                    await turn.say("whole")
                    await turn.finish()
                    assert await talk.status() == (grpc.StatusCode.OK, "")
                    (seen,) = talk.sessions.values()
                    assert (await seen.ended()).name == "completed"
                    assert seen.text == "whole"
                    assert talk.receipts.qsize() == 1


@asynchronous
async def test_what_a_viewer_that_left_at_once_asked_for_is_nobodys_to_watch(place: Path) -> None:
    agent = unique("agent")
    with dispatcher_at(place, "--journal-sync", "power") as dispatcher:
        async with linked(dispatcher.address, agent, slots=50), administering(dispatcher.address) as admin:
            on_detach = chat_pb2.OnDetach(stop_after=Duration(nanos=1_000_000))
            for _ in range(40):
                async with conversing(dispatcher.address) as talk:
                    ask = asking(agent, on_detach=on_detach)
                    await talk.send(chat_pb2.ClientPacket(client_ref="1", ask=ask))

            async def left() -> tuple[int, int]:
                """How many it has come to, and how many of them go on."""
                selector = admin_pb2.SessionSelector(all=True)
                request = admin_pb2.ListSessionsRequest(selector=selector, include_ended=True)
                views = (await admin.ListSessions(request)).sessions
                return len(views), sum(not view.HasField("ended") for view in views)

            await eventually(left, lambda found: found[0] > 0 and found[1] == 0)


@asynchronous
async def test_what_was_held_back_for_a_pattern_that_is_gone_goes_on(place: Path) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    with killed_after(dispatcher_at(place, "--deny", "password")) as first:
        async with linked(first.address, agent, **me) as link, conversing(first.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("boarding pass")
            await turn.say(" ")
            await turn.acknowledged(2)
            await turn.say("pass")
            await turn.ask("q1")
            await seen.until("question")
    with dispatcher_at(place) as second:
        async with (
            linked(second.address, agent, **me, resumes=[resumed(turn, signals=0)]) as link,
            chatting(second.address) as chat,
            viewing(chat.Subscribe(subscription(turn.session_id)), turn.session_id) as (_, whole),
        ):
            await link.write(turn.packet(content=agent_pb2.ContentChunk(text=" is free")), turn.finished())
            assert (await whole.ended()).name == "completed"
            assert whole.text == "boarding pass pass is free"


@asynchronous
async def test_while_the_disk_is_full_nobody_is_told_anything_and_nothing_is_lost(place: Path) -> None:
    agent = unique("agent")
    with dispatcher_at(place) as dispatcher:
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("before ")
            await turn.acknowledged(1)
            unlimited = resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, (least_size(place), unlimited[1]))
            await turn.say("meanwhile ")
            await asyncio.to_thread(dispatcher.wait_for_log, "can't be written")
            # A full disk is no silence.
            beats = link.order.count("heartbeat")
            await eventually(lambda: _beats(link), lambda now: now > beats)
            refused = await talk.request("2", ask=chat_pb2.Ask(agent=agent, messages=_hello()))
            assert refused.error.code == "journal_stalled"
            assert refused.error.retryable
            assert refused.error.retry_after_ms > 0
            assert turn.heard_nothing("ack")
            assert seen.text == "before "
            resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, unlimited)
            await turn.acknowledged(2)
            await turn.say("after")
            await turn.finish()
            await seen.ended()
            assert seen.text == "before meanwhile after"


@asynchronous
async def test_told_to_go_it_goes_though_the_disk_is_full(place: Path) -> None:
    agent = unique("agent")
    with dispatcher_at(place) as dispatcher:
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            await talk.ask(agent)
            turn = await link.started()
            await turn.say("before ")
            await turn.acknowledged(1)
            unlimited = resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, (least_size(place), unlimited[1]))
            await turn.say("meanwhile ")
            await asyncio.to_thread(dispatcher.wait_for_log, "can't be written")
            dispatcher.signal(signal.SIGTERM)
            assert await asyncio.to_thread(dispatcher.wait) == 0


def _hello() -> list[agent_pb2.Message]:
    part = agent_pb2.ContentPart(text="Hi")
    return [agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[part])]
