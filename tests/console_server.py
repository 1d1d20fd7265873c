"""A real gRPC server that plays a dispatcher's part from a script, and the command line as a real process.

The tests of the command line use it to bring about what a real dispatcher only does by accident: a stream that
breaks in the middle, a question, an ending that does not fit its content. Nothing in it decides anything.
"""

import asyncio
import contextlib
import os
import pty
import signal
import sys
import termios
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

PATIENCE_S = 60.0  # how long a test waits for what must come; generous, as the machine may be busy
SESSION = "s-1"
EPOCH = "e1"

Script = Callable[["Stage"], Awaitable[None]]
Answer = Callable[[Any], Message]


class RefusalError(Exception):
    """Raised by an answer or a script: ends the RPC with this status."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__(details)
        self.code = code


class Tale:
    """The events of one session, with the cursors and the checksum that a dispatcher would give them."""

    def __init__(self, session_id: str = SESSION) -> None:
        self.session_id = session_id
        self.offset = 0
        self.attempt = 1
        self.text = ""

    def event(self, agent: str = "", **kind: Any) -> chat_pb2.SessionEvent:
        """The next event: `event(content=ContentChunk(...))`."""
        self.offset += 1
        content = kind.get("content")
        self.text += content.text if content is not None else ""
        return chat_pb2.SessionEvent(
            cursor=chat_pb2.Cursor(epoch=EPOCH, offset=self.offset),
            session_id=self.session_id,
            attempt=self.attempt,
            agent=agent,
            timestamp=1_700_000_000_000,
            **kind,
        )

    def opened(self) -> chat_pb2.SessionEvent:
        return self.event(opened=chat_pb2.SessionOpened(agent="demo"))

    def content(self, text: str, agent: str = "") -> chat_pb2.SessionEvent:
        return self.event(agent, content=agent_pb2.ContentChunk(text=text))

    def thought(self, step: str, delta: str, agent: str = "") -> chat_pb2.SessionEvent:
        return self.event(agent, thought=agent_pb2.ThoughtChain(step_name=step, delta=delta))

    def question(self, text: str, *options: str, schema: str = "", name: str = "q1") -> chat_pb2.SessionEvent:
        question = agent_pb2.Question(
            question_id=name, text=text, options=options, response_schema_json=schema
        )
        return self.event(question=question)

    def answer(self, value_json: str, name: str = "q1") -> chat_pb2.SessionEvent:
        return self.event(answer=agent_pb2.Answer(question_id=name, value_json=value_json))

    def ended(
        self, ending: chat_pb2.SessionEnding.ValueType = chat_pb2.SESSION_ENDING_COMPLETED, **more: Any
    ) -> chat_pb2.SessionEvent:
        name = chat_pb2.SessionEnding.Name(ending).removeprefix("SESSION_ENDING_").lower()
        sums = {"content_chars": len(self.text), "content_crc32": zlib.crc32(self.text.encode())}
        return self.event(ended=chat_pb2.SessionEnded(ending=ending, name=name, **{**sums, **more}))


class Stage:
    """One stream as a script sees it."""

    def __init__(self, context: Any, request: Message | None = None) -> None:
        self._context = context
        self._request = request
        self.metadata = dict(context.invocation_metadata() or ())

    async def heard(self) -> Any:
        """The next packet from the client, or the request that opened the stream."""
        if self._request is not None:
            return self._request
        packet = await self._context.read()
        assert packet is not grpc.aio.EOF, "the client has half-closed"
        return packet

    async def half_closed(self) -> None:
        assert await self._context.read() is grpc.aio.EOF

    async def tell(self, *events: chat_pb2.SessionEvent) -> None:
        await self._context.write(chat_pb2.SessionEvents(events=events))

    async def send(self, message: chat_pb2.SessionEvents) -> None:
        await self._context.write(message)

    async def receipt(
        self,
        packet: chat_pb2.ClientPacket,
        session_id: str = SESSION,
        error: agent_pb2.ErrorSignal | None = None,
    ) -> None:
        receipt = chat_pb2.Receipt(
            client_ref=packet.client_ref, request_id=packet.request_id, session_id=session_id, error=error
        )
        await self._context.write(chat_pb2.SessionEvents(receipts=[receipt]))

    async def accept(self) -> chat_pb2.Ask:
        """Hears the request that opens a session, and opens one."""
        packet = await self.heard()
        await self.receipt(packet)
        ask: chat_pb2.Ask = packet.ask
        return ask

    async def left(self, seen: asyncio.Event | None = None) -> None:
        """Until the client has cancelled the stream, which cancels the script; `seen` tells the test."""
        try:
            await asyncio.Event().wait()
        finally:
            if seen is not None:
                seen.set()


class Scripted:
    """What the server does. Scripts of one method are played one after the other, a stream each."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script]] = {"Converse": [], "Subscribe": [], "WatchSession": []}
        self.answers: dict[str, Answer] = {}
        self.requests: list[Any] = []  # of all unary methods
        self.metadata: dict[str, str] = {}  # of the last call
        self.failures: list[BaseException] = []
        self.address = ""

    def converse(self, *scripts: Script) -> None:
        self.scripts["Converse"] += scripts

    async def play(self, method: str, stage: Stage) -> None:
        self.metadata = stage.metadata
        if not self.scripts[method]:
            raise RefusalError(grpc.StatusCode.UNAVAILABLE, f"no script is left for {method}")
        async with asyncio.timeout(PATIENCE_S):
            await self.scripts[method].pop(0)(stage)


