"""Chat over gRPC: receipts, conversations on one stream, and what is refused, field by field."""

import asyncio
from dataclasses import asdict
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import asking, conversing, viewing
from dialling import CONVERSE_METHOD, administering, chatting, dialled, refused
from dispatcher_process import DispatcherProcess, running_dispatcher
from filled import filled
from google.protobuf.duration_pb2 import Duration
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.requests import requested
from dispatcher.rpc.chat import STREAM_SESSIONS_MAX
from dispatcher.rpc.methods import STREAM_GONE

DISPATCHER_FLAGS = (
    "--request-bytes-max", "20000",
    "--max-message-bytes", "300000",
    "--messages-waiting-max", "2",
)  # fmt: skip

TEXT = agent_pb2.ContentPart(text="Hi")
HI = agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[TEXT])
Packet = chat_pb2.ClientPacket


def _ask(**more: Any) -> Packet:
    return Packet(client_ref="new", ask=chat_pb2.Ask(**{"agent": "AGENT", "messages": [HI], **more}))


def _open(**request: Any) -> Packet:
    return Packet(client_ref="open", **request)


# What is wrong, the packet, the code of its receipt, and words of the message: the field and the mend.
WRONG: dict[str, tuple[Packet, str, list[str]]] = {
    "no reference": (Packet(ask=asking("AGENT")), "invalid_request", ["client_ref", "1 to 128"]),
    "a long reference": (
        Packet(client_ref="x" * 129, ask=asking("AGENT")),
        "invalid_request",
        ["client_ref", "1 to 128"],
    ),
    "a request id that is long": (
        Packet(client_ref="new", request_id="x" * 129, stop=chat_pb2.StopAsked()),
        "invalid_request",
        ["request_id", "at most 128"],
    ),
    "no request": (Packet(client_ref="new"), "unknown_request", ["request", "ask, answer, message, stop"]),
    "a reference taken": (_open(ask=asking("AGENT")), "invalid_request", ["client_ref", "'open'"]),
    "a reference unknown": (
        Packet(client_ref="never", stop=chat_pb2.StopAsked()),
        "unknown_session",
        ["client_ref", "'never'"],
    ),
    "no messages": (_ask(messages=[]), "invalid_request", ["ask.messages", "at least one"]),
    "no parts": (
        _ask(messages=[HI, agent_pb2.Message(role=agent_pb2.ROLE_USER)]),
        "invalid_request",
        ["ask.messages[1].parts", "at least one"],
    ),
    "an empty part": (
        _ask(messages=[agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[TEXT, agent_pb2.ContentPart()])]),
        "invalid_request",
        ["ask.messages[0].parts[1]", "text, blob, json"],
    ),
    "a part that is no JSON": (
        _ask(messages=[agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[agent_pb2.ContentPart(json="{")])]),
        "invalid_request",
        ["ask.messages[0].parts[0].json", "no JSON"],
    ),
    "no role": (
        _ask(messages=[agent_pb2.Message(parts=[TEXT])]),
        "invalid_request",
        ["ask.messages[0].role"],
    ),
    "an unknown role": (
        _ask(messages=[agent_pb2.Message(role=77, parts=[TEXT])]),  # type: ignore[arg-type]  # that is the point
        "invalid_request",
        ["ask.messages[0].role"],
    ),
    "an unknown agent": (_ask(agent="nobody"), "no_such_agent", ["agent", "'nobody'", "AGENT"]),
    "an unknown version": (_ask(agent_version="9"), "no_such_agent", ["agent", "version '9'"]),
    "labels nobody bears": (_ask(commander_labels={"a": "b"}), "no_such_agent", ["agent", "a=b"]),
    "too many labels": (
        _ask(labels={f"{n}": "" for n in range(65)}),
        "invalid_request",
        ["ask.labels", "at most 64"],
    ),
    "a label without a key": (_ask(labels={"": "x"}), "invalid_request", ["ask.labels['']"]),
    "a long label": (_ask(labels={"k": "x" * 257}), "invalid_request", ["ask.labels['k']", "256"]),
    "a long commander label": (
        _ask(commander_labels={"k": "x" * 257}),
        "invalid_request",
        ["ask.commander_labels['k']", "256"],
    ),
    "no time": (
        _ask(budgets=agent_pb2.Budgets(total_time=Duration())),
        "invalid_request",
        ["ask.budgets.total_time", "above zero"],
    ),
    "negative time": (
        _ask(budgets=agent_pb2.Budgets(first_token_time=Duration(seconds=-1))),
        "invalid_request",
        ["ask.budgets.first_token_time", "above zero"],
    ),
    "negative detachment": (
        _ask(on_detach=chat_pb2.OnDetach(stop_after=Duration(seconds=-1))),
        "invalid_request",
        ["ask.on_detach.stop_after"],
    ),
    "too large": (_ask(user_id="x" * 20_000), "too_large", ["request_bytes_max is 20000"]),
    "an answer to no question": (
        _open(answer=chat_pb2.AnswerQuestion(question_id="q9", value_json="1")),
        "no_such_question",
        ["question_id", "'q9'", "open: q1"],
    ),
    "an answer without a value": (
        _open(answer=chat_pb2.AnswerQuestion(question_id="q1")),
        "invalid_request",
        ["answer", "value_json", "decline"],
    ),
    "an answer that is no JSON": (
        _open(answer=chat_pb2.AnswerQuestion(question_id="q1", value_json="yes")),
        "invalid_request",
        ["answer.value_json", "no JSON"],
    ),
    "an answer that is nearly JSON": (
        _open(answer=chat_pb2.AnswerQuestion(question_id="q1", value_json="NaN")),
        "invalid_request",
        ["answer.value_json", "no JSON"],
    ),
    "an answer with a huge number": (
        _open(answer=chat_pb2.AnswerQuestion(question_id="q1", value_json="1" * 5_000)),
        "invalid_request",
        ["answer.value_json", "no JSON"],
    ),
    "a deep answer": (
        _open(answer=chat_pb2.AnswerQuestion(question_id="q1", value_json="[" * 19_000)),
        "invalid_request",
        ["answer.value_json", "nested"],
    ),
    "an empty message": (_open(message=chat_pb2.AddMessage()), "invalid_request", ["message.text", "empty"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_packet_has_a_receipt_that_says_so_and_harms_nobody(
    dispatcher: DispatcherProcess, case: str
) -> None:
    wrong, code, words = WRONG[case]
    packet = Packet()
    packet.CopyFrom(wrong)

    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent, client_ref="open")
            turn = await link.started()
            await turn.ask("q1")
            await seen.until("question")
            if packet.ask.agent == "AGENT":
                packet.ask.agent = agent
            packet.request_id = packet.request_id or "r1"
            await talk.send(packet)
            receipt = await talk.receipt()
            # What is longer than it may be is not sent back whole: receipts wait for whoever doesn't read.
            assert receipt.client_ref == packet.client_ref[:128]
            assert receipt.request_id == packet.request_id[:128]
            assert receipt.error.code == code, receipt
            for word in words:
                assert word.replace("AGENT", agent) in receipt.error.message
            assert "Traceback" not in receipt.error.message
            assert "sys." not in receipt.error.message
            assert receipt.session_id == ("" if packet.client_ref != "open" else turn.session_id)
            await turn.finish()
            assert (await seen.ended()).name == "completed"

    scene()


@asynchronous
async def test_an_agent_must_be_named_where_there_are_several() -> None:
    with running_dispatcher() as dispatcher:
        async with conversing(dispatcher.address) as talk:
            nobody = await talk.request("0", ask=asking(""))
            assert nobody.error.code == "no_such_agent"
            assert "no commander serves any agent now" in nobody.error.message
            async with linked(dispatcher.address, "one") as link:
                await talk.ask("", client_ref="1")
                assert (await link.started()).start.agent == "one"
                async with linked(dispatcher.address, "two"):
                    several = await talk.request("2", ask=asking(""))
                    assert several.error.code == "invalid_request"
                    assert several.error.message == "agent: is empty; name one of one, two"


@asynchronous
async def test_a_stream_carries_sessions_and_ends_by_itself(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        first = await talk.ask(agent, "1", client_ref="a")
        second = await talk.ask(agent, "2", client_ref="b")
        turns = [await link.started(), await link.started()]
        await talk.half_close()
        await turns[0].say("one")
        await turns[0].finish()
        assert (await first.ended()).name == "completed"
        # The other still runs, and its stream with it.
        await turns[1].say("two")
        await second.until_text("two")
        assert not talk.call.done()
        await turns[1].finish()
        assert (await second.ended()).name == "completed"
        assert await talk.status() == (grpc.StatusCode.OK, "")
        assert (first.text, second.text) == ("one", "two")


@asynchronous
async def test_a_stream_without_a_session_ends_by_itself(dispatcher: DispatcherProcess) -> None:
    async with conversing(dispatcher.address) as talk:
        await talk.half_close()
        assert await talk.status() == (grpc.StatusCode.OK, "")


@asynchronous
async def test_a_stop_on_the_stream(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.ask("q-1")
        answer = chat_pb2.AnswerQuestion(question_id="q-1", decline=True)
        message = chat_pb2.AddMessage(text="More", idempotency_key="m-1")
        await turn.acknowledged(turn.sequence)
        assert not (await talk.request("1", answer=answer)).HasField("error")
        assert not (await talk.request("1", message=message)).HasField("error")
        stop = await talk.request("1", stop=chat_pb2.StopAsked(reason="Enough"))
        assert not stop.HasField("error")
        signal = await turn.stopped()
        assert (signal.reason, signal.code) == ("Enough", agent_pb2.STOP_CODE_USER_CANCEL)
        ended = await seen.ended()
        assert (ended.name, ended.stop.reason) == ("stopped", "Enough")
        again = await talk.request("1", stop=chat_pb2.StopAsked())
        assert not again.HasField("error"), "a stop is idempotent"
        late = await talk.request("1", message=chat_pb2.AddMessage(text="late"))
        assert late.error.code == "session_ended"
        for repeated in ({"answer": answer}, {"message": message}):
            again = await talk.request("1", **repeated)
            assert not again.HasField("error"), "what was accepted is accepted again"
        late = await talk.request("1", answer=chat_pb2.AnswerQuestion(question_id="q", decline=True))
        assert late.error.code == "session_ended"
        assert "stopped" in late.error.message


@asynchronous
async def test_messages_wait_for_the_agent_and_not_without_bound(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    message = chat_pb2.AddMessage(text="and")
    async with linked(dispatcher.address, agent, slots=1) as link, conversing(dispatcher.address) as talk:
        await talk.ask(agent, client_ref="1")
        turn = await link.started()
        queued = await talk.ask(agent, client_ref="queued")
        early = await talk.request("queued", message=message)
        assert early.message_id == (await queued.until("user_message")).user_message.message_id
        for _ in range(2):
            assert not (await talk.request("1", message=message)).HasField("error")
        over = await talk.request("1", message=message)
        assert over.error.code == "too_many_messages"
        assert "messages_waiting_max" in over.error.message
        # Its commander has them: the agent may still not have read them.
        await turn.send(content=agent_pb2.ContentChunk(text="x"), signals_received=2)
        await turn.acknowledged(1)
        assert (await talk.request("1", message=message)).error.code == "too_many_messages"
        await turn.send(content=agent_pb2.ContentChunk(text="x"), messages_read=1)
        await turn.acknowledged(2)
        assert not (await talk.request("1", message=message)).HasField("error")


@asynchronous
async def test_an_idempotency_key_joins_the_first_session(dispatcher: DispatcherProcess) -> None:
    agent, key = unique("agent"), unique("key")
    async with (
        linked(dispatcher.address, agent) as link,
        conversing(dispatcher.address) as first,
        conversing(dispatcher.address) as second,
        conversing(dispatcher.address) as third,
    ):
        seen = await first.ask(agent, idempotency_key=key, user_id="u1")
        turn = await link.started()
        await turn.say("once")
        await seen.until_text("once")
        # How it is watched is another matter.
        joined = await second.ask(agent, idempotency_key=key, user_id="u1", include_thoughts=True)
        await joined.until_text("once")
        assert joined.events[0] == seen.events[0]
        other = await third.ask(agent, idempotency_key=key, user_id="u2")
        await other.until("opened")
        assert other.events[0].session_id != turn.session_id
        await (await link.started()).finish()
        await turn.finish()
        assert await joined.ended() == await seen.ended()
        # It holds after the ending, as long as the session is kept.
        late = await second.ask(agent, client_ref="late", idempotency_key=key, user_id="u1")
        assert late is joined
        mistaken = asking(agent, "other words", idempotency_key=key, user_id="u1")
        refused = (await second.request("mistaken", ask=mistaken)).error
        assert (refused.code, refused.message) == (
            "key_taken",
            "idempotency_key: was used for another request; use another one, or ask for the same",
        )


@asynchronous
async def test_a_viewer_that_leaves_stops_nothing(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    async with linked(dispatcher.address, agent) as link, chatting(dispatcher.address) as chat:
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.say("one ")
            await seen.until_text("one")
        await turn.say("two")
        await turn.finish()
        request = chat_pb2.SubscribeRequest(session_id=turn.session_id, cursor=seen.events[-1].cursor)
        async with viewing(chat.Subscribe(request), turn.session_id) as (viewer, rest):
            assert (await rest.ended()).name == "completed"
            assert rest.text == "two"
            assert (await viewer.status()).code is grpc.StatusCode.OK


@asynchronous
async def test_a_session_is_stopped_when_nobody_watches_it_where_that_was_asked(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    detach = chat_pb2.OnDetach(stop_after=Duration(nanos=200_000_000))
    async with (
        linked(dispatcher.address, agent) as link,
        administering(dispatcher.address) as admin,
        chatting(dispatcher.address) as chat,
    ):
        async with conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent, on_detach=detach)
            turn = await link.started()
            await seen.until("started")
            request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
            other = chat.Subscribe(request)
        async with viewing(other, turn.session_id) as (_, still):
            # One viewer is left, or came back in time.
            await turn.say("go on")
            await still.until_text("go on")
        assert (await turn.stopped()).code == agent_pb2.STOP_CODE_DETACHED
        view = await admin.GetSession(admin_pb2.GetSessionRequest(session_id=turn.session_id))
        assert view.session.ended.name == "detached"


@asynchronous
async def test_the_agents_that_can_be_asked(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    offers = [
        agent_pb2.AgentOffer(name=agent, version="1", description="old", accepted_input=["text/plain"]),
        agent_pb2.AgentOffer(name=agent, version="2", description="new"),
    ]
    offers[0].on_restart = agent_pb2.ON_RESTART_RESTART
    offers[1].on_restart = agent_pb2.ON_RESTART_NEVER
    async with (
        linked(dispatcher.address, agents=offers, slots=3) as link,
        linked(dispatcher.address, agents=offers[:1], slots=5),
        chatting(dispatcher.address) as chat,
        conversing(dispatcher.address) as talk,
    ):
        await talk.ask(agent, agent_version="2")
        await link.started()
        listed = (await chat.ListAgents(chat_pb2.ListAgentsRequest())).agents
        mine = [listing for listing in listed if listing.offer.name == agent]
        assert [listing.offer for listing in mine] == offers
        assert [(each.commanders, each.slots, each.slots_free) for each in mine] == [(2, 8, 7), (1, 3, 2)]


@asynchronous
async def test_the_models_of_those_who_serve_an_agent(dispatcher: DispatcherProcess) -> None:
    agent, other = unique("agent"), unique("agent")
    of = agent_pb2.ModelOffer
    fast = of(name="fast", model="openai-chat:qwen3", takes_images=True, calls_tools=True)
    # Another is called so there, which takes images as well.
    namesake = of(name="fast", model="anthropic:claude", takes_images=True, calls_tools=False)
    deep, mind = of(name="deep", model="google:gemini", shows_reasoning=True), of(name="mind")
    async with (
        linked(dispatcher.address, agent, models=[fast, deep]),
        linked(dispatcher.address, agent, other, models=[mind, namesake]),
        linked(dispatcher.address, other),
        chatting(dispatcher.address) as chat,
    ):
        listed = (await chat.ListAgents(chat_pb2.ListAgentsRequest())).agents
        models = {each.offer.name: list(each.models) for each in listed}
        assert models[agent] == [deep, of(name="fast", takes_images=True), mind]
        assert models[other] == [namesake, mind]
        assert all(each.models_left_out == 0 for each in listed)


@asynchronous
async def test_of_a_model_all_is_told_and_nothing_that_is_told_differently(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    whole = filled(agent_pb2.ModelOffer())
    other = agent_pb2.ModelOffer(name=whole.name, model="other")
    for field in agent_pb2.ModelOffer.DESCRIPTOR.fields:
        if field.type == field.TYPE_BOOL:
            setattr(other, field.name, False)

    async def listed() -> list[agent_pb2.ModelOffer]:
        agents = (await chat.ListAgents(chat_pb2.ListAgentsRequest())).agents
        (mine,) = (each for each in agents if each.offer.name == agent)
        return list(mine.models)

    async with chatting(dispatcher.address) as chat, linked(dispatcher.address, agent, models=[whole]):
        async with linked(dispatcher.address, agent, models=[whole]):
            assert await listed() == [whole]
        async with linked(dispatcher.address, agent, models=[other]):
            assert await listed() == [agent_pb2.ModelOffer(name=whole.name)]


@asynchronous
async def test_more_models_than_are_listed_are_counted(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    models = [agent_pb2.ModelOffer(name=f"m{number:03}") for number in range(130)]
    async with (
        linked(dispatcher.address, agent, models=models[2:]),
        linked(dispatcher.address, agent, models=models[:4]),
        chatting(dispatcher.address) as chat,
    ):
        listed = (await chat.ListAgents(chat_pb2.ListAgentsRequest())).agents
        (mine,) = (each for each in listed if each.offer.name == agent)
        assert list(mine.models) == models[:128]
        assert mine.models_left_out == 2


# --- bytes -----------------------------------------------------------------------------------------------

NO_PROTOBUF = {
    "random": b"\xff\xfe\xfd\xfc",
    "truncated": _ask().SerializeToString()[:-2],
    "text": b"GET / HTTP",
}


@pytest.mark.parametrize("what", NO_PROTOBUF)
def test_bytes_that_are_no_packet_end_the_stream_and_not_the_session(
    dispatcher: DispatcherProcess, what: str
) -> None:
    @asynchronous
    async def scene() -> None:
        agent = unique("agent")
        async with (
            linked(dispatcher.address, agent) as link,
            conversing(dispatcher.address) as talk,
            chatting(dispatcher.address) as chat,
        ):
            await talk.ask(agent)
            turn = await link.started()
            await talk.send_bytes(NO_PROTOBUF[what])
            status = await talk.status()
            assert status.code is grpc.StatusCode.INVALID_ARGUMENT
            assert status.details == (
                f"the message ({len(NO_PROTOBUF[what])} bytes) is not a protobuf"
                " southwest.ai.agent.v1.ClientPacket"
            )
            await turn.finish()
            request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
            async with viewing(chat.Subscribe(request), turn.session_id) as (_, seen):
                assert (await seen.ended()).name == "completed"

    scene()


@asynchronous
async def test_a_packet_over_the_limit_of_messages_is_refused(dispatcher: DispatcherProcess) -> None:
    async with conversing(dispatcher.address) as talk:
        await talk.send_bytes(_ask(user_id="x" * 300_001).SerializeToString())
        status = await talk.status()
        assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "300000" in status.details


@pytest.mark.parametrize(
    "method", ["Chat/Subscribe", "Chat/ListAgents", "Admin/GetSession", "Admin/WatchSession", "Admin/Drain"]
)
def test_bytes_that_are_no_request_are_refused(dispatcher: DispatcherProcess, method: str) -> None:
    @asynchronous
    async def scene() -> None:
        async with dialled(dispatcher.address) as channel:
            call: Any = channel.unary_unary(f"/southwest.ai.agent.v1.{method}")
            status = await refused(call(b"\xff\xff"))
            assert status.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "is not a protobuf southwest.ai.agent.v1." in status.details

    scene()


@asynchronous
async def test_methods_that_do_not_exist(dispatcher: DispatcherProcess) -> None:
    async with dialled(dispatcher.address) as channel:
        for path in ("/southwest.ai.agent.v1.Chat/Nothing", "/no.such.Service/Method", "/", "/x"):
            call: Any = channel.unary_unary(path)
            assert (await refused(call(b""))).code is grpc.StatusCode.UNIMPLEMENTED


@asynchronous
async def test_a_client_that_asks_without_end_and_never_reads_is_held_up(
    dispatcher: DispatcherProcess,
) -> None:
    """Receipts wait for their reader, within a bound, and so does the reading of more packets."""
    async with dialled(dispatcher.address) as channel, administering(dispatcher.address) as admin:
        call: Any = channel.stream_stream(CONVERSE_METHOD)()
        packet = Packet(client_ref="x" * 100, stop=chat_pb2.StopAsked(), request_id="y" * 128)
        data = packet.SerializeToString()
        written = 0

        async def flood() -> None:
            nonlocal written
            while True:
                await call.write(data)
                written += 1

        async def written_meanwhile() -> int:
            before = written
            for _ in range(20):
                await admin.ListSessions(admin_pb2.ListSessionsRequest())
            return written - before

        flooding = asyncio.ensure_future(flood())
        await eventually(written_meanwhile, lambda number: number == 0 and written > 0)
        assert written < 5_000
        flooding.cancel()
        await asyncio.wait([flooding])


@asynchronous
async def test_a_stream_may_have_so_many_sessions_open_and_any_number_in_its_life(
    dispatcher: DispatcherProcess,
) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent),
        conversing(dispatcher.address) as talk,
        administering(dispatcher.address) as admin,
    ):
        everything = admin_pb2.StopSessionsRequest(selector=admin_pb2.SessionSelector(agent=agent))
        codes = []
        for number in range(STREAM_SESSIONS_MAX + 2):
            if number == STREAM_SESSIONS_MAX + 1:
                await admin.StopSessions(everything)
            codes.append((await talk.request(f"{number}", ask=asking(agent))).error.code)
        assert codes == [""] * STREAM_SESSIONS_MAX + ["too_many_sessions", ""]


def test_every_budget_reaches_the_core() -> None:
    ask = chat_pb2.Ask(messages=[HI], budgets=filled(agent_pb2.Budgets()))
    budgets = requested(ask, "s-1").budgets
    assert budgets is not None
    assert len(asdict(budgets)) == len(agent_pb2.Budgets.DESCRIPTOR.fields)
    assert not [name for name, value in asdict(budgets).items() if value is None]


def test_grpc_still_has_the_error_of_a_server_that_stopped() -> None:
    """Private, and raised into calls that read at that moment: where it is renamed they would be logged as failures."""
    assert [kind.__name__ for kind in STREAM_GONE].count("_ServerStoppedError") == 1
