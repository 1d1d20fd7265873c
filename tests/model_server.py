"""A server of language models that does what a test tells it: OpenAI's chat completions, by hand, on a real socket.

A test scripts what each request gets, in order; the last script goes on for all that come after. The server records the
requests and, for each, when its client left. It runs in a thread of its own, so that tests of any kind can use it; and
as a program, for documentation and for processes: `python model_server.py PORT`.
"""

import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self

PATIENCE_S = 60.0
MODEL = "scripted"


@dataclass
class Request:
    """One request. `left_at` is when its client closed the connection, on time.monotonic; None: it has not."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    came_at: float = field(default_factory=time.monotonic)
    left_at: float | None = None
    # The answer was written to its end.
    was_answered: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


class Reset(Exception):  # noqa: N818 - what is to happen
    """Breaks the connection, as a crash does."""


@dataclass(frozen=True)
class Status:
    """An answer that is an error."""

    status: int
    message: str = "as scripted"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """A whole answer that is no stream: JSON, with a status of success."""

    body: object
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Bytes in place of a chunk."""

    data: bytes


@dataclass(frozen=True)
class Pause:
    """Silence until the test says `go_on` to the pauses of this name, or the client leaves."""

    name: str = ""


@dataclass(frozen=True)
class Call:
    """The call of a tool, its arguments in pieces."""

    name: str
    arguments: Sequence[str]
    call_id: str = "call_1"
    index: int = 0


@dataclass(frozen=True)
class Thought:
    text: str


@dataclass(frozen=True)
class Finish:
    """The chunk with the reason, then that of usage. Left out, the stream ends without having been announced."""

    reason: str = "stop"
    input_tokens: int = 7
    output_tokens: int = 3
    reasoning_tokens: int = 0


# A str is a piece of the answer.
Step = str | Thought | Call | Finish | Raw | Pause | Reset | Status | Document
Script = Sequence[Step] | Callable[[Request], Sequence[Step]]


def says(*tokens: str, output_tokens: int = 3) -> list[Step]:
    return [*tokens, Finish(output_tokens=output_tokens)]


def calls(*wanted: Call) -> list[Step]:
    return [*wanted, Finish("tool_calls")]


class Wire(Protocol):
    """How one answer is written: the steps as bytes of an API. Made anew for each request."""

    def begin(self) -> bytes:
        """What comes before the first step."""
        ...

    def say(self, step: Step) -> bytes: ...

    def end(self, *, is_finished: bool) -> bytes:
        """What comes after the last; it is finished when a Finish was among the steps."""
        ...

    def refuse(self, status: Status) -> object:
        """The body of an error."""
        ...


