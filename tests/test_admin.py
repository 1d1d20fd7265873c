"""Admin, every method: what operators see and what they change."""

import asyncio
import contextlib
import signal
from datetime import timedelta
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import asking, conversing, viewing
from dialling import administering, chatting, refused
from dispatcher_process import DispatcherProcess, running_dispatcher
from google.protobuf.duration_pb2 import Duration
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_every_method_is_served() -> None:
    """One that is added to the contract belongs into a test here, and its name into this list."""
    service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
    assert {method.name for method in service.methods} == {
        "StopSession", "StopSessions", "ListSessions", "GetSession", "WatchSession", "ListCommanders",
        "DrainCommander", "Drain", "GetLimits", "SetLimits", "ListTools",
    }  # fmt: skip


# --- sessions --------------------------------------------------------------------------------------------


@asynchronous
async def test_a_session_as_it_is_seen(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=1) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent, user_id="u1", labels={"a": "b"}, include_thoughts=True)
        turn = await link.started()
        request = admin_pb2.GetSessionRequest(session_id=turn.session_id)
        starting = (await admin.GetSession(request)).session
        assert (starting.state, starting.viewers, starting.attempt) == ("starting", 1, 1)
        await turn.think("Planning", "four")
        await turn.say("seven77")
        progress = agent_pb2.Progress(text="half", percent=50)
        await turn.send(progress=progress)
        await turn.send(usage=agent_pb2.Usage(input_tokens=3, output_tokens=5))
        await turn.send(usage=agent_pb2.Usage(output_tokens=5, model="m"))
        await turn.ask("q1", "Which?")
        await turn.call("nothing")
        phase = agent_pb2.HEARTBEAT_PHASE_WAITING_ANSWER
        await turn.send(sequence=0, heartbeat=agent_pb2.Heartbeat(phase=phase))
        last = await seen.until("tool_result")
        view = (
            await eventually(lambda: admin.GetSession(request), lambda got: got.session.phase == phase)
        ).session
        assert (view.session_id, view.state, view.agent) == (turn.session_id, "running", agent)
        assert (view.user_id, dict(view.labels)) == ("u1", {"a": "b"})
        assert (view.commander_id, view.attempt, view.viewers) == (link.commander_id, 1, 1)
        assert view.age.ToTimedelta().total_seconds() > 0
        assert view.cursor == last.cursor
        assert (view.content_chars, view.thought_chars) == (7, 4)
        assert (view.tool_calls, view.tool_calls_running) == (1, 0)
        assert [question.text for question in view.open_questions] == ["Which?"]
        assert view.usage == agent_pb2.Usage(input_tokens=3, output_tokens=10, model="m")
        assert view.progress == progress
        assert not view.HasField("ended")
        assert not view.HasField("ended_ago")
        queued = await talk.ask(agent, client_ref="2")
        await queued.until("opened")
        waiting = admin_pb2.GetSessionRequest(session_id=queued.events[0].session_id)
        assert (await admin.GetSession(waiting)).session.state == "queued"
        await turn.finish()
        ended = await seen.ended()
        view = (await admin.GetSession(request)).session
        assert (view.state, view.ended) == ("ended", ended)
        assert view.ended_ago.ToTimedelta() > timedelta()
        assert not view.open_questions


@asynchronous
async def test_a_session_that_never_was(dispatcher: DispatcherProcess) -> None:
    async with administering(dispatcher.address) as admin:
        status = await refused(admin.GetSession(admin_pb2.GetSessionRequest(session_id="s-no")))
        assert status.code is grpc.StatusCode.NOT_FOUND
        assert "session_id: there is no session 's-no'" in status.details


@asynchronous
async def test_sessions_come_in_pages_newest_first(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=20) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        ids: list[str] = []
        for number in range(7):
            await talk.ask(agent, client_ref=f"{number}")
            ids.insert(0, (await link.started()).session_id)
        selector = admin_pb2.SessionSelector(agent=agent)
        listed, token, pages = [], "", 0
        while True:
            request = admin_pb2.ListSessionsRequest(selector=selector, page_size=3, page_token=token)
            page = await admin.ListSessions(request)
            assert len(page.sessions) <= 3
            listed += [view.session_id for view in page.sessions]
            token, pages = page.next_page_token, pages + 1
            if not token:
                break
            if pages == 1:
                # One that ends between two pages, and is not the last of its page, moves nothing.
                await admin.StopSession(admin_pb2.StopSessionRequest(session_id=ids[0]))
        assert (listed, pages) == (ids, 3)
        again = admin_pb2.ListSessionsRequest(selector=selector)
        assert [view.session_id for view in (await admin.ListSessions(again)).sessions] == ids[1:]
        again.include_ended = True
        assert [view.session_id for view in (await admin.ListSessions(again)).sessions] == ids


