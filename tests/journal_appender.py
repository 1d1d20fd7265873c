"""A process that appends to a journal with a file until it is killed: `journal_appender.py PATH [BYTES_MAX]`.

It opens session after session, three at a time, appends steps of one to five events, and ends and forgets the oldest.
It says `appended SESSION OFFSET` before each step, and `kept SESSION OFFSET` when the journal has told it that this
was kept; `forgot SESSION` likewise. With BYTES_MAX no file may grow beyond: it appends until that is reached, says
`stalled`, and goes on once it hears a line on standard input, then says `well` and, when all is kept, `over`. A line
`leave` ends it at once instead.
"""

import asyncio
import os
import random
import resource
import sys
from pathlib import Path

from journal_scenes import asked, kept, texts

from dispatcher.core.mark import Mark
from dispatcher.journal.sqlite import SqliteJournal

LIVE = 3
STEPS = 40
# So much may wait for the journal: what credit is for a session.
UNDER_WAY_MAX = 50


class Appending:
    """What is appended, session by session."""

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal
        self._random = random.Random(5)
        self._heads: dict[str, int] = {}
        self._opened = 0
        self._under_way = 0
        self._room = asyncio.Event()

    async def step(self) -> None:
        """One step of some session, once few enough are under way."""
        while self._under_way >= UNDER_WAY_MAX:
            self._room.clear()
            await self._room.wait()
        while len(self._heads) < LIVE:
            self._opened += 1
            session_id = f"session-{self._opened}"
            self._journal.open(asked(session_id, session_id.encode()))
            self._heads[session_id] = 0
        session_id = self._random.choice(list(self._heads))
        self._append(session_id, self._random.randint(1, 5))
        if self._heads[session_id] > STEPS * 3:
            del self._heads[session_id]
            self._journal.forget(session_id)
            self._when_kept(f"forgot {session_id}")

    def _append(self, session_id: str, number: int) -> None:
        head = self._heads[session_id]
        self._heads[session_id] = head + number
        say(f"appended {session_id} {head + number}")
        events = texts(head + 1, head + number, session_id)
        self._journal.append(session_id, events, lambda: Mark(received=self._heads.get(session_id, 0)))
        self._when_kept(f"kept {session_id} {head + number}")

    def _when_kept(self, line: str) -> None:
        self._under_way += 1

        def act() -> None:
            self._under_way -= 1
            self._room.set()
            say(line)

        self._journal.when_kept(act)


def say(line: str) -> None:
    # In one call, so that nothing is said by halves when it is killed.
    os.write(1, f"{line}\n".encode())


async def main(path: Path, bytes_max: int) -> None:
    well = asyncio.Event()

    def stalled(is_stalled: bool) -> None:
        say("stalled" if is_stalled else "well")
        if not is_stalled:
            well.set()

    journal = SqliteJournal.at(path, stalled=stalled)
    appending = Appending(journal)
    if not bytes_max:
        while True:
            await appending.step()
            await asyncio.sleep(0)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, hard))

    async def append() -> None:
        while not well.is_set():
            await appending.step()
            await asyncio.sleep(0)

    task = asyncio.create_task(append())
    if await asyncio.to_thread(sys.stdin.readline) == "leave\n":
        task.cancel()
        await journal.close()
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await task
    await kept(journal)
    say("over")
    await journal.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
