"""Who may what over HTTP: tokens in a header or a first message, sessions that are one's own, and how much of all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asynchronous import asynchronous, eventually, soon
from chat_viewer import conversing
from dispatcher_process import DispatcherProcess
from issuer import Issuer, private_key, published, publishing, signed
from test_edge_websocket import talking
from test_identity import SECRETS, SESSIONS, VISIBLE, inhabited, knowing, working
from web_viewer import asking, browsing, opened, streaming

HTTP = ("--http-address", "127.0.0.1:0")


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    with knowing(tmp_path_factory.mktemp("tokens"), *HTTP, "--http-header-s", "0.5") as process:
        yield process


def _as(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "unauthenticated"),
        ({"authorization": "Bearer nonsense"}, 401, "unauthenticated"),
        ({"authorization": "Bearer"}, 401, "unauthenticated"),
        ({"authorization": SECRETS["root"]}, 401, "unauthenticated"),
        ({"authorization": f"Basic {SECRETS['root']}"}, 401, "unauthenticated"),
        (_as("worker"), 403, "permission_denied"),
        (_as("shop"), 200, ""),
        ({"authorization": f"bearer  {SECRETS['root']}"}, 200, ""),
    ],
)
@asynchronous
async def test_a_token_is_needed_and_a_role(
    dispatcher: DispatcherProcess, headers: dict[str, str], status: int, code: str
) -> None:
    async with browsing(dispatcher.url, headers=headers) as client:
        answer = await client.get("/v1/sessions")
        assert (answer.status_code, answer.json().get("code", "")) == (status, code)
        assert ("www-authenticate" in answer.headers) == (status == 401)
        was_told = headers.get("authorization", "").lower().startswith("bearer ") and status == 401
        assert ("this token is not accepted" in answer.text) == was_told
        # In an address it would be logged by everybody on the way.
        named = await client.get(
            "/v1/sessions", params={"token": SECRETS["root"], "access_token": SECRETS["root"]}
        )
        assert named.status_code == (400 if status == 200 else status)
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
    assert not [line for line in dispatcher.log if any(secret in line for secret in SECRETS.values())]


@asynchronous
async def test_sessions_of_others_do_not_exist(dispatcher: DispatcherProcess) -> None:
    async with inhabited(dispatcher) as town:
        ids = {kind: turn.session_id for kind, turn in town.turns.items()}
        for name, visible in VISIBLE.items():
            async with browsing(dispatcher.url, headers=_as(name)) as client:
                listed = (await client.get("/v1/sessions", params={"limit": 1000})).json()["sessions"]
                assert {each["session_id"] for each in listed} & set(ids.values()) == {
                    ids[kind] for kind in visible
                }
                for kind in SESSIONS:
                    await _all_doors(client, ids[kind], kind in visible)


async def _all_doors(client: httpx.AsyncClient, session_id: str, is_visible: bool) -> None:
    """Whatever there is of a session is there, or is in no way told from one that never was."""
    requests: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("GET", "/events?wait=0", None),
        ("GET", "/events?wait=0&cursor=0000:1", None),
        ("POST", "/answers/q-none", {"value": 1}),
    ]
    if not is_visible:
        requests += [("GET", "/events", None), ("POST", "/stop", {}), ("POST", "/messages", {"text": "Hi"})]
    for method, tail, body in requests:
        there = await client.request(method, f"/v1/sessions/{session_id}{tail}", json=body)
        if is_visible:
            assert there.json().get("code") not in (
                "unknown_session",
                "unauthenticated",
                "permission_denied",
            ), tail
            continue
        never = await client.request(method, f"/v1/sessions/s-never{tail}", json=body)
        assert (there.status_code, never.status_code) == (404, 404), tail
        assert there.text.replace(session_id, "s-never") == never.text


@asynchronous
async def test_sessions_of_others_do_not_exist_on_a_socket_either(dispatcher: DispatcherProcess) -> None:
    async with inhabited(dispatcher) as town:
        for name, visible in VISIBLE.items():
            async with talking(dispatcher.url, additional_headers=_as(name)) as client:
                for kind, turn in town.turns.items():
                    for request, fields in (("subscribe", {}), ("answer", {"question_id": "q", "value": 1})):
                        receipt = await client.told(request, session_id=turn.session_id, **fields)
                        is_hidden = receipt["fields"].get("error", {}).get("code") == "unknown_session"
                        assert is_hidden == (kind not in visible), (name, kind, request)


@asynchronous
async def test_a_socket_may_say_first_who_it_is(dispatcher: DispatcherProcess) -> None:
    async with working(dispatcher) as (link, agent):
        async with talking(dispatcher.url) as client:
            assert "error" not in (await client.told("authenticate", token=SECRETS["alice"]))["fields"]
            receipt = await client.told("ask", agent=agent, input="x")
            turn = await link.started()
            assert receipt["session_id"] == turn.session_id
            assert turn.start.user_id == "alice"
            again = await client.refused("authenticate", token=SECRETS["root"])
            assert again["code"] == "invalid_request"
            await turn.finish()
        for first in (
            {"request": "authenticate", "token": "nonsense"},
            {"request": "authenticate", "token": SECRETS["worker"]},
            {"request": "ask", "agent": agent, "input": "x"},
            {"request": "stop", "session_id": turn.session_id},
            None,
        ):
            async with talking(dispatcher.url) as client:
                if first is not None:
                    await client.socket.send(json.dumps(first))
                code, reason = await client.closed()
                assert code == 1008
                assert "unauthenticated" in reason or reason == "permission_denied"
        assert link.started_nothing()


@asynchronous
async def test_whose_a_session_is_is_the_tokens_word(dispatcher: DispatcherProcess) -> None:
    async with working(dispatcher) as (link, agent), browsing(dispatcher.url, headers=_as("alice")) as client:
        async with asking(client, agent) as stream:
            turn = await link.started()
            await turn.finish()
            await stream.rest()
        assert turn.start.user_id == "alice"
        assert stream.seen[0].fields["user_id"] == "alice"
        other = await client.post("/v1/sessions", json={"agent": agent, "input": "x", "user_id": "bob"})
        assert (other.status_code, other.json()["field"]) == (400, "user_id")


@asynchronous
async def test_thoughts_need_the_permission_and_the_wish(dispatcher: DispatcherProcess) -> None:
    async with working(dispatcher) as (link, agent):
        for name, may in (("alice", False), ("bob", True), ("shop", False), ("root", True), ("guard", False)):
            async with browsing(dispatcher.url, headers=_as(name)) as client:
                async with asking(client, agent, include_thoughts=True) as stream:
                    turn = await link.started()
                    await turn.think("Plan", "x")
                    await turn.finish()
                    await stream.rest()
                assert ("thought" in stream.kinds) == may, name
                path = f"/v1/sessions/{turn.session_id}/events"
                async with streaming(client, "GET", path, params={"include_thoughts": "true"}) as again:
                    await again.rest()
                assert ("thought" in again.kinds) == may, name
                page = await client.get(path, params={"wait": 0, "include_thoughts": "true"})
                assert ("thought" in [each["event"] for each in page.json()["events"]]) == may, name
            async with talking(dispatcher.url, additional_headers=_as(name)) as client2:
                await client2.told("subscribe", session_id=turn.session_id, include_thoughts=True)
                await client2.until("ended")
                assert ("thought" in [each["event"] for each in client2.of(turn.session_id)]) == may, name


@asynchronous
async def test_what_a_user_asks_on_a_websocket_counts_as_well(tmp_path: Path) -> None:
    with knowing(tmp_path, *HTTP, "--user-requests-per-minute-max", "5") as dispatcher:
        async with talking(dispatcher.url, additional_headers=_as("bob")) as client:
            codes = [(await client.refused("stop", session_id="s"))["code"] for _ in range(8)]
    # The handshake was one; a busy machine may take long enough for another to be due.
    assert codes[:4] == ["unknown_session"] * 4
    assert "too_many_requests" in codes[4:]


@asynchronous
async def test_a_user_has_so_many_open_and_asks_so_often(tmp_path: Path) -> None:
    flags = (*HTTP, "--user-connections-max", "2", "--user-requests-per-minute-max", "60")
    with knowing(tmp_path, *flags) as dispatcher:
        async with (
            working(dispatcher) as (link, agent),
            browsing(dispatcher.url, headers=_as("bob")) as client,
        ):
            async with asking(client, agent) as one, talking(dispatcher.url, additional_headers=_as("bob")):
                turn = await link.started()
                await one.until("started")
                full = await client.get("/v1/sessions")
                assert (full.status_code, full.json()["code"]) == (429, "too_many_connections")
                async with browsing(dispatcher.url, headers=_as("alice")) as other:
                    assert (await other.get("/v1/sessions")).status_code == 200
                await turn.finish()
                await one.rest()

            async def status() -> int:
                return (await client.get("/v1/sessions")).status_code

            async def code() -> str:
                answer = await client.get("/v1/sessions")
                assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
                return str(answer.json().get("code", ""))

            await eventually(code, lambda now: now == "too_many_requests")
            # Whoever speaks for many is not one of them.
            async with browsing(dispatcher.url, headers=_as("shop")) as shop:
                for _ in range(100):
                    assert (await shop.get("/v1/sessions")).status_code == 200


@asynchronous
async def test_signed_tokens_come_in_by_http_too(tmp_path: Path) -> None:
    key = private_key()
    with publishing(Issuer(published(key))) as issuer:
        flags = (*HTTP, "--jwt-jwks", issuer.url, "--jwt-audience", "chat")
        with knowing(tmp_path, *flags) as dispatcher:
            async with working(dispatcher) as (link, agent):
                mine = signed(key, aud="chat", sub="carol")
                async with browsing(dispatcher.url, headers={"authorization": f"Bearer {mine}"}) as client:
                    session_id = await opened(client, agent)
                    assert (await link.started()).start.user_id == "carol"
                    assert (await client.get(f"/v1/sessions/{session_id}")).status_code == 200
                for wrong in (
                    signed(key, aud="else", sub="carol"),
                    signed(private_key(), aud="chat", sub="carol"),
                ):
                    async with browsing(
                        dispatcher.url, headers={"authorization": f"Bearer {wrong}"}
                    ) as client:
                        assert (await client.get("/v1/sessions")).status_code == 401


@asynchronous
async def test_one_truth_for_grpc_and_http(dispatcher: DispatcherProcess) -> None:
    """What alice asks by gRPC she sees over HTTP, and bob does not."""
    async with (
        working(dispatcher) as (link, agent),
        conversing(dispatcher.address, token=SECRETS["alice"]) as talk,
    ):
        seen = await talk.ask(agent)
        turn = await link.started()
        await turn.say("Hello")
        await turn.finish()
        await seen.ended()
        for name, status in (("alice", 200), ("bob", 404)):
            async with browsing(dispatcher.url, headers=_as(name)) as client:
                answer = await soon(client.get(f"/v1/sessions/{turn.session_id}/events"))
                assert answer.status_code == status
