"""Whether what is admitted keeps its latency: from an agent's word to its viewer, beside an application that asks as
fast as it is answered and is refused. Compared with the pair itself: the column of the bare peer holds the same load
without the flood. The flood needs a core of its own: on a machine with fewer cores than processes, part of what it
costs is no doing of the dispatcher's."""

from collections.abc import AsyncGenerator
from typing import Final

from bench.child import Child, ChildError
from bench.load import COOL_S, LEFT_OUT, WARM_S, Window, ask
from bench.paced import PER_SECOND
from bench.plan import Plan
from bench.rows import Row, row
from bench.scene import Pair, Scene, dispatcher, more_workers
from bench.tell import Tell
from bench.tokens import NS, Latencies
from bench.tokens import latencies as read

_REFUSED: Final = "sessions_full"


async def measure(plan: Plan, scene: Scene, tell: Tell) -> AsyncGenerator[list[Row]]:  # noqa: ARG001 - it has its own
    beside: list[Latencies] = []
    alone: list[Latencies] = []
    refused: list[float] = []
    sessions = plan.overload_sessions
    # Those that are measured are all there may be.
    async with dispatcher(f"--sessions-max={sessions}") as pair, more_workers(pair, 1):
        asker = Child("bench.asker", pair.address)
        try:
            await asker.says(r"(ready)")
            for number in range(plan.overload_rounds):
                tell(f"round {number + 1} of {plan.overload_rounds}")
                alone.append(await _latencies(pair, plan, None, refused))
                beside.append(await _latencies(pair, plan, asker, refused))
        finally:
            await asker.end()
    who = f"{sessions} × {PER_SECOND:g} tokens/s, a flood refused: latency to the viewer"
    yield [
        row(
            f"{who}, {name}",
            "ms",
            [each[index] for each in beside],
            [each[index] for each in alone],
            note=f"bare: without the flood; {LEFT_OUT}",
        )
        for name, index in (("p50", 2), ("p99", 3))
    ] + [row("requests that were refused meanwhile", "a second", refused)]


async def _latencies(pair: Pair, plan: Plan, asker: Child | None, refused: list[float]) -> Latencies:
    window = Window.soon(plan.overload_sessions, plan.overload_s)
    watched = await ask(pair, "pace", plan.overload_sessions, window, per_second=PER_SECOND)
    if asker is not None:
        # Until just before the sessions end: what came after that would be admitted.
        stop_ns = window.stop_ns - int(COOL_S / 2 * NS)
        answers = await asker.told("flood", start_ns=window.start_ns, stop_ns=stop_ns)
        if set(answers) != {_REFUSED}:
            raise ChildError(f"{asker!r}: all should be refused as {_REFUSED}, and were: {answers}")
        refused.append(answers[_REFUSED] / ((stop_ns - window.start_ns) / NS))
    await watched.over()
    kept = (
        (when_ns, event.session_id, event.content.text)
        for when_ns, event in watched.events
        if event.HasField("content")
    )
    warm_ns, cool_ns = window.start_ns + int(WARM_S * NS), window.stop_ns - int(COOL_S * NS)
    return read(kept, warm_ns, cool_ns, window.stop_ns)
