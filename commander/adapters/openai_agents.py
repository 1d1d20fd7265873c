"""An agent of OpenAI's Agents SDK as an agent of ours.

The SDK's runner runs the loop: models, tools, handoffs. The agent that runs is a copy that has the dispatcher's tools
as well, and so are those it may hand over to. A run that waits for approvals is gone on with once the user has
answered. The SDK is not there for everybody, so its module is looked up by name, in `_sdk`.
"""

import asyncio
import importlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from commander.adapters import offers, upstream
from commander.adapters.openai import Hearing
from commander.adapters.parts import content_part, plain
from commander.adapters.showing import Showing
from commander.conversation import Message, ToolOffer
from commander.errors import AgentError
from commander.models import Trouble
from commander.outputs import Output, Progress
from commander.turn import Turn

# A run that can't even be ended within this time is left to itself.
CLOSE_S: Final = 2.0
_REFUSED: Final = "The user does not allow this call."
# By the names of the SDK's exceptions.
_TROUBLES: Final = {
    "ModelBehaviorError": "model_malformed",
    "ModelRefusalError": "model_content_filtered",
    "ModelTimeoutError": "model_timeout",
}


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a turn and an agent fit together."""

    tools: Collection[str] | None = None
    context: Callable[[Turn], Any] | None = None
    run_config: Any = None
    max_turns: int | None = None


class Live:
    """What runs a turn: the agent's function."""

    def __init__(self, agent: Any, name: str, wiring: Wiring) -> None:
        self._agent = agent
        self._name = name
        self._wiring = wiring

    async def __call__(self, turn: Turn) -> AsyncIterator[Output | str]:
        chosen = offers.chosen(turn, self._wiring.tools)
        showing = Showing([offer.name for offer in chosen])
        try:
            agent = with_tools(self._agent, [_tool(turn, chosen, offer) for offer in chosen])
            asked: Any = list(items(turn.conversation))
            while asked is not None:
                result = self._run(agent, asked, turn)
                async with aclosing(_heard(result, showing)) as outputs:
                    async for output in outputs:
                        yield output
                asked = await _approved(turn, result)
        except Exception as error:
            failure = _failed(self._name, error, showing)
            if failure is error:
                raise
            raise failure from None

    def _run(self, agent: Any, asked: Any, turn: Turn) -> Any:
        wiring, told = self._wiring, {}
        if wiring.context is not None and isinstance(asked, list):
            # A run that is gone on with has it already.
            told["context"] = wiring.context(turn)
        if wiring.max_turns is not None:
            told["max_turns"] = wiring.max_turns
        return _sdk().Runner.run_streamed(agent, asked, run_config=wiring.run_config, **told)


def with_tools(agent: Any, tools: Sequence[Any]) -> Any:
    """A copy of the agent, and of all that it may hand over to, with these tools besides their own."""
    copies: dict[int, Any] = {}

    def copied(each: Any) -> Any:
        if id(each) not in copies:
            copies[id(each)] = each.clone(tools=[*each.tools, *tools])
            # Agents may hand over to one another: the copy is known before its handoffs are.
            copies[id(each)].handoffs = [handed(handoff) for handoff in each.handoffs]
        return copies[id(each)]

    def handed(handoff: Any) -> Any:
        if hasattr(handoff, "clone"):
            return copied(handoff)
        invoke = handoff.on_invoke_handoff

        async def on_invoke_handoff(context: Any, arguments: str) -> Any:
            return copied(await invoke(context, arguments))

        return replace(handoff, on_invoke_handoff=on_invoke_handoff)

    return copied(agent) if tools else agent


