"""Whose session is whose: what each token sees, asks for and is shown, and that the rest does not exist for it."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from asynchronous import asynchronous
from chat_viewer import Conversation, Seen, asking, conversing, viewing
from dialling import bearing, dialled
from dispatcher_process import DispatcherProcess, running_dispatcher
from grpc import StatusCode, aio
from hypothesis import given
from hypothesis import strategies as st
from scripted_commander import Link, Turn, linked, unique
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, chat_pb2, chat_pb2_grpc

from dispatcher.identity import ANYBODY, NOBODY, Identity

# Each by its name, with what its table says besides.
TOKENS = {
    "worker": 'role = "commander"',
    "shop": 'role = "application"',
    "bank": 'role = "application"\nthoughts = true',
    "alice": 'role = "application"\nuser = "alice"',
    "bob": 'role = "application"\nuser = "bob"\nthoughts = true',
    "root": 'role = "admin"',
    "guard": 'role = "admin"\nthoughts = false',
}
SECRETS = {name: f"secret-of-{name}" for name in TOKENS}
# Who opens a session, and for whom it says that it does.
SESSIONS = {
    "the shop's for alice": ("shop", "alice"),
    "the shop's for nobody": ("shop", ""),
    "the bank's for alice": ("bank", "alice"),
    "alice's": ("alice", ""),
    "bob's": ("bob", "bob"),
    "the admin's for bob": ("root", "bob"),
}
VISIBLE = {
    "shop": {"the shop's for alice", "the shop's for nobody"},
    "bank": {"the bank's for alice"},
    "alice": {"the shop's for alice", "the bank's for alice", "alice's"},
    "bob": {"bob's", "the admin's for bob"},
    "root": set(SESSIONS),
}


@contextlib.contextmanager
def knowing(folder: Path, *flags: str) -> Iterator[DispatcherProcess]:
    """A dispatcher that knows these tokens."""
    path = folder / "tokens.toml"
    path.write_text(
        "\n".join(
            f'[[tokens]]\nname = "{name}"\nsha256 = "{hashlib.sha256(SECRETS[name].encode()).hexdigest()}"\n{more}\n'
            for name, more in TOKENS.items()
        )
    )
    with running_dispatcher("--tokens-file", str(path), *flags) as process:
        yield process


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    with knowing(tmp_path_factory.mktemp("tokens"), "--http-address", "127.0.0.1:0") as process:
        yield process


@contextlib.asynccontextmanager
async def working(dispatcher: DispatcherProcess, slots: int = 16) -> AsyncIterator[tuple[Link, str]]:
    """A commander, and the agent that it serves."""
    agent = unique("agent")
    async with linked(dispatcher.address, agent, token=SECRETS["worker"], slots=slots) as link:
        yield link, agent


class Town:
    """Everybody's stream, and a session of each kind."""

    def __init__(self, talks: dict[str, Conversation]) -> None:
        self.talks = talks
        self.turns: dict[str, Turn] = {}


@contextlib.asynccontextmanager
async def inhabited(dispatcher: DispatcherProcess) -> AsyncIterator[Town]:
    async with working(dispatcher) as (link, agent), AsyncExitStack() as streams:
        town = Town(
            {
                name: await streams.enter_async_context(conversing(dispatcher.address, token=SECRETS[name]))
                for name in VISIBLE
            }
        )
        for kind, (name, user_id) in SESSIONS.items():
            await town.talks[name].ask(agent, client_ref=kind, user_id=user_id)
            town.turns[kind] = await link.started()
        yield town


# --- what there is for whom --------------------------------------------------------------------------------

REQUESTS = {
    "answer": {"answer": chat_pb2.AnswerQuestion(question_id="q", value_json="1")},
    "an answer that is no JSON": {"answer": chat_pb2.AnswerQuestion(question_id="q", value_json="{")},
    "an answer without one": {"answer": chat_pb2.AnswerQuestion(question_id="q")},
    "message": {"message": chat_pb2.AddMessage(text="Hi")},
    "an empty message": {"message": chat_pb2.AddMessage()},
    "stop": {"stop": chat_pb2.StopAsked(reason="mine")},
    "a stop with too many words": {"stop": chat_pb2.StopAsked(reason="x" * 1_025)},
}


