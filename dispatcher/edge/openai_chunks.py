"""A session as a chat completion: in chunks as it goes, or whole.

All content is the answer, whichever sub-agent says it. Tools have run in the dispatcher, so no client is ever told to
run one; whoever wants to see them asks for events.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dispatcher.core.packets import Ended, Opened, Reset, Usage
from dispatcher.core.policy import Policy
from dispatcher.edge.native import event_json, json_bytes
from dispatcher.edge.openai_errors import Trouble, ending_record, of_ending, of_notice, of_reset
from dispatcher.edge.rendering import Notice
from dispatcher.journal import Entry

DONE: Final = b"data: [DONE]\n\n"
HEARTBEAT: Final = b": still here\n\n"
# Limits on what is said: an answer that has reached one is cut, and no failure.
LENGTHS: Final = frozenset(
    {Policy.CONTENT_CHARS.value, Policy.THOUGHT_CHARS.value, Policy.OUTPUT_TOKENS.value}
)


class Wishes(NamedTuple):
    """How a completion is told. `model` as it was asked for; `events`: with what is no text, too."""

    model: str = ""
    usage: bool = False
    events: bool = False


def finish_reason(ended: Ended) -> str | None:
    """None where there is no answer."""
    if ended.ending in ("completed", "stopped"):
        return "stop"
    if ended.ending == "policy_blocked":
        return "content_filter"
    return "length" if is_cut(ended) else None


def is_cut(ended: Ended) -> bool:
    policy = ended.stop.policy if ended.stop is not None else ""
    return ended.ending == "limit_exceeded" and policy in LENGTHS


def usage_record(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class ChatStream:
    """Chunks of a completion, as server-sent events without names."""

    way = "openai"
    key = None
    is_exact = False
    heartbeat = HEARTBEAT

    def __init__(self, session_id: str, epoch: str, wishes: Wishes) -> None:
        self._session_id = session_id
        self._epoch = epoch
        self._wishes = wishes
        # What all chunks begin and end with.
        self._head = b""
        self._tail = b',"usage":null}\n\n' if wishes.usage else b"}\n\n"
        self._has_spoken = False
        self.is_over = False
        self.when_over: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<ChatStream of {self._session_id}{', over' if self.is_over else ''}>"

    def events(self, entries: Sequence[Entry]) -> bytes:
        return b"".join([self._event(entry) for entry in entries])

    def _event(self, entry: Entry) -> bytes:
        if self.is_over:
            return b""
        event = entry.event
        match event.kind:
            case "content":
                self._has_spoken = True
                return self._chunk(b'{"content":%b}' % json_bytes(event.text))
            case "thought":
                text = json_bytes(event.text)
                return self._chunk(b'{"reasoning_content":%b,"reasoning":%b}' % (text, text))
            case "opened":
                return self._opened(entry)
            case "ended":
                return self._ended(entry)
            case "reset" if self._has_spoken:
                return self._over(of_reset())
        if self._wishes.events:
            return self._chunk(b"{}", more=self._shown(entry))
        return b""

    def notice(self, notice: Notice) -> bytes:
        trouble = of_notice(notice)
        return b"" if trouble is None or self.is_over else self._over(trouble)

    def _opened(self, entry: Entry) -> bytes:
        opened = entry.event.body
        assert isinstance(opened, Opened)
        self._head = (
            b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,"choices":['
            % (
                self._session_id.encode(),
                entry.unix_ms // 1000,
                json_bytes(self._wishes.model or opened.agent),
            )
        )
        return self._chunk(b'{"role":"assistant","content":""}', more=self._shown(entry))

    def _ended(self, entry: Entry) -> bytes:
        ended = entry.event.body
        assert isinstance(ended, Ended)
        reason = finish_reason(ended)
        if reason is None:
            return self._over(of_ending(ended))
        more = b',"ending":%b%b' % (json_bytes(ending_record(ended)), self._shown(entry))
        said = self._chunk(b"{}", b'"%b"' % reason.encode(), more)
        if self._wishes.usage:
            said += b'%b],"usage":%b}\n\n' % (self._head, json_bytes(usage_record(ended.usage)))
        return said + self._last()

    def _chunk(self, delta: bytes, reason: bytes = b"null", more: bytes = b"") -> bytes:
        return b'%b{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b%b' % (
            self._head,
            delta,
            reason,
            more,
            self._tail,
        )

    def _shown(self, entry: Entry) -> bytes:
        """The event itself, as our own viewers see it, where it was asked for."""
        if not self._wishes.events:
            return b""
        return b',"chatstream":%b' % event_json(self._session_id, self._epoch, entry)

    def _over(self, trouble: Trouble) -> bytes:
        return b"data: %b\n\n%b" % (json_bytes({"error": trouble.record}), self._last())

    def _last(self) -> bytes:
        self.is_over = True
        self.when_over()
        return DONE


class Completion:
    """The whole of it, gathered."""

    def __init__(self, session_id: str, epoch: str, wishes: Wishes, *, thoughts: bool) -> None:
        self._session_id = session_id
        self._epoch = epoch
        self._wishes = wishes
        self._thoughts = thoughts
        self._created = 0
        self._agent = ""
        # Pieces of text, and events in our own form, with their offsets.
        self._content: list[tuple[int, str]] = []
        self._reasoning: list[tuple[int, str]] = []
        self._events: list[bytes] = []
        self.ended: Ended | None = None

    @property
    def is_over(self) -> bool:
        return self.ended is not None

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        event = entry.event
        if event.kind == "content":
            self._content.append((event.offset, event.text))
            return
        if event.kind == "thought":
            if self._thoughts:
                self._reasoning.append((event.offset, event.text))
            return
        match event.body:
            case Opened(agent=agent):
                self._created, self._agent = entry.unix_ms // 1000, agent
            case Reset(discard_after=kept):
                self._content = [piece for piece in self._content if piece[0] <= kept]
                self._reasoning = [piece for piece in self._reasoning if piece[0] <= kept]
            case Ended() as ended:
                self.ended = ended
        if self._wishes.events:
            self._events.append(event_json(self._session_id, self._epoch, entry))

    def body(self) -> bytes:
        """Of one that has an answer."""
        assert self.ended is not None
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(text for _, text in self._content),
            "refusal": None,
        }
        if self._thoughts:
            reasoning = "".join(text for _, text in self._reasoning)
            message |= {"reasoning_content": reasoning, "reasoning": reasoning}
        record = {
            "id": f"chatcmpl-{self._session_id}",
            "object": "chat.completion",
            "created": self._created,
            "model": self._wishes.model or self._agent,
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": finish_reason(self.ended),
                }
            ],
            "usage": usage_record(self.ended.usage),
            "ending": ending_record(self.ended),
        }
        body = json_bytes(record)
        if self._wishes.events:
            body = body[:-1] + b',"chatstream":[%b]}' % b",".join(self._events)
        return body
