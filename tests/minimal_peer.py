"""A minimal commander: a program that knows the fixed table of the contract and nothing else.

Its messages are made at run time from the table below, in a descriptor pool and a package of their own, so that
it can't see a field, a message or an enum that the table doesn't name. Only the method's path, which the table
fixes too, is shared with the rest of the world. Nothing of the generated stubs is imported here.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from asynchronous import soon
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import aio

METHOD: Final = "/southwest.ai.agent.v1.AgentInteraction/ChatStream"

# message: (oneof, [(type, name, number, in the oneof)])
_TABLE: Final[dict[str, tuple[str, list[tuple[str, str, int, bool]]]]] = {
    "UpstreamPacket": (
        "payload",
        [
            ("string", "session_id", 1, False),
            ("int64", "timestamp", 2, False),
            ("ThoughtChain", "thought", 3, True),
            ("ContentChunk", "content", 4, True),
            ("ToolCallRequest", "tool_call", 5, True),
            ("ErrorSignal", "error", 6, True),
        ],
    ),
    "ThoughtChain": ("", [("string", "step_name", 1, False), ("string", "delta", 2, False)]),
    "ContentChunk": ("", [("string", "text", 1, False), ("bool", "is_finish", 2, False)]),
    "ToolCallRequest": ("", [("string", "tool_name", 1, False), ("string", "arguments_json", 2, False)]),
    "ErrorSignal": ("", []),
    "Ack": ("", []),
    "DownstreamPacket": (
        "signal",
        [
            ("Ack", "ack", 1, True),
            ("StopSignal", "stop", 2, True),
            ("ToolCallResult", "tool_result", 3, True),
        ],
    ),
    "StopSignal": ("", [("string", "reason", 1, False)]),
    "ToolCallResult": ("", [("string", "tool_name", 1, False), ("string", "result_json", 2, False)]),
}
_PACKAGE: Final = "fixed.table"
_SCALARS: Final = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}


def _messages() -> dict[str, Any]:
    """The table's messages as classes, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="fixed_table.proto", package=_PACKAGE, syntax="proto3")
    for name, (oneof, fields) in _TABLE.items():
        message = file.message_type.add(name=name)
        if oneof:
            message.oneof_decl.add(name=oneof)
        for type_name, field_name, number, chosen in fields:
            field = message.field.add(
                name=field_name, number=number, label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )
            if type_name in _SCALARS:
                field.type = _SCALARS[type_name]
            else:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{type_name}"
            if chosen:
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _TABLE
    }


MESSAGES: Final = _messages()


class MinimalCommander:
    """One stream, one run. `session_id` is what it writes into each packet; empty by default."""

    def __init__(self, call: Any, session_id: str) -> None:
        self._call = call
        self._session_id = session_id
        self.unknown = 0  # packets whose signal the table doesn't name
        self.acks = 0
        self._results: asyncio.Queue[str] = asyncio.Queue()
        self._stops: asyncio.Queue[str] = asyncio.Queue()
        self._reader = asyncio.ensure_future(self._read())

    async def think(self, step_name: str, delta: str) -> None:
        await self._write(thought=MESSAGES["ThoughtChain"](step_name=step_name, delta=delta))

    async def say(self, text: str, *, is_finish: bool = False) -> None:
        await self._write(content=MESSAGES["ContentChunk"](text=text, is_finish=is_finish))

    async def call_tool(self, tool_name: str, arguments_json: str) -> None:
        request = MESSAGES["ToolCallRequest"](tool_name=tool_name, arguments_json=arguments_json)
        await self._write(tool_call=request)

    async def fail(self) -> None:
        await self._write(error=MESSAGES["ErrorSignal"]())

    async def result(self) -> str:
        """The JSON of the next tool result."""
        return await soon(self._results.get())

    async def stop_reason(self) -> str:
        return await soon(self._stops.get())

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the call ended; waits for it."""
        return await soon(self._call.code()), await soon(self._call.details()) or ""

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._reader])

    async def _write(self, **payload: Any) -> None:
        await self._call.write(
            MESSAGES["UpstreamPacket"](
                session_id=self._session_id, timestamp=int(time.time() * 1000), **payload
            )
        )

    async def _read(self) -> None:
        with contextlib.suppress(aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            while (packet := await self._call.read()) is not aio.EOF:
                kind = packet.WhichOneof("signal")
                if kind == "tool_result":
                    self._results.put_nowait(packet.tool_result.result_json)
                elif kind == "stop":
                    self._stops.put_nowait(packet.stop.reason)
                elif kind == "ack":
                    self.acks += 1
                else:
                    self.unknown += 1


@contextlib.asynccontextmanager
async def minimal_commander(address: str, session_id: str = "") -> AsyncIterator[MinimalCommander]:
    """Just opens ChatStream."""
    async with aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        call = channel.stream_stream(
            METHOD,
            request_serializer=MESSAGES["UpstreamPacket"].SerializeToString,
            response_deserializer=MESSAGES["DownstreamPacket"].FromString,
        )()
        commander = MinimalCommander(call, session_id)
        try:
            yield commander
        finally:
            await commander.close()
