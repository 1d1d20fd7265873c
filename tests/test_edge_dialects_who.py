"""Whose chats and threads they are: ids are the client's own choice, so another user's may be the same."""

from collections.abc import Iterator
from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from frame_reader import framing
from scripted_commander import unique
from test_identity import SECRETS, knowing, working
from web_viewer import browsing


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    flags = ("--http-address", "127.0.0.1:0", "--http-left-stop-s", "60")
    with knowing(tmp_path_factory.mktemp("tokens"), *flags) as process:
        yield process


def _as(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


def _chat(chat: str, agent: str, part: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "parts": [part or {"type": "text", "text": "Hi"}]}
    return {"json": {"id": chat, "messages": [message], "agent": agent, **more}}


def _run(thread: str, **more: Any) -> dict[str, Any]:
    message = {"id": "u", "role": "user", "content": "Hi"}
    told = {"threadId": thread, "runId": "r", "protocolVersion": "1.0", "messages": [message]}
    return {"json": {**told, **more}}


@asynchronous
async def test_a_chat_is_its_own_users(dispatcher: DispatcherProcess) -> None:
    chat = unique("chat")
    answer = {"type": "data-answer", "data": {"question_id": "q-1", "value": 1, "attempt": 1}}
    async with (
        working(dispatcher) as (link, agent),
        browsing(dispatcher.url, headers=_as("alice")) as alice,
        browsing(dispatcher.url, headers=_as("bob")) as bob,
        browsing(dispatcher.url) as nobody,
        framing(alice, "POST", "/api/chat", **_chat(chat, agent)) as hers,
    ):
        turn = await link.started()
        await turn.say("Dear Alice")
        await turn.ask("q-1")
        await hers.until("data-question")
        path = f"/api/chat/{chat}"
        assert (await nobody.get(f"{path}/stream")).status_code == 401
        assert (await bob.get(f"{path}/stream", params={"ended": "true"})).status_code == 204
        assert (await bob.post(f"{path}/stop")).json()["result"] == "nothing_to_stop"
        assert (await bob.post("/api/chat", **_chat(chat, agent, answer))).status_code == 404
        assert turn.heard_nothing("answer")
        # His own of the same id is another, and hers is still hers.
        async with framing(bob, "POST", "/api/chat", **_chat(chat, agent)) as his:
            other = await link.started()
            assert other.session_id != turn.session_id
            await other.finish()
            await his.rest()
        async with framing(alice, "GET", f"{path}/stream") as again:
            await again.until("data-question")
            assert again.data == hers.data


@asynchronous
async def test_a_thread_is_its_own_users(dispatcher: DispatcherProcess) -> None:
    thread = unique("thread")
    async with (
        working(dispatcher) as (link, agent),
        browsing(dispatcher.url, headers=_as("alice")) as alice,
        browsing(dispatcher.url, headers=_as("bob")) as bob,
    ):
        path = f"/ag-ui/{agent}"
        async with framing(alice, "POST", path, **_run(thread)) as hers:
            turn = await link.started()
            await turn.ask("q-1")
            await hers.rest()
        (interrupt,) = hers.parts[-1]["outcome"]["interrupts"]
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": 1}]
        refused = await bob.post(path, **_run(thread, resume=resume))
        assert (refused.status_code, refused.json()["field"]) == (404, "resume[0].interruptId")
        # Nor does his run in a thread of the same name give up what she is asked.
        async with framing(bob, "POST", path, **_run(thread)) as his:
            await (await link.started()).finish()
            await his.rest()
        assert turn.heard_nothing("stop")
        async with framing(alice, "POST", path, **_run(thread, resume=resume)) as hers:
            await turn.heard("answer")
            await turn.finish()
            await hers.rest()
        assert hers.parts[-1]["outcome"] == {"type": "success"}


@pytest.mark.parametrize(("name", "may"), [("bank", True), ("shop", False)])
@asynchronous
async def test_thoughts_are_for_those_who_may_have_them(
    name: str, may: bool, dispatcher: DispatcherProcess
) -> None:
    chat = unique("chat")
    async with (
        working(dispatcher) as (link, agent),
        browsing(dispatcher.url, headers=_as(name)) as client,
        browsing(dispatcher.url, headers=_as("guard")) as guard,
    ):
        body = _chat(chat, agent, includeThoughts=True)
        async with framing(client, "POST", "/api/chat", **body) as stream:
            turn = await link.started()
            await turn.think("Plan", "Hm")
            await turn.finish()
            await stream.rest()
        assert ("reasoning-delta" in stream.kinds) is may
        # Who comes back may have less than who asked.
        for viewer, shown in ((client, may), (guard, False)):
            ended = {"ended": "true"}
            async with framing(viewer, "GET", f"/api/chat/{chat}/stream", params=ended) as again:
                await again.rest()
            assert ("reasoning-delta" in again.kinds) is shown
        run = _run(unique("thread"), forwardedProps={"includeThoughts": True})
        async with framing(client, "POST", f"/ag-ui/{agent}", **run) as stream:
            turn = await link.started()
            await turn.think("Plan", "Hm")
            await turn.finish()
            await stream.rest()
        assert ("REASONING_START" in stream.kinds) is may
