"""Chats of Vercel's AI SDK: `useChat` and whatever else sends by its `DefaultChatTransport`, as it comes.

A chat is told by the SDK's own id, which its sessions bear as a label: the latest of them is what is resumed and
stopped. So a chat is found again by any dispatcher that knows its sessions, and nothing is kept beside them.
"""

import asyncio
from itertools import islice
from typing import Final

from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.core.session import Session
from dispatcher.edge.bodies import parsed
from dispatcher.edge.foreign import ASKING, KEY, ForeignLimits
from dispatcher.edge.kept import kept
from dispatcher.edge.operations import DATA, TRUTH, Answer, Parameter, json_answer, object_of, operation
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.reading import flag, json_body
from dispatcher.edge.sessions import answered
from dispatcher.edge.vercel_bodies import ChatBody, StopChatBody
from dispatcher.edge.vercel_stream import HEADERS, MessageStream
from dispatcher.edge.viewers import Cursor, Presence, ShowResponse, Viewers, parse_cursor
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.requests import Requests, WrongError
from dispatcher.rpc import codec

CHAT_LABEL: Final = "vercel_chat"
# That its first viewer asked for thoughts, so that one who comes back is shown the same.
THOUGHTS_LABEL: Final = "vercel_thoughts"
# A chat is looked for among so many of the latest sessions: a few milliseconds.
SEARCHED_MAX: Final = 20_000
_CHAT: Final = Parameter("chat_id", "path", "The chat's id, as its client made it.")
_STREAM: Final = Answer(
    "The UI message stream.",
    {"text/event-stream": DATA},
)


