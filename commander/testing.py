"""Agents in tests, in memory: no dispatcher and no link. The agent runs by the code that runs it in a commander; what
it says is gathered, and what it asks for is answered by what the test has scripted.

    from commander.testing import run_agent

    async def test_it_asks_for_a_forecast():
        run = await run_agent(weather, "Will it rain?", tools={"forecast": lambda city: {"rain_mm": 3}})
        assert run.text == "It will."
        assert [call.tool for call in run.calls] == ["forecast"]

What needs a dispatcher is not judged here: policies, budgets, what a tool's schema allows. All of it belongs to one
event loop, that of the test; a sync agent has a thread of its own, as always.
"""

import asyncio
import contextlib
import inspect
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from jsonschema.exceptions import ValidationError
from jsonschema.validators import validator_for
from pydantic_core import to_jsonable_python
from referencing.jsonschema import EMPTY_REGISTRY
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import codec
from commander.agent import Agent, AnyAgent
from commander.conversation import (
    Message,
    Published,
    Request,
    ToolAnswer,
    ToolFailure,
    ToolOffer,
    UserAnswer,
    UserMessage,
    checked_messages,
)
from commander.core.batch import Rotation
from commander.core.turn import Done, Numbered, Outcome, Packet, Turn, Usage
from commander.crossing import Crossing
from commander.doorbell import Doorbell
from commander.errors import AgentFailure, InvalidArguments, ToolFailed
from commander.metrics import Metrics
from commander.models.scripted import (
    HANGS,
    ModelRequest,
    Script,
    Scripted,
    ScriptedModel,
    ScriptError,
    fails,
    load,
    wants,
)
from commander.models.words import Finished, Reasoning, Tokens
from commander.runner import Runner
from commander.serve import bounds
from commander.settings import Settings

__all__ = [
    "DECLINED",
    "HANGS",
    "AgentRun",
    "Call",
    "Event",
    "Finished",
    "ModelRequest",
    "Question",
    "Reasoning",
    "ScriptError",
    "ScriptedModel",
    "Tokens",
    "fails",
    "run_agent",
    "running_agent",
    "wants",
]

# Whatever is waited for has come by then, or the test fails and says what it waited for.
PATIENCE_S: Final = 10.0
# Said to a question as its answer: the user will not answer.
DECLINED: Final = object()

Tool = Callable[..., Any]
Answers = Mapping[str, object] | Callable[["Question"], object]


