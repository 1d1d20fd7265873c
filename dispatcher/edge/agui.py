"""Runs of the AG-UI protocol: `HttpAgent` and what is built on it.

A run opens a session, or answers what a run before was interrupted by and goes on with its session. While a question
is open its session is watched on the user's behalf: between two runs there is no connection, and it must not be stopped
for that.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher.core.events import ViewerCame, ViewerLeft
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
from dispatcher.edge.operations import TEXT, Answer, Parameter, operation
from dispatcher.edge.problems import ProblemError
from dispatcher.edge.reading import json_body
from dispatcher.edge.viewers import ShowResponse, Viewers
from dispatcher.hub import Hub
from dispatcher.identity import caller
from dispatcher.requests import Requests, WrongError
from dispatcher.rpc import codec

# A run is over with the ending, or with a question.
UNTIL: Final = frozenset({"ended", "question"})
# From the answer on, until the run that gave it watches.
HANDOVER_S: Final = 5.0
# Why an answer is not taken that was given before: the run goes on and shows what became of the question.
_ANSWERED: Final = frozenset({"no_such_question", "session_ended"})

_RUN: Final = Answer(
    "The run's events.",
    {"text/event-stream": {"type": "object", "required": ["data"], "properties": {"data": TEXT}}},
)
_RUNNING: Final = (*ASKING, "no_such_question", "session_ended")


class Waiting:
    """Watches a session while its question is open; calls `over` when it no longer does."""

    def __init__(self, hub: Hub, interrupt: Interrupt, over: Callable[[], None]) -> None:
        self._hub = hub
        self._interrupt = interrupt
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        hub.submit(ViewerCame(interrupt.session_id))
        self._unsubscribe = hub.journal.subscribe(interrupt.session_id, self._news)
        self._news()

    def __repr__(self) -> str:
        return f"<Waiting for the answer to {self._interrupt}>"

    def _news(self) -> None:
        session = self._hub.router.sessions.get(self._interrupt.session_id)
        question = session.questions.get(self._interrupt.question_id) if session is not None else None
        is_open = question is not None and question.told_at == self._interrupt.offset
        if not is_open and not self._is_closed:
            self._is_closed = True
            self._loop.call_later(HANDOVER_S, self._leave)

    def _leave(self) -> None:
        self._unsubscribe()
        self._hub.submit(ViewerLeft(self._interrupt.session_id))
        self._over()


class AguiRuns:
    """The endpoints under /ag-ui."""

    def __init__(self, hub: Hub, requests: Requests, viewers: Viewers, limits: ForeignLimits) -> None:
        self._hub = hub
        self._requests = requests
        self._viewers = viewers
        self._limits = limits
        # The sessions that wait for an answer between two runs.
        self._waiting: dict[Interrupt, Waiting] = {}

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
        if body.resume:
            session_id, after = self._resumed(body)
        else:
            session_id, after = self._asked(request, body, agent), 0
        await kept(self._hub)
        # Who was asked has a place kept.
        if not any(interrupt.session_id == session_id for interrupt in self._waiting):
            self._viewers.require_room(session_id)
        thoughts = body.include_thoughts and caller.get().thoughts
        rendering = RunStream(session_id, self._hub.journal.epoch, body.run, thoughts=thoughts)
        await self._viewers.recall(session_id, after, rendering)
        return RunResponse(self._viewers, rendering, session_id, after, thoughts=thoughts, wait=self._wait)

    def _asked(self, request: Request, body: RunBody, agent: str) -> str:
        ask = body.ask()
        ask.agent = agent
        ask.idempotency_key = request.headers.get("idempotency-key", "")
        ask.on_detach.stop_after.CopyFrom(codec.duration(self._limits.left_stop_s))
        session_id = self._requests.ask(ask).session_id
        self._give_up(body.thread_id)
        return session_id

    def _give_up(self, thread_id: str) -> None:
        """The thread goes on without an answer: nobody will give it any more."""
        for interrupt in list(self._waiting):
            if self._is_theirs(interrupt.session_id, thread_id):
                why = chat_pb2.StopAsked(reason="the thread went on without an answer")
                self._requests.stop(interrupt.session_id, why)

    def _resumed(self, body: RunBody) -> tuple[str, int]:
        """Answers, and where its session goes on."""
        body.require_no_tools()
        answers = body.interrupts()
        for number, (interrupt, _) in enumerate(answers):
            self._require_asked(f"resume[{number}].interruptId", body, interrupt)
        for number, (interrupt, answer) in enumerate(answers):
            self._answer(f"resume[{number}].payload", interrupt, answer)
        last, _ = max(answers, key=lambda answer: answer[0].offset)
        return last.session_id, last.offset

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

    def _answer(self, field: str, interrupt: Interrupt, answer: AnswerBody) -> None:
        wire = answer.answer(interrupt.question_id)
        wire.attempt = interrupt.attempt
        try:
            self._requests.answer(interrupt.session_id, wire)
        except WrongError as error:
            if error.code in _ANSWERED:
                return
            told = str(error).removeprefix("answer.value_json: ")
            raise ProblemError(error.code, f"{field}: {told}", field=field) from None

    def _wait(self, interrupt: Interrupt) -> None:
        if interrupt not in self._waiting:
            self._waiting[interrupt] = Waiting(self._hub, interrupt, partial(self._waited, interrupt))

    def _waited(self, interrupt: Interrupt) -> None:
        self._waiting.pop(interrupt, None)


class RunResponse(ShowResponse):
    """Streams a run. Where it was interrupted, somebody waits for the answer before the viewer has left."""

    def __init__(
        self,
        viewers: Viewers,
        rendering: RunStream,
        session_id: str,
        after: int,
        *,
        thoughts: bool,
        wait: Callable[[Interrupt], None],
    ) -> None:
        headers = {"location": f"/v1/sessions/{session_id}", "session-id": session_id}
        super().__init__(
            viewers, rendering, session_id, after, [], thoughts=thoughts, headers=headers, until=UNTIL
        )
        self._run = rendering
        self._wait = wait

    def shown(self) -> None:
        if self._run.interrupted is not None:
            self._wait(self._run.interrupted)
