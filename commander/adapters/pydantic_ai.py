"""A pydantic-ai `Agent` as an agent of ours.

The library runs the loop: model, tools of its own, output. Into it go the conversation, the dispatcher's tools as one
more toolset, and a capability that asks the user where a tool waits for approval, and hands over what the user says
meanwhile. Leaving the run's context cancels it, which closes the model's connection.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, cast

from pydantic_ai import exceptions, messages
from pydantic_ai.agent import AbstractAgent, AgentRunEvents
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering, ReinjectSystemPrompt
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.run import AgentRunResultEvent
from pydantic_ai.tools import (
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolApproved,
    ToolDefinition,
    ToolDenied,
)
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_ai.usage import UsageLimits
from pydantic_core import SchemaValidator, core_schema, to_json

from commander.adapters import offers, upstream
from commander.adapters.showing import Meter, Showing
from commander.conversation import ToolOffer
from commander.errors import AgentError, QuestionUnanswered, ToolFailed
from commander.models import Ask, blame, history
from commander.models.repair import whole
from commander.outputs import Output
from commander.turn import Turn

Deps = Callable[[Turn], Any]
_ANY_OBJECT = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


class Live:
    """What runs a turn: the agent's function."""

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        name: str,
        tools: Collection[str] | None,
        deps: Deps | None,
        usage_limits: UsageLimits | None,
    ) -> None:
        self._agent = agent
        self._name = name
        self._tools = tools
        self._deps = deps
        self._usage_limits = usage_limits

    async def __call__(self, turn: Turn) -> AsyncIterator[Output | str]:
        chosen = offers.chosen(turn, self._tools)
        names = {offer.name for offer in chosen}
        showing, meter = Showing(names), Meter()
        try:
            # Its own system prompt stays, whatever the application says besides.
            system = [message.text for message in turn.conversation if message.role == "system"]
            rest = tuple(message for message in turn.conversation if message.role != "system")
            async with self._agent.run_stream_events(
                message_history=history.messages(Ask(rest)),
                instructions="\n\n".join(system) or None,
                deps=None if self._deps is None else self._deps(turn),
                usage_limits=self._usage_limits,
                toolsets=[Offered(turn, chosen)] if chosen else None,
                capabilities=[ReinjectSystemPrompt(), Here(turn, names)],
                infer_name=False,
            ) as events:
                async for event in events:
                    for output in _said(event, showing, turn):
                        yield output
                    if not isinstance(event, messages.PartDeltaEvent):
                        for output in _used(events, meter):
                            yield output
            for output in showing.rest():
                yield output
        except Exception as error:
            failure = _failed(self._name, error, showing)
            if failure is error:
                raise
            raise failure from None


class Offered(AbstractToolset[Any]):
    """The dispatcher's tools, for one turn."""

    def __init__(self, turn: Turn, chosen: Collection[ToolOffer]) -> None:
        self._turn = turn
        self._chosen = chosen

    @property
    def id(self) -> str:
        return "dispatcher"

    @property
    def tool_name_conflict_hint(self) -> str:
        return "Give from_pydantic_ai(tools=…) the names of the dispatcher's tools that it is to have."

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        return {
            offer.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=offer.name,
                    description=offer.description,
                    parameters_json_schema=offers.schema(offer),
                ),
                max_retries=1,
                # The dispatcher checks them, against the schema.
                args_validator=_ANY_OBJECT,
            )
            for offer in self._chosen
        }

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> str:
        try:
            return await offers.called(self._turn, name, tool_args)
        except ToolFailed as failure:
            raise exceptions.ToolFailed(offers.told(failure)) from None


@dataclass
class Here(AbstractCapability[Any]):
    """The people and the dispatcher behind one turn: approvals, questions, what the user adds."""

    turn: Turn
    offered: Collection[str]

    def get_ordering(self) -> CapabilityOrdering:
        # Whatever the agent's author has to say about a deferred call comes first.
        return CapabilityOrdering(position="innermost")

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        calls = [
            call
            for call in requests.calls
            if call.tool_name in self.offered or requests.kind(call.tool_call_id) == "question"
        ]
        approvals, results = await asyncio.gather(
            asyncio.gather(*(self._approval(call) for call in requests.approvals)),
            asyncio.gather(
                *(self._result(call, requests.metadata.get(call.tool_call_id, {})) for call in calls)
            ),
        )
        return requests.build_results(
            approvals={
                call.tool_call_id: each for call, each in zip(requests.approvals, approvals, strict=True)
            },
            calls={call.tool_call_id: each for call, each in zip(calls, results, strict=True)},
        )

    async def _approval(self, call: messages.ToolCallPart) -> ToolApproved | ToolDenied:
        if await offers.approved(self.turn, call.tool_name, call.args_as_dict()):
            return ToolApproved()
        return ToolDenied("The user does not allow this call.")

    async def _result(self, call: messages.ToolCallPart, metadata: dict[str, Any]) -> Any:
        arguments = call.args_as_dict()
        try:
            if call.tool_name in self.offered:
                return await offers.called(self.turn, call.tool_name, arguments)
            text, options = _question(call.tool_name, {**arguments, **metadata})
            return await self.turn.ask(text, options)
        except ToolFailed as failure:
            return exceptions.ToolFailed(offers.told(failure))
        except QuestionUnanswered as unanswered:
            return exceptions.ToolFailed(str(unanswered))

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        self._pass_on(ctx)
        return request_context

    async def after_model_request(
        self,
        ctx: RunContext[Any],
        *,
        request_context: ModelRequestContext,
        response: messages.ModelResponse,
    ) -> messages.ModelResponse:
        # What came while it answered is answered too, before the run ends.
        self._pass_on(ctx)
        return response

    def _pass_on(self, ctx: RunContext[Any]) -> None:
        for message in self.turn.take_messages():
            ctx.enqueue(message.text)