def _service(scripted: Scripted, service: Any) -> grpc.GenericRpcHandler:
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.methods:
        of = GetMessageClass(method.input_type)
        if method.client_streaming:
            shape = grpc.stream_stream_rpc_method_handler(
                _streaming(scripted, method.name, with_request=False), of.FromString, _serialized
            )
        elif method.server_streaming:
            shape = grpc.unary_stream_rpc_method_handler(
                _streaming(scripted, method.name, with_request=True), of.FromString, _serialized
            )
        else:
            shape = grpc.unary_unary_rpc_method_handler(
                _unary(scripted, method.name), of.FromString, _serialized
            )
        methods[method.name] = shape
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _streaming(scripted: Scripted, name: str, *, with_request: bool) -> Any:
    async def serve(request: Any, context: Any) -> None:
        try:
            await scripted.play(name, Stage(context, request if with_request else None))
        except RefusalError as refusal:
            await context.abort(refusal.code, str(refusal))
        except Exception as error:
            scripted.failures.append(error)
            raise

    return serve


def _unary(scripted: Scripted, name: str) -> Any:
    async def serve(request: Message, context: Any) -> Message:
        scripted.requests.append(request)
        scripted.metadata = dict(context.invocation_metadata() or ())
        try:
            return scripted.answers[name](request)
        except RefusalError as refusal:
            await context.abort(refusal.code, str(refusal))
            raise

    return serve


@contextlib.asynccontextmanager
async def scripted_dispatcher() -> AsyncIterator[Scripted]:
    """The server, on a port of its own, until the block ends. A failure inside a script fails the test."""
    scripted = Scripted()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    chat = chat_pb2.DESCRIPTOR.services_by_name["Chat"]
    admin = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
    server.add_generic_rpc_handlers([_service(scripted, chat), _service(scripted, admin)])
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)
    if scripted.failures:
        raise scripted.failures[0]


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Runs an async test, bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(2 * PATIENCE_S):
            await scene

    asyncio.run(bounded())


def environment(**more: str) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("CHATSTREAM_", "NO_COLOR"))
    }
    return {**kept, "PYTHONUTF8": "1", "TERM": "xterm-256color", **more}


async def run_cli(
    *words: str, stdin: bytes | None = b"", address: str = "", env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """`dispatcher WORDS` with pipes: exit status, stdout, stderr. `stdin` None: /dev/null."""
    process = await start_cli(*words, address=address, env=env, stdin=stdin)
    talk = asyncio.ensure_future(process.communicate(stdin))
    done, _ = await asyncio.wait([talk], timeout=PATIENCE_S)
    if not done:
        process.kill()
    out, err = await talk
    assert done, f"it has not ended; stdout {out!r}, stderr {err!r}"
    return process.returncode or 0, out.decode(), err.decode()


async def start_cli(
    *words: str, address: str = "", env: dict[str, str] | None = None, stdin: bytes | None = b""
) -> asyncio.subprocess.Process:
    dispatcher = ["--dispatcher", address] if address else []
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dispatcher", *words, *dispatcher,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment() if env is None else env,
    )  # fmt: skip


class Terminal:
    """`dispatcher WORDS` on a pseudo-terminal of 60 columns, as a person would use it."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.screen = ""  # all that was ever printed
        self._master = master
        self._printed = asyncio.Condition()
        self._closed = False
        self._reader = asyncio.create_task(self._read())

    async def sees(self, text: str) -> None:
        """Until `text` was printed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S), self._printed:
                await self._printed.wait_for(lambda: text in self.screen or self._closed)
        assert text in self.screen, self.screen

    def type(self, text: str) -> None:
        """What is typed; `\\x03` is Ctrl-C, which the terminal makes a SIGINT, and `\\x04` is Ctrl-D."""
        os.write(self._master, text.encode())

    async def exit_status(self) -> int:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._reader
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"it has not ended; the screen is {self.screen!r}") from None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            readable = loop.create_future()
            loop.add_reader(self._master, readable.set_result, None)
            readable.add_done_callback(lambda _: loop.remove_reader(self._master))
            await readable
            try:
                chunk = os.read(self._master, 65_536)
            except OSError:  # Linux says EIO when the last process has closed the other end
                chunk = b""
            async with self._printed:
                self._closed = not chunk
                self.screen += chunk.decode()
                self._printed.notify_all()


@contextlib.asynccontextmanager
async def terminal(*words: str, address: str, env: dict[str, str] | None = None) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 60))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ON_A_TERMINAL, *words, "--dispatcher", address,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env=environment() if env is None else env,
    )  # fmt: skip
    os.close(slave)
    person = Terminal(process, master)
    try:
        yield person
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
        os.close(master)


# A new session has no controlling terminal yet; with one, Ctrl-C becomes a SIGINT as it does for a person.
_ON_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from dispatcher.cli import main
sys.exit(main())
"""
