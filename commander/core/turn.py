"""One turn: a commander's side of a session.

A `Turn` knows what its agent has said (`Outbox`), what of it is under way and not yet acknowledged, how much
more may go (credit), what the agent waits for (calls, questions), and which signals it has had. It keeps three
promises: sequence numbers have no holes and a packet never changes once it has one; what is not acknowledged
is kept and sent again after a resume; what is acknowledged is sent never again.

The methods under "the agent's thread" may run beside those under "the link's thread"; neither beside itself.
"""

import zlib
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum, auto

from commander.core.outbox import Outbox, Sealed, Series, Text, utf8_size


class Phase(Enum):
    """What a silent turn waits for."""

    WAITING_FIRST_TOKEN = auto()
    GENERATING = auto()
    WAITING_TOOL = auto()
    WAITING_ANSWER = auto()


class Outcome(Enum):
    """How a turn ended by itself."""

    COMPLETED = auto()
    FAILED = auto()


class Signal(Enum):
    """What an owed signal is to a turn, by its number."""

    FRESH = auto()
    REPEAT = auto()
    # One before it is missing: only a resume brings it.
    EARLY = auto()


# What the wire's number of tokens can hold; more is counted no further.
TOKENS_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used."""

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""

    def __add__(self, more: "Usage") -> "Usage":
        return Usage(
            min(self.input_tokens + more.input_tokens, TOKENS_MAX),
            min(self.output_tokens + more.output_tokens, TOKENS_MAX),
            min(self.reasoning_tokens + more.reasoning_tokens, TOKENS_MAX),
            more.model or self.model,
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """The agent has ended by itself. `error` is opaque, and given for FAILED."""

    outcome: Outcome
    error: object = None


@dataclass(frozen=True, slots=True)
class Done:
    """The last packet of a turn: what all its content must come to, in code points and CRC-32 of its UTF-8."""

    outcome: Outcome
    content_chars: int
    content_crc32: int
    usage: Usage
    error: object = None


# Not frozen, like `Text`.
@dataclass(slots=True)
class Packet:
    """What crosses the link, numbered. It never changes: sent again, it is the same."""

    sequence: int
    payload: object  # Text, Done, or whatever was sealed
    size_bytes: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Credit:
    """How much may be under way beyond what is acknowledged."""

    packets: int
    bytes: int

    def __post_init__(self) -> None:
        if self.packets < 0 or self.bytes < 0:
            raise ValueError(f"credit is never negative: {self}")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one turn may hold, and the size of its packets; from settings."""

    outbox_packets: int
    outbox_bytes: int
    packet_bytes_max: int


@dataclass(slots=True)
class Awaited:
    """A call or a question that is open. Its place is kept until it is answered, even when nobody waits any more."""

    waiter: object | None


# Bytes of a Done besides its error, generously.
_DONE_BYTES = 128


