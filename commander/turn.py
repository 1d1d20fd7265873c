"""What an agent's author holds: `Turn` in async agents, `BlockingTurn` in sync ones.

Both say the same things and ask the same things; they differ only in how they wait.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from commander.conversation import (
    Message,
    Published,
    ToolAnswer,
    ToolFailure,
    ToolOffer,
    UserAnswer,
    UserMessage,
    checked_messages,
)
from commander.core.turn import Usage
from commander.crossing import Passage
from commander.errors import TOOL_FAILURES, QuestionUnanswered, Stopped, ToolFailed, ToolTimeout
from commander.outputs import Artifact, Content, Embedding, Output, Progress, Thought, Used
from commander.sealing import WAIT_S_MAX

if TYPE_CHECKING:
    from commander.blocking_team import BlockingTeam
    from commander.models.blocking import BlockingModel
    from commander.models.model import Model, TurnModels
    from commander.team import Team, Teams

# The dispatcher answers a call that has timed out; this much later nobody will.
_TIMEOUT_MARGIN_S = 2.0
# Larger numbers are no help, and may be as long as they like.
_SHOWN_MAX = 1e40


class Asked:
    """What a turn was asked, and what it may say: the part that waits for nothing."""

    def __init__(self, crossing: Passage) -> None:
        self._crossing = crossing
        self._request = crossing.request

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session_id}/{self.attempt}>"

    @property
    def session_id(self) -> str:
        return self._request.session_id

    @property
    def path(self) -> str:
        """Of this member of a team, as viewers see it: "insight", or "team/insight". Empty: no member."""
        return self._crossing.path

    @property
    def attempt(self) -> int:
        """1, and one more each time another commander was lost with this session."""
        return self._request.attempt

    @property
    def text(self) -> str:
        """The text of the user's last message; empty when there is none."""
        return self._request.text

    @property
    def conversation(self) -> tuple[Message, ...]:
        """All messages, oldest first."""
        return self._request.messages

    @property
    def tools(self) -> tuple[ToolOffer, ...]:
        """The tools on offer, with their schemas."""
        return self._request.tools

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the application attached to the request."""
        return self._request.metadata

    @property
    def user_id(self) -> str:
        """Whose session it is; empty when that was not said."""
        return self._request.user_id

    @property
    def published(self) -> Published | None:
        """For an agent that continues: what viewers already have of a session whose earlier attempt was lost. None:
        it begins from nothing."""
        return self._request.published

    @property
    def time_left_s(self) -> float | None:
        """How long the session may still take, seconds. None: no bound."""
        return self._request.left_s

    @property
    def trace_context(self) -> tuple[str, str]:
        """W3C traceparent and tracestate of the request; empty when there are none."""
        return self._request.traceparent, self._request.tracestate

    # -- what it may say: yield it, or emit it ---------------------------------------------------------------

    def content(self, text: str) -> Content:
        """A piece of the answer: the same as yielding `text` itself."""
        return Content(text)

    def thought(self, step: str, text: str) -> Thought:
        """A piece of the reasoning; pieces of one step in a row belong together."""
        return Thought(step, text)

    def progress(
        self,
        text: str,
        *,
        current: float | None = None,
        total: float | None = None,
        percent: float | None = None,
        left_s: float | None = None,
    ) -> Progress:
        """How far the work is; `percent` is 0 to 100, `left_s` how long it may still take, seconds: told in words."""
        return Progress(text, current, total, percent, left_s)

    def artifact(
        self, name: str, data: bytes | bytearray | memoryview, *, mime_type: str = "application/octet-stream"
    ) -> Artifact:
        """Binary output of any size; it crosses in pieces."""
        with self._crossing.guard:
            artifact_id = self._crossing.mint_artifact_id()
        return Artifact(name, data, mime_type, artifact_id)

    def embedding(self, values: Sequence[float], *, name: str = "", model: str = "") -> Embedding:
        """A vector of numbers; they cross with 4 bytes each."""
        return Embedding(values, name, model)

    def usage(
        self, *, input_tokens: int = 0, output_tokens: int = 0, reasoning_tokens: int = 0, model: str = ""
    ) -> Used:
        """Tokens used since the last one of these."""
        return Used(Usage(input_tokens, output_tokens, reasoning_tokens, model))

    def summarize(self, text: str) -> None:
        """Of a member of a team: what viewers are told of it, in a line, when it has completed. The last one counts."""
        self._crossing.summarize(text)

    def take_messages(self) -> list[UserMessage]:
        """What the user has said meanwhile, without waiting for it. What is not taken is given back as unread."""
        return self._crossing.take_messages()


class Turn(Asked):
    """One turn of an async agent. Everything that waits is awaited, in the agents' loop."""

    def __init__(self, crossing: Passage, models: "TurnModels", teams: "Teams") -> None:
        super().__init__(crossing)
        self._models = models
        self._teams = teams
        # Whoever waits for room has it: those after wait in their order, and not all are woken for each place.
        self._emitting = asyncio.Lock()

    async def emit(self, output: Output | str) -> None:
        """Sends without yielding, from a function that is no generator. Waits while the outbox is full."""
        crossing = self._crossing
        if crossing.turn.has_room and not self._emitting.locked():
            _emit(crossing, output)
            return
        async with self._emitting:
            while not (crossing.turn.has_room or crossing.is_over):
                await asyncio.wrap_future(crossing.room())
            _emit(crossing, output)

    def model(self, name: str = "") -> "Model":
        """A language model of the settings; without a name the default one. ModelFailed lists those there are."""
        return self._models.model(name, self.emit)

    def team(self) -> "Team":
        """Sub-agents beside each other: `async with turn.team() as team: team.start("insight", …)`."""
        return self._teams.team()

    async def delegate(
        self,
        agent: str,
        text: str = "",
        *,
        messages: Sequence[Message] = (),
        agent_version: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """What another agent answers, on whatever commander: its text. It is asked `text`, or the `messages` of a
        conversation, with this request's metadata and `metadata`; its events are seen under this turn's. It is stopped
        with this turn and may use what this one has left. Raises a ToolFailed, whose `tool` is the agent's name."""
        task = delegated_task(text, messages, agent_version, metadata)
        call_id, answer = self._crossing.call(agent, task, timeout_s, "", to_agent=True)
        try:
            return _answered_text(agent, await asyncio.wrap_future(answer))
        finally:
            self._crossing.withdraw(call_id=call_id)

    async def call_tool(self, name: str, /, **arguments: object) -> Any:
        """What the tool returns, parsed from JSON. Raises a ToolFailed. Several may run at once (gather)."""
        return await self.call_tool_with(name, arguments)

    async def call_tool_with(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
    ) -> Any:
        """As `call_tool`. `timeout_s` cuts the tool's own timeout; the key, up to 128 printable characters without
        blanks, lets the tool's world tell a repeat."""
        call_id, answer = self._crossing.call(name, arguments, timeout_s, idempotency_key)
        try:
            waiting = asyncio.wrap_future(answer)
            if timeout_s is None:
                return _tool_result(name, await waiting)
            async with asyncio.timeout(_patience_s(timeout_s)):
                return _tool_result(name, await waiting)
        except TimeoutError:
            raise _unanswered(name, timeout_s) from None
        finally:
            self._crossing.withdraw(call_id=call_id)

    async def ask(
        self,
        question: str,
        options: Sequence[str] = (),
        *,
        schema: Mapping[str, object] | None = None,
        expires_in_s: float | None = None,
    ) -> Any:
        """What the user answers: any JSON value, or one of `options`. Raises QuestionUnanswered."""
        question_id, answer = self._crossing.ask(question, options, schema, expires_in_s)
        try:
            return _user_value(await asyncio.wrap_future(answer))
        finally:
            self._crossing.withdraw(question_id=question_id)

    async def messages(self) -> AsyncIterator[UserMessage]:
        """What the user says while the agent runs, one by one, until the turn is over."""
        with suppress(Stopped):
            while True:
                message = self._crossing.next_message()
                if isinstance(message, UserMessage):
                    yield message
                else:
                    await asyncio.wrap_future(message)


class BlockingTurn(Asked):
    """One turn of a sync agent, in a thread of its own. Everything that waits blocks that thread."""

    def __init__(
        self, crossing: Passage, models: "TurnModels", teams: "Teams", loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(crossing)
        self._models = models
        self._teams = teams
        self._loop = loop
        self._emitting = Lock()

    def emit(self, output: Output | str) -> None:
        """Sends without yielding. Blocks while the outbox is full."""
        crossing = self._crossing
        # One at a time: an author's own threads may emit beside each other.
        with self._emitting:
            while not (crossing.turn.has_room or crossing.is_over):
                crossing.room().result()
            with crossing.guard:
                _emit(crossing, output)

    def model(self, name: str = "") -> "BlockingModel":
        """A language model of the settings; without a name the default one. ModelFailed lists those there are."""
        from commander.models.blocking import BlockingModel  # noqa: PLC0415 - it knows turns as well

        return BlockingModel(self._models.model(name, None), self._loop, self.emit)

    def team(self) -> "BlockingTeam":
        """Sub-agents beside each other: `with turn.team() as team: team.start("insight", …)`."""
        from commander.blocking_team import BlockingTeam  # noqa: PLC0415 - it knows turns as well

        return BlockingTeam(self._teams.team(), self._loop)

    def delegate(
        self,
        agent: str,
        text: str = "",
        *,
        messages: Sequence[Message] = (),
        agent_version: str = "",
        metadata: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """As `Turn.delegate`; blocks until the other agent has answered."""
        task = delegated_task(text, messages, agent_version, metadata)
        with self._crossing.guard:
            call_id, answer = self._crossing.call(agent, task, timeout_s, "", to_agent=True)
        try:
            return _answered_text(agent, answer.result())
        finally:
            with self._crossing.guard:
                self._crossing.withdraw(call_id=call_id)

    def call_tool(self, name: str, /, **arguments: object) -> Any:
        """What the tool returns, parsed from JSON. Raises a ToolFailed."""
        return self.call_tool_with(name, arguments)

    def call_tool_with(
        self,
        name: str,
        arguments: Mapping[str, object],
        *,
        timeout_s: float | None = None,
        idempotency_key: str = "",
    ) -> Any:
        """As `call_tool`. `timeout_s` cuts the tool's own timeout; the key, up to 128 printable characters without
        blanks, lets the tool's world tell a repeat."""
        with self._crossing.guard:
            call_id, answer = self._crossing.call(name, arguments, timeout_s, idempotency_key)
        try:
            return _tool_result(name, answer.result(None if timeout_s is None else _patience_s(timeout_s)))
        except TimeoutError:
            raise _unanswered(name, timeout_s) from None
        finally:
            with self._crossing.guard:
                self._crossing.withdraw(call_id=call_id)

    def ask(
        self,
        question: str,
        options: Sequence[str] = (),
        *,
        schema: Mapping[str, object] | None = None,
        expires_in_s: float | None = None,
    ) -> Any:
        """What the user answers: any JSON value, or one of `options`. Raises QuestionUnanswered."""
        with self._crossing.guard:
            question_id, answer = self._crossing.ask(question, options, schema, expires_in_s)
        try:
            return _user_value(answer.result())
        finally:
            with self._crossing.guard:
                self._crossing.withdraw(question_id=question_id)

    def messages(self) -> Iterator[UserMessage]:
        """What the user says while the agent runs, one by one, until the turn is over."""
        with suppress(Stopped):
            while True:
                message: UserMessage | Future[None] = self._crossing.next_message()
                if isinstance(message, UserMessage):
                    yield message
                else:
                    message.result()


def _emit(crossing: Passage, output: object) -> None:
    if isinstance(output, str):
        crossing.say(output)
    elif isinstance(output, Output):
        crossing.put(output)
    else:
        raise not_sayable("emitted", output)


def not_sayable(how: str, output: object) -> TypeError:
    """What to raise for something that can't be said. Users read it: of what it holds, only numbers are told."""
    kind = type(output)
    shown = f" {str(output)!r}" if isinstance(output, int | float) and abs(output) < _SHOWN_MAX else ""
    return TypeError(
        f"an agent {how} {kind.__name__}{shown}; it may be a str, or what"
        f" turn.content, .thought, .progress, .artifact, .embedding or .usage makes{what_is_meant(kind)}"
    )


def what_is_meant(kind: type) -> str:
    """What an author has forgotten, as far as the type tells."""
    if hasattr(kind, "__await__"):
        return ": await it first"
    if hasattr(kind, "__anext__") or hasattr(kind, "__next__"):
        return ": yield what it gives, piece by piece"
    return ""


def delegated_task(
    text: str, messages: Sequence[Message], agent_version: str, metadata: Mapping[str, str] | None
) -> dict[str, object]:
    """What another agent is asked, as a call's arguments. Raises ValueError or TypeError."""
    if bool(text) == bool(messages):
        raise ValueError("delegate: either a text or messages should be given, and not be empty")
    if not isinstance(text, str):
        raise TypeError(f"delegate: text should be a str, not {type(text).__name__}")
    if not (metadata is None or isinstance(metadata, Mapping)):
        raise TypeError(f"delegate: metadata should be a dict of texts, not {type(metadata).__name__}")
    told = [_said(each) for each in checked_messages("delegate", messages)]
    task: dict[str, object] = {"text": text} if text else {"messages": told}
    if agent_version:
        task["agent_version"] = agent_version
    if metadata:
        task["metadata"] = dict(metadata)
    return task


def _said(message: Message) -> dict[str, str]:
    if message.role == "tool" or not all(isinstance(part, str) for part in message.parts):
        raise ValueError("another agent can be told messages of text alone, and none of tools")
    return {"role": message.role, "text": message.text}


def _answered_text(agent: str, answer: ToolAnswer) -> str:
    match _tool_result(agent, answer):
        case {"text": str(text)}:
            return text
        case other:  # of a dispatcher that has a tool of that name, and knows of no agents
            return other if isinstance(other, str) else json.dumps(other, ensure_ascii=False)


def _tool_result(tool: str, answer: ToolAnswer) -> object:
    if answer.failure is not None:
        raise _tool_failed(tool, answer.failure)
    try:
        return json.loads(answer.result_json) if answer.result_json else None
    except ValueError as error:
        raise ToolFailed(tool, f"its result is no JSON: {error}") from None


def _tool_failed(tool: str, failure: ToolFailure) -> ToolFailed:
    kind = TOOL_FAILURES.get(failure.code, ToolFailed)
    return kind(tool, failure.message, retryable=failure.retryable, retry_after_s=failure.retry_after_s)


def _patience_s(timeout_s: float) -> float:
    """How long a call with this timeout is waited for. Threads can't wait for any number of seconds."""
    return min(timeout_s, WAIT_S_MAX) + _TIMEOUT_MARGIN_S


def _unanswered(tool: str, timeout_s: float | None) -> ToolTimeout:
    return ToolTimeout(tool, f"no answer within {timeout_s:g} s", retryable=True)


def _user_value(answer: UserAnswer) -> object:
    if answer.unanswered is not None:
        raise QuestionUnanswered(answer.unanswered)
    try:
        return json.loads(answer.value_json)
    except ValueError:
        return answer.value_json
