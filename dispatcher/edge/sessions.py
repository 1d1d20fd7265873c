"""Sessions over HTTP: opened, watched, answered, added to and stopped, in the dispatcher's own words."""

import asyncio
from typing import Any, Final, NamedTuple

import orjson
from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.core.endings import Refusal
from dispatcher.core.session import Session
from dispatcher.edge.bodies import AddMessageBody, AnswerBody, AskBody, StopBody, parsed
from dispatcher.edge.kept import kept
from dispatcher.edge.operations import TEXT, TRUTH, Answer, Parameter, json_answer, object_of, operation
from dispatcher.edge.poll import poll
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.reading import BodyLimits, count, flag, json_body, number
from dispatcher.edge.schemas import event_stream, ref
from dispatcher.edge.sse import EventStream
from dispatcher.edge.viewers import Cursor, Presence, ShowResponse, Viewers, parse_cursor
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.record import plain
from dispatcher.requests import Requests, WrongError
from dispatcher.rpc.views import session_view

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1_000


class SessionsLimits(NamedTuple):
    """`poll_s_max`: the longest that a poll may wait."""

    body: BodyLimits
    poll_s_max: float


def answered(record: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(record), status, {"cache-control": "no-store", **(headers or {})}, "application/json"
    )


_SESSION: Final = Parameter("session_id", "path", "The session's id.")
_CURSOR: Final = "The last event already seen, `epoch:offset`. Without one: from the first."
_CURSOR_FORM: Final = {"type": "string", "pattern": "^[A-Za-z0-9-]{0,64}:[0-9]{1,19}$"}
_KEY_FORM: Final = {"type": "string", "maxLength": 256}
_GONE: Final = ("unknown_session",)
_STREAM: Final = Answer(
    "Server-sent events: `id` is the cursor, `event` the kind, `data` an Event. Ends behind `ended`, or behind "
    "`goaway` or `slow`, which say where to go on from.",
    {"text/event-stream": event_stream()},
)
_LINKS: Final = {
    "type": "object",
    "required": ["self", "events", "stop"],
    "properties": {name: {"type": "string"} for name in ("self", "events", "stop")},
}