class Turn:
    """See the module. `credit=None` is a link without acknowledgements: what is taken counts as arrived."""

    def __init__(self, session_id: str, attempt: int, bounds: Bounds, credit: Credit | None) -> None:
        self.session_id = session_id
        self.attempt = attempt
        # Whether the link's rotation has it in its list, or holds it back for want of credit; see `batch`.
        self.queued = False
        self.held_back = False
        # Whether it is among those that the rotation hurries for.
        self.hurried = False
        # Set by the link's thread, read by the agent's: nothing it says counts any more.
        self.fenced = False
        # There may be `news` for the dispatcher. Set after what is new, and cleared before that is looked at, so that
        # nothing is missed; one place to look, because every packet of content does.
        self.has_news = False
        self.usage = Usage()
        self._outbox = Outbox(
            packets_max=bounds.outbox_packets,
            bytes_max=bounds.outbox_bytes,
            packet_bytes_max=bounds.packet_bytes_max,
        )
        self._credit = credit
        # Taken and not acknowledged, oldest first; the first `_under_way` of them went out on this link.
        self._unacknowledged: deque[Packet] = deque()
        self._under_way = 0
        self._under_way_bytes = 0
        self._acknowledged = 0
        self._last_sequence = 0
        self._content_chars = 0
        self._content_crc32 = 0
        self._done_taken = False
        self._spoken = False
        # What somebody waits for: the agent's thread counts what it offers, the link's what it takes.
        self._awaited_offered = 0
        self._awaited_taken = 0
        # What was asked and is not answered, by id and in the order asked. The agent's thread adds, the link's
        # removes.
        self._calls: dict[str, Awaited] = {}
        self._questions: dict[str, Awaited] = {}
        # Who waits for what an attempt before has not waited for either: nobody is asked.
        self._in_vain: dict[str, object] = {}
        self._last_signal = 0
        self._told_signal = 0
        # The last message of the user that the agent has taken: the number of its signal.
        self._last_read = 0
        self._told_read = 0

    def __repr__(self) -> str:
        return (
            f"<Turn {self.session_id}/{self.attempt} taken={self._last_sequence}"
            f" acknowledged={self._acknowledged} under_way={self._under_way} {self._outbox!r}"
            f"{' fenced' if self.fenced else ''}{' delivered' if self.is_delivered else ''}>"
        )

    # -- the agent's thread ----------------------------------------------------------------------------------

    def offer_text(self, text: str) -> bool:
        """Content of the root agent, not empty. True while there is room for more."""
        self._spoken = True
        return self._outbox.offer_text(text)

    def offer(self, item: Text | Sealed | Series) -> bool:
        """Anything else. True while there is room for more."""
        self._spoken = True
        return self._outbox.offer(item)

    def count_usage(self, usage: Usage) -> None:
        self.usage = self.usage + usage

    def open_call(self, call_id: str, waiter: object, request: Sealed) -> bool:
        """Asks for a tool; `waiter` comes back from `close_call`. True while there is room for more."""
        self._calls[call_id] = Awaited(waiter)
        return self._offer_awaited(request)

    def open_question(self, question_id: str, waiter: object, question: Sealed) -> bool:
        """Asks the user; `waiter` comes back from `close_question`. True while there is room for more."""
        self._questions[question_id] = Awaited(waiter)
        return self._offer_awaited(question)

    def wait_in_vain(self, waiting_id: str, waiter: object) -> None:
        """The agent waits for what will not come, until it gives up or the turn is over."""
        self._in_vain[waiting_id] = waiter

    def abandon(self, waiting_id: str) -> bool:
        """The agent waits no longer for this call or question. True while that is open: then `withdraw` it."""
        self._in_vain.pop(waiting_id, None)
        is_open = False
        for asked in (self._calls, self._questions):
            awaited = asked.get(waiting_id)
            if awaited is not None:
                is_open = is_open or awaited.waiter is not None
                awaited.waiter = None
        return is_open

    def withdraw(self, withdrawal: Sealed) -> bool:
        """The dispatcher is to know that nobody waits. True while there is room for more."""
        return self._offer_awaited(withdrawal)

    def read(self, sequence: int) -> None:
        """The agent has taken the message that came as this signal; 0 is one that nobody keeps."""
        if sequence > self._last_read:
            self._last_read = sequence
            self.has_news = True

    def finish(self, outcome: Outcome, error: object = None, error_bytes: int = 0) -> None:
        """The agent has ended. Nothing may be offered after."""
        self._offer_awaited(Sealed(Finish(outcome, error), self._done_bytes(error_bytes)))

    def _offer_awaited(self, item: Sealed) -> bool:
        self._spoken = True
        self._awaited_offered += 1
        return self._outbox.offer(replace(item, is_awaited=True))

    # -- either thread ---------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return self._outbox.has_room

    @property
    def is_half_empty(self) -> bool:
        return self._outbox.is_half_empty

    @property
    def phase(self) -> Phase:
        if _open_ids(self._questions):
            return Phase.WAITING_ANSWER
        if _open_ids(self._calls):
            return Phase.WAITING_TOOL
        return Phase.GENERATING if self._spoken else Phase.WAITING_FIRST_TOKEN

    @property
    def open_call_ids(self) -> tuple[str, ...]:
        """Calls whose result the agent waits for, in the order asked."""
        return _open_ids(self._calls)

    @property
    def open_question_ids(self) -> tuple[str, ...]:
        """Questions whose answer the agent waits for, in the order asked."""
        return _open_ids(self._questions)

    # -- the link's thread: up -------------------------------------------------------------------------------

    @property
    def last_sequence(self) -> int:
        """The highest number given out so far."""
        return self._last_sequence

    @property
    def unacknowledged(self) -> int:
        """Packets kept for a resend."""
        return len(self._unacknowledged)

    @property
    def has_credit(self) -> bool:
        """One more packet may go: as many packets as the credit says, and bytes up to it or one packet over."""
        if self._credit is None:
            return True
        return self._under_way < self._credit.packets and self._under_way_bytes < self._credit.bytes

    @property
    def has_more(self) -> bool:
        """There is something to send, credit or not."""
        return not self.fenced and (self._under_way < len(self._unacknowledged) or bool(self._outbox))

    @property
    def has_awaited(self) -> bool:
        """Something that somebody waits for has not been taken yet."""
        return not self.fenced and self._awaited_taken < self._awaited_offered

    @property
    def is_delivered(self) -> bool:
        """Done has been taken and everything acknowledged."""
        return self._done_taken and not self._unacknowledged

    def take(self) -> Packet | None:
        """The next packet for the link: first what a broken link may have lost, then what is new."""
        if self.fenced or not self.has_credit:
            return None
        if self._under_way < len(self._unacknowledged):
            packet = self._unacknowledged[self._under_way]
        else:
            # Behind Done there is nothing, whatever a turn that failed has offered since.
            item = None if self._done_taken else self._outbox.take()
            if item is None:
                return None
            packet = self._number(item)
            if self._credit is None:
                self._acknowledged = packet.sequence
                return packet
            self._unacknowledged.append(packet)
        self._under_way += 1
        self._under_way_bytes += packet.size_bytes
        return packet

    def acknowledge(self, sequence: int, credit: Credit) -> bool:
        """Everything up to `sequence` is kept on the other side. False for a number that was never sent."""
        if sequence > self._acknowledged + self._under_way:
            return False
        if sequence >= self._acknowledged:
            self._drop_up_to(sequence)
            self._credit = credit
        return True

    def unlink(self) -> None:
        """The link is gone: nobody knows what of that under way has arrived."""
        self._under_way = self._under_way_bytes = 0
        # The next link's Hello tells of the signals; of the messages, only its packets do.
        self._told_signal = self._last_signal
        self._told_read = 0
        self.has_news = False
        if self._last_read:
            self.has_news = True

    def resume(self, next_sequence: int, credit: Credit) -> bool:
        """A new link goes on at `next_sequence`. False when it can't: that was dropped, or never sent."""
        if not self._acknowledged < next_sequence <= self._last_sequence + 1:
            return False
        self.unlink()
        self._drop_up_to(next_sequence - 1)
        self._credit = credit
        return True

    def fail(self, error: object, error_bytes: int) -> bool:
        """It ends here, whatever its agent still says; what was not sent is dropped. False when it has ended."""
        if self.fenced or self._done_taken:
            return False
        self._outbox.clear()
        # Like what a broken link may have lost: it goes with the next credit, and again until it has arrived.
        self._unacknowledged.append(
            self._number(Sealed(Finish(Outcome.FAILED, error), self._done_bytes(error_bytes)))
        )
        return True

    def fence(self) -> None:
        """Nothing this turn says counts any more: drops all it has, for good."""
        self.fenced = True
        self._outbox.clear()
        self._unacknowledged.clear()
        self.unlink()

    # -- the link's thread: down -----------------------------------------------------------------------------

    @property
    def last_signal(self) -> int:
        """The number of the last owed signal received."""
        return self._last_signal

    def receive(self, sequence: int) -> Signal:
        """Judges an owed signal by its number; 0 is one that nobody keeps, and always fresh."""
        if sequence == 0:
            return Signal.FRESH
        if sequence <= self._last_signal:
            return Signal.REPEAT
        if sequence > self._last_signal + 1:
            return Signal.EARLY
        self._last_signal = sequence
        self.has_news = True
        return Signal.FRESH

    @property
    def last_read(self) -> int:
        """The number of the last message of the user that the agent has taken."""
        return self._last_read

    def news(self) -> tuple[int, int]:
        """The last owed signal received, and the last message read: each once for each time it has grown, else 0."""
        self.has_news = False
        signal, read = self._last_signal, self._last_read
        told_signal, self._told_signal = self._told_signal, signal
        told_read, self._told_read = self._told_read, read
        return signal if signal != told_signal else 0, read if read != told_read else 0

    def close_call(self, call_id: str) -> object | None:
        """Who waits for this result: None when nobody does. A bare result belongs to the first call open."""
        return _close(self._calls, call_id)

    def close_question(self, question_id: str) -> object | None:
        """Who waits for this answer: None when nobody does."""
        return _close(self._questions, question_id) if question_id else None

    def waiters(self) -> tuple[object, ...]:
        """Everyone who waits for a result or an answer."""
        asked = tuple(self._calls.values()) + tuple(self._questions.values())
        waiters = tuple(awaited.waiter for awaited in asked if awaited.waiter is not None)
        return waiters + tuple(self._in_vain.values())

    # -- inside ----------------------------------------------------------------------------------------------

    def _number(self, item: Text | Sealed) -> Packet:
        self._last_sequence += 1
        if isinstance(item, Text):
            encoded = item.text.encode()
            size = len(encoded)
            if item.step is None:
                self._content_chars += len(item.text)
                self._content_crc32 = zlib.crc32(encoded, self._content_crc32)
            else:
                size += utf8_size(item.step)
            return Packet(self._last_sequence, item, size, item.path)
        payload = item.payload
        self._awaited_taken += item.is_awaited
        if isinstance(payload, Finish):
            self._done_taken = True
            payload = Done(
                payload.outcome, self._content_chars, self._content_crc32, self.usage, payload.error
            )
        return Packet(self._last_sequence, payload, item.size_bytes, item.path)

    def _done_bytes(self, error_bytes: int) -> int:
        return _DONE_BYTES + error_bytes + utf8_size(self.usage.model)

    def _drop_up_to(self, sequence: int) -> None:
        while self._unacknowledged and self._unacknowledged[0].sequence <= sequence:
            packet = self._unacknowledged.popleft()
            if self._under_way:
                self._under_way -= 1
                self._under_way_bytes -= packet.size_bytes
        self._acknowledged = max(self._acknowledged, sequence)


@dataclass(slots=True)
class Numbered:
    """A packet with the turn that it is of."""

    turn: Turn
    packet: Packet


# A copy of a dict is one step of the interpreter: so the other thread can't come between.


def _open_ids(asked: dict[str, Awaited]) -> tuple[str, ...]:
    return tuple(asked_id for asked_id, awaited in tuple(asked.items()) if awaited.waiter is not None)


def _close(asked: dict[str, Awaited], asked_id: str) -> object | None:
    if not asked_id:
        asked_id = next(iter(tuple(asked)), "")
    awaited = asked.pop(asked_id, None)
    return None if awaited is None else awaited.waiter
