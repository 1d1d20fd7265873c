"""OpenAI's Responses: made, streamed, left to run in the background, come back to at every event, and cancelled."""

import asyncio
from typing import Final

from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.edge.bodies import parsed
from dispatcher.edge.foreign import ASKING, KEY, Foreign, ForeignStream, may_think
from dispatcher.edge.kept import kept
from dispatcher.edge.native import json_bytes
from dispatcher.edge.openai import address, stamped, told
from dispatcher.edge.openai_errors import of_ending
from dispatcher.edge.openai_parts import wrong
from dispatcher.edge.operations import DATA, TEXT, TRUTH, Answer, Parameter, json_answer, object_of, operation
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.reading import count, flag, json_body
from dispatcher.edge.responses_bodies import DECLINES, REASONING, ResponseBody
from dispatcher.edge.responses_items import PREFIX, ResponseItems
from dispatcher.edge.responses_stream import ResponseStream, place_of
from dispatcher.requests import WrongError

_NUMBER_MAX: Final = 2**53
# Events that are folded at once, so that others have their turn.
_PAGE_EVENTS: Final = 1_000
# As OpenAI's own description has it, which clients bring along.
_RESPONSE: Final = object_of(
    id=TEXT,
    object={"const": "response"},
    created_at={"type": "number"},
    status={"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
    model=TEXT,
    output={"type": "array", "items": {"type": "object"}},
)
_RESPONSE_OR_STREAM: Final = {"application/json": _RESPONSE, "text/event-stream": DATA}
_ID: Final = Parameter("response_id", "path", "The response's id.")


class Responses:
    """The endpoints."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign
        self._hub = foreign.hub

    def routes(self) -> list[Route]:
        one = "/v1/responses/{response_id}"
        return [
            Route("/v1/responses", self.create, methods=["POST"]),
            Route(one, self.retrieve, methods=["GET"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
        ]

    @operation(
        body=ResponseBody,
        parameters=(KEY,),
        answers={200: Answer("A `response`; with `stream`, its events.", _RESPONSE_OR_STREAM)},
        problems=ASKING,
        tag="openai",
        errors="OpenAiError",
        ends=True,
    )
    async def create(self, request: Request) -> Response:
        """Opens a session. In the background it goes on without its client; else it is stopped when that goes."""
        foreign = self._foreign
        body = parsed(ResponseBody, await json_body(request, foreign.limits.body))
        ask = body.ask()
        address(self._hub, body.model, ask)
        ask.idempotency_key = request.headers.get("idempotency-key", "")
        session_id, presence = await foreign.ask(ask, goes_on=bool(body.background))
        thoughts = may_think(body.wants_reasoning)
        if body.stream:
            return ForeignStream(
                foreign,
                ResponseStream(session_id, thoughts=thoughts),
                session_id,
                thoughts=thoughts,
                declines=body.declines,
                presence=presence,
                headers=stamped(session_id),
            )
        items = ResponseItems(session_id, thoughts=thoughts, takes_back=True)
        try:
            if body.background:
                await self._fold(session_id, items)
            elif not await foreign.gathered(request, session_id, items, declines=body.declines):
                return Response(status_code=499)
        finally:
            presence.end()
        if items.status == "failed" and items.ended is not None and not body.background:
            return of_ending(items.ended).response()
        return told(json_bytes(items.record()), stamped(session_id))

    @operation(
        parameters=(
            _ID,
            Parameter("stream", "query", "Its events instead.", TRUTH),
            Parameter(
                "starting_after",
                "query",
                "With `stream`: only those behind this `sequence_number`.",
                {"type": "integer", "minimum": 0, "maximum": _NUMBER_MAX},
            ),
        ),
        answers={200: Answer("A `response`, or its events.", _RESPONSE_OR_STREAM)},
        problems=("invalid_request", "unknown_session", "too_many_viewers"),
        tag="openai",
        errors="OpenAiError",
    )
    async def retrieve(self, request: Request) -> Response:
        """The response as it stands; or its events, all or those after a number."""
        session_id, thoughts = await self._session(request)
        # A stream writes past the server, which would leave out the body of an answer to HEAD.
        if not flag(request, "stream") or request.method == "HEAD":
            return await self._state(session_id, thoughts=thoughts)
        self._foreign.viewers.require_room(session_id)
        # Who comes back to it can't answer either.
        declines = DECLINES in self._hub.router.sessions[session_id].labels
        rendering = ResponseStream(session_id, thoughts=thoughts)
        after, first = await self._place(request, session_id, rendering)
        return ForeignStream(
            self._foreign,
            rendering,
            session_id,
            after,
            thoughts=thoughts,
            declines=declines,
            first=first,
            headers=stamped(session_id),
        )

    @operation(
        parameters=(_ID,),
        answers={200: json_answer("The `response` as it ended.", _RESPONSE)},
        problems=("unknown_session", "journal_stalled", "origin_not_allowed", "conflict"),
        tag="openai",
        errors="OpenAiError",
    )
    async def cancel(self, request: Request) -> Response:
        """Stops a response; one that has ended stays as it is."""
        session_id, thoughts = await self._session(request)
        self._foreign.requests.stop(session_id, chat_pb2.StopAsked(reason="UserCancel"))
        # First the ending, then the stop on its link, then the answer.
        await asyncio.sleep(0)
        await kept(self._hub)
        return await self._state(session_id, thoughts=thoughts)

    # --- parts -------------------------------------------------------------------------------------------

    async def _session(self, request: Request) -> tuple[str, bool]:
        """Whose response it is, and whether its reasoning was asked for. Raises ProblemError."""
        response_id: str = request.path_params["response_id"]
        session_id = response_id.removeprefix(PREFIX)
        told = f"response_id: there is no response {response_id[:256]!r}, or it is no longer kept"
        missing = ProblemError("unknown_session", told, field="response_id")
        if session_id == response_id:
            raise missing
        try:
            self._foreign.requests.require_visible(session_id)
            if not self._hub.journal.read(session_id, 0, 0).head:
                # Nothing is shown that a restart could undo.
                await kept(self._hub)
                self._foreign.requests.require_visible(session_id)
        except WrongError:
            raise missing from None
        return session_id, may_think(REASONING in self._hub.router.sessions[session_id].labels)

    async def _state(self, session_id: str, *, thoughts: bool) -> Response:
        items = ResponseItems(session_id, thoughts=thoughts, takes_back=True)
        await self._fold(session_id, items)
        return told(json_bytes(items.record()), stamped(session_id))

    async def _fold(self, session_id: str, items: ResponseItems) -> None:
        after = 0
        while (
            entries := self._hub.journal.read(session_id, after, _PAGE_EVENTS).entries
        ) and not items.is_over:
            items.take(entries)
            after = entries[-1].event.offset
            await asyncio.sleep(0)

    async def _place(self, request: Request, session_id: str, rendering: ResponseStream) -> tuple[int, bytes]:
        """Behind which event of ours the stream goes on, and what of that event is still to be told: the number that it
        goes on after may be in the midst of several."""
        if "starting_after" not in request.query_params:
            return 0, b""
        offset, which = place_of(count(request, "starting_after", 0, _NUMBER_MAX, least=0))
        entries = self._hub.journal.read(session_id, offset - 1, 1).entries
        if not entries:
            raise wrong(
                "starting_after", "is the number of no event of this response; the last one seen is right"
            )
        await self._foreign.viewers.recall(session_id, offset - 1, rendering)
        return offset, rendering.rest(entries[0], which + 1)
