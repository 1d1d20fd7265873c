"""Program: a real dispatcher whose journal stamps what it keeps. Takes the dispatcher's flags, and orders."""

import argparse
import asyncio
import gc
import secrets
import sys
from collections.abc import Callable, Sequence

import uvloop

from bench.keeping import Arrivals
from bench.orders import memory_bytes, obey
from dispatcher import logs, settings
from dispatcher.core.mark import Mark
from dispatcher.core.packets import Ended, SessionEvent
from dispatcher.journal.memory import MemoryJournal
from dispatcher.serve import in_memory, serve
from dispatcher.tools.loading import as_tool


class StampingJournal(MemoryJournal):
    """The embedded journal, which also notes when each text was kept, and when each session ended."""

    def __init__(self, epoch: str) -> None:
        super().__init__(epoch)
        self._over: set[str] = set()
        self._after_ending = 0
        self._is_stamping = True
        self.arrivals = Arrivals()

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        super().append(session_id, events, mark)
        if session_id in self._over:
            self._after_ending += 1
        for event in events:
            if event.text and self._is_stamping:
                self.arrivals.came(session_id, event.text)
            elif isinstance(event.body, Ended):
                self._over.add(session_id)
                self.arrivals.ended(session_id, event.body.ending)

    def after_ending(self) -> int:
        """How often something was appended to a session that had ended: never, if all is well."""
        return self._after_ending

    def be_plain(self) -> None:
        """Notes no texts from here on, so that the journal's own memory can be measured."""
        self._is_stamping = False
        self.arrivals.clear()


async def nothing(text: str) -> str:
    """Gives back what it is given.

    Args:
        text: Anything.
    """
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.host")
    settings.add_arguments(parser, settings.Settings.model_fields)
    loaded = settings.load(parser.parse_args(), {})
    logs.configure(loaded.settings.log_format, loaded.settings.log_level)
    journal = StampingJournal(secrets.token_hex(4))

    def memory() -> int:
        gc.collect()
        return memory_bytes()

    of_journal = {"after_ending": journal.after_ending, "be_plain": journal.be_plain}
    obey({**journal.arrivals.orders, **of_journal, "memory": memory})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(loaded, [as_tool(nothing)], in_memory(journal)))


if __name__ == "__main__":
    sys.exit(main())
