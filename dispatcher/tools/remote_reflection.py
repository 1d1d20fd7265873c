"""What a gRPC server tells of its services by reflection: the files that describe one of them."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

import grpc
from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode, aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dispatcher.tools.contract import ToolLoadError

# Of what a server tells; no honest service needs more.
FILES_MAX: Final = 1_000
# Names of services in a line of the log.
SHOWN_MAX: Final = 10
# Files that come with protobuf: servers need not tell of them.
_MODULES: Final = (
    *(
        any_pb2,
        api_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        source_context_pb2,
        struct_pb2,
    ),
    *(timestamp_pb2, type_pb2, wrappers_pb2),
)
STANDARD: Final = {each.DESCRIPTOR.name: each.DESCRIPTOR.serialized_pb for each in _MODULES}


class _NotFoundError(ToolLoadError):
    """What was asked for is not there."""

    def __init__(self) -> None:
        super().__init__("its reflection says: not found")


@contextlib.asynccontextmanager
async def _asking(
    channel: aio.Channel, metadata: tuple[tuple[str, str], ...]
) -> AsyncIterator[Callable[..., Any]]:
    """A conversation with the server's reflection."""
    # The stubs' types know the other kind of channel alone.
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("grpc.Channel", channel))
    call = stub.ServerReflectionInfo(metadata=metadata)

    async def ask(**what: str) -> list[bytes]:
        await call.write(reflection_pb2.ServerReflectionRequest(**what))  # type: ignore[arg-type]  # one of its texts
        answer = await call.read()
        if not isinstance(answer, reflection_pb2.ServerReflectionResponse):
            # The call has ended; its status says why.
            raise ToolLoadError(f"its reflection ended: {await call.details() or await call.code()}")
        if answer.HasField("error_response"):
            if answer.error_response.error_code == StatusCode.NOT_FOUND.value[0]:
                raise _NotFoundError
            raise ToolLoadError(f"its reflection says: {answer.error_response.error_message[:200]}")
        if answer.HasField("list_services_response"):
            return [service.name.encode() for service in answer.list_services_response.service]
        return list(answer.file_descriptor_response.file_descriptor_proto)

    try:
        yield ask
    finally:
        call.cancel()


async def described(
    channel: aio.Channel, service: str, metadata: tuple[tuple[str, str], ...], bytes_max: int
) -> list[bytes]:
    """The files of the service, as far as its server tells them, in an order that is the same each time."""
    found: dict[str, bytes] = {}
    # Needed by those that were found, in order; each is asked for once.
    needed: dict[str, None] = {}
    asked: set[str] = set()
    async with _asking(channel, metadata) as ask:
        try:
            told = await ask(file_containing_symbol=service)
        except _NotFoundError:
            there = sorted(name.decode() for name in await ask(list_services=""))
            shown = ", ".join(name[:100] for name in there[:SHOWN_MAX]) or "none"
            raise ToolLoadError(
                f"its reflection says: there is no service {service}; there are {shown}"
            ) from None
        while True:
            for data in told:
                file = FileDescriptorProto.FromString(data)
                found.setdefault(file.name, data)
                needed.update(dict.fromkeys(file.dependency))
            if len(found) > FILES_MAX or sum(map(len, found.values())) > bytes_max:
                raise ToolLoadError(f"its description has over {FILES_MAX:,} files or {bytes_max:,} bytes")
            missing = next(
                (name for name in needed if not (name in found or name in asked or name in STANDARD)), None
            )
            if missing is None:
                return [found[name] for name in sorted(found)]
            asked.add(missing)
            told = await ask(file_by_filename=missing)