class VercelChats:
    """The endpoints under /api/chat."""

    def __init__(self, hub: Hub, requests: Requests, viewers: Viewers, limits: ForeignLimits) -> None:
        self._hub = hub
        self._requests = requests
        self._viewers = viewers
        self._limits = limits

    def routes(self) -> list[Route]:
        one = "/api/chat/{chat_id:path}"
        return [
            Route("/api/chat", self.chat, methods=["POST"]),
            Route(f"{one}/stream", self.resume, methods=["GET"]),
            Route(f"{one}/stop", self.stop, methods=["POST"]),
        ]

    @operation(
        body=ChatBody,
        parameters=(KEY,),
        answers={200: _STREAM},
        problems=(*ASKING, "no_such_question", "session_ended"),
        tag="vercel",
    )
    async def chat(self, request: Request) -> Response:
        """Asks, or answers a question of the chat's session, and streams what comes of it."""
        body = parsed(ChatBody, await json_body(request, self._limits.body))
        if answers := body.answers():
            session = self._live(body.id)
            for where, question_id, answer in answers:
                await self._answer(where, session.session_id, answer.answer(question_id))
            await kept(self._hub)
            return await self._stream(session.session_id, None, thoughts=_shows_thoughts(session))
        ask = body.ask()
        ask.idempotency_key = request.headers.get("idempotency-key", "")
        ask.labels[CHAT_LABEL] = body.id
        thoughts = body.include_thoughts and caller.get().thoughts
        if thoughts:
            ask.labels[THOUGHTS_LABEL] = "true"
        ask.on_detach.stop_after.CopyFrom(codec.duration(self._limits.left_stop_s))
        session_id = (await self._requests.ask(ask)).session_id
        self._viewers.require_room(session_id)
        presence = Presence(self._hub, session_id)
        await presence.while_kept()
        try:
            return await self._stream(session_id, None, thoughts=thoughts, presence=presence)
        except BaseException:
            presence.end()
            raise

    @operation(
        parameters=(
            _CHAT,
            Parameter("last-event-id", "header", "The last event seen, `epoch:offset`."),
            Parameter("cursor", "query", "The same."),
            Parameter(
                "ended",
                "query",
                "That of a session that has ended, too.",
                TRUTH,
            ),
        ),
        answers={200: _STREAM, 204: Answer("There is nothing to resume.")},
        problems=("invalid_request", "too_many_viewers", "journal_stalled"),
        tag="vercel",
    )
    async def resume(self, request: Request) -> Response:
        """The live session's stream from its start, or from a cursor on; nothing where none is live."""
        header = request.headers.get("last-event-id", "")
        told = header or request.query_params.get("cursor", "")
        cursor = parse_cursor("last-event-id" if header else "cursor", told) if told else None
        has_ended = flag(request, "ended")
        session = self._latest(request.path_params["chat_id"])
        if session is None or not (session.live or has_ended):
            return Response(status_code=204)
        # Nothing is shown that a restart could undo, that there is this session included.
        await kept(self._hub)
        return await self._stream(session.session_id, cursor, thoughts=_shows_thoughts(session))

    @operation(
        body=StopChatBody,
        is_body_required=False,
        parameters=(_CHAT,),
        answers={
            200: json_answer(
                "It has ended, or there was nothing to stop.",
                object_of(
                    success={"const": True},
                    session_id={"type": ["string", "null"]},
                    result={"enum": ["stopped", "already_ended", "nothing_to_stop"]},
                ),
            )
        },
        tag="vercel",
    )
    async def stop(self, request: Request) -> Response:
        """Stops the chat's session."""
        body = parsed(StopChatBody, await json_body(request, self._limits.body))
        session = self._latest(request.path_params["chat_id"])
        is_meant = session is not None and body.active_stream_id in (None, session.session_id)
        if session is None or not is_meant:
            return answered({"success": True, "session_id": None, "result": "nothing_to_stop"})
        stopped = self._requests.stop(session.session_id, chat_pb2.StopAsked())
        # First the ending, then the stop on its link, then the answer.
        await asyncio.sleep(0)
        await kept(self._hub)
        result = "already_ended" if stopped.already_ended else "stopped"
        return answered({"success": True, "session_id": session.session_id, "result": result})

    async def _answer(self, where: str, session_id: str, answer: chat_pb2.AnswerQuestion) -> None:
        try:
            await self._requests.answer(session_id, answer)
        except WrongError as wrong:
            told = str(wrong).removeprefix("answer.value_json: ")
            raise ProblemError(wrong.code, f"{where}: {told}", field=where) from None

    # --- parts -------------------------------------------------------------------------------------------

    async def _stream(
        self, session_id: str, cursor: Cursor | None, *, thoughts: bool, presence: Presence | None = None
    ) -> Response:
        if presence is None:
            self._viewers.require_room(session_id)
        after, notices = self._viewers.place(session_id, cursor)
        rendering = MessageStream(session_id, self._hub.journal.epoch, thoughts=thoughts)
        await self._viewers.recall(session_id, after, rendering)
        headers = {**HEADERS, "location": f"/v1/sessions/{session_id}", "session-id": session_id}
        return ShowResponse(
            self._viewers,
            rendering,
            session_id,
            after,
            notices,
            thoughts=thoughts,
            headers=headers,
            presence=presence,
        )

    def _latest(self, chat_id: str) -> Session | None:
        """Of the caller's own: another's chat may have the same id."""
        sessions = reversed(self._hub.router.sessions.values())
        for session in islice(sessions, SEARCHED_MAX):
            is_theirs = caller.get().may_see(session.application, session.user_id)
            # One that an agent has asked for bears the labels of its asker's.
            is_asked = session.delegated is None and session.labels.get(CHAT_LABEL) == chat_id
            if is_asked and is_theirs:
                return session
        return None

    def _live(self, chat_id: str) -> Session:
        """Raises ProblemError."""
        session = self._latest(chat_id)
        if session is None or not session.live:
            told = f"id: no session of the chat {chat_id!r} is running, so none waits for an answer"
            raise ProblemError("unknown_session", told, field="id")
        return session


def _shows_thoughts(session: Session) -> bool:
    return THOUGHTS_LABEL in session.labels and caller.get().thoughts
