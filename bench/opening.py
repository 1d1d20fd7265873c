"""Opening a session: from the request to its first event, and to the first thing its agent says; against opening
a bare stream and having its first packet answered. Both clients are the process of the bench."""

import time
from collections.abc import AsyncGenerator

from grpc import aio
from southwest.ai.agent.v1 import agent_pb2 as pb
from southwest.ai.agent.v1 import agent_pb2_grpc

from bench import bare_options
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Bare, Pair, Scene
from bench.tell import Tell
from bench.tokens import p50_p99
from bench.viewer import Watched

_NOTE = "bare: opening a stream, a packet and its answer"


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:
    events: list[tuple[float, float]] = []
    says: list[tuple[float, float]] = []
    again: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for number in range(plan.rounds):
        tell(f"round {number + 1} of {plan.rounds}")
        first, content = await _own_streams(scene.pair, plan.opens)
        events.append(first)
        says.append(content)
        bare.append(await _bare(scene.bare, plan.opens))
        again.append(await _one_stream(scene.pair, plan.opens))
    rows = []
    for index, name in enumerate(("p50", "p99")):
        theirs = [each[index] for each in bare]
        rows += [
            row(f"ask to first event, {name}", "ms", [each[index] for each in events], theirs, note=_NOTE),
            row(
                f"ask to agent's first word, {name}", "ms", [each[index] for each in says], theirs, note=_NOTE
            ),
            row(
                f"ask to first event, on a stream that is open, {name}",
                "ms",
                [each[index] for each in again],
                theirs,
                note=_NOTE,
            ),
        ]
    yield rows


async def _own_streams(pair: Pair, opens: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """A Converse stream for each session: p50 and p99 to its first event, and to its first content."""
    first, content = [], []
    for _ in range(opens):
        began_ns = time.monotonic_ns()
        watched = pair.viewer.watch()
        await watched.ask("count", {"tokens": "1"})
        await watched.over()
        first.append(_first(watched, began_ns))
        content.append(_first(watched, began_ns, "content"))
    return p50_p99(first), p50_p99(content)


async def _one_stream(pair: Pair, opens: int) -> tuple[float, float]:
    took = []
    watched = pair.viewer.watch()
    for number in range(opens):
        watched.events.clear()
        began_ns = time.monotonic_ns()
        await watched.ask("count", {"tokens": "1"})
        await watched.have_ended(number + 1)
        took.append(_first(watched, began_ns))
    await watched.over()
    return p50_p99(took)


def _first(watched: Watched, began_ns: int, kind: str = "opened") -> float:
    """Milliseconds until the first event of this kind came."""
    when = next(when for when, event in watched.events if event.WhichOneof("event") == kind)
    return (when - began_ns) / 1e6


async def _bare(bare: Bare, opens: int) -> tuple[float, float]:
    took = []
    async with aio.insecure_channel(bare.address, bare_options.client(bare.address)) as channel:
        stub = agent_pb2_grpc.AgentInteractionStub(channel)
        await channel.channel_ready()
        for number in range(opens):
            began_ns = time.monotonic_ns()
            call = stub.ChatStream()
            call_id = f"call-{number}"
            asked = pb.ToolCallRequest(tool_name="nothing", arguments_json="{}", call_id=call_id)
            await call.write(pb.UpstreamPacket(session_id="opened", tool_call=asked))
            await call.read()
            took.append((time.monotonic_ns() - began_ns) / 1e6)
            await call.done_writing()
            await call.code()
    return p50_p99(took)
