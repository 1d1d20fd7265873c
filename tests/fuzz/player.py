"""Plays a case: opens its streams, sends what it says, and keeps how each call ended."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asynchronous import PATIENCE_S, soon
from dialling import Status, status_of
from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from fuzz.case import Case, Step
from fuzz.edits import edited
from fuzz.statuses import improper, indiscreet

METHODS: Final[dict[str, Any]] = {
    method.name: method
    for file, service in ((agent_pb2, "AgentInteraction"), (chat_pb2, "Chat"), (admin_pb2, "Admin"))
    for method in file.DESCRIPTOR.services_by_name[service].methods
}
_GONE: Final = (aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError, aio.UsageError)
_STANDS_FOR: Final = re.compile(r"\$([spx])(\d)$")
# How long a step waits for what it refers to. What does not come in time is sent as a name that nobody has.
_WAIT_S: Final = 1.0


class PlayError(AssertionError):
    """Something that must not be was seen by a peer."""


class _Stream:
    def __init__(self, method: str, call: Any) -> None:
        self.method = method
        self.call = call
        self.sent = 0
        self.heard = 0
        self.cancelled = False
        self.reader: asyncio.Task[None] | None = None


class Player:
    """One case on one channel. `said` tells, line by line, what came of it."""

    def __init__(self, channel: aio.Channel) -> None:
        self.said: list[str] = []
        self.drained = False
        self.limits_changed = False
        self._channel = channel
        self._streams: dict[str, _Stream] = {}
        self._known: dict[str, list[str]] = {"s": [], "p": [], "x": []}
        self._epoch = ""
        self._news = asyncio.Event()
        self._indiscreet: list[str] = []
        self._verbs: dict[str, Callable[[Step], Awaitable[None]]] = {
            "open": self._open,
            "send": self._send,
            "mangle": self._mangle,
            "bytes": self._bytes,
            "half_close": self._half_close,
            "cancel": self._cancel,
            "settle": self._settle,
            "end": self._end,
            "call": self._call,
        }

    async def play(self, case: Case) -> None:
        """Raises PlayError."""
        try:
            for step in case.steps:
                await self._verbs[step.verb](step)
            await self._settle()
        finally:
            await self._leave()
        if self._indiscreet:
            raise PlayError(f"it tells of the inside: {self._indiscreet[0]}")

    # --- steps -------------------------------------------------------------------------------------------

    async def _open(self, step: Step) -> None:
        method, _, request = step.rest.partition(" ")
        descriptor = METHODS[method]
        path = f"/{descriptor.containing_service.full_name}/{method}"
        if step.what in self._streams:
            await self._end_of(self._streams.pop(step.what), step.what)
        if descriptor.client_streaming:
            call: Any = self._channel.stream_stream(path)()
        else:
            watch: Any = self._channel.unary_stream(path)
            call = watch(await self._bytes_of(descriptor.input_type, request))
        stream = self._streams[step.what] = _Stream(method, call)
        stream.reader = asyncio.ensure_future(self._read(stream))

    async def _send(self, step: Step, edits: str = "") -> None:
        stream = self._streams.get(step.what)
        if stream is None:
            return
        data = await self._bytes_of(METHODS[stream.method].input_type, step.rest)
        await self._write(stream, edited(data, edits))
        if not edits:
            await self._answered(stream, step.rest)

    async def _mangle(self, step: Step) -> None:
        edits, _, packet = step.rest.partition(";")
        await self._send(Step("send", step.what, packet), edits)

    async def _bytes(self, step: Step) -> None:
        if step.what in self._streams:
            await self._write(self._streams[step.what], bytes.fromhex(step.rest))

    async def _half_close(self, step: Step) -> None:
        stream = self._streams.get(step.what)
        if stream is not None and METHODS[stream.method].client_streaming:
            with contextlib.suppress(*_GONE):
                await stream.call.done_writing()

    async def _cancel(self, step: Step) -> None:
        if step.what in self._streams:
            self._streams[step.what].cancelled = True
            self._streams[step.what].call.cancel()

    async def _settle(self, _: Step | None = None) -> None:
        """The dispatcher reads always: what came before another call on this connection, and its answer, is read."""
        await self._until(lambda: not self._owed())
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        for _turn in range(2):
            with contextlib.suppress(*_GONE):
                await soon(health.Check(health_pb2.HealthCheckRequest()))

    async def _end(self, step: Step) -> None:
        status = await soon(status_of(self._streams[step.what].call))
        if step.rest and status.code.name != step.rest:
            raise PlayError(f"{step}: it ended with {status}")

    async def _call(self, step: Step) -> None:
        method = METHODS[step.what.rstrip("!#")]
        if step.what.endswith("#"):
            data = bytes.fromhex(step.rest)
        elif step.what.endswith("!"):
            edits, _, request = step.rest.partition(";")
            data = edited(await self._bytes_of(method.input_type, request), edits)
        else:
            data = await self._bytes_of(method.input_type, step.rest)
        ask: Any = self._channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
        call = ask(data)
        status = await soon(status_of(call))
        self._judge(method.name, method.name, status)
        if status.code.name == "OK":
            self._learn(GetMessageClass(method.output_type).FromString(await call))
            self.drained |= method.name == "Drain"
            self.limits_changed |= method.name == "SetLimits"

    # --- what is sent ------------------------------------------------------------------------------------

    async def _bytes_of(self, of: Any, text: str) -> bytes:
        message = text_format.Parse(text, GetMessageClass(of)())
        await self._fill(message)
        return message.SerializeToString()

    async def _fill(self, message: Any) -> None:
        """Puts in what names stand for."""
        for field, value in message.ListFields():
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue
            if field.message_type is not None:
                for each in value if field.is_repeated else [value]:
                    await self._fill(each)
            elif field.type == field.TYPE_STRING and not field.is_repeated and value.startswith("$"):
                setattr(message, field.name, await self._stood_for(value))

    async def _stood_for(self, name: str) -> str:
        if name == "$e":
            return self._epoch or "no-epoch"
        match = _STANDS_FOR.match(name)
        if match is None:
            return name
        known, number = self._known[match[1]], int(match[2])
        await self._until(lambda: len(known) > number or not (match[1] == "s" and self._owed()))
        return known[number] if len(known) > number else f"no-{match[1]}"

    def _owed(self) -> bool:
        """Receipts are to come, and with them sessions."""
        return any(
            s.method == "Converse" and s.sent > s.heard and not s.call.done() for s in self._streams.values()
        )

    async def _until(self, right: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT_S):
                while not right():
                    self._news.clear()
                    await self._news.wait()

    async def _write(self, stream: _Stream, data: bytes) -> None:
        if not METHODS[stream.method].client_streaming:
            return
        with contextlib.suppress(*_GONE):
            await soon(stream.call.write(data))
            stream.sent += 1

    async def _answered(self, stream: _Stream, text: str) -> None:
        """A Hello is waited for: what comes next on other streams counts on it."""
        if stream.method == "ChatStream" and text.startswith("hello"):
            heard = stream.heard
            await self._until(lambda: stream.heard > heard or stream.call.done())

    # --- what is heard -----------------------------------------------------------------------------------

    async def _read(self, stream: _Stream) -> None:
        of = GetMessageClass(METHODS[stream.method].output_type)
        with contextlib.suppress(*_GONE):
            while (data := await stream.call.read()) is not aio.EOF:
                message = of.FromString(data)
                stream.heard += 1 if stream.method == "ChatStream" else len(getattr(message, "receipts", ()))
                self._learn(message)
        self._news.set()

    def _learn(self, message: Message) -> None:
        self._news.set()
        for field, value in message.ListFields():
            if field.message_type is not None and not field.message_type.GetOptions().map_entry:
                for each in value if field.is_repeated else [value]:
                    self._learn(each)
            elif field.name == "session_id":
                self._keep("s", value)
            elif field.name == "next_page_token":
                self._keep("p", value)
            elif field.name == "stop_id":
                self._keep("x", value)
            elif field.name == "epoch":
                self._epoch = self._epoch or value
            elif field.name == "message" and isinstance(value, str) and indiscreet(value):
                self._indiscreet.append(value)

    def _keep(self, what: str, value: str) -> None:
        if value and value not in self._known[what]:
            self._known[what].append(value)

    def _judge(self, name: str, method: str, status: Status) -> None:
        self.said.append(f"{name}: {status.code.name} {status.details[:200]}")
        flaw = improper(method, status.code.name, status.details)
        if flaw and not (self.drained and status.code.name in ("UNAVAILABLE", "CANCELLED")):
            raise PlayError(flaw)

    async def _end_of(self, stream: _Stream, name: str) -> None:
        """Leaves a stream, and looks at how it ended, where that was not by leaving."""
        ended = stream.call.done()
        stream.call.cancel()
        assert stream.reader is not None
        await asyncio.wait([stream.reader], timeout=PATIENCE_S)
        status = await soon(status_of(stream.call))
        if ended and not stream.cancelled:
            self._judge(name, stream.method, status)
        else:
            self.said.append(f"{name}: left")

    async def _leave(self) -> None:
        streams, self._streams = self._streams, {}
        try:
            for name, stream in streams.items():
                await self._end_of(stream, name)
        finally:
            for stream in streams.values():
                stream.call.cancel()
