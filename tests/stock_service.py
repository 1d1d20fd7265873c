"""A gRPC service of somebody else's, with reflection, made without any stub of ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pool, message_factory, source_context_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

F = FieldDescriptorProto
NAME = "warehouse.v1.Stock"


def _field(name: str, number: int, kind: Any, *, repeated: bool = False, of: str = "") -> F:
    label = F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL
    return F(name=name, number=number, type=kind, label=label, type_name=of or None)


TYPES = FileDescriptorProto(
    name="warehouse/types.proto",
    package="warehouse.v1",
    syntax="proto3",
    dependency=[f"google/protobuf/{name}.proto" for name in ("timestamp", "any", "source_context")],
    enum_type=[
        EnumDescriptorProto(
            name="Size",
            value=[
                EnumValueDescriptorProto(name="SMALL", number=0),
                EnumValueDescriptorProto(name="LARGE", number=1),
            ],
        )
    ],
    message_type=[
        DescriptorProto(
            name="Item",
            field=[
                _field("item_name", 1, F.TYPE_STRING),
                _field("count", 2, F.TYPE_INT64),
                _field("size", 3, F.TYPE_ENUM, of=".warehouse.v1.Size"),
                _field("parts", 4, F.TYPE_MESSAGE, repeated=True, of=".warehouse.v1.Item"),
                _field("since", 5, F.TYPE_MESSAGE, of=".google.protobuf.Timestamp"),
                _field("shelf", 6, F.TYPE_UINT32),
                _field("seal", 7, F.TYPE_BYTES),
                _field("more", 8, F.TYPE_MESSAGE, of=".google.protobuf.Any"),
                _field("origin", 9, F.TYPE_MESSAGE, of=".google.protobuf.SourceContext"),
            ],
        )
    ],
)
_METHODS = ("Put", "Refuse", "Later", "Deny", "Misfit", "Hang", "Who", "Drop", "Garble")
SERVICE = FileDescriptorProto(
    name="warehouse/stock.proto",
    package="warehouse.v1",
    syntax="proto3",
    dependency=["warehouse/types.proto"],
    service=[
        ServiceDescriptorProto(
            name="Stock",
            method=[
                *(
                    MethodDescriptorProto(
                        name=n, input_type=".warehouse.v1.Item", output_type=".warehouse.v1.Item"
                    )
                    for n in _METHODS
                ),
                MethodDescriptorProto(
                    name="Watch",
                    input_type=".warehouse.v1.Item",
                    output_type=".warehouse.v1.Item",
                    server_streaming=True,
                ),
            ],
        )
    ],
)


@dataclass
class Stock:
    port: int = 0
    hung: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    time_left_s: float = 0.0

    async def answer(self, method: str, item: Any, context: Any) -> Any:
        match method:
            case "Refuse":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such item")
            case "Later":
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "come back")
            case "Deny":
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
            case "Misfit":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "item_name is odd")
            case "Drop":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            case "Hang":
                self.hung.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left.set()
            case "Who":
                told = dict(context.invocation_metadata())
                self.time_left_s = context.time_remaining()
                item.item_name = f"{told['idempotency-key']} {told.get('authorization')}"
        return item


class BareReflection(reflection_pb2_grpc.ServerReflectionServicer):
    """Tells of its own files, and of nothing that comes with protobuf, as some servers do."""

    async def ServerReflectionInfo(  # noqa: N802 - the contract's name
        self, asked: AsyncIterator[reflection_pb2.ServerReflectionRequest], _: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        async for each in asked:
            file = {"": SERVICE, TYPES.name: TYPES}.get(each.file_by_filename)
            if file is None:
                error = reflection_pb2.ErrorResponse(error_message=f"nothing of {each.file_by_filename}")
                yield reflection_pb2.ServerReflectionResponse(error_response=error)
                continue
            found = reflection_pb2.FileDescriptorResponse(file_descriptor_proto=[file.SerializeToString()])
            yield reflection_pb2.ServerReflectionResponse(file_descriptor_response=found)


@contextlib.asynccontextmanager
async def stock_service(
    port: int = 0, tls: grpc.ServerCredentials | None = None, *, bare: bool = False
) -> AsyncIterator[Stock]:
    pool = descriptor_pool.DescriptorPool()
    for module in (timestamp_pb2, any_pb2, source_context_pb2):
        pool.Add(FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb))
    for file in (TYPES, SERVICE):
        pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("warehouse.v1.Item"))
    stock = Stock()

    def handler(method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        async def answer(item: Any, context: Any) -> Any:
            return await stock.answer(method, item, context)

        def written(item: Any) -> bytes:
            return b"\xff" * 9 if method == "Garble" else bytes(item.SerializeToString())

        return grpc.unary_unary_rpc_method_handler(answer, kind.FromString, written)

    server = aio.server()
    handlers = {method: handler(method) for method in _METHODS}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    if bare:
        add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add(BareReflection(), server)
    else:
        reflection.enable_server_reflection((NAME,), server, pool=pool)
    address = f"127.0.0.1:{port}"
    stock.port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    await server.start()
    try:
        yield stock
    finally:
        await server.stop(0)