@asynchronous
async def test_a_page_is_not_lost_when_the_session_it_ended_with_has_ended(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, slots=20) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        ids: list[str] = []
        for number in range(4):
            await talk.ask(agent, client_ref=f"{number}")
            ids.insert(0, (await link.started()).session_id)
        selector = admin_pb2.SessionSelector(agent=agent)
        first = await admin.ListSessions(admin_pb2.ListSessionsRequest(selector=selector, page_size=2))
        await admin.StopSession(admin_pb2.StopSessionRequest(session_id=ids[1]))
        rest = await admin.ListSessions(
            admin_pb2.ListSessionsRequest(selector=selector, page_size=2, page_token=first.next_page_token)
        )
        assert [view.session_id for view in rest.sessions] == ids[2:]


@asynchronous
async def test_pages_are_bounded_in_bytes_too(dispatcher: DispatcherProcess) -> None:
    agent, labels = unique("agent"), {f"{n:0>256}": "x" * 256 for n in range(64)}
    async with (
        linked(dispatcher.address, agent, slots=100) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        for number in range(100):
            await talk.ask(agent, client_ref=f"{number}", labels=labels)
            await link.started()
        request = admin_pb2.ListSessionsRequest(selector=admin_pb2.SessionSelector(agent=agent))
        listed: list[str] = []
        while True:
            page = await admin.ListSessions(request)
            assert 0 < page.ByteSize() <= 1_048_576
            listed += [view.session_id for view in page.sessions]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        assert len(set(listed)) == len(listed) == 100


@asynchronous
async def test_a_session_with_long_questions_can_be_seen(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        for number in range(10):
            await turn.ask(f"q{number}", f"{number}" * 300_000)
        await seen.until("question", 10)
        view = (await admin.GetSession(admin_pb2.GetSessionRequest(session_id=turn.session_id))).session
        assert [question.question_id for question in view.open_questions] == [f"q{n}" for n in range(10)]
        assert [question.text[:5] for question in view.open_questions] == [f"{n}" * 5 for n in range(10)]
        assert view.open_questions[0].text.endswith(" …")


PAGES: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"page_size": 1001}, "page_size: is 1001; at most 1000 is right"),
    "token": ({"page_token": "s-no"}, "page_token"),
}


@pytest.mark.parametrize("what", PAGES)
def test_a_wrong_page(dispatcher: DispatcherProcess, what: str) -> None:
    fields, words = PAGES[what]

    @asynchronous
    async def scene() -> None:
        async with administering(dispatcher.address) as admin:
            status = await refused(admin.ListSessions(admin_pb2.ListSessionsRequest(**fields)))
            assert status.code is INVALID
            assert words in status.details

    scene()


@asynchronous
async def test_sessions_by_what_they_have_in_common(dispatcher: DispatcherProcess) -> None:
    agent, user = unique("agent"), unique("user")
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, client_ref="1", user_id=user, labels={"kind": "a"})
        one = (await link.started()).session_id
        await talk.ask(agent, client_ref="2", user_id=user, labels={"kind": "b"})
        two = (await link.started()).session_id
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({"user_id": user}, [two, one]),
            ({"user_id": user, "labels": {"kind": "a"}}, [one]),
            ({"commander_id": link.commander_id}, [two, one]),
            ({"agent": agent, "labels": {"kind": "c"}}, []),
            ({"agent": agent, "user_id": "other"}, []),
        ]
        for fields, right in cases:
            request = admin_pb2.ListSessionsRequest(selector=admin_pb2.SessionSelector(**fields))
            got = [view.session_id for view in (await admin.ListSessions(request)).sessions]
            assert got == right, fields
        everything = (await admin.ListSessions(admin_pb2.ListSessionsRequest())).sessions
        assert {one, two} <= {view.session_id for view in everything}, "no selector lists all"


