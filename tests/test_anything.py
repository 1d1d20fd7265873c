"""Random packets of every kind, well-formed and meaningless, on all streams at once: whatever they say, each
stream ends with a proper status, nothing of the inside is told, and a neighbour never notices."""

import asyncio
import contextlib
import random
from typing import Any

import grpc
import pytest
from asynchronous import asynchronous
from bystander import undisturbed_neighbour
from chat_viewer import asking, conversing
from dialling import Status, administering, dialled, status_of
from dispatcher_process import DispatcherProcess
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from scripted_commander import Link, Up, hello, opened_link
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, agent_pb2, chat_pb2

DISPATCHER_FLAGS = ("--stop-grace-s", "0.1", "--queue-wait-s", "0.5", "--detach-grace-s", "7")
LINKS, PACKETS = 25, 60
AGENTS = ("a", "b")
# What a stream may end with; anything else would be a failure of ours.
PROPER = {
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
}
# What grpc's own client says, of its own accord, when it writes to a stream that has just been ended.
_WRITE_FAILED = Status(grpc.StatusCode.INTERNAL, "Internal error from Core")
_NOT_SAID = ("Traceback", "AssertionError", "Exception", "internal", "its log says why")

Random = random.Random


def _scalar(dice: Random, field: FieldDescriptor, ids: list[str]) -> Any:
    if field.enum_type is not None:
        return dice.choice([value.number for value in field.enum_type.values] + [99])
    kind = field.type
    if kind == FieldDescriptor.TYPE_STRING:
        return dice.choice(["", "x", "{}", '{"a": 1}', "nul\0l", "🌍" * 3, "y" * 200, *ids, *AGENTS])
    if kind == FieldDescriptor.TYPE_BYTES:
        return dice.randbytes(dice.randrange(20))
    if kind == FieldDescriptor.TYPE_BOOL:
        return dice.random() < 0.5
    if kind in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return dice.choice([0.0, -1.0, 1.5, float("nan"), float("inf")])
    if kind == FieldDescriptor.TYPE_INT32:
        return dice.choice([0, 1, -1, 999_999_999, -(2**31)])
    if kind == FieldDescriptor.TYPE_INT64:
        return dice.choice([0, 1, -1, 2**63 - 1, -(2**63)])
    if kind == FieldDescriptor.TYPE_UINT64:
        return dice.choice([0, 1, 2, 3, 1_000, 2**64 - 1])
    return dice.choice([0, 1, 2, 3, 1_000, 2**32 - 1])


def anything(dice: Random, of: type[Message], ids: list[str], depth: int = 0) -> Any:
    """A message of this type with whatever in it."""
    message: Any = of()
    for field in message.DESCRIPTOR.fields:
        if dice.random() < (0.5 if depth else 0.35):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name).update({}) if dice.random() < 0.7 else None
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(dice.randrange(3)):
                if field.message_type is None:
                    values.append(_scalar(dice, field, ids))
                elif depth < 3:
                    values.add().CopyFrom(_nested(dice, field, ids, depth))
        elif field.message_type is not None:
            if depth < 3:
                getattr(message, field.name).CopyFrom(_nested(dice, field, ids, depth))
        else:
            setattr(message, field.name, _scalar(dice, field, ids))
    return message


def _nested(dice: Random, field: FieldDescriptor, ids: list[str], depth: int) -> Any:
    assert field.message_type is not None
    # A duration beyond its range, negative or with odd nanoseconds is as good as any.
    return anything(dice, GetMessageClass(field.message_type), ids, depth + 1)


async def _chatter(dice: Random, link: Link, ids: list[str]) -> None:
    """A managed link on which mostly anything is said, in turns that exist."""
    agents = [agent_pb2.AgentOffer(name=name) for name in AGENTS]
    await link.write(Up(hello=hello(commander_id=f"c{dice.randrange(40)}", agents=agents, slots=3)))
    sequences: dict[str, int] = {}
    for _ in range(PACKETS):
        packets = []
        for _ in range(dice.randrange(1, 4)):
            packet = anything(dice, Up, ids)
            if dice.random() < 0.99:
                packet.ClearField("hello") if packet.HasField("hello") else None
                packet.ClearField("goodbye") if packet.HasField("goodbye") else None
                packet.ClearField("batch") if packet.HasField("batch") else None
            if dice.random() < 0.7 and ids:
                session_id = dice.choice(ids)
                sequences[session_id] = sequences.get(session_id, 0) + 1
                packet.session_id, packet.attempt = session_id, 1
                packet.sequence = sequences[session_id]
            packets.append(packet)
        await link.write(*packets)
        while not link.started_nothing():
            ids.append((await link.started()).session_id)


@pytest.mark.parametrize("seed", range(3))
def test_anything_on_links_and_conversations(dispatcher: DispatcherProcess, seed: int) -> None:
    @asynchronous
    async def scene() -> None:
        dice = Random(seed)
        ids: list[str] = []
        gone = (aio.AioRpcError, asyncio.InvalidStateError)

        async def one_link() -> None:
            async with opened_link(dispatcher.address) as link:
                with contextlib.suppress(*gone):
                    await _chatter(dice, link, ids)
                with contextlib.suppress(*gone):
                    await link.half_close()
                status = await link.status()
                if status == _WRITE_FAILED:
                    return
                assert status.code in PROPER, status
                assert not [word for word in _NOT_SAID if word in status.details], status

        async def one_conversation() -> None:
            async with conversing(dispatcher.address) as talk:
                for number in range(PACKETS):
                    packet = anything(dice, chat_pb2.ClientPacket, ids)
                    if number % 3 == 0:
                        ask = asking(dice.choice(AGENTS))
                        packet = chat_pb2.ClientPacket(client_ref=f"{number}", ask=ask)
                    await talk.send(packet)
                    receipt = await talk.receipt()
                    said = receipt.error.message
                    assert not [word for word in _NOT_SAID if word in said], receipt

        async with undisturbed_neighbour(dispatcher.address):
            for _ in range(5):
                await asyncio.gather(one_conversation(), *[one_link() for _ in range(LINKS // 5)])

    scene()


@asynchronous
async def test_it_was_listened_to(dispatcher: DispatcherProcess) -> None:
    """The above is worth something: most of what was said was taken, and sessions ended in many ways."""
    metrics = await asyncio.to_thread(dispatcher.scrape)
    assert metrics["dispatcher_packets_received_total"] > 1_000
    endings = [name for name in metrics if name.startswith("dispatcher_sessions_ended_total")]
    assert len(endings) >= 4, endings


@asynchronous
async def test_anything_asked_of_admin(dispatcher: DispatcherProcess) -> None:
    dice = Random(7)
    service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
    async with undisturbed_neighbour(dispatcher.address), administering(dispatcher.address) as admin:
        listed = await admin.ListSessions(admin_pb2.ListSessionsRequest(include_ended=True))
        ids = [*[view.session_id for view in listed.sessions][1:30], "s-no", "c1"]
        async with dialled(dispatcher.address) as channel:
            stub: Any = admin_pb2_grpc.AdminStub(channel)
            for method in service.methods:
                for _ in range(0 if method.name == "Drain" else 40):
                    request = anything(dice, GetMessageClass(method.input_type), ids)
                    if method.name == "StopSessions":
                        request.selector.all = False
                        request.selector.agent = "a"
                    call = getattr(stub, method.name)(request)
                    if method.name == "WatchSession":
                        call.cancel()
                        continue
                    status = await status_of(call)
                    assert status.code in PROPER, (method.name, request, status)
                    assert not [word for word in _NOT_SAID if word in status.details], status
