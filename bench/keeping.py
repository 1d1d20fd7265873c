"""What both servers of the bench, the dispatcher's journal and the bare one, keep, and answer about it."""

import threading
import time
from collections import Counter
from typing import Final

from bench.orders import Orders
from bench.tokens import PLAIN, STAMP_CHARS, latencies, made_ns, news

_LOOK_S: Final = 0.002


class Arrivals:
    """The texts that came, when and of which session; and the sessions that ended.

    `came` and `ended` are called by the server's loop, at the moment that counts; everything else is asked by the
    thread that takes orders, when the load is over. Kept in lists of plain values, which cost the garbage
    collector nothing.
    """

    def __init__(self) -> None:
        self._when_ns: list[int] = []
        self._sessions: list[str] = []
        self._texts: list[str] = []
        self._changed = threading.Condition()
        self._ended: dict[str, int] = {}
        self._endings: Counter[str] = Counter()

    def came(self, session: str, text: str) -> None:
        self._when_ns.append(time.monotonic_ns())
        self._sessions.append(session)
        self._texts.append(text)

    def ended(self, session: str, ending: str = "completed") -> None:
        with self._changed:
            self._ended[session] = time.monotonic_ns()
            self._endings[ending] += 1
            self._changed.notify_all()

    def clear(self) -> None:
        """Drops the texts."""
        for kept in (self._when_ns, self._sessions, self._texts):
            kept.clear()

    @property
    def orders(self) -> Orders:
        return {
            "record": self._record,
            "await_ended": self._await_ended,
            "endings": lambda: self._ended,
            "count": self._count,
            "latencies": self._latencies,
            "arrivals": lambda: self._when_ns,
            "await_made": self._await_made,
            "news": self._news,
        }

    def _record(self) -> None:
        """From here on."""
        with self._changed:
            self._ended.clear()
            self._endings.clear()
            self.clear()

    def _await_ended(self, sessions: int, within_s: float) -> dict[str, int]:
        """How many have ended in which way, once that are so many."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ended) >= sessions, within_s)
            return dict(self._endings)

    def _count(self) -> tuple[int, int, int]:
        """Plain tokens, the packets they came in, and when the last one came."""
        chars = sum(map(len, self._texts))
        return chars // len(PLAIN), len(self._texts), self._when_ns[-1] if self._when_ns else 0

    def _await_made(self, since_ns: int, within_s: float) -> bool:
        """Waits until a stamped token has come that was made since then; whether one has. Looks now and then, so that
        the server's loop has nothing to do for it."""
        deadline = time.monotonic() + within_s
        while not self._texts or made_ns(self._texts[-1][-STAMP_CHARS:]) < since_ns:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        return True

    def _news(self, since_ns: list[int]) -> list[tuple[int, int]]:
        """For each of these moments, in ascending order: when the first token made since then had come, and when one
        of each session had. Each session's tokens have to come whole."""
        return news(zip(self._when_ns, self._sessions, self._texts, strict=True), since_ns)

    def _latencies(self, warm_ns: int, cool_ns: int, in_time_ns: int) -> tuple[float, ...]:
        kept = zip(self._when_ns, self._sessions, self._texts, strict=True)
        return latencies(kept, warm_ns, cool_ns, in_time_ns)
