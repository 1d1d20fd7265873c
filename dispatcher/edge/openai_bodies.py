"""A request for a chat completion, and the `Ask` made of it.

What their clients send and means nothing here is ignored, as their own server would ignore what it does not know. What
would change the answer is handed to the agent, or refused by its name.
"""

from collections.abc import Collection
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.edge.bodies import MESSAGES_MAX, PARTS_MAX, Texts, require_few_parts
from dispatcher.edge.openai_parts import ROLES, json_text, parts, wrong

_COUNT_MAX: Final = 2**63 - 1
Tokens = Annotated[int, Field(ge=1, le=_COUNT_MAX, strict=True)]
Flag = Annotated[bool, Field(strict=True)]

# What the agent may want to know: it gets them as JSON, under these names, in the metadata of its turn.
HANDED_ON: Final = (
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "reasoning_effort",
    "response_format",
    "seed",
    "service_tier",
    "stop",
    "temperature",
    "top_p",
    "verbosity",
)
PROBABILITIES: Final = "agents tell no probabilities; leave it out"
TOOLS: Final = "tools run in the dispatcher, which offers its own to the agent; leave it out"
_REFUSED: Final = {
    "tools": TOOLS,
    "functions": TOOLS,
    "function_call": TOOLS,
    "web_search_options": TOOLS,
    "logprobs": PROBABILITIES,
    "top_logprobs": PROBABILITIES,
    "audio": "agents answer in text; leave it out",
    "moderation": "the dispatcher's own policies judge what passes; leave it out",
}


class ForeignBody(BaseModel):
    """As sent by clients that know more than there is here."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    def told(self, name: str) -> JsonValue:
        """What was said under this name, None where nothing was."""
        value: JsonValue = getattr(self, name, None)
        return value

    def require_nothing(self, refused: dict[str, str]) -> None:
        """Raises ProblemError for what would be left out in silence."""
        for name, why in refused.items():
            if self.told(name):
                raise wrong(name, why)

    def require_no_choice(self) -> None:
        """Of tools: the agent chooses. Raises ProblemError."""
        if self.told("tool_choice") not in (None, "auto", "none"):
            raise wrong("tool_choice", "the agent chooses its tools; leave it out")

    def hand_on(self, names: Collection[str], ask: chat_pb2.Ask) -> None:
        for name in names:
            value = self.told(name)
            if value is not None:
                ask.metadata[name] = json_text(name, value)


class SaidBody(ForeignBody):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: JsonValue = None
    tool_calls: Annotated[list[JsonValue], Field(max_length=PARTS_MAX)] | None = None
    tool_call_id: str | None = None


class StreamOptions(ForeignBody):
    include_usage: Flag | None = None


class ChatBody(ForeignBody):
    """`include_thoughts`, `include_events` and `on_question` are ours: their clients send them as `extra_body`."""

    model: str = ""
    messages: Annotated[list[SaidBody], Field(max_length=MESSAGES_MAX, fail_fast=True)]
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    modalities: Annotated[list[str], Field(fail_fast=True)] | None = None
    metadata: Texts | None = None
    user: str | None = None
    safety_identifier: str | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    include_thoughts: Flag = False
    include_events: Flag = False
    on_question: Literal["decline", "wait"] = "decline"

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def ask(self) -> chat_pb2.Ask:
        """All but whom to ask. Raises ProblemError."""
        self.require_nothing(_REFUSED)
        self.require_no_choice()
        if self.n not in (None, 1):
            raise wrong("n", "one answer is given; 1 is right")
        if set(self.modalities or ["text"]) != {"text"}:
            raise wrong("modalities", 'agents answer in text; ["text"] is right')
        require_few_parts("messages", (said.content for said in self.messages))
        ask = chat_pb2.Ask(
            user_id=self.safety_identifier or self.user or "",
            labels=self.metadata or {},
            include_thoughts=self.include_thoughts,
        )
        for number, said in enumerate(self.messages):
            ask.messages.append(_message(f"messages[{number}]", said))
        tokens = self.max_completion_tokens or self.max_tokens
        if tokens is not None:
            ask.budgets.output_tokens = tokens
        self.hand_on(HANDED_ON, ask)
        return ask


def _message(field: str, said: SaidBody) -> agent_pb2.Message:
    """Calls of tools in what was said before are told as JSON: there is no other word for them."""
    wire = agent_pb2.Message(role=ROLES[said.role])
    if said.content is not None:
        wire.parts.extend(parts(f"{field}.content", said.content))
    elif said.role != "assistant":
        raise wrong(f"{field}.content", "is missing")
    told: dict[str, Any] = {}
    if said.tool_calls:
        told["tool_calls"] = said.tool_calls
    if said.tool_call_id:
        told["tool_call_id"] = said.tool_call_id
    if told:
        wire.parts.add(json=json_text(field, told))
    if not wire.parts:
        raise wrong(f"{field}.content", "is missing")
    return wire