class Sessions:
    """The endpoints under /v1/sessions."""

    def __init__(self, hub: Hub, requests: Requests, viewers: Viewers, limits: SessionsLimits) -> None:
        self._hub = hub
        self._requests = requests
        self._viewers = viewers
        self._limits = limits

    def routes(self) -> list[Route]:
        one = "/v1/sessions/{session_id}"
        return [
            Route("/v1/sessions", self.ask, methods=["POST"]),
            Route("/v1/sessions", self.list, methods=["GET"]),
            Route(one, self.state, methods=["GET"]),
            Route(f"{one}/events", self.events, methods=["GET"]),
            Route(f"{one}/stop", self.stop, methods=["POST"]),
            Route(f"{one}/answers/{{question_id:path}}", self.answer, methods=["POST"]),
            Route(f"{one}/messages", self.message, methods=["POST"]),
        ]

    @operation(
        body=AskBody,
        parameters=(
            Parameter("idempotency-key", "header", "Instead of `idempotency_key` in the body.", _KEY_FORM),
            Parameter("prefer", "header", "`respond-async`: tells only where the session is."),
        ),
        answers={
            200: _STREAM,
            202: json_answer(
                "It is opened, and can be watched where `links` say.",
                object_of(session_id=TEXT, joined={"type": "boolean"}, links=_LINKS),
            ),
        },
        problems=("too_many_viewers", "conflict", *(refusal.value for refusal in Refusal)),
    )
    async def ask(self, request: Request) -> Response:
        """Opens a session and streams its events; with `Prefer: respond-async`, tells only where they are."""
        body = parsed(AskBody, await json_body(request, self._limits.body))
        ask = body.ask()
        ask.idempotency_key = _key(request, ask.idempotency_key)
        accepted = await self._requests.ask(ask)
        session_id = accepted.session_id
        where = f"/v1/sessions/{session_id}"
        headers = {"location": where, "session-id": session_id}
        if "respond-async" in request.headers.get("prefer", "").lower():
            await kept(self._hub)
            record = {"session_id": session_id, "joined": accepted.joined, **_links(where)}
            return answered(record, 202, {**headers, "preference-applied": "respond-async"})
        self._viewers.require_room(session_id)
        # Its asker is there, however long it takes until there is anything to watch.
        presence = Presence(self._hub, session_id)
        await presence.while_kept()
        thoughts = _thoughts(body.include_thoughts)
        return self._stream(session_id, None, thoughts=thoughts, headers=headers, presence=presence)

    @operation(
        parameters=(
            _SESSION,
            Parameter("last-event-id", "header", _CURSOR, _CURSOR_FORM),
            Parameter("cursor", "query", _CURSOR, _CURSOR_FORM),
            Parameter("include_thoughts", "query", "Thoughts, too, where the caller may have them.", TRUTH),
            Parameter(
                "wait",
                "query",
                "One answer instead of a stream, as soon as there are events; waits at most so many seconds, and no "
                "longer than the dispatcher's http_poll_s_max.",
                {"type": "number", "minimum": 0},
            ),
        ),
        answers={
            200: Answer(
                f"{_STREAM.description} With `wait`: the events, and the cursor to go on with.",
                {
                    **_STREAM.content,
                    "application/json": object_of(
                        events={"type": "array", "items": ref("Event")},
                        cursor=TEXT,
                        ended={"type": "boolean"},
                    ),
                },
            ),
            204: Answer("The cursor is that of the ending: there is nothing more to come."),
        },
        problems=("invalid_request", "unknown_session", "too_many_viewers", "journal_stalled"),
    )
    async def events(self, request: Request) -> Response:
        """The events from a cursor on: as a stream, or with `wait` as one answer."""
        session_id = request.path_params["session_id"]
        header = request.headers.get("last-event-id", "")
        told = header or request.query_params.get("cursor", "")
        cursor = parse_cursor("last-event-id" if header else "cursor", told) if told else None
        thoughts = _thoughts(flag(request, "include_thoughts"))
        wants_poll = "wait" in request.query_params
        wait_s = min(number(request, "wait", 0, 0), self._limits.poll_s_max)
        try:
            self._requests.require_visible(session_id)
            if not self._hub.journal.read(session_id, 0, 0).head:
                # Nothing is shown that a restart could undo, that there is this session included.
                await kept(self._hub)
                self._requests.require_visible(session_id)
        except WrongError as wrong:
            return self._lost(wrong, session_id, cursor, wants_poll=wants_poll)
        if cursor is not None and self._is_told_all(session_id, cursor) and not wants_poll:
            # To an EventSource this means: don't come back.
            return Response(status_code=204)
        self._viewers.require_room(session_id)
        if wants_poll:
            return await poll(
                request, self._hub, self._viewers, session_id, cursor, wait_s=wait_s, thoughts=thoughts
            )
        return self._stream(session_id, cursor, thoughts=thoughts)

    @operation(
        parameters=(_SESSION,),
        answers={200: json_answer("Where it stands.", ref("Session"))},
        problems=_GONE,
    )
    async def state(self, request: Request) -> Response:
        """Where a session stands: its progress, what it used, its ending."""
        session_id = request.path_params["session_id"]
        self._requests.require_visible(session_id)
        return answered(self._record(self._hub.router.sessions[session_id]))

    @operation(
        parameters=(
            Parameter("live", "query", "Only those that have not ended.", TRUTH),
            Parameter(
                "limit", "query", "At most so many.", {"type": "integer", "minimum": 1, "maximum": PAGE_MAX}
            ),
            Parameter("before", "query", "`next_before` of the page before."),
        ),
        answers={
            200: json_answer(
                "A page; `next_before` is empty on the last.",
                object_of(sessions={"type": "array", "items": ref("Session")}, next_before=TEXT),
            )
        },
        problems=("invalid_request", "unknown_session"),
    )
    async def list(self, request: Request) -> Response:
        """The caller's sessions, the latest first."""
        live, size = flag(request, "live"), count(request, "limit", PAGE_DEFAULT, PAGE_MAX)
        before = request.query_params.get("before", "")
        sessions = self._hub.router.sessions
        if before and not self._is_visible(before):
            raise ProblemError(
                "unknown_session", "before: its session is no longer kept; begin anew", field="before"
            )
        shown: list[dict[str, Any]] = []
        is_behind = not before
        for session in reversed(sessions.values()):
            is_theirs = caller.get().may_see(session.application, session.user_id)
            # What agents have asked for is seen in their own sessions.
            is_listed = session.delegated is None and (session.live or not live)
            if is_behind and is_theirs and is_listed:
                if len(shown) == size:
                    return answered({"sessions": shown, "next_before": shown[-1]["session_id"]})
                shown.append(self._record(session))
            is_behind = is_behind or session.session_id == before
        return answered({"sessions": shown, "next_before": ""})

    @operation(
        body=StopBody,
        is_body_required=False,
        parameters=(_SESSION,),
        answers={
            200: json_answer(
                "It has ended: by this stop, or before.",
                object_of(
                    session_id=TEXT,
                    result={"type": "string", "enum": ["stopped", "already_ended"]},
                    ending=TEXT,
                    stop_id=TEXT,
                ),
            )
        },
        problems=_GONE,
    )
    async def stop(self, request: Request) -> Response:
        """Stops a session: nothing later reaches anybody."""
        body = parsed(StopBody, await json_body(request, self._limits.body))
        stopped = self._requests.stop(
            request.path_params["session_id"], chat_pb2.StopAsked(reason=body.reason)
        )
        # First the ending, then the stop on its link, then the answer.
        await asyncio.sleep(0)
        await kept(self._hub)
        return answered(
            {
                "session_id": stopped.session_id,
                "result": "already_ended" if stopped.already_ended else "stopped",
                "ending": stopped.ending,
                "stop_id": stopped.stop_id,
            }
        )

    @operation(
        body=AnswerBody,
        parameters=(_SESSION, Parameter("question_id", "path", "The question's id.")),
        answers={200: json_answer("The agent gets it.", object_of(session_id=TEXT, question_id=TEXT))},
        problems=(*_GONE, "no_such_question", "session_ended"),
    )
    async def answer(self, request: Request) -> Response:
        """Answers a question of the agent."""
        body = parsed(AnswerBody, await json_body(request, self._limits.body))
        session_id, question_id = request.path_params["session_id"], request.path_params["question_id"]
        await self._requests.answer(session_id, body.answer(question_id))
        await kept(self._hub)
        return answered({"session_id": session_id, "question_id": question_id})

    @operation(
        body=AddMessageBody,
        parameters=(
            _SESSION,
            Parameter("idempotency-key", "header", "Instead of that in the body.", _KEY_FORM),
        ),
        answers={
            202: json_answer(
                "The agent gets it, or the ending gives it back unread.",
                object_of(session_id=TEXT, message_id=TEXT),
            )
        },
        problems=(*_GONE, "session_ended", "too_many_messages", "journal_full", "key_taken", "conflict"),
    )
    async def message(self, request: Request) -> Response:
        """Adds a message to a running session."""
        body = parsed(AddMessageBody, await json_body(request, self._limits.body))
        session_id = request.path_params["session_id"]
        added = chat_pb2.AddMessage(text=body.text, idempotency_key=_key(request, body.idempotency_key))
        message_id = await self._requests.message(session_id, added)
        await kept(self._hub)
        return answered({"session_id": session_id, "message_id": message_id}, 202)

    # --- parts -------------------------------------------------------------------------------------------

    def _stream(
        self,
        session_id: str,
        cursor: Cursor | None,
        *,
        thoughts: bool,
        headers: dict[str, str] | None = None,
        presence: Presence | None = None,
    ) -> Response:
        after, notices = self._viewers.place(session_id, cursor)
        rendering = EventStream(session_id, self._hub.journal.epoch)
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

    def _lost(
        self, wrong: WrongError, session_id: str, cursor: Cursor | None, *, wants_poll: bool
    ) -> Response:
        """A viewer that comes back with a cursor is told in its stream that there is nothing more to be had."""
        journal = self._hub.journal
        if cursor is None or wants_poll or (cursor.epoch == journal.epoch and cursor.offset == 0):
            problem = ProblemError.of(wrong)
            if cursor is not None:
                problem.more["gap"] = self._viewers.lost(cursor)._asdict()
            raise problem
        told = EventStream(session_id, journal.epoch).lost(self._viewers.lost(cursor))
        return Response(told, 200, {"cache-control": "no-store"}, "text/event-stream")

    def _is_visible(self, session_id: str) -> bool:
        session = self._hub.router.sessions.get(session_id)
        return session is not None and caller.get().may_see(session.application, session.user_id)

    def _is_told_all(self, session_id: str, cursor: Cursor) -> bool:
        journal = self._hub.journal
        page = journal.read(session_id, max(0, cursor.offset - 1), 1)
        last = page.entries[-1].event if page.entries else None
        return (
            cursor.epoch in ("", journal.epoch)
            and last is not None
            and last.offset == cursor.offset
            and last.kind == "ended"
        )

    def _record(self, session: Session) -> dict[str, Any]:
        return plain(session_view(session, self._hub.journal.epoch)) | _links(
            f"/v1/sessions/{session.session_id}"
        )


def _thoughts(wanted: bool) -> bool:
    return wanted and caller.get().thoughts


def _links(where: str) -> dict[str, Any]:
    return {"links": {"self": where, "events": f"{where}/events", "stop": f"{where}/stop"}}


def _key(request: Request, told: str) -> str:
    """The header's key, or the body's. Raises ProblemError where they differ."""
    header = request.headers.get("idempotency-key", "")
    if header and told and header != told:
        why = "idempotency_key: the header says another; give it once"
        raise ProblemError("conflict", why, field="idempotency_key")
    return header or told
