"""Nobody is told of anything that a restart could undo: answers wait until what they tell of is kept."""

import asyncio
from typing import Final

from dispatcher.edge.problems import ProblemError
from dispatcher.hub import Hub

# How long somebody who asks may wait for that.
KEPT_S: Final = 10.0


async def kept(hub: Hub) -> None:
    """Waits until all that was decided so far is kept. Raises ProblemError where the journal can't."""
    try:
        async with asyncio.timeout(KEPT_S):
            await hub.kept()
    except TimeoutError:
        told = "it is decided, and the journal can't keep it now; ask again for what became of it"
        raise ProblemError("journal_stalled", told, retry_after_s=KEPT_S) from None
