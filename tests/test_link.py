"""One commander's link over a real socket: hello, sessions, acknowledgements, resume and loss."""

import zlib
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import asking, conversing
from dialling import administering
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from scripted_commander import Turn, Up, linked, opened_link, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2


@asynchronous
async def test_hello_is_answered_with_a_welcome(dispatcher: DispatcherProcess) -> None:
    async with linked(dispatcher.address, unique("agent"), protocol_version=99) as link:
        welcome = link.welcome
        assert welcome.protocol_version == 1
        assert welcome.limits.max_message_bytes == 1_048_576
        assert welcome.limits.credit == 64
        assert welcome.limits.credit_bytes == 262_144
        assert welcome.heartbeat_interval.ToTimedelta().total_seconds() == 2.0
        assert welcome.software_version.startswith("chatstream/")
        assert welcome.dispatcher_instance
        assert not welcome.resumes
        assert await link.leave() == (grpc.StatusCode.OK, "")


@asynchronous
async def test_start_carries_what_was_asked(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    ask = asking(
        agent,
        "What now?",
        agent_version="2",
        metadata={"k": "v"},
        budgets=agent_pb2.Budgets(content_chars=500, total_time=Duration(seconds=50)),
        user_id="u1",
        trace_context=agent_pb2.TraceContext(traceparent="00-11-22-01"),
    )
    offer = agent_pb2.AgentOffer(name=agent, version="2")
    async with linked(dispatcher.address, agents=[offer]) as link, conversing(dispatcher.address) as talk:
        receipt = await talk.request("1", ask=ask)
        turn = await link.started()
        assert turn.session_id == receipt.session_id
        assert turn.attempt == 1
        start = turn.start
        assert (start.agent, start.agent_version, start.user_id) == (agent, "2", "u1")
        assert list(start.messages) == list(ask.messages)
        assert start.metadata == {"k": "v"}
        assert start.budgets == ask.budgets
        assert start.trace_context == ask.trace_context
        assert 0 < start.time_left.ToTimedelta().total_seconds() <= 50
        assert (start.credit, start.credit_bytes) == (64, 262_144)
        assert not start.tools


@asynchronous
async def test_a_session_from_start_to_done(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent, user_id="u1", labels={"a": "b"}, include_thoughts=True)
        turn = await link.started()
        await turn.think("Planning", "hm")
        await turn.say("Grüße, ")
        await turn.say("Welt 🌍", agent="team/insight")
        await turn.finish()
        ended = await seen.ended()
        assert seen.kinds == ["opened", "started", "thought", "content", "content", "ended"]
        assert [event.cursor.offset for event in seen.events] == [1, 2, 3, 4, 5, 6]
        assert len({event.cursor.epoch for event in seen.events}) == 1
        opened = seen.events[0].opened
        assert (opened.agent, opened.user_id, dict(opened.labels)) == (agent, "u1", {"a": "b"})
        assert seen.events[1].started.commander_id == link.commander_id
        assert seen.events[2].thought == agent_pb2.ThoughtChain(step_name="Planning", delta="hm")
        assert [event.agent for event in seen.events[2:5]] == ["", "", "team/insight"]
        assert {event.attempt for event in seen.events[1:]} == {1}
        assert all(event.timestamp > 0 for event in seen.events)
        assert seen.text == "Grüße, Welt 🌍"
        assert (ended.name, ended.ending) == ("completed", chat_pb2.SESSION_ENDING_COMPLETED)
        assert ended.content_chars == len(seen.text)
        assert ended.content_crc32 == zlib.crc32(seen.text.encode())
        await turn.acknowledged(turn.sequence)


PASSED_ON: dict[str, Any] = {
    "progress": agent_pb2.Progress(text="half", current=1, total=2, percent=50),
    "artifact": agent_pb2.Artifact(
        name="a.png", mime_type="image/png", data=b"\x00\xff" * 50, is_last=True, artifact_id="1"
    ),
    "embedding": agent_pb2.Embedding(values=[0.5, -1.25, 3.0], name="v", model="m"),
    "usage": agent_pb2.Usage(input_tokens=3, output_tokens=5, reasoning_tokens=7, model="m"),
    "agent_event": agent_pb2.AgentEvent(completed=agent_pb2.AgentCompleted(summary="done")),
    "error": agent_pb2.ErrorSignal(
        code="rate_limited", scope=agent_pb2.ERROR_SCOPE_CALL, message="slow down", retry_after_ms=10
    ),
}


@pytest.mark.parametrize("kind", PASSED_ON)
def test_what_the_dispatcher_does_not_open_reaches_viewers_as_it_was(
    dispatcher: DispatcherProcess, kind: str
) -> None:
    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.send(**{kind: PASSED_ON[kind]}, agent="sub")
            event = await seen.until(kind)
            assert getattr(event, kind) == PASSED_ON[kind]
            assert event.agent == "sub"
            await turn.finish()
            assert (await seen.ended()).name == "completed"

    scene()


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "agent": ({"outcome": agent_pb2.OUTCOME_FAILED}, "agent_failed"),
    "model": (
        {
            "outcome": agent_pb2.OUTCOME_FAILED,
            "error": agent_pb2.ErrorSignal(
                code="x", origin=agent_pb2.ERROR_ORIGIN_LLM, message="overloaded", retryable=True
            ),
        },
        "model_failed",
    ),
    "length": ({"content_chars": 1}, "incomplete"),
    "checksum": ({"content_crc32": 1}, "incomplete"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_done_that_is_not_well(dispatcher: DispatcherProcess, case: str) -> None:
    fields, ending = FAILURES[case]

    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("some text")
            await link.write(turn.finished(**fields))
            ended = await seen.ended()
            assert ended.name == ending
            assert ended.error == fields.get("error", ended.error)
            assert turn.heard_nothing("stop"), "its turn is over: there is nothing to stop"

    scene()


@asynchronous
async def test_sessions_on_one_link_stay_apart(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        views = [await talk.ask(agent, f"{n}", client_ref=f"{n}") for n in range(3)]
        turns = [await link.started() for _ in views]
        assert [turn.start.messages[0].parts[0].text for turn in turns] == ["0", "1", "2"]
        words = [f"word{n} " for n in range(20)]
        for word in words:
            await link.write(*[turn.packet(content=agent_pb2.ContentChunk(text=word)) for turn in turns])
        await link.write(*[turn.finished() for turn in turns])
        for seen in views:
            assert (await seen.ended()).name == "completed"
            assert seen.text == "".join(words)
        await talk.half_close()
        assert await talk.status() == (grpc.StatusCode.OK, "")


@asynchronous
async def test_acks_are_cumulative_and_bear_credit(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent)
        turn = await link.started()
        await turn.say("one")
        ack = await turn.acknowledged(1)
        assert (ack.sequence, ack.credit, ack.credit_bytes) == (1, 64, 262_144)
        # Half of the credit is worth an acknowledgement of its own.
        await link.write(*[turn.packet(content=agent_pb2.ContentChunk(text="x")) for _ in range(32)])
        assert (await turn.acknowledged(33)).sequence == 33
        # So are half of the bytes.
        await turn.say("y" * 131_072)
        assert (await turn.acknowledged(34)).sequence == 34


@asynchronous
async def test_a_repeat_is_acknowledged_and_dropped(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        first = turn.packet(content=agent_pb2.ContentChunk(text="once "))
        await link.write(first)
        await turn.acknowledged(1)
        await link.write(first)
        assert (await turn.acknowledged(1)).sequence == 1
        await turn.say("and for all")
        await turn.finish()
        assert (await seen.ended()).name == "completed"
        assert seen.text == "once and for all"


@asynchronous
async def test_questions_and_messages_go_down(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.ask("q1", "Which?")
        assert (await seen.until("question")).question.text == "Which?"
        answer = chat_pb2.AnswerQuestion(question_id="q1", value_json='{"x": 1}')
        assert not (await talk.request("1", answer=answer)).HasField("error")
        first = await turn.heard("answer")
        assert (first.answer.question_id, first.answer.value_json) == ("q1", '{"x": 1}')
        assert not (await talk.request("1", message=chat_pb2.AddMessage(text="faster"))).HasField("error")
        second = await turn.heard("user_message")
        assert second.user_message.text == "faster"
        assert second.user_message.message_id
        assert (first.sequence, second.sequence) == (1, 2), "owed signals are numbered"
        assert (await seen.until("answer")).answer.value_json == '{"x": 1}'
        assert (await seen.until("user_message")).user_message.text == "faster"


@asynchronous
async def test_a_declined_and_an_expired_question_are_cancelled(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.ask("q1")
        await seen.until("question")
        declined = chat_pb2.AnswerQuestion(question_id="q1", decline=True)
        assert not (await talk.request("1", answer=declined)).HasField("error")
        assert (await turn.heard("answer")).answer.cancelled.why == "declined"
        await turn.send(question=agent_pb2.Question(question_id="q2", expires_in=Duration(nanos=50_000_000)))
        expired = (await turn.heard("answer")).answer
        assert (expired.question_id, expired.cancelled.why) == ("q2", "expired")


# --- slots and routing -----------------------------------------------------------------------------------


@asynchronous
async def test_one_slot_never_runs_two_and_the_queue_moves_up(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent, slots=1) as link, conversing(dispatcher.address) as talk:
        views = [await talk.ask(agent, f"{n}", client_ref=f"{n}") for n in range(3)]
        for number, seen in enumerate(views):
            turn = await link.started()
            assert turn.start.messages[0].parts[0].text == f"{number}", "first come, first served"
            await turn.say("busy")
            await turn.acknowledged(1)
            assert link.started_nothing()
            await turn.finish()
            assert (await seen.ended()).name == "completed"


@asynchronous
async def test_the_least_loaded_commander_is_taken(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=2) as first,
        linked(dispatcher.address, agent, slots=2) as second,
        conversing(dispatcher.address) as talk,
    ):
        for number in range(4):
            await talk.ask(agent, client_ref=f"{number}")
        for link in (first, second):
            await link.started()
            await link.started()
            assert link.started_nothing()


@asynchronous
async def test_version_labels_and_affinity_choose_the_commander(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")

    def offer(version: str) -> list[agent_pb2.AgentOffer]:
        return [agent_pb2.AgentOffer(name=agent, version=version)]

    async with (
        linked(dispatcher.address, agents=offer("1"), labels={"region": "eu"}, slots=9) as eu,
        linked(dispatcher.address, agents=offer("2"), labels={"region": "us"}, slots=9) as us,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, client_ref="v", agent_version="2")
        await us.started()
        await talk.ask(agent, client_ref="l", commander_labels={"region": "us"})
        await us.started()
        await talk.ask(agent, client_ref="a1", affinity_key="k", commander_labels={"region": "us"})
        await us.started()
        await talk.ask(agent, client_ref="a2", affinity_key="k")
        await us.started()
        assert eu.started_nothing(), "it is less loaded, and was not asked for"
        refused = await talk.request("no", ask=asking(agent, agent_version="3"))
        assert refused.error.code == "no_such_agent"
        assert "version '3'" in refused.error.message


@asynchronous
async def test_a_refused_start_goes_to_the_next_commander(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, commander_id=unique("a"), slots=1) as busy,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await busy.started()
        async with linked(dispatcher.address, agent, slots=1) as free:
            await turn.send(sequence=0, refused=agent_pb2.Refused(code="no_slot", why="another dispatcher's"))
            taken = await free.started()
            assert (taken.session_id, taken.attempt) == (turn.session_id, 2)
            await taken.finish()
            assert (await seen.ended()).name == "completed"
            assert (busy.started_nothing(), seen.kinds.count("started")) == (True, 2)


# --- coming back -----------------------------------------------------------------------------------------


def _identity() -> dict[str, Any]:
    return {"commander_id": unique("commander"), "instance": unique("instance")}


def _resume(turn: Turn, **more: Any) -> agent_pb2.Resume:
    fields: dict[str, Any] = {
        "session_id": turn.session_id,
        "attempt": turn.attempt,
        "last_sequence_sent": turn.sequence,
    }
    return agent_pb2.Resume(**{**fields, **more})


@asynchronous
async def test_a_broken_link_is_resumed_and_nothing_is_lost_or_doubled(dispatcher: DispatcherProcess) -> None:
    agent, me = unique("agent"), _identity()
    async with conversing(dispatcher.address) as talk:
        async with linked(dispatcher.address, agent, **me) as link:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("one ")
            await turn.say("two ")
            await turn.acknowledged(2)
            await turn.ask("q1")
            await seen.until("question")
        # The answer is given while there is no link, and is owed.
        async with administering(dispatcher.address) as admin:
            request = admin_pb2.GetSessionRequest(session_id=turn.session_id)
            await eventually(lambda: admin.GetSession(request), lambda got: got.session.state == "detached")
        answer = chat_pb2.AnswerQuestion(question_id="q1", value_json="1")
        assert not (await talk.request("1", answer=answer)).HasField("error")
        unheard = turn.packet(content=agent_pb2.ContentChunk(text="three "))
        async with linked(dispatcher.address, agent, **me, resumes=[_resume(turn)]) as link:
            (verdict,) = link.welcome.resumes
            assert (verdict.session_id, verdict.attempt) == (turn.session_id, 1)
            assert (verdict.resumed.next_sequence, verdict.resumed.credit) == (4, 64)
            owed = await link.heard("answer", turn.session_id)
            assert (owed.answer.value_json, owed.sequence) == ("1", 1)
            final = turn.packet(content=agent_pb2.ContentChunk(text="four"))
            await link.write(unheard, final, turn.finished())
            assert (await seen.ended()).name == "completed"
            assert seen.text == "one two three four"


@asynchronous
async def test_verdicts_on_what_can_not_be_resumed(dispatcher: DispatcherProcess) -> None:
    agent, me = unique("agent"), _identity()
    async with conversing(dispatcher.address) as talk:
        async with linked(dispatcher.address, agent, **me) as link:
            ended = await talk.ask(agent, client_ref="1")
            over = await link.started()
            await over.finish()
            await ended.ended()
            await talk.ask(agent, client_ref="2")
            running = await link.started()
            await running.say("x")
            await running.acknowledged(1)
            resumes = [
                _resume(over),
                _resume(running, attempt=7),
                agent_pb2.Resume(session_id="s-no", attempt=1),
            ]
        async with linked(dispatcher.address, agent, **me, resumes=resumes) as link:
            verdicts = link.welcome.resumes
            assert [verdict.WhichOneof("verdict") for verdict in verdicts] == ["ended", "fenced", "unknown"]
            assert verdicts[0].ended.ending == "completed"
            assert verdicts[1].fenced.why


@asynchronous
async def test_a_newer_link_of_the_same_process_ends_the_older(dispatcher: DispatcherProcess) -> None:
    agent, me = unique("agent"), _identity()
    async with linked(dispatcher.address, agent, **me) as old, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await old.started()
        await turn.say("a")
        await turn.acknowledged(1)
        async with linked(dispatcher.address, agent, **me, resumes=[_resume(turn)]) as new:
            status = await old.status()
            assert status.code is grpc.StatusCode.ABORTED
            assert "newer link" in status.details
            await new.write(turn.packet(content=agent_pb2.ContentChunk(text="b")), turn.finished())
            assert (await seen.ended()).name == "completed"
            assert seen.text == "ab"


@asynchronous
async def test_two_processes_can_not_share_an_id(dispatcher: DispatcherProcess) -> None:
    agent, name = unique("agent"), unique("commander")
    async with (
        linked(dispatcher.address, agent, commander_id=name) as first,
        opened_link(dispatcher.address) as second,
        conversing(dispatcher.address) as talk,
    ):
        offer = agent_pb2.AgentOffer(name=agent)
        await second.write(
            Up(hello=agent_pb2.Hello(commander_id=name, instance="other", agents=[offer], slots=1))
        )
        status = await second.status()
        assert "hello.commander_id" in status.details
        assert "an id of its own" in status.details
        await talk.ask(agent)
        await (await first.started()).finish()


@asynchronous
async def test_another_commander_takes_over_and_viewers_are_told_what_to_discard() -> None:
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "0.5")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        async with conversing(dispatcher.address) as talk:
            async with linked(dispatcher.address, agent) as lost:
                silent = await talk.ask(agent, client_ref="1")
                await lost.started()
                spoken = await talk.ask(agent, client_ref="2")
                await (await lost.started()).say("half an ans")
                await spoken.until_text("half")
            async with linked(dispatcher.address, agent) as other:
                for seen, discarded in ((silent, False), (spoken, True)):
                    turn = await other.started()
                    assert (turn.session_id, turn.attempt) == (seen.events[0].session_id, 2)
                    assert not turn.start.HasField("published")
                    await turn.say("whole")
                    await turn.finish()
                    ended = await seen.ended()
                    assert (ended.name, ended.content_chars) == ("completed", len("whole"))
                    assert seen.text == "whole"
                    assert ("reset" in seen.kinds) == discarded
                reset = (await spoken.until("reset")).reset
                assert reset.discard_after == spoken.events[0].cursor
                assert other.started_nothing()


@asynchronous
async def test_an_agent_that_continues_is_told_what_viewers_have() -> None:
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "0.5")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        offers = [agent_pb2.AgentOffer(name=agent, on_restart=agent_pb2.ON_RESTART_CONTINUE)]
        async with conversing(dispatcher.address) as talk:
            async with linked(dispatcher.address, agent, agents=offers) as lost:
                seen = await talk.ask(agent)
                turn = await lost.started()
                await turn.say("half an ")
                await turn.call("nothing", call_id="call-1")
                await turn.result()
                for text in ("taken", "not taken"):
                    receipt = await talk.request("1", message=chat_pb2.AddMessage(text=text))
                    assert receipt.message_id
                await turn.heard("user_message")
                await turn.say("ans", messages_read=2)
                await seen.until_text("half an ans")
            async with linked(dispatcher.address, agent, agents=offers) as other:
                turn = await other.started()
                published = turn.start.published
                assert published.content == "half an ans"
                (call,) = published.calls
                assert (call.request.call_id, call.result.error.code) == (
                    "call-1",
                    agent_pb2.TOOL_ERROR_CODE_NOT_FOUND,
                )
                assert [message.text for message in published.messages] == ["taken"]
                assert (await turn.heard("user_message")).user_message.text == "not taken"
                await turn.say("wer")
                await turn.finish()
                ended = await seen.ended()
                assert (ended.name, seen.text) == ("completed", "half an answer")
                assert "reset" not in seen.kinds
                assert list(ended.unread_message_ids) == [receipt.message_id]


@asynchronous
async def test_what_a_lost_attempt_held_back_is_never_shown() -> None:
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "0.5", "--deny", "secret")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        offers = [agent_pb2.AgentOffer(name=agent, on_restart=agent_pb2.ON_RESTART_CONTINUE)]
        async with conversing(dispatcher.address) as talk:
            async with linked(dispatcher.address, agent, agents=offers) as lost:
                seen = await talk.ask(agent)
                await (await lost.started()).say("the sec")
                await seen.until_text("the ")
            async with linked(dispatcher.address, agent, agents=offers) as other:
                turn = await other.started()
                assert turn.start.published.content == "the "
                await turn.say("ret place")
                await turn.finish()
                assert (await seen.ended()).name == "completed"
                assert seen.text == "the ret place"


@asynchronous
async def test_a_session_whose_commanders_all_vanish_is_poison() -> None:
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "0.5", "--attempts-max", "2")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        async with conversing(dispatcher.address) as talk:
            async with linked(dispatcher.address, agent) as first:
                seen = await talk.ask(agent)
                await first.started()
            async with linked(dispatcher.address, agent) as second:
                await second.started()
            ended = await seen.ended()
            assert (ended.name, ended.retryable) == ("poisoned", False)
            assert ended.ending == chat_pb2.SESSION_ENDING_POISONED


@asynchronous
async def test_a_link_that_is_not_heard_is_lost_and_so_are_its_sessions() -> None:
    flags = ("--heartbeat-interval-s", "0.1", "--detach-grace-s", "0.5", "--attempts-max", "1")
    with running_dispatcher(*flags) as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent, beats=False) as mute,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent)
            turn = await mute.started()
            await turn.say("half an ans")
            await mute.heard("heartbeat")
            status = await mute.status()
            assert status.code is grpc.StatusCode.UNAVAILABLE
            assert "not heard for" in status.details
            ended = await seen.ended()
            assert (ended.name, ended.retryable) == ("commander_lost", True)
            assert "did not return within 0.5 s" in ended.message
            assert seen.text == "half an ans"


@asynchronous
async def test_a_commander_that_leaves_is_gone_at_once(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with administering(dispatcher.address) as admin, conversing(dispatcher.address) as talk:
        async with linked(dispatcher.address, agent) as link:
            assert (await link.leave()).code is grpc.StatusCode.OK
            views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
            assert link.commander_id not in [view.commander_id for view in views]
        refused = await talk.request("1", ask=asking(agent))
        assert refused.error.code == "no_such_agent"
