"""Every provider that pydantic-ai knows, by `pydantic_ai.direct`: the one module, with those it imports, that knows
pydantic-ai. It takes 1.5 s to import, so `registry.py` does that when a model is first used.

The library never runs a tool here, never retries and sets no time limits: all that is done above, in one way for every
provider.
"""

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, cast

from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, infer_model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.providers import Provider as Library
from pydantic_ai.providers import infer_provider_class
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from typing_extensions import is_typeddict

from commander.models import blame, connecting, history
from commander.models.failures import Trouble
from commander.models.table import UNKNOWN_ADVICE
from commander.models.words import (
    Ask,
    Connection,
    Finished,
    Reason,
    Reasoning,
    Said,
    Sign,
    Text,
    Tokens,
    ToolCall,
)

# A server without keys gets this one; the libraries insist on some.
NO_KEY: Final = "none"
_REASONS: Final[Mapping[str, Reason]] = {"length": "length", "tool_call": "tool_calls"}
# Chat completions whose end nobody has announced are broken off, however well the connection was closed.
_CHAT: Final = {"openai_chat_streaming_requires_finish_reason": True}
# How the library calls tokens of reasoning, by provider: OpenAI's, Google's, Anthropic's.
_REASONING: Final = ("reasoning_tokens", "thoughts_tokens", "thinking_tokens")
# By the begin of a provider's name: the variable whose headers its client sends to any server, and the client.
_AMBIENT: Final = {
    "openai": ("OPENAI_CUSTOM_HEADERS", "openai"),
    "anthropic": ("ANTHROPIC_CUSTOM_HEADERS", "anthropic"),
}
# What a client sends of OPENAI_ORG_ID and OPENAI_PROJECT_ID.
_ACCOUNT: Final = {"openai": ("OpenAI-Organization", "OpenAI-Project"), "anthropic": ()}
# Whose libraries take a client of httpx, which they make themselves, or none.
_OTHER_CLIENTS: Final = frozenset({"cohere", "github", "groq", "huggingface"})
# For which the library would open an address that a user names, where others leave that to the provider.
_FETCHES: Final = frozenset({"google", "bedrock"})
_UNREADABLE: Final = (AttributeError, TypeError, KeyError, IndexError)
# Servers that tell the usage with every piece tell all of it each time: the last is it, and is asked for as ever.
_USAGE: Final = {"openai_continuous_usage_stats": True}
_USAGE_ONCE: Final = {"stream_options": {"include_usage": True}}
# Of the two names of the limit of tokens, the one that every compatible server knows.
_COMPATIBLE: Final = {**_CHAT, "openai_chat_supports_max_completion_tokens": False}


