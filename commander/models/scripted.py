"""Language models that say what a test has scripted, for `commander.testing`.

Everything but the words is real: the registry with its tries, fallbacks, limits and budgets, the adaptor, and below it
pydantic-ai's own model for functions in place of a provider's. What an agent does with such a model it does with any.
"""

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, cast

from commander.conversation import Message
from commander.metrics import Metrics
from commander.models.failures import FAILURES, Trouble
from commander.models.registry import MISSING, Models, open_models
from commander.models.words import (
    Ask,
    Connection,
    Finished,
    Provider,
    Reasoning,
    Said,
    Tokens,
    ToolCall,
    ToolReturn,
    Turned,
)
from commander.settings import Settings

# Tries that a test need not wait for.
RETRY_FIRST_S: Final = 0.01


class ScriptError(AssertionError):
    """The agent asked for something that the test has not scripted, or something was scripted that does not fit."""


def load() -> None:
    """Imports what scripted models need. ScriptError where it is not installed."""
    try:
        for name in ("commander.models.adaptor", "pydantic_ai.models.function"):
            importlib.import_module(name)
    except ModuleNotFoundError:
        raise ScriptError(MISSING) from None


class Hangs:
    """A piece of an answer: from here on nothing more comes, until nobody waits for it any more."""

    def __repr__(self) -> str:
        return "HANGS"


HANGS: Final = Hangs()

Piece = str | Reasoning | ToolCall | Tokens | Finished | Trouble | Hangs
Answer = Sequence[Piece]


def wants(tool: str, /, **arguments: object) -> ToolCall:
    """A piece of an answer: the model wants this tool to be called."""
    return ToolCall("", tool, json.dumps(arguments))


def fails(
    code: str,
    message: str = "as the test wants it",
    *,
    upstream_status: int | None = None,
    retry_after_s: float | None = None,
) -> Trouble:
    """A piece of an answer: the provider fails here, with a code of docs/models.md; what is tried again is."""
    if code not in FAILURES:
        raise ScriptError(f"models: there is no failure {code!r}; there are {', '.join(FAILURES)}")
    return Trouble(code, message, upstream_status=upstream_status, retry_after_s=retry_after_s)