class ModelServer:
    """Listens until it is closed; `base_url` is what a table of the settings says, by what the API is called at."""

    def __init__(
        self, *scripts: Script, port: int = 0, wire: Callable[[], Wire] | None = None, at: str = "/v1"
    ) -> None:
        self._wire = wire or Completions
        self.requests: list[Request] = []
        self._scripts = list(scripts) or [says("Hello", ", ", "world", "!")]
        self._loop = asyncio.new_event_loop()
        self._news = threading.Condition()
        self._go_on: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._is_ready = threading.Event()
        self._connections: set[asyncio.Task[None]] = set()
        listening = socket.create_server(("127.0.0.1", port))
        self.port: int = listening.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}{at}"
        self._thread = threading.Thread(target=self._live, args=(listening,), daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # -- what a test says and asks ---------------------------------------------------------------------------

    def then(self, *scripts: Script) -> None:
        """From the next request on."""
        self._scripts = list(scripts)

    def go_on(self, name: str = "") -> None:
        """Ends every pause of this name, those to come as well."""
        self._loop.call_soon_threadsafe(self._go_on[name].set)

    def wait_for(self, requests: int = 1) -> Request:
        """The request of this number, from 1, once it has come."""
        self._wait(lambda: len(self.requests) >= requests)
        return self.requests[requests - 1]

    def wait_left(self, requests: int = 1) -> float:
        """When the client of the request of this number had left, on time.monotonic."""
        request = self.wait_for(requests)
        self._wait(lambda: request.left_at is not None)
        assert request.left_at is not None
        return request.left_at

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(is_so, PATIENCE_S), f"it never came to be so: {self.requests}"

    # -- its thread ------------------------------------------------------------------------------------------

    def _live(self, listening: socket.socket) -> None:
        async def serve() -> None:
            self._server = await asyncio.start_server(self._connected, sock=listening)

        self._loop.run_until_complete(serve())
        self._loop.call_soon(self._is_ready.set)
        self._loop.run_forever()
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            self._loop.run_until_complete(asyncio.wait(self._connections))
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                self._tell(partial(self.requests.append, request))
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                steps = script(request) if callable(script) else script
                answering = asyncio.ensure_future(self._answer(writer, request, steps))
                # A client that has left while it is answered: nothing it could say comes in between.
                leaving = asyncio.ensure_future(reader.read(1))
                leaving.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    self._tell(partial(setattr, request, "left_at", time.monotonic()))
                    answering.cancel()
                    await asyncio.wait((answering,))
                    return
                answering.result()
                # One request to a connection is simple, and enough.
                leaving.cancel()
                return
        except Reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _tell(self, do: Callable[[], object]) -> None:
        with self._news:
            do()
            self._news.notify_all()

    async def _answer(self, writer: asyncio.StreamWriter, request: Request, steps: Sequence[Step]) -> None:
        if steps and isinstance(steps[0], Status):
            status = steps[0]
            body = json.dumps(self._wire().refuse(status)).encode()
            writer.write(_whole(status.status, body, status.headers))
        elif steps and isinstance(steps[0], Document):
            writer.write(_whole(200, json.dumps(steps[0].body).encode(), steps[0].headers))
        else:
            async for piece in self._pieces(steps, writer):
                writer.write(piece)
                await writer.drain()
        await writer.drain()
        self._tell(lambda: setattr(request, "was_answered", True))

    async def _pieces(self, steps: Sequence[Step], writer: asyncio.StreamWriter) -> AsyncIterator[bytes]:
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
            b"Connection: close\r\n\r\n"
        )
        wire, is_begun = self._wire(), False
        for step in steps:
            if isinstance(step, Reset):
                # What was said before is to arrive before.
                await asyncio.sleep(0.05)
                raise step
            if isinstance(step, Pause):
                await self._go_on[step.name].wait()
                continue
            said = step.data if isinstance(step, Raw) else wire.say(step)
            yield said if is_begun else head + wire.begin() + said
            is_begun = True
        yield wire.end(is_finished=any(isinstance(step, Finish) for step in steps))


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, json.loads(body or b"{}"))


def _whole(status: int, body: bytes, more: Mapping[str, str]) -> bytes:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **more}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}Connection: close\r\n\r\n".encode() + body


class Completions:
    """OpenAI's chat completions."""

    def begin(self) -> bytes:
        return b""

    def say(self, step: Step) -> bytes:
        match step:
            case str(text):
                return _chunk({"content": text})
            case Thought(text):
                return _chunk({"reasoning_content": text})
            case Call(name, arguments, call_id, index):
                first = {
                    "index": index,
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                rest = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
                return b"".join(_chunk({"tool_calls": [each]}) for each in (first, *rest))
            case Finish(reason):
                usage = {
                    "prompt_tokens": step.input_tokens,
                    "completion_tokens": step.output_tokens,
                    "total_tokens": step.input_tokens + step.output_tokens,
                    "completion_tokens_details": {"reasoning_tokens": step.reasoning_tokens},
                }
                return _chunk({}, finish=reason) + event_of({**_BARE, "choices": [], "usage": usage})
            case _:
                raise AssertionError(f"{step} comes first or not at all")

    def end(self, *, is_finished: bool) -> bytes:
        return b"data: [DONE]\n\n" if is_finished else b""

    def refuse(self, status: Status) -> object:
        error = {"message": status.message, "code": status.code, "type": "scripted", "param": None}
        return {"error": error}


_BARE = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": MODEL}


def _chunk(delta: Mapping[str, object], finish: str | None = None) -> bytes:
    return event_of({**_BARE, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def event_of(value: object) -> bytes:
    """An event without a name."""
    return f"data: {json.dumps(value)}\n\n".encode()


def main() -> None:
    """Says each word of what it was asked, until it is ended."""

    def echo(request: Request) -> list[Step]:
        content = request.messages[-1]["content"]
        text = content if isinstance(content, str) else json.dumps(content)
        return says(*(f"{word} " for word in f"You said: {text}".split()))

    with ModelServer(echo, port=int(sys.argv[1])) as server:
        print(f"ready at {server.base_url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