class Adaptor:
    """A connection to one model. Made in any thread; `stream` belongs to the agents' loop. Who gives `model` has made
    it."""

    def __init__(self, connection: Connection, model: Model[Any] | None = None) -> None:
        self._connection = connection
        self._model = _model(connection) if model is None else model
        # Providers say how an answer came to its end. Models that are made for tests need not.
        self._announces_end = model is None
        self._unsaid = _unsaid(connection) if model is None else {}

    def __repr__(self) -> str:
        return f"<Adaptor {self._connection.provider}:{self._connection.model} {self._connection.base_url}>"

    async def stream(self, ask: Ask) -> AsyncIterator[Said]:
        """What the model says. Trouble for what providers and their libraries are known to raise."""
        if self._model.system in _FETCHES and history.has_address(ask):
            told = f"images given by their address are not fetched for {self._model.system}; send their bytes"
            raise Trouble("model_input_refused", told)
        messages, settings, parameters = history.messages(ask), self._settings(ask), self._parameters(ask)
        try:
            async with model_request_stream(
                self._model, messages, model_settings=settings, model_request_parameters=parameters
            ) as response:
                async for event in response:
                    said = _said(event)
                    if said is not None:
                        yield said
                for each in _ended(response, must_be_announced=self._announces_end):
                    yield each
        except _UNREADABLE as error:
            # The library reads what it takes for an answer, and finds a list or a word.
            told = f"an answer in another form ({type(error).__name__}: {error})"
            raise Trouble("model_malformed", told) from None
        except Exception as error:
            trouble = blame.trouble(error)
            if trouble is None:
                raise
            raise trouble from None

    def _settings(self, ask: Ask) -> ModelSettings:
        settings: dict[str, Any] = {**self._connection.parameters}
        settings |= {"max_retries": 0, "timeout": self._connection.silence_s}
        if ask.output_tokens_max is not None:
            settings["max_tokens"] = min(
                ask.output_tokens_max, settings.get("max_tokens", ask.output_tokens_max)
            )
        if self._unsaid:
            settings["extra_headers"] = {**self._unsaid, **settings.get("extra_headers", {})}
        if ask.tools and not ask.may_call:
            settings["tool_choice"] = "none"
        if type(self._model) is OpenAIChatModel and not settings.keys() & _USAGE.keys():
            settings |= {**_USAGE, "extra_body": {**_USAGE_ONCE, **settings.get("extra_body", {})}}
        return cast("ModelSettings", settings)

    def _parameters(self, ask: Ask) -> ModelRequestParameters:
        tools = [
            ToolDefinition(
                name=tool.name,
                parameters_json_schema={"type": "object", "properties": {}, **tool.parameters},
                description=tool.description,
            )
            for tool in ask.tools
        ]
        if tools and not self._model.profile.get("supports_tools", True):
            raise Trouble("model_request_refused", "the model can't call tools; ask it without")
        if ask.schema is None:
            return ModelRequestParameters(function_tools=tools)
        is_native = self._model.profile.get("supports_json_schema_output", False)
        schema = OutputObjectDefinition(json_schema=dict(ask.schema), name="answer")
        return ModelRequestParameters(
            function_tools=tools, output_mode="native" if is_native else "prompted", output_object=schema
        )


def _said(event: ModelResponseStreamEvent) -> Said | None:
    match event:
        case (
            PartStartEvent(part=TextPart(content=text))
            | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
        ):
            return Text(text) if text else None
        case (
            PartStartEvent(part=ThinkingPart(content=thought, provider_details=details))
            | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought, provider_details=details))
        ):
            thought = thought or _raw(details)
            return Reasoning(thought) if thought else None
        case PartStartEvent(part=ToolCallPart()) | PartDeltaEvent(delta=ToolCallPartDelta()):
            return Sign()
        case _:
            return None


def _raw(details: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None) -> str:
    """The reasoning itself, which servers of open models send where OpenAI's own send summaries of it: pieces come as
    what is to be done with those before."""
    told = details({}) if callable(details) else details
    pieces = (told or {}).get("raw_content", ())
    return "".join(piece for piece in pieces if isinstance(piece, str))


def _ended(response: StreamedResponse, *, must_be_announced: bool) -> Iterator[Said]:
    """What is known when the stream is over: tokens, calls, how it came to its end. Tokens first: an answer that is no
    answer has cost them all the same."""
    whole: ModelResponse = response.get()
    tokens = whole.usage
    reasoning = next((tokens.details[name] for name in _REASONING if name in tokens.details), 0)
    yield Tokens(tokens.input_tokens, tokens.output_tokens, reasoning)
    details = whole.provider_details or {}
    # A reason that the library does not know is one all the same.
    if must_be_announced and whole.finish_reason is None and not details.get("finish_reason"):
        raise Trouble("model_malformed", "the answer broke off: its end was not announced")
    if whole.finish_reason == "content_filter":
        refusal = details.get("refusal")
        why = (
            f"the model refuses: {refusal}" if refusal else "the answer was stopped by the provider's filter"
        )
        raise Trouble("model_content_filtered", why)
    if whole.finish_reason == "error":
        raise Trouble("model_error", "the provider reports that the answer ended in an error")
    for part in whole.parts:
        if isinstance(part, ToolCallPart):
            arguments = part.args if isinstance(part.args, str) else part.args_as_json_str()
            yield ToolCall(part.tool_call_id, part.tool_name, arguments or "{}")
    yield Finished(_REASONS.get(whole.finish_reason or "", "stop"), whole)


