"""The application's side of the pair, in the process of the bench itself: asks, watches and stops, and notes when
what arrived."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from grpc import aio
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, chat_pb2, chat_pb2_grpc

from bench import bare_options

# Beyond these, in seconds, something is broken.
LINKED_S: Final = 20.0
ANSWER_S: Final = 30.0
_LOOK_S: Final = 0.02


class ViewerError(Exception):
    """The dispatcher did not answer as it should."""


class Watched:
    """One Converse stream with sessions of one agent, watched until `leave`.

    `events` are all that came, with the time of arrival; `ended` when each session's ending came, and its name;
    `after_ending` how many events came behind one.
    """

    def __init__(self, call: Any) -> None:
        self.sessions: list[str] = []
        self.events: list[tuple[int, chat_pb2.SessionEvent]] = []
        self.ended: dict[str, tuple[int, str]] = {}
        self.after_ending = 0
        self._call = call
        self._asked = 0
        # Those of which content has come.
        self._speaking: set[str] = set()
        self._news = asyncio.Condition()
        self._reader = asyncio.ensure_future(self._read())

    async def ask(self, agent: str, metadata: Mapping[str, str]) -> None:
        """Asks for one more session."""
        text = agent_pb2.ContentPart(text="x")
        message = agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[text])
        ask = chat_pb2.Ask(agent=agent, messages=[message], metadata=metadata, include_thoughts=True)
        self._asked += 1
        await self._call.write(chat_pb2.ClientPacket(client_ref=f"ref-{self._asked}", ask=ask))

    async def opened(self) -> list[str]:
        """The ids of all that were asked for, in that order, once they are known."""
        await self._until(lambda: len(self.sessions) >= self._asked, "open")
        return self.sessions

    async def begun(self) -> None:
        """Every session's agent has said something."""
        await self._until(lambda: len(self._speaking) >= self._asked, "begin")

    async def have_ended(self, sessions: int) -> None:
        """So many sessions have ended."""
        await self._until(lambda: len(self.ended) >= sessions, "end")

    async def over(self) -> None:
        """Every session has ended, and the dispatcher has closed the stream."""
        await self._call.done_writing()
        done, _ = await asyncio.wait([self._reader], timeout=ANSWER_S)
        if not done:
            raise ViewerError(f"{len(self.ended)} of {self._asked} sessions ended in {ANSWER_S:g} s")
        self._reader.result()

    async def leave(self) -> None:
        """Looks away; the sessions go on."""
        self._call.cancel()
        await asyncio.wait([self._reader])

    async def _until(self, holds: Any, what: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_S), self._news:
                await self._news.wait_for(lambda: holds() or self._reader.done())
        except TimeoutError:
            raise ViewerError(f"{self._asked} sessions did not {what} within {ANSWER_S:g} s") from None
        if not holds():
            self._reader.result()
            raise ViewerError(f"the stream ended before {self._asked} sessions did {what}")

    async def _read(self) -> None:
        try:
            while (message := await self._call.read()) is not aio.EOF:
                now_ns = time.monotonic_ns()
                for receipt in message.receipts:
                    if receipt.HasField("error"):
                        raise ViewerError(f"refused: {receipt.error.message}")
                    self.sessions.append(receipt.session_id)
                for event in message.events:
                    self._take(now_ns, event)
                async with self._news:
                    self._news.notify_all()
        except asyncio.CancelledError:
            # By `leave`; or by the end of the bench, which cancels whoever waits for this too.
            pass
        finally:
            async with self._news:
                self._news.notify_all()

    def _take(self, now_ns: int, event: chat_pb2.SessionEvent) -> None:
        self.events.append((now_ns, event))
        if event.session_id in self.ended:
            self.after_ending += 1
        if event.HasField("content"):
            self._speaking.add(event.session_id)
        elif event.HasField("ended"):
            self.ended[event.session_id] = (now_ns, event.ended.name)


class Viewer:
    """Talks to one dispatcher."""

    def __init__(self, address: str) -> None:
        self._channel = aio.insecure_channel(address, bare_options.client(address))
        self._chat = chat_pb2_grpc.ChatStub(self._channel)
        self._admin = admin_pb2_grpc.AdminStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def linked(self, commanders: int) -> None:
        """Waits until so many commanders are linked: their number is known to nobody but the dispatcher."""
        deadline = time.monotonic() + LINKED_S
        while True:
            known = await self._admin.ListCommanders(admin_pb2.ListCommandersRequest())
            if len(known.commanders) == commanders:
                return
            if time.monotonic() > deadline:
                raise ViewerError(
                    f"{len(known.commanders)} of {commanders} commanders linked in {LINKED_S:g} s"
                )
            await asyncio.sleep(_LOOK_S)

    def watch(self) -> Watched:
        """A Converse stream that has asked for nothing yet."""
        return Watched(self._chat.Converse())

    async def stop(self, session_id: str) -> None:
        """Stops one session, as an operator does; returns when the dispatcher has answered."""
        request = admin_pb2.StopSessionRequest(
            session_id=session_id, reason="bench", grace=Duration(seconds=5)
        )
        await self._admin.StopSession(request)

    async def stop_all(self) -> None:
        """Stops every session that is left."""
        selector = admin_pb2.SessionSelector(all=True)
        await self._admin.StopSessions(admin_pb2.StopSessionsRequest(selector=selector, reason="bench"))
