"""A batch: a tool for each item of a list, four at once, with progress and an estimate of what is left. Items that
fail are told of and hold nothing up; a stop ends all that is under way.

    dispatcher serve --config examples/dispatcher.toml
    commander run examples/batch.py
    dispatcher chat --agent batch "ada@example.com grace@example.com nobody"
"""

import asyncio
import time

from commander import ToolFailed, Turn, agent

AT_ONCE = 4


@agent("batch", description="Sends a letter to each address of a list, with blanks between")
async def batch(turn: Turn) -> str:
    addresses = list(dict.fromkeys(turn.text.split()))
    places = asyncio.Semaphore(AT_ONCE)
    begun_at = time.monotonic()
    done = 0
    failures: list[str] = []

    async def send(number: int, address: str) -> None:
        nonlocal done
        how = "sent"
        async with places:
            try:
                # With this key a batch that another commander begins anew sends no letter twice.
                key = f"{turn.session_id}-{number}"
                await turn.call_tool_with("send_letter", {"to": address}, idempotency_key=key)
            except ToolFailed as failure:
                how = "failed"
                failures.append(f"{address}: {failure.message}")
        done += 1
        share = done / len(addresses)
        left_s = (time.monotonic() - begun_at) * (1 - share) / share
        told = turn.progress(
            f"{address} {how}", current=done, total=len(addresses), percent=100 * share, left_s=left_s
        )
        await turn.emit(told)

    async with asyncio.TaskGroup() as group:
        for number, address in enumerate(addresses):
            group.create_task(send(number, address))
    return "\n".join([f"{done - len(failures)} of {done} sent.", *failures])
