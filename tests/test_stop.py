"""Stops over real sockets: fenced at once, told to both sides, followed up to the last step, exactly once."""

import asyncio
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import conversing
from dialling import administering, refused
from dispatcher_process import DispatcherProcess
from google.protobuf.duration_pb2 import Duration
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, agent_pb2

DISPATCHER_FLAGS = ("--stop-grace-s", "0.3", "--stop-received-s", "0.3")

Stop = admin_pb2.StopSessionRequest
STOPPED = admin_pb2.STOP_RESULT_STOPPED
ALREADY = admin_pb2.STOP_RESULT_ALREADY_ENDED


async def _commander(admin: "admin_pb2_grpc.AdminAsyncStub", commander_id: str) -> admin_pb2.CommanderView:
    views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
    return next(view for view in views if view.commander_id == commander_id)


@asynchronous
async def test_a_stop_bites_in_the_middle_of_a_sentence(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("This is half a sen")
        await seen.until_text("half")
        answer = await admin.StopSession(
            Stop(
                session_id=turn.session_id,
                reason="too risky",
                code=agent_pb2.STOP_CODE_RISK_CONTROL,
                actor="alice",
                grace=Duration(seconds=7),
            )
        )
        assert (answer.result, answer.ending) == (STOPPED, "stopped")
        # When the answer is there, the fence is: what comes now reaches nobody.
        await turn.say("tence")
        signal = await turn.stopped()
        assert signal == agent_pb2.StopSignal(
            reason="too risky",
            stop_id=answer.stop_id,
            code=agent_pb2.STOP_CODE_RISK_CONTROL,
            grace_ms=7000,
            actor="alice",
        )
        ended = await seen.ended()
        assert (ended.name, ended.stop, ended.retryable) == ("stopped", signal, False)
        assert ended.message == "stopped by alice: too risky"
        await turn.say("and so on")
        await link.write(turn.finished())
        await turn.acknowledge_stop(signal)
        await talk.half_close()
        assert (await talk.status()).code is grpc.StatusCode.OK
        assert seen.text == "This is half a sen"
        assert seen.kinds[-1] == "ended"
        view = await admin.GetSession(admin_pb2.GetSessionRequest(session_id=turn.session_id))
        assert view.session.ended == ended


@asynchronous
async def test_a_stop_is_idempotent(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, client_ref="1")
        turn = await link.started()
        answers = await asyncio.gather(
            *[admin.StopSession(Stop(session_id=turn.session_id)) for _ in range(20)]
        )
        assert sorted(answer.result for answer in answers) == [STOPPED] + [ALREADY] * 19
        assert len({answer.stop_id for answer in answers}) == 1
        assert {answer.ending for answer in answers} == {"stopped"}
        signal = await turn.stopped()
        assert (signal.reason, signal.code, signal.grace_ms) == ("AdminStop", agent_pb2.STOP_CODE_ADMIN, 300)
        assert turn.heard_nothing("stop")
        seen = await talk.ask(agent, client_ref="2")
        done = await link.started()
        await done.finish()
        await seen.ended()
        late = await admin.StopSession(Stop(session_id=done.session_id))
        assert (late.result, late.ending) == (ALREADY, "completed")


WRONG: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no id": ({}, grpc.StatusCode.INVALID_ARGUMENT, "session_id: is empty"),
    "unknown": ({"session_id": "s-no"}, grpc.StatusCode.NOT_FOUND, "session_id: there is no session 's-no'"),
    "code": ({"session_id": "s", "code": 77}, grpc.StatusCode.INVALID_ARGUMENT, "code: 77 is not a StopCode"),
    "grace": (
        {"session_id": "s", "grace": Duration(seconds=-1)},
        grpc.StatusCode.INVALID_ARGUMENT,
        "grace: is -1 s; 0 to 3600 s are right",
    ),
    "long grace": (
        {"session_id": "s", "grace": Duration(seconds=3601)},
        grpc.StatusCode.INVALID_ARGUMENT,
        "grace: is 3601 s; 0 to 3600 s are right",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_stop(dispatcher: DispatcherProcess, case: str) -> None:
    fields, code, words = WRONG[case]

    @asynchronous
    async def scene() -> None:
        async with administering(dispatcher.address) as admin:
            status = await refused(admin.StopSession(Stop(**fields)))
            assert status.code is code
            assert words in status.details

    scene()


ENDINGS = {
    "STOP_CODE_UNSPECIFIED": "stopped",
    "STOP_CODE_USER_CANCEL": "stopped",
    "STOP_CODE_ADMIN": "stopped",
    "STOP_CODE_POLICY_VIOLATION": "policy_blocked",
    "STOP_CODE_LIMIT": "limit_exceeded",
    "STOP_CODE_RISK_CONTROL": "stopped",
    "STOP_CODE_DETACHED": "detached",
    "STOP_CODE_SHUTDOWN": "shutdown",
    "STOP_CODE_PROTOCOL": "protocol_error",
    "STOP_CODE_FENCED": "stopped",
    "STOP_CODE_PARKED": "stopped",
}


def test_every_code_has_its_ending() -> None:
    assert set(ENDINGS) == set(agent_pb2.StopCode.keys())


@asynchronous
async def test_the_code_says_how_it_ended(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=99) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        for code, ending in ENDINGS.items():
            seen = await talk.ask(agent, client_ref=code)
            turn = await link.started()
            stop = Stop(session_id=turn.session_id, code=agent_pb2.StopCode.Value(code))
            assert (await admin.StopSession(stop)).ending == ending
            assert (await seen.ended()).name == ending


# --- the ladder ------------------------------------------------------------------------------------------


@asynchronous
async def test_an_applied_stop_frees_the_slot_and_the_steps_are_measured(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=1) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, client_ref="1")
        turn = await link.started()
        await talk.ask(agent, client_ref="2")
        before = await asyncio.to_thread(dispatcher.scrape)
        await admin.StopSession(Stop(session_id=turn.session_id, grace=Duration(seconds=60)))
        signal = await turn.stopped()
        stopping = await _commander(admin, link.commander_id)
        assert (stopping.slots_taken, stopping.slots_stopping) == (1, 1)
        assert link.started_nothing(), "its agent still runs"
        await turn.acknowledge_stop(signal)
        await (await link.started()).finish()
        after = await asyncio.to_thread(dispatcher.scrape)
        for step in ("received", "applied"):
            name = f'dispatcher_stop_step_seconds_count{{step="{step}"}}'
            assert after[name] == before.get(name, 0) + 1


@asynchronous
async def test_a_killed_agent_frees_the_slot(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=1) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, client_ref="1")
        turn = await link.started()
        await talk.ask(agent, client_ref="2")
        await admin.StopSession(Stop(session_id=turn.session_id, grace=Duration(seconds=60)))
        signal = await turn.stopped()
        ack = agent_pb2.StopAck(stop_id=signal.stop_id, phase=agent_pb2.STOP_PHASE_KILLED)
        await turn.send(sequence=0, stop_ack=ack)
        await link.started()


