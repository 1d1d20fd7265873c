"""grpc-js, whose dialect of HTTP/2 is its own, against the service Chat."""

from typing import Any

import pytest
from asynchronous import asynchronous
from dispatcher_process import DispatcherProcess
from node_client import NodeClient, Programs
from scripted_commander import linked, unique

pytestmark = pytest.mark.interop


class _Seen:
    """What one of its streams has told so far."""

    def __init__(self, client: NodeClient, name: str) -> None:
        self._client = client
        self._name = name
        self.events: list[dict[str, Any]] = []
        self.receipts: list[dict[str, Any]] = []

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of this kind."""
        known = len(self.events)
        while True:
            for event in self.events[known:]:
                if event["event"] == kind:
                    return event
            known = len(self.events)
            said = (await self._client.until(self._name))[self._name]
            self.events += said["events"]
            self.receipts += said["receipts"]

    @property
    def text(self) -> str:
        return "".join(event["content"]["text"] for event in self.events if event["event"] == "content")


def _ask(agent: str) -> dict[str, Any]:
    message = {"role": "ROLE_USER", "parts": [{"text": "How far?"}]}
    return {"client_ref": "a", "ask": {"agent": agent, "messages": [message], "include_thoughts": True}}


@asynchronous
async def test_it_asks_streams_answers_and_ends(dispatcher: DispatcherProcess, programs: Programs) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("grpc", address=dispatcher.address) as client,
    ):
        await client.do("agents")
        assert [each["offer"]["name"] for each in (await client.until("agents"))["agents"]] == [agent]
        await client.do("open")
        await client.do("send", packet=_ask(agent))
        seen = _Seen(client, "converse")
        turn = await link.started()
        assert turn.start.messages[0].parts[0].text == "How far?"
        await turn.think("Plan", "Hm")
        for number in range(200):
            await turn.say(f"{number}é ")
        await turn.ask("q-1", "Sure?")
        question = await seen.until("question")
        answer = {"question_id": question["question"]["question_id"], "value_json": '"yes"'}
        await client.do("send", packet={"client_ref": "a", "answer": answer})
        assert (await turn.heard("answer")).answer.value_json == '"yes"'
        await client.do("send", packet={"client_ref": "a", "message": {"text": "Also"}})
        assert (await turn.heard("user_message")).user_message.text == "Also"
        await turn.finish()
        ended = (await seen.until("ended"))["ended"]
        assert (ended["ending"], ended["name"]) == ("SESSION_ENDING_COMPLETED", "completed")
        assert (seen.text, ended["content_chars"]) == (turn.text, str(len(turn.text)))
        assert not [receipt for receipt in seen.receipts if receipt.get("error")]
        # OK by itself, once the client has half-closed.
        await client.do("halfClose")
        assert (await client.until("ended"))["ended"] == "converse"


@asynchronous
async def test_it_comes_back_by_its_cursor(dispatcher: DispatcherProcess, programs: Programs) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("grpc", address=dispatcher.address) as client,
    ):
        await client.do("open")
        await client.do("send", packet=_ask(agent))
        first = _Seen(client, "converse")
        turn = await link.started()
        await turn.say("One ")
        await first.until("content")
        request = {"session_id": turn.session_id, "include_thoughts": True}
        await client.do("subscribe", request=request)
        begun = _Seen(client, "subscribe")
        await begun.until("content")
        assert begun.events == first.events
        await client.do("cancel")
        assert (await client.until("status"))["status"]["code"] == "CANCELLED"

        await turn.say("two")
        await turn.finish()
        await first.until("ended")
        for position, event in enumerate(first.events[:-1]):
            await client.do("subscribe", request={**request, "cursor": event["cursor"]})
            rest = _Seen(client, "subscribe")
            await rest.until("ended")
            assert rest.events == first.events[position + 1 :]
        await client.do("subscribe", request={"session_id": "s-none"})
        assert (await client.until(lambda said: said.get("status", {}).get("code") == "NOT_FOUND"))["status"][
            "of"
        ] == "subscribe"


@asynchronous
async def test_it_stops_and_is_told_what_is_wrong(dispatcher: DispatcherProcess, programs: Programs) -> None:
    agent = unique("agent")
    async with (
        linked(dispatcher.address, agent) as link,
        programs.running("grpc", address=dispatcher.address) as client,
    ):
        await client.do("open")
        await client.do("send", packet=_ask(agent))
        seen = _Seen(client, "converse")
        turn = await link.started()
        await turn.say("Half")
        await seen.until("content")
        await client.do("send", packet={"client_ref": "a", "stop": {"reason": "enough"}})
        assert (await turn.stopped()).reason == "enough"
        ended = (await seen.until("ended"))["ended"]
        assert (ended["name"], ended["stop"]["reason"]) == ("stopped", "enough")
        await client.do("send", packet={**_ask(f"{agent}-none"), "client_ref": "b"})
        refused = await client.until(
            lambda said: any(each.get("error") for each in said.get("converse", {}).get("receipts", []))
        )
        assert refused["converse"]["receipts"][-1]["error"]["code"] == "no_such_agent"
