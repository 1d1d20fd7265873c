"""The vector of numbers that is carried in two ways, and the two ways."""

import json
import random
import struct
from typing import Final, Literal

from southwest.ai.agent.v1 import agent_pb2 as pb

LENGTH: Final = 1_536

Way = Literal["embedding", "json"]


def numbers() -> list[float]:
    """Like an embedding model's: numbers with the precision of 32 bits, of both signs, mostly small."""
    lots = random.Random(LENGTH)  # noqa: S311 - no secret; the same ones each time
    format_ = f"{LENGTH}f"
    return list(struct.unpack(format_, struct.pack(format_, *(lots.gauss(0, 0.03) for _ in range(LENGTH)))))


def encoded(way: Way, values: list[float]) -> bytes:
    """A packet's bytes."""
    if way == "embedding":
        return pb.UpstreamPacket(embedding=pb.Embedding(values=values)).SerializeToString()
    return pb.UpstreamPacket(content=pb.ContentChunk(text=json.dumps(values))).SerializeToString()


def decoded(data: bytes) -> tuple[Way, list[float]]:
    """What was encoded."""
    packet = pb.UpstreamPacket.FromString(data)
    if packet.WhichOneof("payload") == "embedding":
        return "embedding", list(packet.embedding.values)
    return "json", json.loads(packet.content.text)