@dataclass(frozen=True, slots=True)
class Event:
    """What the agent said. `kind`: content, thought, progress, tool_call, question, artifact, embedding, usage,
    agent_event, and withdrawal, where it waits no longer for a call or a question; `agent`: the sub-agent's path, empty
    for the root; `fields`: as the contract names them. Pieces of one text that an agent says one after the other are
    one event."""

    kind: str
    fields: Mapping[str, Any]
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `result` is what the agent was given, None while there is none and for one that failed;
    `failure` is the failure's code then, and "cancelled" where the agent has waited no longer."""

    tool: str
    arguments: Mapping[str, Any]
    result: Any = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the user. `schema`: what an answer must fit; empty for any."""

    question_id: str
    text: str
    options: tuple[str, ...]
    schema: Mapping[str, Any]


class AgentRun:
    """One turn of an agent: what has come of it so far, and what may be done to it. Made by `running_agent`."""

    def __init__(
        self,
        agent: AnyAgent,
        request: Request,
        tools: Mapping[str, Tool],
        answers: Answers | None,
        models: Mapping[str, Script | ScriptedModel],
        patience_s: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        told = bounds(Settings())
        self.events: list[Event] = []
        self.calls: list[Call] = []
        self.questions: list[Question] = []
        # By name.
        self.artifacts: dict[str, bytes] = {}
        self.usage = Usage()
        # completed, failed or stopped; empty while it runs.
        self.outcome = ""
        # Why it failed.
        self.failure: AgentFailure | None = None
        self._tools = tools
        self._answers = answers
        self._patience_s = patience_s
        self._doorbell = Doorbell(loop)
        self._rotation = Rotation(Settings().max_message_bytes)
        self._turn = Turn(request.session_id, request.attempt, told.turn, credit=None)
        self._crossing = Crossing(self._turn, request, self._rotation, self._doorbell, told)
        metrics = Metrics()
        self._models = Scripted(models, metrics, self._has_changed, self._is_wrong)
        self._runner = Runner(
            {(agent.name, agent.version): agent},
            loop,
            lambda *_: _call_soon(loop, self._has_ended),
            metrics,
            self._models.models,
        )
        self._agent = agent
        self._open: dict[str, Question] = {}
        # What comes with time alone: that of the session is over, a question has expired.
        self._timers: list[asyncio.TimerHandle] = []
        self._running: set[asyncio.Task[None]] = set()
        # Calls without an answer, by id: where they are among `calls`, and what answers them.
        self._calling: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._seen = 0
        # By path, where the last event of that agent is.
        self._last_of: dict[str, int] = {}
        # What the test has to hear instead of what it waits for.
        self._wrong: Exception | None = None

    def __repr__(self) -> str:
        return f"<AgentRun of {self._agent.name}: {self.outcome or 'running'}, {len(self.events)} events>"

    # --- what it said -------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The answer: all content of the root agent."""
        return "".join(event.fields["text"] for event in self._of("content"))

    @property
    def thoughts(self) -> str:
        """All its reasoning, whatever the step."""
        return "".join(event.fields["delta"] for event in self._of("thought"))

    @property
    def model_requests(self) -> list[ModelRequest]:
        """What the scripted models were asked, in order."""
        return self._models.requests

    def kinds(self) -> list[str]:
        """Of all events, in order."""
        return [event.kind for event in self.events]

    def _of(self, kind: str) -> Iterable[Event]:
        return (event for event in self.events if event.kind == kind and not event.agent)

    # --- what may be done to it -----------------------------------------------------------------------------------

    async def until(self, kind: str) -> Event:
        """The next event of this kind, behind the last one that this returned."""
        while True:
            await self._when(lambda: len(self.events) > self._seen, f"an event {kind!r}")
            event = self.events[self._seen]
            self._seen += 1
            if event.kind == kind:
                return event

    async def until_text(self, text: str) -> None:
        """Until the answer has this in it."""
        await self._when(lambda: text in self.text, f"{text!r} in {self.text!r}")

    async def until_model_request(self, count: int = 1) -> ModelRequest:
        """The request of this number to a scripted model, from 1, once it has come."""
        await self._when(lambda: len(self.model_requests) >= count, f"request {count} to a model")
        return self.model_requests[count - 1]

    def say(self, text: str) -> None:
        """The user adds something while the agent runs. ScriptError once it runs no more, or when too many wait."""
        if self.outcome or self._turn.fenced:
            raise ScriptError(f"nobody hears {text!r}: the turn is over")
        if not self._crossing.tell_message(UserMessage(text), 0):
            raise ScriptError("the agent reads no messages, and no more may wait")

    def answer(self, value: object, question_id: str = "") -> None:
        """Answers the oldest open question, or the one with this id; `DECLINED`: the user will not.

        Raises ScriptError where none is open, and for an answer that its options or its schema don't allow, as a
        dispatcher would not let it through.
        """
        found = self._open.get(question_id) if question_id else next(iter(self._open.values()), None)
        if found is None:
            raise ScriptError(
                f"no question {question_id or 'is open'}: {[each.text for each in self.questions]}"
            )
        told = UserAnswer("", "declined") if value is DECLINED else _fitting(found, value)
        del self._open[found.question_id]
        self._crossing.tell_answer(found.question_id, told)

    def expire(self, question_id: str = "") -> None:
        """Nobody has answered the oldest open question, or the one with this id, in its time."""
        found = question_id or next(iter(self._open), "")
        if self._open.pop(found, None) is None:
            raise ScriptError("no such question is open")
        self._crossing.tell_answer(found, UserAnswer("", "expired"))

    def stop(self, reason: str = "the test stops it") -> None:
        """As a stop from outside: the agent is cancelled, and nothing it says from here on counts."""
        if not self._turn.fenced and not self.outcome:
            self._turn.fence()
            self._runner.cancel(self._crossing, reason)
            for task in self._running:
                task.cancel()

    async def over(self) -> "AgentRun":
        """Until the agent has ended: itself. Raises ScriptError for what was not scripted."""
        await self._when(lambda: bool(self.outcome) and self._ended.is_set(), "its end")
        return self

    async def _when(self, is_so: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                while self._wrong is not None or not is_so():
                    if self._wrong is not None:
                        raise self._wrong
                    if self.outcome and self._ended.is_set():
                        raise ScriptError(
                            f"the agent has ended ({self.outcome}) without {what}: {self.failure}"
                        )
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            waiting = self._turn.phase.name.lower().replace("_", " ")
            told = f"{what} did not come within {self._patience_s:g} s; the agent is {waiting}"
            raise ScriptError(f"{told}, and has said {self.kinds()}") from None

    # --- inside ---------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Runs it, until it has ended or this is cancelled."""
        left_s = self._crossing.request.left_s
        if left_s is not None:
            self._later(left_s, lambda: self.stop("the session's time is over"))
        self._runner.begin(self._crossing, (self._agent.name, self._agent.version))
        while not (self._ended.is_set() and not self._rotation):
            for each in self._rotation.gather():
                assert isinstance(each, Numbered)
                self._crossing.tell_room()
                self._take(each.packet)
                self._changed.set()
            await self._doorbell.wait(lambda: bool(self._rotation) or self._ended.is_set())
        if self._turn.fenced:
            self.outcome = "stopped"
        self._changed.set()

    async def leave(self) -> None:
        """Stops it, if it still runs, and waits for its end."""
        self.stop("the test is over")
        try:
            async with asyncio.timeout(self._patience_s):
                await self._ended.wait()
        except TimeoutError:
            raise ScriptError(f"the agent ignored its stop for {self._patience_s:g} s") from None
        finally:
            for timer in self._timers:
                timer.cancel()
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)

    def has_lived(self, living: "asyncio.Future[None]") -> None:
        """What went wrong here is what the test hears, and not that nothing comes any more."""
        if not living.cancelled() and isinstance(error := living.exception(), Exception):
            self._is_wrong(error)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(seconds, call))

    def _has_ended(self) -> None:
        self._ended.set()
        self._doorbell.ring_here()

    def _take(self, packet: Packet) -> None:
        payload = packet.payload
        if isinstance(payload, Done):
            self.outcome = "completed" if payload.outcome is Outcome.COMPLETED else "failed"
            self.failure = payload.error if isinstance(payload.error, AgentFailure) else None
            return
        wire = pb.UpstreamPacket()
        codec.fill_payload(wire, payload, packet.path)
        kind = wire.WhichOneof("payload") or ""
        told = getattr(wire, kind)
        self._add(Event(kind, _fields(told), packet.path))
        if kind == "tool_call":
            self._call(told)
        elif kind == "question":
            self._ask(told)
        elif kind == "withdrawal":
            self._withdraw(told)
        elif kind == "artifact":
            self.artifacts[told.name] = self.artifacts.get(told.name, b"") + told.data
        elif kind == "usage":
            used = Usage(told.input_tokens, told.output_tokens, told.reasoning_tokens, told.model)
            self.usage = self.usage + used

    def _add(self, event: Event) -> None:
        """How text is cut into packets, and how members of a team take turns, depends on the machine's pace: so what
        one agent says on and on is one event."""
        place = self._last_of.get(event.agent)
        name = _JOINED.get(event.kind, "")
        if place is not None and name and _alike(last := self.events[place], event, name):
            joined = {**last.fields, name: last.fields[name] + event.fields[name]}
            self.events[place] = Event(last.kind, joined, last.agent)
        else:
            self._last_of[event.agent] = len(self.events)
            self.events.append(event)

    def _begin(self, answering: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(answering)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _call(self, asked: pb.ToolCallRequest) -> None:
        arguments = json.loads(asked.arguments_json or "{}")
        place = len(self.calls)
        self.calls.append(Call(asked.tool_name, arguments))
        self._calling[asked.call_id] = place, self._begin(self._answer_call(asked, arguments, place))

    async def _answer_call(self, asked: pb.ToolCallRequest, arguments: Mapping[str, Any], place: int) -> None:
        timeout_s = asked.timeout_ms / 1000 if asked.HasField("timeout_ms") else None
        answer = await self._answered(asked, arguments, timeout_s)
        if self._calling.pop(asked.call_id, None) is None:
            return  # it was withdrawn, and the tool has not heeded that
        failure = "" if answer.failure is None else answer.failure.code
        result = json.loads(answer.result_json) if answer.result_json else None
        self.calls[place] = Call(asked.tool_name, arguments, result, failure)
        self._crossing.tell_result(asked.call_id, answer)

    async def _answered(
        self, asked: pb.ToolCallRequest, arguments: Mapping[str, Any], timeout_s: float | None
    ) -> ToolAnswer:
        tool = self._tools.get(asked.tool_name)
        if tool is None:
            there = ", ".join(sorted(self._tools)) or "none"
            return ToolAnswer("", ToolFailure("not_found", f"no such tool; the test has scripted: {there}"))
        bound = asyncio.timeout(timeout_s)
        try:
            async with bound:
                _check_arguments(asked.tool_name, tool, arguments)
                made = tool(**arguments)
                result = await made if inspect.isawaitable(made) else made
            # An agent that says nothing has answered with an empty text.
            return ToolAnswer(_json("" if asked.to_agent and result is None else result))
        except ToolFailed as failed:
            return ToolAnswer(
                "", ToolFailure(failed.code, failed.message, failed.retryable, failed.retry_after_s)
            )
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                raise
            if bound.expired():
                return ToolAnswer(
                    "", ToolFailure("timeout", f"no answer within {timeout_s:g} s", retryable=True)
                )
            # As in a dispatcher: the agent is told, and goes on.
            return ToolAnswer("", ToolFailure("failed", f"{type(error).__name__}: {error}"))

    def _withdraw(self, withdrawal: pb.Withdrawal) -> None:
        """As in a dispatcher: a tool that runs is cancelled, and the question is open no more."""
        call_id, question_id = withdrawal.call_id, withdrawal.question_id
        if call_id in self._calling:
            place, task = self._calling.pop(call_id)
            task.cancel()
            self.calls[place] = replace(self.calls[place], failure="cancelled")
            failure = ToolFailure("cancelled", "its caller waits no longer")
            self._crossing.tell_result(call_id, ToolAnswer("", failure))
        elif self._open.pop(question_id, None) is not None:
            self._crossing.tell_answer(question_id, UserAnswer("", "withdrawn"))

    def _ask(self, asked: pb.Question) -> None:
        schema = json.loads(asked.response_schema_json) if asked.response_schema_json else {}
        question = Question(asked.question_id, asked.text, tuple(asked.options), schema)
        self.questions.append(question)
        self._open[question.question_id] = question
        if asked.HasField("expires_in"):
            self._later(asked.expires_in.ToTimedelta().total_seconds(), lambda: self._expire(question))
        if self._answers is None:
            return
        try:
            self.answer(self._scripted(question), question.question_id)
        except Exception as error:  # noqa: BLE001 - the test is told, by what it waits for
            self._is_wrong(error)

    def _expire(self, question: Question) -> None:
        if question.question_id in self._open:
            self.expire(question.question_id)

    def _is_wrong(self, error: Exception) -> None:
        self._wrong = self._wrong or error
        self._has_changed()

    def _has_changed(self) -> None:
        self._changed.set()

    def _scripted(self, question: Question) -> object:
        assert self._answers is not None
        if not isinstance(self._answers, Mapping):
            return self._answers(question)
        if question.text in self._answers:
            return self._answers[question.text]
        raise ScriptError(
            f"the agent asks {question.text!r}, and answers has {', '.join(map(repr, self._answers)) or 'nothing'}"
        )


@contextlib.asynccontextmanager
async def running_agent(
    agent: AnyAgent,
    asked: str | Sequence[Message] = "",
    *,
    tools: Mapping[str, Tool] | None = None,
    offers: Sequence[ToolOffer] | None = None,
    answers: Answers | None = None,
    models: Mapping[str, Script | ScriptedModel] | None = None,
    metadata: Mapping[str, str] | None = None,
    user_id: str = "",
    attempt: int = 1,
    published: Published | None = None,
    time_left_s: float | None = None,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[AgentRun]:
    """The agent, running until the block ends; then it is stopped, if it has not ended.

    `asked`: the user's words, or the whole conversation. `tools`: by name, plain or async functions that take the
    arguments and return what JSON can hold; one raises ToolFailed, or a kind of it, to fail so. `offers`: what the
    agent is told of tools; else their names, and their docstrings' first lines. `answers`: by a question's text, or a
    function of the `Question`; None: whoever tests answers by `AgentRun.answer`. `models`: by name, the first is the
    default, what each says: the pieces of one answer, a list of answers, one for each request, or a function of the
    `ModelRequest`; they need the extra llm. `published`: what an agent that
    continues finds, with `attempt` 2 or more. `patience_s`: how long anything is waited for.
    """
    if not isinstance(agent, Agent):
        raise ScriptError(
            f"{agent!r} is no agent: put @agent before the function, or name what it made of it"
        )
    scripted = dict(tools or {})
    request = Request(
        session_id=f"test-{uuid.uuid4().hex[:8]}",
        attempt=attempt,
        messages=(Message("user", (asked,)),) if isinstance(asked, str) else checked_messages("asked", asked),
        tools=tuple(map(_offer, scripted.items())) if offers is None else tuple(offers),
        metadata=dict(metadata or {}),
        user_id=user_id,
        deadline=None if time_left_s is None else time.monotonic() + time_left_s,
        published=published,
    )
    if models:
        # It takes seconds, and more on a busy machine: nothing that the agent has to answer for.
        await asyncio.to_thread(load)
    run = AgentRun(agent, request, scripted, answers, models or {}, patience_s)
    living = asyncio.ensure_future(run.live())
    living.add_done_callback(run.has_lived)
    try:
        yield run
    finally:
        try:
            await run.leave()
            await living
        finally:
            living.cancel()


async def run_agent(agent: AnyAgent, asked: str | Sequence[Message] = "", **scene: Any) -> AgentRun:
    """Runs the agent to its end, and gives what came of it; `scene` as in `running_agent`.

    A question that `answers` does not know is an error, as nobody would answer it. Raises ScriptError.
    """
    scene.setdefault("answers", {})
    async with running_agent(agent, asked, **scene) as run:
        return await run.over()


# What of neighbours is one text.
_JOINED: Final = {"content": "text", "thought": "delta"}


def _alike(last: Event, event: Event, name: str) -> bool:
    return (last.kind, last.agent) == (event.kind, event.agent) and all(
        last.fields[each] == event.fields[each] for each in event.fields if each != name
    )


def _fields(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _offer(scripted: tuple[str, Tool]) -> ToolOffer:
    name, tool = scripted
    lines = (tool.__doc__ or "").strip().splitlines()
    return ToolOffer(name, lines[0] if lines else "", {})


def _fitting(question: Question, value: object) -> UserAnswer:
    """ScriptError for what a dispatcher would refuse. A schema that is none it holds against nobody."""
    if question.options and value not in question.options:
        raise ScriptError(f"{question.text!r}: {value!r} is none of {', '.join(map(repr, question.options))}")
    try:
        told = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ScriptError(f"{question.text!r}: {value!r} is no JSON: {error}") from None
    try:
        if question.schema:
            checks = validator_for(question.schema)(question.schema, registry=EMPTY_REGISTRY)
            checks.validate(json.loads(told))
    except ValidationError as error:
        raise ScriptError(f"{question.text!r}: {value!r} does not fit: {error.message}") from None
    except Exception:  # noqa: BLE001 - whatever jsonschema makes of what is no schema
        return UserAnswer(told)
    return UserAnswer(told)


def _check_arguments(name: str, tool: Tool, arguments: Mapping[str, Any]) -> None:
    """As the schema that a dispatcher makes of the function: which there are, and which there have to be."""
    try:
        signature = inspect.signature(tool)
    except (TypeError, ValueError):  # not every function of C has one
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InvalidArguments(name, f"{error}; the scripted tool takes {signature}") from None


def _json(result: object) -> str:
    """What a tool returned, as a dispatcher tells it. TypeError or ValueError for what has no JSON form."""

    def plain(value: object) -> object:
        if isinstance(value, bytes | bytearray | memoryview):
            raise TypeError("bytes are not JSON")
        return to_jsonable_python(value)

    return json.dumps(result, allow_nan=False, default=plain)


def _is_cancelled() -> bool:
    """This very task is to end, whatever it does."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    # A sync agent that ends later than its test has nobody to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
