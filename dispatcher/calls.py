"""Between the core, which decides that a call is to run, and what runs it: a tool here, or an agent on some commander.

What comes back to the core is always an event: the call has come to something, or a session is asked for that will
answer it.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core import packets
from dispatcher.core.approval import APPROVE, DENY
from dispatcher.core.events import (
    ApprovalRequested,
    Delegated,
    DelegationRequested,
    Event,
    RunTool,
    SessionRequested,
    ToolFinished,
    ToolProgressed,
)
from dispatcher.core.policy import Budgets
from dispatcher.core.session import Session
from dispatcher.readable import readable
from dispatcher.rpc import codec
from dispatcher.tools.contract import Approval, Delegation, Progressed, ToolOutcome, ToolRequest, sendable
from dispatcher.tools.runner import ToolRunner

# A tool may say anything; on the wire it is a number of milliseconds.
_RETRY_AFTER_S_MAX: Final = 604_800.0
# Of a call's arguments, in the question whether it may run; viewers have the call itself as well.
_ARGUMENTS_CHARS_MAX: Final = 1_000
_ROLES: Final = {
    "system": agent_pb2.ROLE_SYSTEM,
    "user": agent_pb2.ROLE_USER,
    "assistant": agent_pb2.ROLE_ASSISTANT,
}


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"] = "user"
    text: str = Field(min_length=1)


class Task(BaseModel):
    """What an agent asks of another: the arguments of such a call."""

    model_config = ConfigDict(extra="forbid")

    text: str = ""
    messages: list[_Said] = Field(default_factory=list, max_length=10_000)
    agent_version: str = Field(default="", max_length=codec.ID_CHARS_MAX)
    metadata: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_something(self) -> "Task":
        if bool(self.text) == bool(self.messages):
            raise ValueError('should have either text, or messages, e.g. {"text": "Find three sources"}')
        return self


class Calls:
    """`sessions` are the core's, to be read; `submit` is its ear; `request_bytes_max`: the largest request that goes to
    an agent; `progress_s`: no call tells more often how far it is."""

    def __init__(
        self,
        runner: ToolRunner,
        sessions: Callable[[], Mapping[str, Session]],
        submit: Callable[[Event], object],
        *,
        request_bytes_max: int,
        progress_s: float,
    ) -> None:
        self._runner = runner
        self._submit = submit
        self._progress_s = progress_s
        self._sessions = sessions
        self._request_bytes_max = request_bytes_max

    def __repr__(self) -> str:
        return f"<Calls of {self._runner!r}>"

    async def run(self, effect: RunTool) -> Event:
        """What a call comes to. Raises CancelledError alone."""
        call = effect.call
        if call.to_agent:
            return self._delegated(effect, call.tool_name, call.arguments_json, call.timeout_ms)
        request = ToolRequest(
            session_id=effect.session_id,
            attempt=effect.attempt,
            call_id=call.call_id,
            tool_name=call.tool_name,
            arguments_json=call.arguments_json,
            idempotency_key=call.idempotency_key,
            timeout_s=None if call.timeout_ms is None else call.timeout_ms / 1000,
            user_id=effect.user_id,
            agent=effect.agent,
            session_agent=effect.session_agent,
            is_approved=effect.is_approved,
            progressed=self._progressed(effect),
        )
        outcome = await self._runner.run(request)
        match outcome.instead:
            case Delegation(agent, arguments_json, timeout_s):
                return self._delegated(effect, agent, arguments_json, int(timeout_s * 1000))
            case Approval() as approval:
                return _asked(effect, approval)
        return _finished(effect, outcome)

    def _progressed(self, effect: RunTool) -> Progressed:
        """What a tool calls to say how far it is, from any thread."""
        loop = asyncio.get_running_loop()
        told_at = -math.inf

        def tell(text: str, current: float | None, total: float | None) -> None:
            nonlocal told_at
            if (now := loop.time()) - told_at < self._progress_s:
                return
            told_at = now
            text = sendable(text)
            progress = agent_pb2.Progress(text=text, call_id=effect.call.call_id)
            if current is not None:
                progress.current = current
            if total is not None:
                progress.total = total
            body = progress.SerializeToString()
            self._submit(ToolProgressed(effect.session_id, effect.attempt, effect.call.call_id, text, body))

        def progressed(text: str, current: float | None, total: float | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and everybody with it
                loop.call_soon_threadsafe(tell, str(text), _finite(current), _finite(total))

        return progressed

    def _delegated(
        self, effect: RunTool, agent: str, arguments_json: str, timeout_ms: int | None
    ) -> DelegationRequested | ToolFinished:
        """The session that is to answer the call; or why none is asked for."""
        try:
            task = Task.model_validate_json(arguments_json or "{}")
        except ValidationError as error:
            return _finished(effect, ToolOutcome.failed("invalid_arguments", _why(error)))
        above = self._sessions().get(effect.session_id)
        ask = self._ask(task, agent, above)
        size = ask.ByteSize()
        if size > self._request_bytes_max:
            most = self._request_bytes_max
            told = f"what the agent is asked has {size} bytes; request_bytes_max is {most}"
            return _finished(effect, ToolOutcome.failed("too_large", told))
        requested = SessionRequested(
            session_id="",
            agent=agent,
            request=ask.SerializeToString(),
            agent_version=task.agent_version,
            budgets=None if timeout_ms is None else Budgets(total_time_s=timeout_ms / 1000),
        )
        return DelegationRequested(
            Delegated(effect.session_id, effect.attempt, effect.call.call_id), requested
        )

    def _ask(self, task: Task, agent: str, above: Session | None) -> chat_pb2.Ask:
        """With all that the session above was asked with, but for its conversation and its key."""
        ask = chat_pb2.Ask(agent=agent, agent_version=task.agent_version)
        requested = above.requested if above is not None else None
        if requested is not None and requested.request is not None:
            asked = codec.parse(chat_pb2.Ask, requested.request)
            ask.metadata.update(asked.metadata)
            ask.labels.update(asked.labels)
            ask.user_id = asked.user_id
            if asked.HasField("trace_context"):
                ask.trace_context.CopyFrom(asked.trace_context)
        ask.metadata.update(task.metadata)
        for said in task.messages or [_Said(text=task.text)]:
            ask.messages.add(role=_ROLES[said.role]).parts.add(text=said.text)
        return ask


def _finite(value: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _asked(effect: RunTool, approval: Approval) -> ApprovalRequested:
    """Who watches is asked whether it may run."""
    call = effect.call
    arguments = call.arguments_json or "{}"
    if len(arguments) > _ARGUMENTS_CHARS_MAX:
        arguments = arguments[: _ARGUMENTS_CHARS_MAX - 1] + "…"
    # Another one than any that the agent has made up, and than those of attempts before.
    of = f"{effect.attempt}." if effect.attempt > 1 else ""
    wait_s = approval.wait_s
    if call.timeout_ms is not None:
        # Its caller waits no longer.
        wait_s = min(call.timeout_ms / 1000, wait_s if wait_s is not None else math.inf)
    question = agent_pb2.Question(
        question_id=f"approve-{of}{call.call_id}"[: codec.ID_CHARS_MAX],
        text=f"May {call.tool_name} run with {arguments}?",
        options=[APPROVE, DENY],
        response_schema_json=approval.schema_json,
        approves_call_id=call.call_id,
    )
    if wait_s is not None:
        question.expires_in.CopyFrom(codec.duration(wait_s))
    body = question.SerializeToString()
    return ApprovalRequested(
        effect.session_id,
        effect.attempt,
        call.call_id,
        packets.Question(question.question_id, wait_s, body),
    )


def _finished(effect: RunTool, outcome: ToolOutcome) -> ToolFinished:
    failure = None
    if outcome.error is not None:
        error = outcome.error
        retry_after_s = None if error.retry_after_s is None else min(error.retry_after_s, _RETRY_AFTER_S_MAX)
        retry_after_ms = None if retry_after_s is None else int(retry_after_s * 1000)
        failure = packets.ToolFailure(error.code, error.message, error.retryable, retry_after_ms)
    answer = packets.ToolOutcome(outcome.result_json, failure, outcome.told_json)
    said = (readable(outcome.result_json), failure.message if failure is not None else "")
    text = packets.PART.join(filter(None, said))
    return ToolFinished(effect.session_id, effect.attempt, effect.call.call_id, answer, text)


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(each) for each in first["loc"])
    told = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {told}" if where else told