@asynchronous
async def test_watching_shows_thoughts_and_all_the_rest(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        watch = admin.WatchSession(admin_pb2.WatchSessionRequest(session_id=turn.session_id))
        async with viewing(watch, turn.session_id) as (viewer, watched):
            await turn.think("Planning", "hm")
            await turn.say("yes")
            await turn.finish()
            await watched.ended()
            assert (await viewer.status()).code is grpc.StatusCode.OK
            assert watched.kinds == ["opened", "started", "thought", "content", "ended"]
        await seen.ended()
        assert seen.kinds == ["opened", "started", "content", "ended"]


# --- commanders ------------------------------------------------------------------------------------------


@asynchronous
async def test_a_commander_as_it_is_seen(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    offer = agent_pb2.AgentOffer(name=agent, version="2", description="d", accepted_input=["text/plain"])
    offer.on_restart = agent_pb2.ON_RESTART_CONTINUE
    fast = agent_pb2.ModelOffer(name="fast", model="openai-chat:qwen3", takes_files=False)
    deep = agent_pb2.ModelOffer(name="deep")
    async with (
        linked(
            dispatcher.address,
            agents=[offer],
            models=[fast, deep],
            slots=3,
            stuck=1,
            labels={"region": "eu"},
            software_version="test/1",
            instance="i-1",
        ) as link,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent)
        turn = await link.started()
        beat = agent_pb2.Heartbeat(blocked_for=Duration(seconds=4), running=1, stuck=1)
        await link.write(agent_pb2.UpstreamPacket(heartbeat=beat))

        async def mine() -> admin_pb2.CommanderView:
            views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
            assert [view.commander_id for view in views] == sorted(view.commander_id for view in views)
            return next(view for view in views if view.commander_id == link.commander_id)

        view = await eventually(mine, lambda view: view.HasField("blocked_for"))
        assert (view.instance, view.state, view.software_version) == ("i-1", "ready", "test/1")
        assert list(view.agents) == [offer]
        assert list(view.models) == [deep, fast]
        assert dict(view.labels) == {"region": "eu"}
        assert (view.slots, view.slots_taken, view.slots_stopping, view.slots_stuck) == (3, 1, 0, 1)
        assert view.blocked_for == Duration(seconds=4)
        assert list(view.session_ids) == [turn.session_id]
        assert view.peer.startswith("ipv4:127.0.0.1:")
        assert view.connected_for.ToTimedelta().total_seconds() > 0
        assert view.silent_for.ToTimedelta().total_seconds() >= 0


@asynchronous
async def test_draining_a_commander(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent, commander_id=unique("a")) as leaving,
        administering(dispatcher.address) as admin,
        conversing(dispatcher.address) as talk,
    ):
        seen = await talk.ask(agent, client_ref="1")
        turn = await leaving.started()
        request = admin_pb2.DrainCommanderRequest(
            commander_id=leaving.commander_id, reason="upgrade", deadline=Duration(seconds=30)
        )
        assert (await admin.DrainCommander(request)).running == 1
        drain = (await leaving.heard("drain")).drain
        assert (drain.reason, drain.deadline) == ("upgrade", Duration(seconds=30))
        views = (await admin.ListCommanders(admin_pb2.ListCommandersRequest())).commanders
        assert [view.state for view in views if view.commander_id == leaving.commander_id] == ["draining"]
        # It takes no more: the next waits for another.
        following = await talk.ask(agent, client_ref="2")
        await following.until("opened")
        async with linked(dispatcher.address, agent) as other:
            await (await other.started()).finish()
            assert (await following.ended()).name == "completed"
            assert leaving.started_nothing()
            # What it has it finishes, and leaves.
            await turn.say("in time")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert (await leaving.leave("drained")).code is grpc.StatusCode.OK


@asynchronous
async def test_draining_nobody(dispatcher: DispatcherProcess) -> None:
    async with administering(dispatcher.address) as admin, linked(dispatcher.address, "a") as link:
        status = await refused(admin.DrainCommander(admin_pb2.DrainCommanderRequest(commander_id="nobody")))
        assert status.code is grpc.StatusCode.NOT_FOUND
        assert "there is no commander 'nobody'; there are: " in status.details
        assert link.commander_id in status.details


# --- the dispatcher itself -------------------------------------------------------------------------------


@asynchronous
async def test_draining_the_dispatcher_lets_what_runs_finish() -> None:
    with running_dispatcher() as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent, client_ref="1")
            turn = await link.started()
            request = admin_pb2.DrainRequest(reason="upgrade", deadline=Duration(seconds=60))
            assert (await admin.Drain(request)).running == 1
            no = await talk.request("2", ask=asking(agent))
            assert (no.error.code, no.error.retryable) == ("draining", True)
            assert no.error.retry_after_ms > 0
            await turn.say("to the ")
            await turn.say("end")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "to the end"
            # With the last session over, it goes, and says so.
            assert (await link.heard("goodbye")).goodbye.reason
            assert (await link.status()).code is grpc.StatusCode.UNAVAILABLE
            await talk.half_close()
        assert dispatcher.wait() == 0