async def _refusal(talk: Conversation, session_id: str, request: str) -> chat_pb2.Receipt:
    """What is said of it; where nothing else tells the session, without its id."""
    await talk.send(chat_pb2.ClientPacket(session_id=session_id, **REQUESTS[request]))  # type: ignore[arg-type]  # one of them
    receipt = await talk.receipt()
    assert receipt.session_id == session_id
    receipt.session_id = ""
    receipt.error.message = receipt.error.message.replace(session_id, "ID")
    return receipt


@asynchronous
async def test_sessions_of_others_do_not_exist_for_whoever_answers_steers_or_stops(
    dispatcher: DispatcherProcess,
) -> None:
    async with inhabited(dispatcher) as town:
        for name, talk in town.talks.items():
            for request in REQUESTS:
                nothing = await _refusal(talk, "s-no", request)
                assert nothing.error.code == "unknown_session"
                for kind in SESSIONS.keys() - VISIBLE[name]:
                    assert await _refusal(talk, town.turns[kind].session_id, request) == nothing, (name, kind)
        for turn in town.turns.values():
            assert turn.heard_nothing("stop")
            assert turn.heard_nothing("user_message")


@asynchronous
async def test_who_sees_a_session_may_steer_and_stop_it(dispatcher: DispatcherProcess) -> None:
    for name, kinds in VISIBLE.items():
        async with inhabited(dispatcher) as town:
            talk = town.talks[name]
            for kind in sorted(kinds):
                turn = town.turns[kind]
                # What its own stream knows by a reference has no other address there.
                ref = {"client_ref": kind} if SESSIONS[kind][0] == name else {"session_id": turn.session_id}
                await turn.ask("q")
                await talk.send(chat_pb2.ClientPacket(**ref, **REQUESTS["message"]))  # type: ignore[arg-type]
                assert not (await talk.receipt()).HasField("error"), (name, kind)
                assert (await turn.heard("user_message")).user_message.text == "Hi"
                await talk.send(chat_pb2.ClientPacket(**ref, **REQUESTS["stop"]))  # type: ignore[arg-type]
                assert not (await talk.receipt()).HasField("error"), (name, kind)
                role = "admin" if name == "root" else "application"
                assert (await turn.stopped()).actor == f"{role}:{name}"


CURSORS = {
    "without a cursor": None,
    "with a cursor": chat_pb2.Cursor(offset=1),
    "with another epoch's": chat_pb2.Cursor(epoch="other", offset=1),
}


@pytest.mark.parametrize("how", CURSORS)
def test_sessions_of_others_do_not_exist_for_whoever_subscribes(
    dispatcher: DispatcherProcess, how: str
) -> None:
    async def told(channel: aio.Channel, name: str, session_id: str) -> tuple[StatusCode, str, list[str]]:
        """How it ends, and what it is shown before."""
        request = chat_pb2.SubscribeRequest(session_id=session_id, cursor=CURSORS[how])
        call = chat_pb2_grpc.ChatStub(channel).Subscribe(request, metadata=bearing(SECRETS[name]))
        async with viewing(call, session_id) as (viewer, seen):
            status = await viewer.status()
            shown = [str(event).replace(session_id, "ID") for event in seen.events]
            return status.code, status.details.replace(session_id, "ID"), shown

    @asynchronous
    async def scene() -> None:
        async with inhabited(dispatcher) as town, dialled(dispatcher.address) as channel:
            for name in town.talks:
                nothing = await told(channel, name, "s-no")
                assert nothing[0] is StatusCode.NOT_FOUND
                for kind in SESSIONS.keys() - VISIBLE[name]:
                    assert await told(channel, name, town.turns[kind].session_id) == nothing, (name, kind)

    scene()


