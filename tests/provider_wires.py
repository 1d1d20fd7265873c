"""The APIs of providers, as scripted servers speak them: Anthropic's Messages, OpenAI's Responses, Google's
generateContent. Written by hand from what their documentation says, not with their libraries."""

import json
from collections.abc import Mapping
from typing import Any, Final

from model_server import Call, Finish, Status, Step, Thought, event_of

SIGNATURE: Final = "c2lnbmF0dXJl"


def named(name: str, /, **fields: object) -> bytes:
    """An event of this name, which its data has as its type."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


class Messages:
    """Anthropic's Messages: blocks that begin, grow and end. Steps of one kind that follow each other are one block; a
    Finish tells the reason as Anthropic does."""

    _REASONS: Final[Mapping[str, str]] = {
        "stop": "end_turn",
        "tool_calls": "tool_use",
        "length": "max_tokens",
        "content_filter": "refusal",
    }

    def __init__(self) -> None:
        self._index = -1
        self._block = ""

    def begin(self) -> bytes:
        message: dict[str, object] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": 1},
        }
        return named("message_start", message=message) + named("ping")

    def say(self, step: Step) -> bytes:
        match step:
            case str(text):
                delta = {"type": "text_delta", "text": text}
                return self._within("text", {"type": "text", "text": ""}) + self._grow(delta)
            case Thought(text):
                begun = self._within("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                return begun + self._grow({"type": "thinking_delta", "thinking": text})
            case Call(name, arguments, call_id):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *arguments)]
                return self._within(call_id, block) + b"".join(map(self._grow, pieces))
            case Finish(reason):
                ended: dict[str, object] = {"stop_reason": self._REASONS[reason], "stop_sequence": None}
                usage: dict[str, object] = {
                    "output_tokens": step.output_tokens,
                    "input_tokens": step.input_tokens,
                }
                if step.reasoning_tokens:
                    usage["output_tokens_details"] = {"thinking_tokens": step.reasoning_tokens}
                return self._over() + named("message_delta", delta=ended, usage=usage)
            case _:
                raise AssertionError(f"{step} comes first or not at all")

    def end(self, *, is_finished: bool) -> bytes:
        return named("message_stop") if is_finished else b""

    def refuse(self, status: Status) -> object:
        return {
            "type": "error",
            "error": {"type": status.code, "message": status.message},
            "request_id": "r-1",
        }

    def _within(self, name: str, block: object) -> bytes:
        if self._block == name:
            return b""
        over, self._block = self._over(), name
        self._index += 1
        return over + named("content_block_start", index=self._index, content_block=block)

    def _grow(self, delta: object) -> bytes:
        return named("content_block_delta", index=self._index, delta=delta)

    def _over(self) -> bytes:
        if not self._block:
            return b""
        signature = b""
        if self._block == "thinking":
            signature = self._grow({"type": "signature_delta", "signature": SIGNATURE})
        self._block = ""
        return signature + named("content_block_stop", index=self._index)


class Responses:
    """OpenAI's Responses: items that are added, grow and are done. A thought is a summary; `raw` ones are the text of
    the reasoning itself, as open models' servers send it."""

    def __init__(self, *, raw: bool = False) -> None:
        self._raw = raw
        self._items: list[dict[str, Any]] = []
        self._open = ""
        self._number = -1

    def begin(self) -> bytes:
        response = self._response("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def say(self, step: Step) -> bytes:
        match step:
            case str(text):
                return self._text(text)
            case Thought(text):
                return self._thought(text)
            case Call(name, arguments, call_id):
                item = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id, "name": name}
                begun = self._add(call_id, {**item, "arguments": "", "status": "in_progress"})
                place = {"item_id": item["id"], "output_index": len(self._items) - 1}
                grown = b"".join(
                    self._event("response.function_call_arguments.delta", **place, delta=piece)
                    for piece in arguments
                )
                whole = "".join(arguments)
                self._items[-1] |= {"arguments": whole, "status": "completed"}
                done = self._event(
                    "response.function_call_arguments.done", **place, arguments=whole, name=name
                )
                return begun + grown + done
            case Finish("content_filter"):
                return self._over() + self._refusal()
            case Finish(reason):
                over = self._over()
                is_short = reason == "length"
                more: dict[str, object] = {"usage": self._usage(step)}
                if is_short:
                    more["incomplete_details"] = {"reason": "max_output_tokens"}
                status = "incomplete" if is_short else "completed"
                return over + self._event(f"response.{status}", response=self._response(status, **more))
            case _:
                raise AssertionError(f"{step} comes first or not at all")

    def end(self, *, is_finished: bool) -> bytes:
        return b""

    def refuse(self, status: Status) -> object:
        return {"error": {"message": status.message, "type": "scripted", "param": None, "code": status.code}}

    def _text(self, text: str) -> bytes:
        part = {"type": "output_text", "text": "", "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
        begun = b""
        if self._open != "text":
            begun = self._add("text", {**item, "id": f"msg_{len(self._items)}"})
            self._items[-1]["content"] = [part]
            begun += self._event("response.content_part.added", **self._place(), content_index=0, part=part)
        self._items[-1]["content"][0]["text"] += text
        delta = self._event(
            "response.output_text.delta", **self._place(), content_index=0, delta=text, logprobs=[]
        )
        return begun + delta

    def _thought(self, text: str) -> bytes:
        begun = b""
        if self._open != "thought":
            begun = self._add("thought", {"type": "reasoning", "id": f"rs_{len(self._items)}", "summary": []})
            self._items[-1]["encrypted_content"] = SIGNATURE
            if not self._raw:
                part = {"type": "summary_text", "text": ""}
                begun += self._event(
                    "response.reasoning_summary_part.added", **self._place(), summary_index=0, part=part
                )
        if self._raw:
            return begun + self._event(
                "response.reasoning_text.delta", **self._place(), content_index=0, delta=text
            )
        return begun + self._event(
            "response.reasoning_summary_text.delta", **self._place(), summary_index=0, delta=text
        )

    def _refusal(self) -> bytes:
        begun = self._add(
            "refusal",
            {"type": "message", "id": "msg_r", "role": "assistant", "status": "in_progress", "content": []},
        )
        told = "I won't."
        said = self._event("response.refusal.delta", **self._place(), content_index=0, delta=told)
        said += self._event("response.refusal.done", **self._place(), content_index=0, refusal=told)
        self._items[-1]["content"] = [{"type": "refusal", "refusal": told}]
        response = self._response("completed", usage=self._usage(Finish()))
        return begun + said + self._over() + self._event("response.completed", response=response)

    def _add(self, name: str, item: dict[str, Any]) -> bytes:
        over, self._open = self._over(), name
        self._items.append(item)
        return over + self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _over(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        item = self._items[-1]
        return self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _place(self) -> dict[str, object]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _usage(self, step: Finish) -> dict[str, object]:
        return {
            "input_tokens": step.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": step.output_tokens,
            "output_tokens_details": {"reasoning_tokens": step.reasoning_tokens},
            "total_tokens": step.input_tokens + step.output_tokens,
        }

    def _response(self, status: str, **more: object) -> dict[str, object]:
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1_700_000_000,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": "scripted",
            "output": self._items if status != "in_progress" else [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            **more,
        }

    def _event(self, name: str, /, **fields: object) -> bytes:
        self._number += 1
        return named(name, sequence_number=self._number, **fields)


class Contents:
    """Google's streamGenerateContent: chunks of candidates, without an end of their own."""

    _REASONS: Final[Mapping[str, str]] = {
        "stop": "STOP",
        "tool_calls": "STOP",
        "length": "MAX_TOKENS",
        "content_filter": "SAFETY",
    }

    def begin(self) -> bytes:
        return b""

    def say(self, step: Step) -> bytes:
        match step:
            case str(text):
                return self._chunk({"text": text})
            case Thought(text):
                return self._chunk({"text": text, "thought": True})
            case Call(name, arguments, call_id):
                call = {"id": call_id, "name": name, "args": json.loads("".join(arguments))}
                return self._chunk({"functionCall": call, "thoughtSignature": SIGNATURE})
            case Finish(reason):
                usage = {
                    "promptTokenCount": step.input_tokens,
                    "candidatesTokenCount": step.output_tokens - step.reasoning_tokens,
                    "thoughtsTokenCount": step.reasoning_tokens,
                    "totalTokenCount": step.input_tokens + step.output_tokens,
                }
                return self._chunk(None, finishReason=self._REASONS[reason], usage=usage)
            case _:
                raise AssertionError(f"{step} comes first or not at all")

    def end(self, *, is_finished: bool) -> bytes:
        return b""

    def refuse(self, status: Status) -> object:
        return {"error": {"code": status.status, "message": status.message, "status": status.code}}

    def _chunk(self, part: object | None, usage: object | None = None, **candidate: object) -> bytes:
        content = {"role": "model", "parts": [part] if part else []}
        chunk: dict[str, object] = {
            "candidates": [{"content": content, "index": 0, **candidate}],
            "modelVersion": "scripted",
            "responseId": "r-1",
        }
        if usage is not None:
            chunk["usageMetadata"] = usage
        return event_of(chunk)
