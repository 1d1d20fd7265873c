"""What the servers of Anthropic and Google stream, as steps of `model_server.py`: each ends as they do, or is cut."""

import json
from collections.abc import Mapping

from model_server import Raw


def _named(kind: str, **fields: object) -> Raw:
    return Raw(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())


def anthropic_begin(input_tokens: int = 11) -> Raw:
    """What comes first."""
    usage = {"input_tokens": input_tokens, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return _named("message_start", message={**message, "stop_reason": None, "usage": usage})


def anthropic_part(index: int, opened: Mapping[str, object], *deltas: Mapping[str, object]) -> list[Raw]:
    """A part of the answer: thinking, text or the use of a tool."""
    return [
        _named("content_block_start", index=index, content_block=opened),
        *(_named("content_block_delta", index=index, delta=delta) for delta in deltas),
        _named("content_block_stop", index=index),
    ]


def anthropic_text(index: int, *pieces: str) -> list[Raw]:
    return anthropic_part(
        index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces)
    )


def anthropic_end(
    reason: str = "end_turn", output_tokens: int = 5, thinking_tokens: int | None = None
) -> list[Raw]:
    usage: dict[str, object] = {"output_tokens": output_tokens}
    if thinking_tokens is not None:
        usage["output_tokens_details"] = {"thinking_tokens": thinking_tokens}
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [_named("message_delta", delta=delta, usage=usage), _named("message_stop")]


def google_piece(*parts: dict[str, object]) -> Raw:
    return _google({"content": {"role": "model", "parts": list(parts)}, "index": 0})


def google_end(reason: str = "STOP", input_tokens: int = 11, said: int = 3, thought: int = 2) -> Raw:
    """The last piece, with the reason and the tokens; what was thought is told apart from what was said."""
    usage = {
        "promptTokenCount": input_tokens,
        "candidatesTokenCount": said,
        "thoughtsTokenCount": thought,
        "totalTokenCount": input_tokens + said + thought,
    }
    candidate = {"content": {"role": "model", "parts": [{"text": ""}]}, "index": 0, "finishReason": reason}
    return _google(candidate, usageMetadata=usage)


def _google(candidate: dict[str, object], **more: object) -> Raw:
    value = {"candidates": [candidate], "modelVersion": "m", "responseId": "r", **more}
    return Raw(f"data: {json.dumps(value)}\r\n\r\n".encode())