def _model(connection: Connection) -> Model[Any]:
    """Trouble says what of the table can't be."""
    name = f"{connection.provider}:{connection.model}"
    try:
        provider = _provider(connection)
        model = infer_model(name, lambda _: provider)
        if type(model) is OpenAIChatModel:
            profile = _COMPATIBLE if isinstance(provider, OpenAICompatibleProvider) else _CHAT
            model = OpenAIChatModel(connection.model, provider=provider, profile=cast("Any", profile))
        _check_parameters(connection, model)
    except (UserError, ImportError, ValueError) as error:
        raise Trouble("model_not_configured", str(error)) from None
    return model


def _check_parameters(connection: Connection, model: Model[Any]) -> None:
    """UserError for one that this provider's library does not know: it would be ignored."""
    known: set[str] = set()
    # What a model knows stands beside it, and beside the one that it is made of.
    for kind in type(model).__mro__:
        for found in vars(sys.modules[kind.__module__]).values():
            if is_typeddict(found) and ModelSettings.__annotations__.keys() <= found.__annotations__.keys():
                known |= found.__annotations__.keys()
    for name in connection.parameters.keys() - known:
        own = sorted(known - ModelSettings.__annotations__.keys())
        near = difflib.get_close_matches(name, own, n=3)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"parameters {name[:80]} is no parameter of provider {connection.provider!r}; {meant}{UNKNOWN_ADVICE};"
            f" its own are {', '.join(own)}"
        )


def _provider(connection: Connection) -> Library[Any]:
    told: dict[str, Any] = {}
    if connection.base_url:
        told["base_url"] = connection.base_url
        # Without a key named here, none of another server that the environment may have.
        told["api_key"] = NO_KEY
    if connection.key is not None:
        told["api_key"] = connection.key.reveal()
    if connection.provider == "openai-chat" and connection.base_url:
        told["http_client"] = connecting.client(connection.silence_s)
        return OpenAICompatibleProvider("openai-compatible", **told)
    try:
        kind = infer_provider_class(connection.provider)
    except ValueError:
        raise UserError(
            f"there is no provider {connection.provider!r}: openai-chat is right for every compatible server; others"
            " are openai, anthropic, google, mistral, groq, ollama, openrouter, deepseek, bedrock …, and what installed"
            " packages offer as chatstream.models"
        ) from None
    takes = inspect.signature(kind.__init__).parameters
    for key in told.keys() - takes.keys():
        field = "base_url" if key == "base_url" else "api_key_env or api_key_file"
        if key == "base_url" or connection.key is not None:
            raise UserError(f"provider {connection.provider!r} takes no {field}: leave it out")
        del told[key]
    if "http_client" in takes and connection.provider not in _OTHER_CLIENTS:
        told["http_client"] = connecting.client(connection.silence_s)
    return kind(**told)


def _unsaid(connection: Connection) -> dict[str, Any]:
    """For each header that OpenAI's and Anthropic's clients take of the environment, what is sent in its place to a
    server that is named: nothing, for it may be the secret of another one."""
    variable, sdk = _AMBIENT.get(connection.provider.partition("-")[0], ("", ""))
    if not connection.base_url or not sdk:
        return {}
    none = importlib.import_module(sdk).Omit()
    names = [line.partition(":")[0].strip() for line in os.environ.get(variable, "").splitlines()]
    unsaid: dict[str, Any] = dict.fromkeys([*filter(None, names), *_ACCOUNT[sdk]], none)
    for name in names:
        if name.lower() == "authorization":
            unsaid[name] = f"Bearer {connection.key.reveal() if connection.key else NO_KEY}"
    return unsaid