@asynchronous
async def test_what_outlasts_the_deadline_of_a_drain_ends_as_shutdown() -> None:
    with running_dispatcher() as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await admin.Drain(admin_pb2.DrainRequest(deadline=Duration(nanos=100_000_000)))
            ended = await seen.ended()
            assert (ended.name, ended.retryable) == ("shutdown", True)
            assert (await turn.stopped()).code == agent_pb2.STOP_CODE_SHUTDOWN
            await talk.half_close()
            assert (await talk.status()).code is grpc.StatusCode.OK
        assert dispatcher.wait() == 0


@asynchronous
async def test_of_two_drains_the_sooner_deadline_holds() -> None:
    with running_dispatcher() as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent)
            await link.started()
            await admin.Drain(admin_pb2.DrainRequest(deadline=Duration(seconds=600)))
            await admin.Drain(admin_pb2.DrainRequest(deadline=Duration(nanos=100_000_000)))
            assert (await seen.ended()).name == "shutdown"
            await talk.half_close()
        assert await asyncio.to_thread(dispatcher.wait) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_the_first_signal_after_a_drain_takes_part_in_it_and_the_second_ends_it(signals: int) -> None:
    @asynchronous
    async def scene() -> None:
        with running_dispatcher("--drain-deadline-s", "600") as dispatcher:
            agent = unique("agent")
            async with (
                linked(dispatcher.address, agent) as link,
                administering(dispatcher.address) as admin,
                conversing(dispatcher.address) as talk,
            ):
                seen = await talk.ask(agent)
                turn = await link.started()
                await admin.Drain(admin_pb2.DrainRequest(deadline=Duration(seconds=500)))
                dispatcher.signal(signal.SIGTERM)
                said = await asyncio.to_thread(dispatcher.wait_for_log, "SIGTERM: draining for up to ")
                left_s = float(said.partition("for up to ")[2].partition(" s;")[0])
                assert left_s <= 500
                if signals == 1:
                    await turn.say("in peace")
                    await turn.finish()
                else:
                    dispatcher.signal(signal.SIGTERM)
                assert (await seen.ended()).name == ("completed" if signals == 1 else "shutdown")
                await talk.half_close()
            assert await asyncio.to_thread(dispatcher.wait) == 0

    scene()


@asynchronous
async def test_a_signal_after_a_drain_brings_its_own_deadline() -> None:
    with running_dispatcher("--drain-deadline-s", "0.1") as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent)
            await link.started()
            await admin.Drain(admin_pb2.DrainRequest(deadline=Duration(seconds=600)))
            dispatcher.signal(signal.SIGTERM)
            assert (await seen.ended()).name == "shutdown"
            assert not [line for line in dispatcher.log if "SIGTERM again" in line]
            await talk.half_close()
        assert await asyncio.to_thread(dispatcher.wait) == 0


SELECTORS: dict[str, tuple[dict[str, Any], str]] = {
    "all and more": ({"all": True, "user_id": "u"}, "selector.all: means every session"),
    "a label without a value": ({"labels": {"k": ""}}, "selector.labels['k']: key and value have to be set"),
    "a label without a key": ({"labels": {"": "v"}}, "selector.labels['']: key and value have to be set"),
    "nothing": ({}, "selector: says nothing"),
}