@asynchronous
async def test_an_abandoned_agent_keeps_its_slot_until_it_ends_after_all(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=1) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent, client_ref="1")
        turn = await link.started()
        await admin.StopSession(Stop(session_id=turn.session_id))
        signal = await turn.stopped()
        assert (await seen.ended()).name == "stopped", "viewers wait for no agent"
        for phase in (agent_pb2.STOP_PHASE_RECEIVED, agent_pb2.STOP_PHASE_ABANDONED):
            await turn.send(sequence=0, stop_ack=agent_pb2.StopAck(stop_id=signal.stop_id, phase=phase))
        stuck = await eventually(
            lambda: _commander(admin, link.commander_id), lambda view: view.slots_stuck == 1
        )
        assert (stuck.slots_taken, stuck.slots_stopping) == (1, 0)
        await talk.ask(agent, client_ref="2")
        assert link.started_nothing()
        await turn.acknowledge_stop(signal)
        await link.started()
        assert (await _commander(admin, link.commander_id)).slots_stuck == 0


@asynchronous
async def test_a_commander_that_ignores_its_stop_is_found_out(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=1) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent)
        turn = await link.started()
        before = await asyncio.to_thread(dispatcher.scrape)
        await admin.StopSession(Stop(session_id=turn.session_id))
        await eventually(lambda: _commander(admin, link.commander_id), lambda view: view.slots_stuck == 1)
        after = await asyncio.to_thread(dispatcher.scrape)
        for name in ("dispatcher_stops_unreceived_total", "dispatcher_slots_stuck_total"):
            assert after[name] > before[name]
        log = [line for line in dispatcher.log if turn.session_id in line]
        for words in ("has not acknowledged its stop", "ignored its stop; its slot is stuck"):
            assert any(words in line for line in log), log


# --- where the session is --------------------------------------------------------------------------------


@asynchronous
async def test_a_queued_session_is_stopped_without_ever_starting(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=1) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, client_ref="1")
        turn = await link.started()
        queued = await talk.ask(agent, client_ref="2")
        third = await talk.ask(agent, client_ref="3")
        await queued.until("opened")
        session_id = queued.events[0].session_id
        assert (await admin.StopSession(Stop(session_id=session_id))).result == STOPPED
        assert (await queued.ended()).name == "stopped"
        assert queued.kinds == ["opened", "ended"]
        await turn.finish()
        following = await link.started()
        assert following.session_id == (await third.until("started")).session_id
        await following.finish()
        assert (await third.ended()).name == "completed"
        assert link.started_nothing()