@asynchronous
async def test_who_sees_a_session_may_watch_it(dispatcher: DispatcherProcess) -> None:
    async with inhabited(dispatcher) as town, dialled(dispatcher.address) as channel:
        for name, kinds in VISIBLE.items():
            for kind in kinds:
                turn = town.turns[kind]
                request = chat_pb2.SubscribeRequest(session_id=turn.session_id)
                call = chat_pb2_grpc.ChatStub(channel).Subscribe(request, metadata=bearing(SECRETS[name]))
                async with viewing(call, turn.session_id) as (_, seen):
                    await seen.until("started")


@asynchronous
async def test_after_a_restart_sessions_are_whose_they_were(tmp_path: Path) -> None:
    journal = ("--journal", f"sqlite:{tmp_path / 'journal'}")
    with knowing(tmp_path, *journal) as before:
        async with inhabited(before) as town:
            sessions = {kind: turn.session_id for kind, turn in town.turns.items()}
    with knowing(tmp_path, *journal) as after:
        async with dialled(after.address) as channel:
            for name, kinds in VISIBLE.items():
                for kind, session_id in sessions.items():
                    request = chat_pb2.SubscribeRequest(session_id=session_id)
                    metadata = bearing(SECRETS[name])
                    call = chat_pb2_grpc.ChatStub(channel).Subscribe(request, metadata=metadata)
                    async with viewing(call, session_id) as (viewer, seen):
                        if kind in kinds:
                            await seen.until("opened")
                        else:
                            assert (await viewer.status()).code is StatusCode.NOT_FOUND, (name, kind)


# --- whom they ask for -------------------------------------------------------------------------------------


@asynchronous
async def test_what_a_user_asks_is_its_own_whether_it_says_so_or_not(dispatcher: DispatcherProcess) -> None:
    async with (
        working(dispatcher) as (_, agent),
        conversing(dispatcher.address, token=SECRETS["alice"]) as talk,
    ):
        for user_id in ("", "alice"):
            seen = await talk.ask(agent, client_ref=f"for {user_id}", user_id=user_id)
            assert (await seen.until("opened")).opened.user_id == "alice"


@asynchronous
async def test_a_user_asks_for_nobody_else(dispatcher: DispatcherProcess) -> None:
    async with (
        working(dispatcher) as (link, agent),
        conversing(dispatcher.address, token=SECRETS["alice"]) as talk,
    ):
        receipt = await talk.request("1", ask=asking(agent, user_id="bob"))
        assert receipt.error.code == "invalid_request"
        assert receipt.error.message.startswith(
            "ask.user_id: is 'bob', and this token speaks for 'alice' alone"
        )
        assert not receipt.session_id
        assert link.started_nothing()


@asynchronous
async def test_an_application_that_is_nobody_asks_for_any_user(dispatcher: DispatcherProcess) -> None:
    async with (
        working(dispatcher) as (_, agent),
        conversing(dispatcher.address, token=SECRETS["shop"]) as talk,
    ):
        for user_id in ("", "bob", "carol"):
            seen = await talk.ask(agent, client_ref=f"for {user_id}", user_id=user_id)
            assert (await seen.until("opened")).opened.user_id == user_id


@asynchronous
async def test_a_users_key_is_its_own(dispatcher: DispatcherProcess) -> None:
    key = unique("key")
    async with working(dispatcher) as (_, agent), AsyncExitStack() as streams:
        opened = []
        for name, user_id in (("alice", ""), ("alice", "alice"), ("bob", ""), ("shop", "alice")):
            talk = await streams.enter_async_context(conversing(dispatcher.address, token=SECRETS[name]))
            receipt = await talk.request("1", ask=asking(agent, user_id=user_id, idempotency_key=key))
            assert not receipt.HasField("error"), receipt
            opened.append(receipt.session_id)
    assert opened[0] == opened[1]
    assert len(set(opened)) == 3


@asynchronous
async def test_who_has_not_been_asked_for_a_token_opens_and_stops_nothing(
    dispatcher: DispatcherProcess,
) -> None:
    async with inhabited(dispatcher) as town, httpx.AsyncClient(base_url=dispatcher.url) as client:
        turn = town.turns["the shop's for nobody"]
        asked = await client.post("/v1/sessions", json={"agent": turn.start.agent, "input": "Hi"})
        assert asked.status_code in (401, 403)
        stopped = await client.post(f"/v1/sessions/{turn.session_id}/stop")
        assert stopped.status_code in (401, 403, 404)
        assert turn.heard_nothing("stop")


