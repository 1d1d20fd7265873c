"""Who may what by OpenAI's APIs: their clients' key is a token, and what is not the caller's is not there."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from openai_viewer import CHAT, chatting, said
from test_identity import SECRETS, SESSIONS, VISIBLE, inhabited, knowing, working
from web_viewer import browsing

RESPONSES = "/v1/responses"


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    with knowing(tmp_path_factory.mktemp("tokens"), "--http-address", "127.0.0.1:0") as process:
        yield process


def _as(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


@pytest.mark.parametrize(
    ("headers", "status", "code", "kind"),
    [
        ({}, 401, "invalid_api_key", "authentication_error"),
        ({"authorization": "Bearer nonsense"}, 401, "invalid_api_key", "authentication_error"),
        (_as("worker"), 403, "permission_denied", "permission_error"),
    ],
)
@asynchronous
async def test_who_may_not_is_told_in_their_form(
    dispatcher: DispatcherProcess, headers: dict[str, str], status: int, code: str, kind: str
) -> None:
    async with browsing(dispatcher.url, headers=headers) as client:
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("POST", RESPONSES)):
            answer = await client.request(method, path)
            assert answer.headers["content-type"] == "application/json"
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (status, code, kind)
            assert error["message"]
            assert ("www-authenticate" in answer.headers) == (status == 401)
            assert answer.headers["x-should-retry"] == "false"
        # Elsewhere it is told in our own.
        own = await client.get("/v1/sessions")
        assert (own.status_code, own.headers["content-type"]) == (status, "application/problem+json")


@asynchronous
async def test_what_is_no_path_of_theirs_is_told_in_their_form(dispatcher: DispatcherProcess) -> None:
    async with browsing(dispatcher.url, headers=_as("root")) as client:
        none = await client.get("/v1/chat/nothing")
        assert (none.status_code, none.json()["error"]["code"]) == (404, "not_found")
        wrong = await client.delete(f"{RESPONSES}/resp_s-1")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
        assert "GET" in wrong.headers["allow"]
        form = await client.post(CHAT, data={"model": "x"})
        assert (form.status_code, form.json()["error"]["param"]) == (415, "content-type")


@asynchronous
async def test_responses_of_others_do_not_exist(dispatcher: DispatcherProcess) -> None:
    async with inhabited(dispatcher) as town:
        for name, visible in VISIBLE.items():
            async with browsing(dispatcher.url, headers=_as(name)) as client:
                for kind in SESSIONS:
                    session_id = town.turns[kind].session_id
                    there = await client.get(f"{RESPONSES}/resp_{session_id}")
                    if kind in visible:
                        assert there.json()["status"] == "in_progress"
                        continue
                    for method, tail in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel")):
                        there = await client.request(method, f"{RESPONSES}/resp_{session_id}{tail}")
                        never = await client.request(method, f"{RESPONSES}/resp_s-never{tail}")
                        assert (there.status_code, never.status_code) == (404, 404)
                        assert there.text.replace(session_id, "s-never") == never.text
        assert all(turn.heard_nothing("stop") for turn in town.turns.values())


@pytest.mark.parametrize(("name", "may"), [("shop", False), ("bank", True), ("alice", False), ("bob", True)])
@asynchronous
async def test_thoughts_need_the_permission_and_the_wish(
    dispatcher: DispatcherProcess, name: str, *, may: bool
) -> None:
    async with (
        working(dispatcher) as (link, agent),
        browsing(dispatcher.url, headers=_as(name)) as client,
    ):
        async with chatting(client, agent, include_thoughts=True, include_events=True) as stream:
            turn = await link.started()
            await turn.think("Plan", "aloud")
            # Whoever asks declines, too, as itself.
            await turn.ask("q-1")
            assert (await turn.heard("answer")).answer.WhichOneof("result") == "cancelled"
            await turn.finish()
            assert ("aloud" in str(await stream.rest())) == may
        bodies: dict[str, dict[str, Any]] = {
            CHAT: {"messages": said(), "include_thoughts": True, "include_events": True},
            RESPONSES: {"input": "Hi", "reasoning": {"summary": "auto"}},
        }
        for path, body in bodies.items():
            asked = asyncio.ensure_future(client.post(path, json={"model": agent, **body}))
            turn = await link.started()
            await turn.think("Plan", "aloud")
            await turn.finish()
            answer = await asked
            assert answer.status_code == 200
            assert ("aloud" in answer.text) == may, path
        for tail in ("", "?stream=true"):
            again = await client.get(f"{RESPONSES}/resp_{turn.session_id}{tail}")
            assert ("aloud" in again.text) == may, tail