@pytest.mark.parametrize("case", SELECTORS)
def test_a_selector_never_stops_more_than_was_asked(dispatcher: DispatcherProcess, case: str) -> None:
    fields, words = SELECTORS[case]

    @asynchronous
    async def scene() -> None:
        async with administering(dispatcher.address) as admin:
            request = admin_pb2.StopSessionsRequest(selector=admin_pb2.SessionSelector(**fields))
            status = await refused(admin.StopSessions(request))
            assert status.code is INVALID
            assert words in status.details

    scene()


@asynchronous
async def test_commanders_and_agents_come_in_pages_bounded_in_bytes() -> None:
    with running_dispatcher() as dispatcher:
        served = {f"c-{n}": [f"{'a' * 100}-{n}-{m}" for m in range(200)] for n in range(7)}
        async with contextlib.AsyncExitStack() as stack:
            for commander_id, agents in served.items():
                offers = [agent_pb2.AgentOffer(name=name, description="d" * 2_000) for name in agents]
                await stack.enter_async_context(
                    linked(dispatcher.address, commander_id=commander_id, agents=offers)
                )
            admin = await stack.enter_async_context(administering(dispatcher.address))
            chat = await stack.enter_async_context(chatting(dispatcher.address))
            seen: list[str] = []
            request = admin_pb2.ListCommandersRequest()
            while True:
                page = await admin.ListCommanders(request)
                assert page.ByteSize() <= 1_048_576
                seen += [view.commander_id for view in page.commanders]
                assert all(len(offer.description) <= 1_024 for offer in page.commanders[0].agents)
                request.page_token = page.next_page_token
                if not request.page_token:
                    break
            assert seen == sorted(served)
            listed: list[str] = []
            asked = chat_pb2.ListAgentsRequest()
            while True:
                agents_page = await chat.ListAgents(asked)
                assert agents_page.ByteSize() <= 1_048_576
                listed += [listing.offer.name for listing in agents_page.agents]
                asked.page_token = agents_page.next_page_token
                if not asked.page_token:
                    break
            assert listed == sorted(name for names in served.values() for name in names)


@asynchronous
async def test_limits_are_listed_with_what_can_change(dispatcher: DispatcherProcess) -> None:
    async with administering(dispatcher.address) as admin:
        limits = {view.name: view for view in (await admin.GetLimits(admin_pb2.GetLimitsRequest())).limits}
        wait = limits["queue_wait_s"]
        assert (wait.value, wait.changeable, wait.mode) == (30, True, "")
        assert wait.description
        assert (limits["content_chars_max"].value, limits["content_chars_max"].mode) == (2_000_000, "enforce")
        assert not limits["links_max"].changeable


WRONG_LIMITS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, ["values: is empty, and so is modes"]),
    "unknown": ({"values": {"queue_wait": 1}}, ["queue_wait:", "did you mean queue_wait_s?"]),
    "fixed": ({"values": {"links_max": 5}}, ["links_max: it can't be changed while the dispatcher runs"]),
    "too much": ({"values": {"queue_wait_s": 3601}}, ["queue_wait_s", "3601", "from 0 to 3600"]),
    "not whole": ({"values": {"sessions_max": 1.5}}, ["sessions_max", "1.5", "a whole number"]),
    "not a number": ({"values": {"sessions_max": float("nan")}}, ["sessions_max", "nan"]),
    "endless": ({"values": {"sessions_max": float("inf")}}, ["sessions_max", "inf"]),
    "no number of seconds": ({"values": {"queue_wait_s": float("nan")}}, ["queue_wait_s", "nan"]),
    "no such mode": ({"modes": {"content_chars_max": "watch"}}, ["content_mode", "'watch'", "observe"]),
    "a mode of no policy": (
        {"modes": {"queue_wait_s": "observe"}},
        ["queue_wait_s: has no mode", "total_time_s"],
    ),
    "a contradiction": (
        {"values": {"journal_session_bytes": 1_000_000, "journal_bytes": 500_000}},
        ["journal_session_bytes", "journal_bytes"],
    ),
    "one of two": ({"values": {"queue_wait_s": 1, "sessions_max": 0}}, ["sessions_max"]),
}