@dataclass
class ModelRequest:
    """What a model was asked. `outcome`: answered, failed, or left when nobody wanted the rest; empty until then."""

    model: str
    ask: Ask = field(repr=False)
    outcome: Literal["", "answered", "failed", "left"] = ""

    @property
    def text(self) -> str:
        """The last that the user has said."""
        said = [each.text for each in self.messages if isinstance(each, Message) and each.role == "user"]
        return said[-1] if said else ""

    @property
    def system(self) -> str:
        return self.ask.system

    @property
    def messages(self) -> tuple[Turned, ...]:
        """All of the conversation, with the replies and what tools returned in earlier rounds."""
        return self.ask.messages

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that it was offered."""
        return tuple(tool.name for tool in self.ask.tools)

    @property
    def returns(self) -> dict[str, str]:
        """What it was told of the calls that it wanted, by tool."""
        return {each.call.name: each.content for each in self.messages if isinstance(each, ToolReturn)}

    @property
    def schema(self) -> Mapping[str, object] | None:
        return self.ask.schema


# One answer, to every request; or one for each request; or what to answer to each.
Script = Sequence[Piece] | Sequence[Sequence[Piece]] | Callable[[ModelRequest], Sequence[Piece]]


class ScriptedModel:
    """A model of a test, with keys of its table: `ScriptedModel(["Hello"], rounds=2, fallbacks=["deep"])`."""

    def __init__(self, script: Script, **table: object) -> None:
        self.table = table
        self._script = script
        self._answers = None if callable(script) else _answers(script)
        self._asked = 0

    def __repr__(self) -> str:
        return f"<ScriptedModel asked {self._asked} times>"

    def answer(self, request: ModelRequest) -> list[Piece]:
        """The next answer. ScriptError when there is none."""
        self._asked += 1
        if self._answers is None:
            script = cast("Callable[[ModelRequest], Sequence[Piece]]", self._script)
            return _pieces(script(request))
        if len(self._answers) == 1 and not _is_nested(self._script):
            return self._answers[0]
        if self._asked > len(self._answers):
            raise ScriptError(
                f"the model {request.model!r} was asked {self._asked} times, and the test has scripted"
                f" {len(self._answers)} answers; the last question was {request.text!r}"
            )
        return self._answers[self._asked - 1]


class Scripted:
    """The registry of a test's models. `requests` is what they were asked; `asked` hears of each, `wrong` of what
    was not scripted."""

    def __init__(
        self,
        models: Mapping[str, Script | ScriptedModel],
        metrics: Metrics,
        asked: Callable[[], None],
        wrong: Callable[[Exception], None],
    ) -> None:
        self.requests: list[ModelRequest] = []
        self._asked = asked
        self._wrong = wrong
        self._models = {
            name: each if isinstance(each, ScriptedModel) else ScriptedModel(each)
            for name, each in models.items()
        }
        tables = {
            name: {"model": f"scripted:{name}", "retry_first_s": RETRY_FIRST_S, **model.table}
            for name, model in self._models.items()
        }
        self.models: Models = open_models(Settings(models=tables), {}, metrics, self._connect)

    def _connect(self, connection: Connection) -> Provider:
        return _Speaker(connection, partial(self._answer, connection.model))

    def _answer(self, name: str, ask: Ask) -> tuple[ModelRequest, list[Piece]]:
        request = ModelRequest(name, ask)
        self.requests.append(request)
        self._asked()
        try:
            return request, self._models[name].answer(request)
        except Exception as error:  # noqa: BLE001 - the test is told, and the agent sees a model that fails
            self._wrong(error)
            raise Trouble("model_error", str(error)) from None


class _Speaker:
    """A connection to one of them."""

    def __init__(
        self, connection: Connection, answer: Callable[[Ask], tuple[ModelRequest, list[Piece]]]
    ) -> None:
        self._connection = connection
        self._answer = answer

    async def stream(self, ask: Ask) -> AsyncIterator[Said]:
        from pydantic_ai.models.function import FunctionModel  # noqa: PLC0415 - see `load`

        from commander.models.adaptor import Adaptor  # noqa: PLC0415 - see `load`

        request, pieces = self._answer(ask)
        model = FunctionModel(stream_function=lambda *_: _played(pieces), model_name=request.model)
        try:
            async for said in Adaptor(self._connection, model).stream(ask):
                if isinstance(said, Finished):
                    request.outcome = "answered"
                yield _as_scripted(said, pieces)
        except Trouble:
            request.outcome = "failed"
            raise
        finally:
            request.outcome = request.outcome or "left"


async def _played(pieces: Sequence[Piece]) -> AsyncIterator[Any]:
    """The pieces in the words of pydantic-ai."""
    from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall  # noqa: PLC0415 - see `load`

    # The library insists on something.
    yield ""
    for place, piece in enumerate(pieces):
        match piece:
            case str():
                yield piece
            case Reasoning(text):
                yield {place: DeltaThinkingPart(content=text)}
            case ToolCall(call_id, name, arguments_json):
                yield {
                    place: DeltaToolCall(name, arguments_json, tool_call_id=call_id or f"call-{place + 1}")
                }
            case Trouble():
                raise Trouble(
                    piece.code,
                    piece.message,
                    upstream_status=piece.upstream_status,
                    retry_after_s=piece.retry_after_s,
                )
            case Hangs():
                await asyncio.Event().wait()


def _as_scripted(said: Said, pieces: Sequence[Piece]) -> Said:
    """What the library only guesses, as the test has told it."""
    if isinstance(said, Tokens):
        return next((piece for piece in pieces if isinstance(piece, Tokens)), said)
    if isinstance(said, Finished):
        told = next((piece.reason for piece in pieces if isinstance(piece, Finished)), None)
        has_calls = any(isinstance(piece, ToolCall) for piece in pieces)
        return replace(said, reason=told or ("tool_calls" if has_calls else "stop"))
    return said


def _is_nested(script: object) -> bool:
    return isinstance(script, Sequence) and any(isinstance(each, list | tuple) for each in script)


def _answers(script: Sequence[Any]) -> list[list[Piece]]:
    if isinstance(script, str):
        return [[script]]
    if not _is_nested(script):
        return [_pieces(script)]
    if not all(isinstance(each, list | tuple) for each in script):
        raise ScriptError(
            "models: a script is the pieces of one answer, or a list of answers, each a list; this one is both"
        )
    return [_pieces(each) for each in script]


def _pieces(answer: Sequence[Any]) -> list[Piece]:
    pieces: list[Piece] = [answer] if isinstance(answer, str) else list(answer)
    for piece in pieces:
        if not isinstance(piece, Piece):
            raise ScriptError(
                f"models: a piece of an answer is a str, Reasoning, Tokens, Finished, wants(…), fails(…) or HANGS, not"
                f" {piece!r}"
            )
    return pieces
