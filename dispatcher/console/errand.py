"""One packet to a session that was opened on another stream, over a stream of its own, and the receipt for it.

Called by `steer`, and by `speech` when the stream that opened its session is lost.
"""

import asyncio
import contextlib

import grpc.aio
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.console.connection import Connection, reason_of
from dispatcher.console.following import read_batch


class UnsaidError(Exception):
    """There is no receipt. The text says why; `arrived` is False where the packet has surely not arrived."""

    def __init__(
        self, why: str, *, arrived: bool | None = None, status: grpc.aio.AioRpcError | None = None
    ) -> None:
        super().__init__(why)
        self.arrived = arrived
        self.status = status


async def tell(connection: Connection, packet: chat_pb2.ClientPacket) -> chat_pb2.Receipt:
    """The receipt for `packet`, which names its session. Raises UnsaidError. Cancelling it cancels the stream."""
    arrived: bool | None = False
    stream = connection.chat.Converse(metadata=connection.metadata)
    try:
        async with asyncio.timeout(connection.timeout_s):
            await stream.wait_for_connection()
            arrived = None
            with contextlib.suppress(
                asyncio.InvalidStateError
            ):  # it is over already; reading says how it ended
                await stream.write(packet)
            while (batch := await read_batch(stream)) is not None:
                for receipt in batch.receipts:
                    if receipt.request_id == packet.request_id:
                        return receipt
    except grpc.aio.AioRpcError as error:
        raise UnsaidError(reason_of(error) or error.code().name, arrived=arrived, status=error) from None
    except TimeoutError:
        raise UnsaidError("no answer", arrived=arrived) from None
    finally:
        stream.cancel()
    raise UnsaidError("the stream was closed without a receipt")
