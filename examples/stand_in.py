"""Not an agent: a stand-in for a language model, for want of a key. It speaks OpenAI's chat completions, on loopback
alone, and understands nothing: where tools are offered it calls the first one, with the user's words for each text that
the tool needs; otherwise it repeats what it was told.

    python examples/stand_in.py [PORT]
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPEATED_CHARS_MAX = 200
BODY_BYTES_MAX = 8_000_000


def answer(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What it says, as the deltas of a stream."""
    last = request["messages"][-1]
    content = last.get("content") or ""
    words = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    if request.get("tools") and last["role"] != "tool":
        function = request["tools"][0]["function"]
        needed = function["parameters"].get("required", [])
        call = {"name": function["name"], "arguments": json.dumps(dict.fromkeys(needed, words))}
        yield {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": call}]}
        return
    yield {"content": "The tool says: " if last["role"] == "tool" else "You said: "}
    for word in words[:REPEATED_CHARS_MAX].splitlines()[0].split(" ") if words else []:
        yield {"content": f"{word} "}


class StandIn(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = min(int(self.headers.get("content-length", 0)), BODY_BYTES_MAX)
        request = json.loads(self.rfile.read(length))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        deltas = list(answer(request))
        for delta in deltas:
            self.tell(request, [{"index": 0, "delta": delta, "finish_reason": None}])
        reason = "tool_calls" if "tool_calls" in deltas[0] else "stop"
        self.tell(request, [{"index": 0, "delta": {}, "finish_reason": reason}])
        self.tell(
            request,
            [],
            usage={"prompt_tokens": 1, "completion_tokens": len(deltas), "total_tokens": 1 + len(deltas)},
        )
        self.wfile.write(b"data: [DONE]\n\n")

    def tell(self, request: dict[str, Any], choices: list[dict[str, Any]], **more: object) -> None:
        head = {"id": "chat-1", "object": "chat.completion.chunk", "created": 0, "model": request["model"]}
        self.wfile.write(f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n".encode())

    def log_message(self, *_: object) -> None:
        """Its requests are of no interest."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 8000), StandIn) as server:
        print(f"stand-in: ready at http://127.0.0.1:{server.server_port}/v1", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