def _question(tool: str, told: dict[str, Any]) -> tuple[str, list[str]]:
    """The words of a question that a tool defers, and the options among which it lets choose."""
    said = (told.get(key) for key in ("question", "text", "prompt", "message"))
    options = told.get("options")
    are_texts = isinstance(options, list) and all(isinstance(each, str) and each for each in options)
    text = next((each for each in said if isinstance(each, str) and each), f"{tool}: {told}")
    return whole(offers.cut(text)), options if isinstance(options, list) and are_texts else []


def _said(event: object, showing: Showing, turn: Turn) -> Iterator[Output | str]:
    match event:
        case (
            messages.PartStartEvent(part=messages.TextPart(content=text))
            | messages.PartDeltaEvent(delta=messages.TextPartDelta(content_delta=text))
        ):
            yield from showing.text(text)
        case (
            messages.PartStartEvent(part=messages.ThinkingPart(content=text))
            | messages.PartDeltaEvent(delta=messages.ThinkingPartDelta(content_delta=text))
        ):
            yield from showing.reasoning(text)
        case messages.PartStartEvent(part=messages.FilePart() as file):
            name = file.id or "file"
            yield turn.artifact(name, file.content.data, mime_type=file.content.media_type)
        # Tools that the provider runs.
        case messages.PartEndEvent(part=messages.NativeToolCallPart() as call):
            yield from showing.call(call.tool_call_id, call.tool_name, call.args)
        case messages.PartStartEvent(part=messages.NativeToolReturnPart() as returned):
            yield from showing.result(returned.tool_call_id, returned.model_response_str())
        case messages.FunctionToolCallEvent(part=call):
            yield from showing.call(call.tool_call_id, call.tool_name, call.args)
        case messages.FunctionToolResultEvent(part=returned):
            yield from showing.result(returned.tool_call_id, returned.model_response_str())
        case messages.EnqueuedMessagesEvent():
            if showing.has_begun:
                yield "\n\n"
        case AgentRunResultEvent(result=result):
            yield from _ended(result.output, showing)
        case _:
            return


def _ended(output: object, showing: Showing) -> Iterator[Output | str]:
    """A text has been said already, and a file has been an artifact; anything else is told as JSON."""
    if isinstance(output, DeferredToolRequests):
        waiting = ", ".join(call.tool_name for call in (*output.calls, *output.approvals))
        raise AgentError(
            f"the agent waits for tools that nobody runs here: {waiting}; offer them in the dispatcher, or give the"
            " agent a HandleDeferredToolCalls",
            code="tools_unanswered",
        )
    if not isinstance(output, str | messages.BinaryContent):
        yield from showing.text(to_json(output, serialize_unknown=True).decode())


def _used(events: AgentRunEvents[Any], meter: Meter) -> Iterator[Output | str]:
    usage = events.usage
    model = next(
        (
            message.model_name
            for message in reversed(events.all_messages())
            if isinstance(message, messages.ModelResponse) and message.model_name
        ),
        "",
    )
    reasoning = usage.details.get("reasoning_tokens", 0)
    return meter.used(model, usage.input_tokens, usage.output_tokens, reasoning)


def _failed(agent: str, error: Exception, showing: Showing) -> Exception:
    """The same in words for the user, as far as it is known; the rest is the author's own."""
    if isinstance(error, exceptions.FallbackExceptionGroup):
        error = cast("Exception", error.exceptions[-1])
    if isinstance(error, exceptions.UsageLimitExceeded):
        return AgentError(str(error), code="usage_limit_exceeded")
    if isinstance(error, exceptions.RunCancelled):
        return AgentError(f"the agent has ended its own run: {error}", code="run_cancelled")
    # What an author has wired wrongly is no model's fault.
    if isinstance(error, exceptions.UserError) and not isinstance(error, exceptions.ModelAPIError):
        return AgentError(f"pydantic-ai refuses the agent as it is: {error}", code="agent_misconfigured")
    is_its = type(error).__module__.startswith("pydantic_ai.")
    # What its author's tools raise may look alike.
    trouble = blame.trouble(error) if is_its or upstream.is_provider_s(error) else None
    trouble = trouble or upstream.trouble(error)
    if trouble is None:
        return error
    model = str(getattr(error, "model_name", "") or "")
    return upstream.failed(
        upstream.model_of(agent), model, upstream.quiet(trouble), has_begun=showing.has_begun
    )