def items(conversation: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """In the words of the responses API. Trouble for a part that can't be handed over."""
    for message in conversation:
        text = "".join(plain(part) for part in message.parts)
        if message.role == "tool":
            # Which call it answers is not known any more.
            yield {"role": "user", "content": f"A tool returned: {text}"}
        elif message.role != "user":
            yield {"role": message.role, "content": text}
        elif message.parts:
            yield {"role": "user", "content": [_content(content_part(part)) for part in message.parts]}


def _content(part: dict[str, Any]) -> dict[str, Any]:
    match part:
        case {"type": "image_url", "image_url": {"url": url}}:
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case {"type": "file", "file": file}:
            return {"type": "input_file", **file}
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case _:
            return part


def _tool(turn: Turn, chosen: Collection[ToolOffer], offer: ToolOffer) -> Any:
    async def invoke(_: Any, arguments_json: str) -> str:
        return await offers.returned(turn, chosen, offer.name, arguments_json)

    return _sdk().FunctionTool(
        name=offer.name,
        description=offer.description,
        params_json_schema=offers.schema(offer),
        on_invoke_tool=invoke,
        # The dispatcher's schemas are as their authors wrote them.
        strict_json_schema=False,
    )


async def _heard(result: Any, showing: Showing) -> AsyncGenerator[Output | str, None]:
    """All that a run says; it is over then, whatever happens."""
    hearing = Hearing(showing)
    events = result.stream_events()
    try:
        async for event in events:
            for output in _said(event, hearing, showing):
                yield output
        for output in (*_ended(result, showing), *showing.rest()):
            yield output
    finally:
        # In this order: a stream that is closed waits for its run.
        result.cancel()
        await events.aclose()
        if (task := result.run_loop_task) is not None:
            await asyncio.wait((task,), timeout=CLOSE_S)


def _said(event: Any, hearing: Hearing, showing: Showing) -> Iterator[Output | str]:
    match event.type:
        case "raw_response_event":
            yield from hearing.take(event.data)
        case "run_item_stream_event":
            raw = getattr(event.item, "raw_item", None)
            call_id = str(_field(raw, "call_id") or "")
            if event.name == "tool_called" and call_id:
                yield from showing.call(call_id, str(_field(raw, "name") or "tool"), _field(raw, "arguments"))
            elif event.name == "tool_output" and call_id:
                yield from showing.result(call_id, event.item.output)
            elif event.name == "handoff_occured":
                yield Progress(f"handed over to {event.item.target_agent.name}")
        case _:
            return


def _ended(result: Any, showing: Showing) -> Iterator[Output | str]:
    """What the model did not say itself: a tool's output may be an answer too."""
    last = result.new_items[-1] if result.new_items else None
    if result.final_output is not None and last is not None and last.type != "message_output_item":
        yield from showing.text(offers.shown(result.final_output))


def _field(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)


async def _approved(turn: Turn, result: Any) -> Any:
    """What the run goes on with, once the user has been asked; None when it waits for nothing."""
    waiting = list(result.interruptions)
    if not waiting:
        return None
    may_run = await asyncio.gather(
        *(
            offers.approved(turn, each.tool_name or "tool", _field(each.raw_item, "arguments") or "")
            for each in waiting
        )
    )
    state = result.to_state()
    for each, may in zip(waiting, may_run, strict=True):
        if may:
            state.approve(each)
        else:
            state.reject(each, rejection_message=_REFUSED)
    return state


def _failed(agent: str, error: Exception, showing: Showing) -> Exception:
    """The same in words for the user, as far as it is known; the rest is the author's own."""
    kind = type(error).__name__
    trouble: Trouble | None = upstream.trouble(error)
    if trouble is None and isinstance(error, _sdk().exceptions.AgentsException):
        if kind.endswith("TripwireTriggered"):
            return AgentError(f"a guardrail of agent {agent!r} has stopped it", code="guardrail_tripped")
        if kind == "MaxTurnsExceeded":
            return AgentError(
                f"agent {agent!r} went on without an end; raise max_turns of from_openai_agents, or ask for less at"
                " once",
                code="rounds_spent",
            )
        if kind == "UserError":
            return AgentError(
                f"OpenAI's Agents SDK refuses the agent as it is: {error}", code="agent_misconfigured"
            )
        if kind in _TROUBLES:
            trouble = Trouble(_TROUBLES[kind], str(error))
    if trouble is None:
        return error
    return upstream.failed(upstream.model_of(agent), "", trouble, has_begun=showing.has_begun)


def _sdk() -> Any:
    return importlib.import_module("agents")
