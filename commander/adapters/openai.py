"""OpenAI's SDK: its streams as what an agent yields, and an agent of a client and the name of a model.

Both of its APIs are understood, by the shape of what comes: chunks of chat completions, and events of responses. The
SDK closes the connection when the stream is left, and so when the turn's task is cancelled.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from openai import AsyncOpenAI

from commander.adapters import offers, upstream
from commander.adapters.parts import content_part, plain
from commander.adapters.showing import Meter, Showing
from commander.conversation import Message, ToolOffer
from commander.errors import AgentError
from commander.models import ToolCall, Trouble
from commander.models.repair import whole
from commander.outputs import Output, Progress
from commander.turn import Turn

# A model that wants more in one round is told so; the dispatcher runs about as many of a session at once.
CALLS_MAX: Final = 16
CUT: Final = "The answer was cut: the model may say no more tokens."
# What a failed response says of itself.
_CODES: Final = {
    "rate_limit_exceeded": "model_rate_limited",
    "server_error": "model_unavailable",
    "insufficient_quota": "model_quota_exhausted",
    "context_length_exceeded": "model_context_too_long",
    "content_filter": "model_content_filtered",
}


class Hearing:
    """One answer of a model, as it comes. `text` and `calls` are whole when it has ended."""

    def __init__(self, showing: Showing) -> None:
        self.text = ""
        self.calls: list[ToolCall] = []
        self.model = ""
        self._showing = showing
        self._meter = Meter()
        self._refusal = ""
        self._reason = ""
        # Calls in pieces, by their index: id, name, arguments.
        self._pieces: dict[int, list[str]] = {}

    def take(self, event: Any) -> Iterator[Output | str]:
        """What a chunk or an event says. Trouble for one that tells of a failure."""
        kind = getattr(event, "type", None)
        if kind == "chunk":
            # The SDK's own helper for streams has it beside what it has made of it.
            event = event.chunk
        if getattr(event, "choices", None) is not None:
            yield from self._chunk(event)
        elif isinstance(kind, str) and (kind.startswith("response.") or kind == "error"):
            yield from self._event(kind, event)

    def end(self) -> None:
        """There comes no more. Trouble for an answer that is none."""
        if self._refusal:
            raise Trouble("model_content_filtered", f"the model refuses: {self._refusal}")
        if self._reason == "content_filter":
            raise Trouble("model_content_filtered", "the answer was stopped by the provider's filter")
        if not self._reason:
            raise Trouble("model_malformed", "the stream ended before the answer did")
        self.calls += [ToolCall(*map(whole, pieces)) for _, pieces in sorted(self._pieces.items())]

    def _say(self, text: object) -> Iterator[Output | str]:
        if text is not None and not isinstance(text, str):
            raise TypeError(f"its text is of type {type(text).__name__}")
        for said in self._showing.text(text):
            self.text += str(said)
            yield said

    # -- chat completions ------------------------------------------------------------------------------------

    def _chunk(self, chunk: Any) -> Iterator[Output | str]:
        self.model = chunk.model or self.model
        for choice in chunk.choices:
            if choice.index:
                continue
            delta = choice.delta
            if delta is None:
                continue
            # The names under which servers tell what a model thinks.
            reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
            yield from self._showing.reasoning(reasoning)
            yield from self._say(delta.content)
            self._refusal += delta.refusal or ""
            for piece in delta.tool_calls or ():
                self._piece(piece)
            if choice.finish_reason:
                self._reason = choice.finish_reason
                if self._reason == "length":
                    yield Progress(CUT)
        if (usage := getattr(chunk, "usage", None)) is not None:
            details = usage.completion_tokens_details
            reasoning_tokens = (details.reasoning_tokens if details else 0) or 0
            # Some servers tell it of each chunk, as a total.
            yield from self._meter.used(
                self.model, usage.prompt_tokens, usage.completion_tokens, reasoning_tokens
            )

    def _piece(self, piece: Any) -> None:
        whole = self._pieces.setdefault(piece.index, ["", "", ""])
        whole[0] = piece.id or whole[0]
        if piece.function is not None:
            whole[1] += piece.function.name or ""
            whole[2] += piece.function.arguments or ""

    # -- responses -------------------------------------------------------------------------------------------

    def _event(self, kind: str, event: Any) -> Iterator[Output | str]:
        match kind:
            case "response.output_text.delta":
                yield from self._say(event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield from self._showing.reasoning(event.delta)
            case "response.refusal.delta":
                self._refusal += event.delta
            case "response.output_item.added" | "response.output_item.done":
                yield from self._item(event.item, is_whole=kind.endswith("done"))
            case "response.completed" | "response.incomplete":
                yield from self._ended(event.response)
            case "response.failed":
                raise _failure(event.response.error)
            case "error":
                raise _failure(event)
            case _:
                return

    def _item(self, item: Any, *, is_whole: bool) -> Iterator[Output | str]:
        """Calls: those that somebody has to run, and those that the provider runs."""
        if item.type == "function_call":
            if is_whole:
                self.calls.append(ToolCall(*map(whole, (item.call_id, item.name, item.arguments))))
        elif item.type.endswith("_call"):
            name = getattr(item, "name", None) or item.type.removesuffix("_call")
            if is_whole:
                yield from self._showing.result(item.id, getattr(item, "status", "") or "done")
            else:
                yield from self._showing.call(item.id, name, getattr(item, "arguments", None))

    def _ended(self, response: Any) -> Iterator[Output | str]:
        self.model = response.model or self.model
        why = response.incomplete_details.reason if response.incomplete_details else None
        self._reason = why or "stop"
        if why == "max_output_tokens":
            yield Progress(CUT)
        if response.usage is not None:
            used, details = response.usage, response.usage.output_tokens_details
            reasoning_tokens = (details.reasoning_tokens if details else 0) or 0
            yield from Meter().used(self.model, used.input_tokens, used.output_tokens, reasoning_tokens)


async def pieces(stream: Any, calls: list[ToolCall] | None) -> AsyncIterator[Output | str]:
    """See `openai_pieces`."""
    showing = Showing(())
    hearing = Hearing(showing)
    async with aclosing(heard(stream, hearing, showing, "the model")) as hearings:
        async for piece in hearings:
            yield piece
    if calls is not None:
        calls += hearing.calls


async def heard(
    stream: Any, hearing: Hearing, showing: Showing, whose: str
) -> AsyncGenerator[Output | str, None]:
    """All that a stream says, which is closed whatever happens. ModelFailed for what the SDK raises."""
    try:
        if hasattr(stream, "__await__"):
            stream = await stream
        if not hasattr(stream, "__aenter__"):
            raise TypeError(
                f"a stream of an AsyncOpenAI client is right, made with stream=True, not {type(stream).__name__}"
            )
        async with stream as opened:
            events = aiter(opened)
            while (outputs := await _next(events, hearing)) is not None:
                for output in outputs:
                    yield output
        hearing.end()
        for output in showing.rest():
            yield output
    except Exception as error:
        trouble = upstream.trouble(error)
        if trouble is None:
            raise
        raise upstream.failed(whose, hearing.model, trouble, has_begun=showing.has_begun) from None


async def _next(events: AsyncIterator[Any], hearing: Hearing) -> list[Output | str] | None:
    """What the next event says; None when there comes no more. Trouble for one that none of the API is."""
    try:
        return list(hearing.take(await anext(events)))
    except StopAsyncIteration:
        return None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        told = f"it sent what is no part of an answer: {type(error).__name__}: {error}"
        raise Trouble("model_malformed", told) from error


class Live:
    """What runs a turn: the agent's function."""

    def __init__(
        self,
        client: AsyncOpenAI,
        model: str,
        name: str,
        *,
        system: str,
        tools: Collection[str] | None,
        rounds: int,
        parameters: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._model = model
        self._name = name
        self._system = system
        self._tools = tools
        self._rounds = rounds
        self._parameters = parameters

    async def __call__(self, turn: Turn) -> AsyncIterator[Output | str]:
        chosen = offers.chosen(turn, self._tools)
        messages = self._messages(turn.conversation)
        showing = Showing([offer.name for offer in chosen])
        for _ in range(self._rounds):
            hearing = Hearing(showing)
            asked = self._ask(messages, [_tool(offer) for offer in chosen])
            whose = upstream.model_of(self._name)
            async with aclosing(heard(asked, hearing, showing, whose)) as hearings:
                async for piece in hearings:
                    yield piece
            messages += [_reply(hearing)] if hearing.text or hearing.calls else []
            messages += await _returns(turn, chosen, hearing.calls)
            added = turn.take_messages()
            messages += [{"role": "user", "content": message.text} for message in added]
            if not (hearing.calls or added):
                return
            if added and hearing.text and not hearing.calls:
                yield "\n\n"
        raise AgentError(
            f"agent {self._name!r} went on for {self._rounds} rounds of tools without an end; raise rounds of"
            " from_openai, or ask for less at once",
            code="rounds_spent",
        )

    def _ask(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Any:
        told: dict[str, Any] = {"stream_options": {"include_usage": True}, **self._parameters}
        if tools:
            told["tools"] = [*told.get("tools", ()), *tools]
        create = cast("Any", self._client.chat.completions.create)
        return create(model=self._model, messages=messages, stream=True, **told)

    def _messages(self, conversation: Iterable[Message]) -> list[dict[str, Any]]:
        try:
            made = [{"role": "system", "content": self._system}] if self._system else []
            made += [each for message in conversation for each in _message(message)]
            if all(each["role"] == "system" for each in made):
                raise Trouble(
                    "model_request_refused",
                    "messages: there is nothing to answer; the user has said nothing",
                )
        except Trouble as trouble:
            whose = upstream.model_of(self._name)
            raise upstream.failed(whose, self._model, trouble, has_begun=False) from None
        return made


async def _returns(
    turn: Turn, chosen: Collection[ToolOffer], calls: Sequence[ToolCall]
) -> list[dict[str, Any]]:
    """What came of the calls, in their order: all of them at once."""

    async def returned(place: int, call: ToolCall) -> dict[str, Any]:
        if place < CALLS_MAX:
            content = await offers.returned(turn, chosen, call.name, call.arguments_json)
        else:
            content = f"not called: at most {CALLS_MAX} calls may be made at once"
        return {"role": "tool", "tool_call_id": call.call_id, "content": content}

    return list(await asyncio.gather(*(returned(place, call) for place, call in enumerate(calls))))


def _tool(offer: ToolOffer) -> dict[str, Any]:
    function = {"name": offer.name, "description": offer.description, "parameters": offers.schema(offer)}
    return {"type": "function", "function": function}


def _reply(hearing: Hearing) -> dict[str, Any]:
    made: dict[str, Any] = {"role": "assistant", "content": hearing.text or None}
    if hearing.calls:
        made["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for call in hearing.calls
        ]
    return made


def _message(message: Message) -> Iterator[dict[str, Any]]:
    """In the words of chat completions. Trouble for a part that can't be handed over."""
    if message.role == "user":
        if message.parts:
            parts = [content_part(part) for part in message.parts]
            is_text = all(part["type"] == "text" for part in parts)
            text = "".join(part["text"] for part in parts) if is_text else ""
            yield {"role": "user", "content": text if is_text else parts}
        return
    text = "".join(plain(part) for part in message.parts)
    if message.role == "tool":
        # Which call it answers is not known any more.
        yield {"role": "user", "content": f"A tool returned: {text}"}
    elif text:
        yield {"role": message.role, "content": text}


def _failure(error: Any) -> Trouble:
    code, message = str(getattr(error, "code", "") or ""), str(getattr(error, "message", "") or "")
    return Trouble(_CODES.get(code, "model_error"), message or code or "the provider reports an error")