@asynchronous
async def test_a_detached_session_is_stopped_and_its_commander_hears_of_it_when_it_returns(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    me: dict[str, Any] = {"commander_id": unique("commander"), "instance": unique("instance")}
    async with administering(dispatcher.address) as admin, conversing(dispatcher.address) as talk:
        async with linked(dispatcher.address, agent, **me) as link:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("a")
            await turn.acknowledged(1)
        request = admin_pb2.GetSessionRequest(session_id=turn.session_id)
        await eventually(lambda: admin.GetSession(request), lambda got: got.session.state == "detached")
        answer = await admin.StopSession(Stop(session_id=turn.session_id))
        assert (await seen.ended()).name == "stopped"
        resume = agent_pb2.Resume(session_id=turn.session_id, attempt=1, last_sequence_sent=1)
        async with linked(dispatcher.address, agent, **me, resumes=[resume]) as link:
            assert link.welcome.resumes[0].ended.ending == "stopped"
            signal = (await link.heard("stop", turn.session_id)).stop
            assert signal.stop_id == answer.stop_id


# --- many ------------------------------------------------------------------------------------------------

SELECTORS: dict[str, dict[str, Any]] = {
    "user": {"user_id": "USER"},
    "agent": {"agent": "AGENT"},
    "commander": {"commander_id": "COMMANDER"},
    "labels": {"labels": {"run": "RUN", "kind": "a"}},
    "user and label": {"user_id": "USER", "labels": {"kind": "a"}},
}
SELECTED = {"user": 3, "agent": 4, "commander": 4, "labels": 2, "user and label": 2}


@pytest.mark.parametrize("by", SELECTORS)
def test_many_are_stopped_by_what_they_have_in_common(dispatcher: DispatcherProcess, by: str) -> None:
    @asynchronous
    async def scene() -> None:
        agent, user, run = unique("agent"), unique("user"), unique("run")
        async with (
            linked(dispatcher.address, agent) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            views = []
            for number, (who, kind) in enumerate([(user, "a"), (user, "a"), (user, "b"), ("other", "b")]):
                labels = {"run": run, "kind": kind}
                views.append(await talk.ask(agent, client_ref=f"{number}", user_id=who, labels=labels))
                await link.started()
            names = {"USER": user, "AGENT": agent, "COMMANDER": link.commander_id, "RUN": run}

            def filled(value: Any) -> Any:
                if isinstance(value, dict):
                    return {key: filled(each) for key, each in value.items()}
                return names.get(value, value)

            selector = admin_pb2.SessionSelector(**filled(SELECTORS[by]))
            request = admin_pb2.StopSessionsRequest(selector=selector, reason="Maintenance")
            answer = await admin.StopSessions(request)
            assert answer.stopped == SELECTED[by]
            for seen in views[: SELECTED[by]]:
                ended = await seen.ended()
                assert (ended.name, ended.stop.reason) == ("stopped", "Maintenance")
            assert list(answer.session_ids) == [seen.events[0].session_id for seen in views[: SELECTED[by]]]
            assert (await admin.StopSessions(request)).stopped == 0, "what has ended is not stopped again"
            listed = await admin.ListSessions(
                admin_pb2.ListSessionsRequest(selector=admin_pb2.SessionSelector(agent=agent))
            )
            assert len(listed.sessions) == 4 - SELECTED[by]

    scene()


@asynchronous
async def test_nothing_selected_stops_nothing_and_all_stops_all(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        await link.started()
        status = await refused(admin.StopSessions(admin_pb2.StopSessionsRequest(reason="oops")))
        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.details.startswith("selector: says nothing; set user_id")
        everything = admin_pb2.SessionSelector(all=True)
        answer = await admin.StopSessions(admin_pb2.StopSessionsRequest(selector=everything))
        assert seen.events[0].session_id in answer.session_ids
        assert (await seen.ended()).name == "stopped"


@asynchronous
async def test_a_stop_wins_or_loses_against_a_finish_exactly_once(dispatcher: DispatcherProcess) -> None:
    agent, races = unique("agent"), 150
    async with (
        linked(dispatcher.address, agent, slots=races) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        views = {}
        for number in range(races):
            seen = await talk.ask(agent, client_ref=f"{number}")
            turn = await link.started()
            views[turn.session_id] = (turn, seen)

        async def race(number: int, session_id: str) -> None:
            turn, seen = views[session_id]
            stop = admin.StopSession(Stop(session_id=session_id))
            finish = link.write(turn.packet(content=agent_pb2.ContentChunk(text="x")), turn.finished())
            # A finish crosses one hop fewer to be written; some stops get a head start.
            if number % 3:
                _, answer = await asyncio.gather(finish, stop)
            else:
                answer, _ = await asyncio.gather(stop, finish)
            ended = await seen.ended()
            assert len(seen.of("ended")) == 1
            assert (answer.result, answer.ending) == (
                (STOPPED, "stopped") if ended.name == "stopped" else (ALREADY, "completed")
            )
            assert ended.content_chars == len(seen.text)
            view = await admin.GetSession(admin_pb2.GetSessionRequest(session_id=session_id))
            assert view.session.ended == ended

        await asyncio.gather(*[race(number, session_id) for number, session_id in enumerate(views)])
        told = {session_id for session_id, (turn, _) in views.items() if not turn.heard_nothing("stop")}
        assert told == {
            session_id for session_id, (_, seen) in views.items() if seen.events[-1].ended.HasField("stop")
        }
