"""Channels to a dispatcher, one connection each, and how a call ended."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from grpc import aio
from southwest.ai.agent.v1 import admin_pb2_grpc, agent_pb2, chat_pb2, chat_pb2_grpc

Options = tuple[tuple[str, int], ...]

# A connection of its own, that notices a dead dispatcher; what is unread makes the dispatcher wait early.
_OPTIONS: Options = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16_777_216),
)


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that bears a token; none where it is empty."""
    return (("authorization", f"Bearer {token}"),) if token else ()


@contextlib.asynccontextmanager
async def dialled(
    address: str, *, options: Options = (), credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[aio.Channel]:
    """A channel to the address until the block ends."""
    told = (*_OPTIONS, *options)
    channel = (
        aio.insecure_channel(address, told)
        if credentials is None
        else aio.secure_channel(address, credentials, told)
    )
    try:
        yield channel
    finally:
        await channel.close()


@contextlib.asynccontextmanager
async def administering(address: str) -> AsyncIterator["admin_pb2_grpc.AdminAsyncStub"]:
    async with dialled(address) as channel:
        yield admin_pb2_grpc.AdminStub(channel)


@contextlib.asynccontextmanager
async def chatting(address: str) -> AsyncIterator["chat_pb2_grpc.ChatAsyncStub"]:
    async with dialled(address) as channel:
        yield chat_pb2_grpc.ChatStub(channel)


async def status_of(call: Any) -> Status:
    """Waits for the end of a call."""
    return Status(await call.code(), await call.details() or "")


async def refused(call: Any) -> Status:
    """The status with which a unary call is refused; fails when it isn't."""
    try:
        answer = await call
    except aio.AioRpcError as error:
        return Status(error.code(), error.details() or "")
    raise AssertionError(f"it was answered: {answer}")


LINK_METHOD = f"/{agent_pb2.DESCRIPTOR.services_by_name['AgentInteraction'].full_name}/ChatStream"
CONVERSE_METHOD = f"/{chat_pb2.DESCRIPTOR.services_by_name['Chat'].full_name}/Converse"
