"""A session as a response of OpenAI's Responses API: folded from its events, and nothing but those.

A response is a list of items: messages, calls of tools, and reasoning. Each event of a session adds to it, and each
addition is told by events of theirs; whoever folds the same events has the same response and has told the same.
Tools have run in the dispatcher: they are told as `mcp_call`, which no client runs.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final, NamedTuple

from dispatcher.core.packets import Ended, Opened, SessionEvent, ToolCall, ToolResult, Usage
from dispatcher.edge.openai_chunks import is_cut
from dispatcher.edge.openai_errors import ending_record, of_ending, of_reset
from dispatcher.edge.responses_bodies import BACKGROUND, REASONING, own_labels
from dispatcher.journal import Entry

PREFIX: Final = "resp_"
_SERVER: Final = "dispatcher"


class Told(NamedTuple):
    """One event of theirs, but for its number."""

    type: str
    fields: dict[str, Any]


class _Open(NamedTuple):
    """An item that is being said, with the pieces of its last part and what that is about."""

    place: int
    pieces: list[str]
    about: str


class ResponseItems:
    """`thoughts`: they are shown, as reasoning. `takes_back`: it is not being streamed, so that what an attempt said
    that is lost can be left out; a stream has failed there."""

    def __init__(self, session_id: str, *, thoughts: bool, takes_back: bool) -> None:
        self._session_id = session_id
        self._thoughts = thoughts
        self._takes_back = takes_back
        self._opened: Opened | None = None
        self._created_ms = 0
        self._ended_ms = 0
        self._has_started = False
        self._has_failed = False
        self._output: list[dict[str, Any]] = []
        self._message: _Open | None = None
        self._reasoning: _Open | None = None
        # By call id: which item.
        self._calls: dict[str, int] = {}
        self.ended: Ended | None = None

    def __repr__(self) -> str:
        return f"<ResponseItems of {self._session_id}, {self.status}, {len(self._output)} items>"

    @property
    def is_over(self) -> bool:
        """Nothing more is told."""
        return self.ended is not None or self._has_failed

    @property
    def status(self) -> str:
        if self._has_failed:
            return "failed"
        if self.ended is None:
            return "in_progress" if self._has_started else "queued"
        match self.ended.ending:
            case "completed":
                return "completed"
            case "stopped":
                return "cancelled"
            case "policy_blocked":
                return "incomplete"
        return "incomplete" if is_cut(self.ended) else "failed"

    def take(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.told(entry)

    def told(self, entry: Entry) -> list[Told]:
        """What the next event of the session adds."""
        event = entry.event
        if self.is_over:
            return []
        match event.kind:
            case "content":
                return [*self._close_reasoning(), *self._say(event)]
            case "thought":
                return [*self._think(event)] if self._thoughts else []
            case "tool_call":
                return [*self._close("completed"), *self._call(event.body)]
            case "tool_result":
                return [*self._result(event.body)]
            case "opened":
                return self._open(entry)
            case "started" if not self._has_started:
                self._has_started = True
                return [self._whole("response.in_progress")]
            case "reset":
                return self._reset()
            case "ended":
                return self._end(entry)
        return []

    # --- the whole ---------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """The response as it stands."""
        opened, ended = self._opened, self.ended
        assert opened is not None
        return {
            "id": f"{PREFIX}{self._session_id}",
            "object": "response",
            "created_at": self._created_ms // 1000,
            "status": self.status,
            "background": opened.labels.get(BACKGROUND) == "true",
            "completed_at": self._ended_ms // 1000 if self._ended_ms else None,
            "error": self._error(),
            "incomplete_details": self._incomplete(),
            "instructions": None,
            "max_output_tokens": None,
            "metadata": own_labels(opened.labels),
            "model": opened.agent,
            "output": self._items(),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": "auto" if REASONING in opened.labels else None},
            "store": True,
            "temperature": None,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "truncation": "disabled",
            "usage": _usage(ended.usage) if ended is not None else None,
            "user": opened.user_id or None,
            "ending": ending_record(ended) if ended is not None else None,
        }

    def _items(self) -> list[dict[str, Any]]:
        """Those that are being said with what was said of them so far."""
        items = list(self._output)
        for said in (self._message, self._reasoning):
            if said is not None:
                parts = "content" if said is self._message else "summary"
                item = items[said.place]
                *whole, last = item[parts]
                items[said.place] = {**item, parts: [*whole, {**last, "text": "".join(said.pieces)}]}
        return items

    def _error(self) -> dict[str, Any] | None:
        """`code` is one of a few that their clients know; ours is the `type`."""
        if self.status != "failed":
            return None
        trouble = of_reset() if self.ended is None else of_ending(self.ended)
        return {"code": "server_error", "message": trouble.message, "type": trouble.code, "param": None}

    def _incomplete(self) -> dict[str, str] | None:
        if self.status != "incomplete" or self.ended is None:
            return None
        return {"reason": "max_output_tokens" if is_cut(self.ended) else "content_filter"}

    def _whole(self, kind: str) -> Told:
        return Told(kind, {"response": self.record()})

    def _open(self, entry: Entry) -> list[Told]:
        opened = entry.event.body
        assert isinstance(opened, Opened)
        self._opened, self._created_ms = opened, entry.unix_ms
        return [self._whole("response.created"), self._whole("response.queued")]

    def _reset(self) -> list[Told]:
        """An attempt was lost. Its calls have been made all the same; what it said is no answer."""
        has_spoken = any(item["type"] == "message" for item in self._output)
        told = [*self._close("incomplete"), *self._close_calls()]
        if has_spoken and self._takes_back:
            self._output = [item for item in self._output if item["type"] != "message"]
        elif has_spoken:
            self._has_failed = True
            told.append(self._whole("response.failed"))
        return told

    def _end(self, entry: Entry) -> list[Told]:
        ended = entry.event.body
        assert isinstance(ended, Ended)
        told = [
            *self._close("completed" if ended.ending == "completed" else "incomplete"),
            *self._close_calls(),
        ]
        self.ended, self._ended_ms = ended, entry.unix_ms
        # There is no event for one that was cancelled; its status says so.
        kind = {"completed": "completed", "failed": "failed"}.get(self.status, "incomplete")
        return [*told, self._whole(f"response.{kind}")]

    # --- messages ----------------------------------------------------------------------------------------

    def _say(self, event: SessionEvent) -> Iterator[Told]:
        if self._message is None:
            item = {"type": "message", "status": "in_progress", "role": "assistant", "content": []}
            index = yield from self._add("msg", item)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            # A new one: the item as it was is still to be told.
            self._output[index] = {**self._output[index], "content": [part]}
            self._message = _Open(index, [], "")
            yield self._of("response.content_part.added", index, content_index=0, part=part)
        message = self._message
        message.pieces.append(event.text)
        yield self._of(
            "response.output_text.delta", message.place, content_index=0, delta=event.text, logprobs=[]
        )

    def _close_message(self, status: str) -> Iterator[Told]:
        message, self._message = self._message, None
        if message is not None:
            index, text = message.place, "".join(message.pieces)
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            yield self._of("response.output_text.done", index, content_index=0, text=text, logprobs=[])
            yield self._of("response.content_part.done", index, content_index=0, part=part)
            yield self._finish(index, content=[part], status=status)

    # --- reasoning ---------------------------------------------------------------------------------------

    def _think(self, event: SessionEvent) -> Iterator[Told]:
        """Each step is a part, and begins with its name, as theirs do."""
        about, text = str(event.body), event.text
        reasoning = self._reasoning
        if reasoning is None or reasoning.about != about:
            if reasoning is None:
                index = yield from self._add("rs", {"type": "reasoning", "summary": []})
            else:
                index = reasoning.place
                yield from self._close_part(reasoning)
            part = {"type": "summary_text", "text": ""}
            summary = [*self._output[index]["summary"], part]
            self._output[index] = {**self._output[index], "summary": summary}
            reasoning = self._reasoning = _Open(index, [], about)
            yield self._of(
                "response.reasoning_summary_part.added", index, summary_index=len(summary) - 1, part=part
            )
            if about:
                text = f"**{about}**\n\n{text}"
        reasoning.pieces.append(text)
        at = len(self._output[reasoning.place]["summary"]) - 1
        yield self._of("response.reasoning_summary_text.delta", reasoning.place, summary_index=at, delta=text)

    def _close_part(self, reasoning: _Open) -> Iterator[Told]:
        index, text = reasoning.place, "".join(reasoning.pieces)
        part = {"type": "summary_text", "text": text}
        summary = [*self._output[index]["summary"][:-1], part]
        self._output[index] = {**self._output[index], "summary": summary}
        at = len(summary) - 1
        yield self._of("response.reasoning_summary_text.done", index, summary_index=at, text=text)
        yield self._of("response.reasoning_summary_part.done", index, summary_index=at, part=part)

    def _close_reasoning(self) -> Iterator[Told]:
        reasoning, self._reasoning = self._reasoning, None
        if reasoning is not None:
            yield from self._close_part(reasoning)
            yield self._finish(reasoning.place)

    def _close(self, status: str) -> Iterator[Told]:
        yield from self._close_reasoning()
        yield from self._close_message(status)

    # --- calls -------------------------------------------------------------------------------------------

    def _call(self, call: object) -> Iterator[Told]:
        assert isinstance(call, ToolCall)
        item = {
            "type": "mcp_call",
            "status": "in_progress",
            "server_label": _SERVER,
            "name": call.tool_name,
            "arguments": "",
            "output": None,
            "error": None,
        }
        index = yield from self._add("mcp", item)
        self._calls[call.call_id] = index
        arguments = call.arguments_json or "{}"
        yield self._of("response.mcp_call.in_progress", index)
        yield self._of("response.mcp_call_arguments.delta", index, delta=arguments)
        yield self._of("response.mcp_call_arguments.done", index, arguments=arguments)
        self._output[index] = {**self._output[index], "arguments": arguments}

    def _result(self, result: object) -> Iterator[Told]:
        assert isinstance(result, ToolResult)
        index = self._calls.pop(result.call_id, None)
        if index is None:
            return
        failure = result.outcome.failure
        if failure is None:
            yield self._of("response.mcp_call.completed", index)
            yield self._finish(index, status="completed", output=result.outcome.result_json)
        else:
            told = f"{failure.code}: {failure.message}"
            error = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": told}]}
            yield self._of("response.mcp_call.failed", index)
            yield self._finish(index, status="failed", error=error)

    def _close_calls(self) -> Iterator[Told]:
        """Nobody is told any more what comes of them."""
        for index in self._calls.values():
            yield self._finish(index, status="incomplete")
        self._calls = {}

    # --- items -------------------------------------------------------------------------------------------

    def _add(self, prefix: str, item: dict[str, Any]) -> Generator[Told, None, int]:
        index = len(self._output)
        self._output.append({"id": f"{prefix}_{self._session_id}_{index}", **item})
        yield Told("response.output_item.added", {"output_index": index, "item": self._output[index]})
        return index

    def _finish(self, index: int, **fields: Any) -> Told:
        item = self._output[index] = {**self._output[index], **fields}
        return Told("response.output_item.done", {"output_index": index, "item": item})

    def _of(self, kind: str, index: int, **fields: Any) -> Told:
        return Told(kind, {"item_id": self._output[index]["id"], "output_index": index, **fields})


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
