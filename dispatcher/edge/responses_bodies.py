"""A request for a response, and the `Ask` made of it. What is ignored, handed on and refused as in `openai_bodies`."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.edge.bodies import MESSAGES_MAX, Texts, require_few_parts
from dispatcher.edge.openai_bodies import PROBABILITIES, TOOLS, Flag, ForeignBody, Tokens
from dispatcher.edge.openai_parts import ROLES, json_text, parts, wrong

# Labels of ours on a session, by which whoever comes back to it is served as its first stream was.
_OURS: Final = "openai."
REASONING: Final = f"{_OURS}reasoning"
BACKGROUND: Final = f"{_OURS}background"
DECLINES: Final = f"{_OURS}declines"

_HANDED_ON: Final = (
    "max_output_tokens",
    "max_tool_calls",
    "parallel_tool_calls",
    "prompt_cache_key",
    "reasoning",
    "service_tier",
    "temperature",
    "text",
    "top_p",
    "truncation",
)
_HISTORY: Final = "no conversations are kept here; send what was said before as input"
_REFUSED: Final = {
    "previous_response_id": _HISTORY,
    "conversation": _HISTORY,
    "prompt": "no prompts are kept here; send it as input",
    "tools": TOOLS,
    "top_logprobs": PROBABILITIES,
    "context_management": "the agent sees to what its model is told; leave it out",
    "moderation": "the dispatcher's own policies judge what passes; leave it out",
}


class ResponseBody(ForeignBody):
    """`on_question` is ours."""

    model: str = ""
    input: str | Annotated[list[JsonValue], Field(max_length=MESSAGES_MAX)]
    instructions: str | None = None
    stream: Flag | None = None
    background: Flag | None = None
    reasoning: dict[str, JsonValue] | None = None
    metadata: Texts | None = None
    user: str | None = None
    safety_identifier: str | None = None
    max_output_tokens: Tokens | None = None
    max_tool_calls: Tokens | None = None
    on_question: Literal["decline", "wait"] | None = None

    @property
    def declines(self) -> bool:
        """What goes on without its client may be answered by another."""
        return self.on_question != "wait" and not self.background

    @property
    def wants_reasoning(self) -> bool:
        told = self.reasoning or {}
        return bool(told.get("summary") or told.get("generate_summary"))

    def ask(self) -> chat_pb2.Ask:
        """All but whom to ask. Raises ProblemError."""
        self.require_nothing(_REFUSED)
        self.require_no_choice()
        ask = chat_pb2.Ask(
            user_id=self.safety_identifier or self.user or "",
            labels=self._labels(),
            include_thoughts=self.wants_reasoning,
        )
        if self.instructions:
            ask.messages.add(role=agent_pb2.ROLE_SYSTEM).parts.add(text=self.instructions)
        if isinstance(self.input, str):
            ask.messages.add(role=agent_pb2.ROLE_USER).parts.add(text=self.input)
        else:
            require_few_parts("input", (_content(item) for item in self.input))
            for number, item in enumerate(self.input):
                message = _message(f"input[{number}]", item)
                if message is not None:
                    ask.messages.append(message)
        if not any(message.role != agent_pb2.ROLE_SYSTEM for message in ask.messages):
            raise wrong("input", "has no message; at least one is right")
        if self.max_output_tokens is not None:
            ask.budgets.output_tokens = self.max_output_tokens
        if self.max_tool_calls is not None:
            ask.budgets.tool_calls = min(self.max_tool_calls, 2**32 - 1)
        self.hand_on(_HANDED_ON, ask)
        return ask

    def _labels(self) -> dict[str, str]:
        labels = dict(self.metadata or {})
        for key in labels:
            if key.startswith(_OURS):
                raise wrong(f"metadata[{key[:64]!r}]", f"what begins with {_OURS!r} is the dispatcher's own")
        if self.wants_reasoning:
            labels[REASONING] = "summary"
        if self.background:
            labels[BACKGROUND] = "true"
        if self.declines:
            labels[DECLINES] = "true"
        return labels


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Those that were asked for."""
    return {key: value for key, value in labels.items() if not key.startswith(_OURS)}


def _content(item: JsonValue) -> JsonValue:
    return item.get("content") if isinstance(item, dict) else None


def _message(field: str, item: JsonValue) -> agent_pb2.Message | None:
    """None for what was thought in an earlier turn: that is no part of what was said."""
    if not isinstance(item, dict):
        raise wrong(field, "should be an object")
    kind = item.get("type", "message")
    if kind == "reasoning":
        return None
    made = _ITEMS.get(kind) if isinstance(kind, str) else None
    if made is None:
        raise wrong(f"{field}.type", f"one of {', '.join(sorted([*_ITEMS, 'reasoning']))} is right")
    return made(field, item)


def _said(field: str, item: Mapping[str, JsonValue]) -> agent_pb2.Message:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES or role == "tool":
        raise wrong(f"{field}.role", "one of system, developer, user, assistant is right")
    message = agent_pb2.Message(role=ROLES[role])
    message.parts.extend(parts(f"{field}.content", item.get("content")))
    if not message.parts:
        raise wrong(f"{field}.content", "is empty")
    return message


def _called(field: str, item: Mapping[str, JsonValue]) -> agent_pb2.Message:
    """A call in an earlier turn, as JSON: there is no other word for it."""
    return _told(field, agent_pb2.ROLE_ASSISTANT, dict(item))


def _resulted(field: str, item: Mapping[str, JsonValue]) -> agent_pb2.Message:
    return _told(field, agent_pb2.ROLE_TOOL, dict(item))


def _told(field: str, role: agent_pb2.Role.ValueType, item: Any) -> agent_pb2.Message:
    message = agent_pb2.Message(role=role)
    message.parts.add(json=json_text(field, item))
    return message


_ITEMS: Final[dict[str, Callable[[str, Mapping[str, JsonValue]], agent_pb2.Message]]] = {
    "message": _said,
    "mcp_call": _called,
    "function_call": _called,
    "function_call_output": _resulted,
}
