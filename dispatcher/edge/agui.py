"""Runs of the AG-UI protocol: `HttpAgent` and what is built on it.

A run opens a session, or answers what a run before was interrupted by and goes on with its session. While a question
is open nobody needs to watch its session: between two runs there is no connection, and it must not be stopped for that.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.edge.agui_bodies import (
    THREAD_LABEL,
    Interrupt,
    RunBody,
    unknown_interrupt,
)
from dispatcher.edge.agui_stream import RunStream
from dispatcher.edge.bodies import AnswerBody, parsed
from dispatcher.edge.foreign import ASKING, KEY, ForeignLimits
from dispatcher.edge.kept import kept
from dispatcher.edge.operations import DATA, Answer, Parameter, operation
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.reading import json_body
from dispatcher.edge.viewers import Presence, ShowResponse, Viewers
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.requests import Requests, WrongError
from dispatcher.rpc import codec

# A run is over with the ending, or with a question.
UNTIL: Final = frozenset({"ended", "question"})
# What of a thread waits is looked for among so many of the latest sessions: a few milliseconds.
SEARCHED_MAX: Final = 20_000
# Why an answer is not taken that was given before: the run goes on and shows what became of the question.
_ANSWERED: Final = frozenset({"no_such_question", "session_ended"})

_RUN: Final = Answer(
    "The run's events.",
    {"text/event-stream": DATA},
)
_RUNNING: Final = (*ASKING, "no_such_question", "session_ended")


class AguiRuns:
    """The endpoints under /ag-ui."""

    def __init__(self, hub: Hub, requests: Requests, viewers: Viewers, limits: ForeignLimits) -> None:
        self._hub = hub
        self._requests = requests
        self._viewers = viewers
        self._limits = limits

    def routes(self) -> list[Route]:
        return [
            Route("/ag-ui", self.run, methods=["POST"]),
            Route("/ag-ui/{agent:path}", self.run_agent, methods=["POST"]),
        ]

    @operation(body=RunBody, parameters=(KEY,), answers={200: _RUN}, problems=_RUNNING, tag="ag-ui")
    async def run(self, request: Request) -> Response:
        """Runs the only agent there is, or answers what a run before was interrupted for."""
        return await self._run(request, "")

    @operation(
        body=RunBody,
        parameters=(KEY, Parameter("agent", "path", "Whom to ask.")),
        answers={200: _RUN},
        problems=_RUNNING,
        tag="ag-ui",
    )
    async def run_agent(self, request: Request) -> Response:
        """Runs an agent, or answers what a run before was interrupted for."""
        return await self._run(request, request.path_params["agent"])

    async def _run(self, request: Request, agent: str) -> Response:
        body = parsed(RunBody, await json_body(request, self._limits.body))
        answers = self._answers(body)
        session_id = answers[0][0].session_id if answers else await self._asked(request, body, agent)
        after = max((interrupt.offset for interrupt, _ in answers), default=0)
        # Who was asked has a place kept.
        if not any(self._is_open(interrupt) for interrupt, _ in answers):
            self._viewers.require_room(session_id)
        presence = Presence(self._hub, session_id)
        try:
            for number, (interrupt, answer) in enumerate(answers):
                await self._answer(f"resume[{number}].payload", interrupt, answer)
            await kept(self._hub)
            thoughts = body.include_thoughts and caller.get().thoughts
            rendering = RunStream(session_id, self._hub.journal.epoch, body.run, thoughts=thoughts)
            await self._viewers.recall(session_id, after, rendering)
        except BaseException:
            presence.end()
            raise
        return ShowResponse(
            self._viewers,
            rendering,
            session_id,
            after,
            [],
            thoughts=thoughts,
            headers={"location": f"/v1/sessions/{session_id}", "session-id": session_id},
            until=UNTIL,
            presence=presence,
        )

    async def _asked(self, request: Request, body: RunBody, agent: str) -> str:
        ask = body.ask()
        ask.agent = agent
        ask.idempotency_key = request.headers.get("idempotency-key", "")
        ask.on_detach.stop_after.CopyFrom(codec.duration(self._limits.left_stop_s))
        accepted = await self._requests.ask(ask, held_by_questions=True)
        # Asked again with its key, it is none that the thread goes on with.
        if not accepted.joined:
            self._give_up(body.thread_id, accepted.session_id)
        return accepted.session_id

    def _give_up(self, thread_id: str, session_id: str) -> None:
        """The thread goes on with this session, without an answer that another waits for, or has lost an attempt over
        and may ask for again: nobody will give it any more."""
        why = chat_pb2.StopAsked(reason="the thread went on without an answer")
        latest = islice(reversed(self._hub.router.sessions.values()), SEARCHED_MAX)
        waiting = [each for each in latest if each.is_held or (each.live and each.asked and not each.viewers)]
        # Those that an agent has asked for end with it.
        for session in (each for each in waiting if each.delegated is None):
            if session.session_id != session_id and self._is_theirs(session.session_id, thread_id):
                self._requests.stop(session.session_id, why)

    def _answers(self, body: RunBody) -> Sequence[tuple[Interrupt, AnswerBody]]:
        """What answers questions that were asked, all of one session. Raises ProblemError."""
        if not body.resume:
            return ()
        body.require_no_tools()
        answers = body.interrupts()
        for number, (interrupt, _) in enumerate(answers):
            self._require_asked(f"resume[{number}].interruptId", body, interrupt)
        return answers

    def _is_open(self, interrupt: Interrupt) -> bool:
        session = self._hub.router.sessions.get(interrupt.session_id)
        question = session.open_questions.get(interrupt.question_id) if session is not None else None
        return question is not None and question.told_at == interrupt.offset

    def _require_asked(self, field: str, body: RunBody, interrupt: Interrupt) -> None:
        """That the question was asked, where the id says."""
        if self._is_theirs(interrupt.session_id, body.thread_id):
            entries = self._hub.journal.read(interrupt.session_id, interrupt.offset - 1, 1).entries
            event = entries[0].event if entries else None
            if (
                event is not None
                and (event.kind, event.offset) == ("question", interrupt.offset)
                and codec.question(event.body).question_id == interrupt.question_id
            ):
                return
        raise unknown_interrupt(field, str(interrupt))

    def _is_theirs(self, session_id: str, thread_id: str) -> bool:
        """Whether it is of this thread, and the caller's: another's thread may have the same id."""
        session = self._hub.router.sessions.get(session_id)
        return (
            session is not None
            and session.labels.get(THREAD_LABEL) == thread_id
            and caller.get().may_see(session.application, session.user_id)
        )

    async def _answer(self, field: str, interrupt: Interrupt, answer: AnswerBody) -> None:
        wire = answer.answer(interrupt.question_id)
        wire.attempt = interrupt.attempt
        try:
            await self._requests.answer(interrupt.session_id, wire)
        except WrongError as error:
            if error.code in _ANSWERED:
                return
            told = str(error).removeprefix("answer.value_json: ")
            raise ProblemError(error.code, f"{field}: {told}", field=field) from None
