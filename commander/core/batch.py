"""Whose turn it is on the link, and what goes into one message.

Signals go before content: a stop's acknowledgement never queues behind tokens. Then each turn that has something
and the credit for it gives one packet, round after round, until nobody has any more or the message is full. A
turn that has said what somebody waits for (a call, a question, its end) is asked besides, every other time, until
that is out: it overtakes no packet of its own, and takes no more than half of the link from the others. A message
is kept well below the largest possible, because whatever comes after waits for all of it.

`mark` is called by the agents' threads, everything else by the link's alone. `Turn.queued` keeps a turn from
being marked for every token: it is cleared before the turn is asked, so what is offered later marks it again.
"""

from collections import deque
from collections.abc import Iterable

from commander.core.turn import Numbered, Turn

# What the envelope of a packet adds at most, besides the session's id and the path of the sub-agent.
ENVELOPE_BYTES = 72
# A full message takes either side about a millisecond: the delay that a signal behind it may suffer.
MESSAGE_BYTES_WISHED = 128 * 1024
MESSAGE_PACKETS_MAX = 64
# More signals than this wait only when the other side asks and asks, and does not read.
SIGNALS_MAX = 10_000
# Room for the frame around the packets of a message.
FRAME_BYTES = 1024


class Rotation:
    """The turns that have something to send, in their order."""

    def __init__(self, message_bytes_max: int) -> None:
        self._ready: deque[Turn] = deque()
        # Those of them that have said what somebody waits for.
        self._express: deque[Turn] = deque()
        self._is_express_due = True
        self._signals: deque[object] = deque()
        # Taken from its turn, and too large for the message that was being filled.
        self._held: Numbered | None = None
        self.limit(message_bytes_max)

    def __repr__(self) -> str:
        return f"<Rotation ready={len(self._ready)} signals={len(self._signals)}>"

    def limit(self, message_bytes_max: int) -> None:
        """No message shall be larger, in bytes."""
        self._bytes_max = message_bytes_max - FRAME_BYTES

    # -- any agent's thread ----------------------------------------------------------------------------------

    def mark(self, turn: Turn) -> None:
        """The turn has something to send."""
        turn.queued = True
        self._ready.append(turn)

    def hurry(self, turn: Turn) -> None:
        """The turn has offered what somebody waits for. After `mark`."""
        if not turn.hurried:
            turn.hurried = True
            self._express.append(turn)

    # -- the link's thread -----------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._signals) or self._held is not None or bool(self._ready)

    def signal(self, signal: object) -> None:
        """Goes before all content, in the order given. Opaque here, and small."""
        self._signals.append(signal)

    @property
    def has_signals(self) -> bool:
        return bool(self._signals)

    @property
    def has_express(self) -> bool:
        return bool(self._express)

    @property
    def fills_messages(self) -> bool:
        """So many turns have something that the next message will be full."""
        return len(self._ready) >= MESSAGE_PACKETS_MAX

    @property
    def is_choked(self) -> bool:
        """More signals wait than a link that is read would ever let gather."""
        return len(self._signals) > SIGNALS_MAX

    def release(self, turn: Turn) -> bool:
        """The turn may have got credit. True when it was waiting for that and has its place again."""
        if not turn.held_back or not turn.has_credit:
            return False
        turn.held_back = False
        self._ready.append(turn)
        if turn.has_awaited:
            self.hurry(turn)
        return True

    def unlink(self, turns: Iterable[Turn]) -> None:
        """The link is gone. Signals stay for the next one; these turns come back by `release`."""
        self._ready.clear()
        while self._express:
            self._express.popleft().hurried = False
        self._held = None
        for turn in turns:
            turn.unlink()
            self._hold_back(turn)

    def gather(self, *, signals_only: bool = False) -> list[object]:
        """What goes into the next message: signals as given, then `Numbered`. Empty when there is nothing."""
        gathered: list[object] = []
        size = 0
        while self._signals and len(gathered) < MESSAGE_PACKETS_MAX:
            gathered.append(self._signals.popleft())
            size += ENVELOPE_BYTES * 4
        wished = 0 if signals_only else min(MESSAGE_BYTES_WISHED, self._bytes_max)
        while size < wished and len(gathered) < MESSAGE_PACKETS_MAX:
            numbered = self._next()
            if numbered is None:
                break
            cost = _cost(numbered)
            if gathered and size + cost > self._bytes_max:
                self._held = numbered
                break
            gathered.append(numbered)
            size += cost
        return gathered

    def _next(self) -> Numbered | None:
        if self._held is not None:
            held, self._held = self._held, None
            if not held.turn.fenced:
                return held
        self._is_express_due = not self._is_express_due
        if self._is_express_due and self._express:
            numbered = self._next_express()
            if numbered is not None:
                return numbered
        while self._ready:
            turn = self._ready.popleft()
            if turn.held_back:
                continue
            turn.queued = False
            packet = turn.take()
            if packet is None:
                # What is empty is marked again by whoever offers; what has no credit, by nobody but `release`.
                if turn.has_more and not turn.has_credit:
                    self._hold_back(turn)
                continue
            if turn.has_more:
                self.mark(turn)
            return Numbered(turn, packet)
        return None

    def _next_express(self) -> Numbered | None:
        while self._express:
            turn = self._express.popleft()
            turn.hurried = False
            packet = turn.take()
            if packet is not None:
                if turn.has_awaited:
                    self.hurry(turn)
                return Numbered(turn, packet)
        return None

    def _hold_back(self, turn: Turn) -> None:
        # `queued` stays set, so that whoever offers does not wake the link for nothing.
        turn.held_back = turn.queued = True


def _cost(numbered: Numbered) -> int:
    packet = numbered.packet
    path_bytes = len(packet.path.encode()) if packet.path else 0
    return packet.size_bytes + len(numbered.turn.session_id) + path_bytes + ENVELOPE_BYTES
