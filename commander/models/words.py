"""What is said between a commander and a provider of language models, in words of our own.

A provider's connection gets an `Ask` and gives what the model says, piece by piece. Whoever adds a provider needs these
words and nothing else of this package: see docs/models.md.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from commander.conversation import Message, ToolOffer, UserMessage

# Why an answer is over. "length": its limit of tokens was reached.
Reason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of how the model came to it."""

    text: str


@dataclass(frozen=True, slots=True)
class Sign:
    """The model is at work on something that is told when it is whole, as the call of a tool is."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model wants to be called. `arguments_json` is what it wrote: perhaps no JSON at all."""

    call_id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that this answer has used, all of it; reasoning is a part of output."""

    input: int = 0
    output: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is whole. `native` is the provider's own form of it, for the provider to see again in a `Reply`."""

    reason: Reason = "stop"
    native: object = None


Said = Text | Reasoning | Sign | ToolCall | Tokens | Finished


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said in an earlier round of the same turn."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    native: object = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ToolReturn:
    """What came of a call that a model wanted: JSON, or why it failed, in words for the model."""

    call: ToolCall
    content: str
    failed: bool = False


Turned = Message | Reply | ToolReturn
# What a model may be asked: a text, a message, or several of these, with what earlier rounds came to.
Item = str | Message | UserMessage | Reply | ToolReturn


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `schema`, a JSON Schema, is what the text has to be JSON of; None: any text."""

    messages: tuple[Turned, ...]
    system: str = ""
    tools: tuple[ToolOffer, ...] = ()
    schema: Mapping[str, object] | None = None
    # None: the provider's own limit.
    output_tokens_max: int | None = None
    # False: it is to answer without calling the tools, which earlier rounds have called.
    may_call: bool = True


class Secret:
    """A key that no log, repr or error shows; `reveal` is for the one place that sends it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "<Secret>"

    def reveal(self) -> str:
        return self._text

    def hidden_in(self, text: str) -> str:
        """The text without this key, which a server may have quoted."""
        return text.replace(self._text, "…")


@dataclass(frozen=True, slots=True)
class Connection:
    """What a table of the settings says of where a model is: `model` is its name at the provider."""

    provider: str
    model: str
    base_url: str = ""
    key: Secret | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    # The longest that the wire may be silent, seconds; who asks has limits of its own, which are shorter.
    silence_s: float = 600.0


class Provider(Protocol):
    """A connection to one model. `stream` is an async generator: it is closed, or its task cancelled, when nobody wants
    the answer any more, and is to have left the network then. It raises `Trouble`."""

    def stream(self, ask: Ask) -> AsyncIterator[Said]:
        """What the model says; the last is `Finished`."""
        ...