# --- thoughts ----------------------------------------------------------------------------------------------


async def _thinks(turn: Turn) -> None:
    await turn.think("plan", "hmm")
    await turn.say("Hello")
    await turn.finish()


@pytest.mark.parametrize(
    ("name", "may"), [("shop", False), ("bank", True), ("alice", False), ("bob", True), ("root", True)]
)
def test_thoughts_are_for_those_that_may_have_them_and_ask(
    dispatcher: DispatcherProcess, name: str, may: bool
) -> None:
    async def told(seen: Seen) -> bool:
        assert (await seen.ended()).content_chars == 5
        assert seen.text == "Hello"
        return "thought" in seen.kinds

    @asynchronous
    async def scene() -> None:
        async with (
            working(dispatcher) as (link, agent),
            conversing(dispatcher.address, token=SECRETS[name]) as talk,
            dialled(dispatcher.address) as channel,
        ):
            for asks in (True, False):
                seen = await talk.ask(agent, client_ref=f"{asks}", include_thoughts=asks)
                turn = await link.started()
                await _thinks(turn)
                assert await told(seen) is (may and asks)
                request = chat_pb2.SubscribeRequest(session_id=turn.session_id, include_thoughts=asks)
                call = chat_pb2_grpc.ChatStub(channel).Subscribe(request, metadata=bearing(SECRETS[name]))
                async with viewing(call, turn.session_id) as (_, again):
                    assert await told(again) is (may and asks)

    scene()


@pytest.mark.parametrize(("name", "may"), [("root", True), ("guard", False)])
def test_an_admin_watches_with_thoughts_unless_its_token_says_no(
    dispatcher: DispatcherProcess, name: str, may: bool
) -> None:
    @asynchronous
    async def scene() -> None:
        async with (
            working(dispatcher) as (link, agent),
            conversing(dispatcher.address, token=SECRETS["shop"]) as talk,
            dialled(dispatcher.address) as channel,
        ):
            seen = await talk.ask(agent)
            turn = await link.started()
            await _thinks(turn)
            await seen.ended()
            request = admin_pb2.WatchSessionRequest(session_id=turn.session_id)
            call = admin_pb2_grpc.AdminStub(channel).WatchSession(request, metadata=bearing(SECRETS[name]))
            async with viewing(call, turn.session_id) as (_, watched):
                await watched.ended()
                assert ("thought" in watched.kinds) is may

    scene()


# --- laws --------------------------------------------------------------------------------------------------

IDS = st.sampled_from(["", "a", "b", "application:a", "admin:a"])
NAMES = st.sampled_from(["a", "b"])
APPLICATIONS = st.builds(Identity, st.just("application"), NAMES, IDS)


@given(APPLICATIONS, IDS, IDS)
def test_an_application_sees_its_users_sessions_or_else_those_that_it_opened(
    who: Identity, application: str, user_id: str
) -> None:
    seen = who.may_see(application, user_id)
    assert seen is (user_id == who.user_id if who.user_id else application == who.actor)
    if seen and who.user_id:
        assert user_id
    if seen and not who.user_id:
        assert application


@given(IDS, IDS, NAMES)
def test_admins_see_everything_and_commanders_nothing(application: str, user_id: str, name: str) -> None:
    assert Identity("admin", name).may_see(application, user_id)
    assert ANYBODY.may_see(application, user_id)
    assert not Identity("commander", name).may_see(application, user_id)


def test_nobody_may_have_anything() -> None:
    assert not NOBODY.thoughts
    assert not NOBODY.may_see(NOBODY.actor, "")


def test_nobody_has_to_say_who_anybody_is() -> None:
    assert ANYBODY.actor == ""
    assert ANYBODY.thoughts
    assert Identity("application", "shop").actor == "application:shop"