@pytest.mark.parametrize("case", WRONG_LIMITS)
def test_a_wrong_change_changes_nothing(dispatcher: DispatcherProcess, case: str) -> None:
    fields, words = WRONG_LIMITS[case]

    @asynchronous
    async def scene() -> None:
        async with administering(dispatcher.address) as admin:
            before = await admin.GetLimits(admin_pb2.GetLimitsRequest())
            status = await refused(admin.SetLimits(admin_pb2.SetLimitsRequest(**fields)))
            assert status.code is INVALID, status
            for word in words:
                assert word in status.details
            assert await admin.GetLimits(admin_pb2.GetLimitsRequest()) == before

    scene()


@asynchronous
async def test_limits_change_while_it_runs() -> None:
    with running_dispatcher() as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent, slots=9) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            change = admin_pb2.SetLimitsRequest(values={"sessions_max": 1, "content_chars_max": 5})
            limits = {view.name: view for view in (await admin.SetLimits(change)).limits}
            assert (limits["sessions_max"].value, limits["content_chars_max"].value) == (1, 5)
            seen = await talk.ask(agent, client_ref="1")
            over = await talk.request("2", ask=asking(agent))
            assert over.error.code == "sessions_full"
            assert "sessions_max is 1" in over.error.message
            turn = await link.started()
            await turn.say("12345678")
            ended = await seen.ended()
            assert (ended.name, ended.stop.policy) == ("limit_exceeded", "content_chars_max")
            assert seen.text == "12345"
            # Only watched: what is over is counted and passes.
            change = admin_pb2.SetLimitsRequest(modes={"content_chars_max": "observe"})
            limits = {view.name: view for view in (await admin.SetLimits(change)).limits}
            assert limits["content_chars_max"].mode == "observe"
            seen = await talk.ask(agent, client_ref="3")
            turn = await link.started()
            await turn.say("12345678")
            await turn.finish()
            assert (await seen.ended()).name == "completed"
            assert seen.text == "12345678"


@asynchronous
async def test_a_mode_may_be_named_by_what_it_is_of() -> None:
    with running_dispatcher("--deny", "secret") as dispatcher:
        async with administering(dispatcher.address) as admin:
            for name in ("deny", "deny_mode", "deny_hold_chars_max"):
                for mode in ("observe", "enforce"):
                    change = admin_pb2.SetLimitsRequest(modes={name: mode})
                    limits = {view.name: view for view in (await admin.SetLimits(change)).limits}
                    assert limits["deny_hold_chars_max"].mode == mode


@asynchronous
async def test_a_queue_of_none_refuses_only_who_would_wait() -> None:
    with running_dispatcher("--queue-sessions-max", "0") as dispatcher:
        agent = unique("agent")
        async with linked(dispatcher.address, agent, slots=1) as link, conversing(dispatcher.address) as talk:
            await talk.ask(agent, client_ref="1")
            await link.started()
            over = await talk.request("2", ask=asking(agent))
            assert (over.error.code, over.error.retryable) == ("queue_full", True)


@asynchronous
async def test_no_tools_are_listed_where_there_are_none(dispatcher: DispatcherProcess) -> None:
    async with administering(dispatcher.address) as admin:
        assert not (await admin.ListTools(admin_pb2.ListToolsRequest())).tools


@asynchronous
@pytest.mark.parametrize("flag", ["--journal-keep-s", "--journal-keep-sessions"])
async def test_where_nothing_is_kept_viewers_read_the_ending_first(flag: str) -> None:
    with running_dispatcher(flag, "0") as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent, slots=50) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            viewers = [await talk.ask(agent, client_ref=f"{number}") for number in range(50)]
            for _ in viewers:
                turn = await link.started()
                await turn.say("all of it")
                await turn.finish()
            for seen in viewers:
                assert (await seen.ended()).name == "completed"
                assert seen.text == "all of it"
            request = admin_pb2.ListSessionsRequest(include_ended=True)
            await eventually(lambda: admin.ListSessions(request), lambda got: not got.sessions)


@asynchronous
async def test_a_session_is_forgotten_in_time() -> None:
    with running_dispatcher("--journal-keep-s", "0.2") as dispatcher:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent) as link,
            administering(dispatcher.address) as admin,
            conversing(dispatcher.address) as talk,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.finish()
            await seen.ended()
            request = admin_pb2.ListSessionsRequest(include_ended=True)
            await eventually(lambda: admin.ListSessions(request), lambda got: not got.sessions)
            late = await talk.request("1", stop=chat_pb2.StopAsked())
            assert late.error.code == "unknown_session"
