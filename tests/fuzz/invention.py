"""Makes cases out of numbers: each number is one step, or few, drawn from what is likely to matter at that point.

The same numbers are the same case, and leaving some out leaves a smaller one, so that hypothesis can look for the
smallest that breaks something.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from fuzz import packets
from fuzz.case import Case, Step
from fuzz.edits import EDITS

SERVICES: Final = ("ChatStream", "Chat", "Admin")
_ADMIN: Final = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
_UNARY: Final = {
    method.name: GetMessageClass(method.input_type)
    for service in (_ADMIN, chat_pb2.DESCRIPTOR.services_by_name["Chat"])
    for method in service.methods
    if not method.server_streaming
}
_SPOKEN: Final = (
    "content", "content", "content", "thought", "tool_call", "tool_call", "error", "progress", "question", "question",
    "agent_event", "artifact", "embedding", "usage", "content", "content", "thought", "tool_call", "question",
    "progress", "withdrawal", "done",
)  # fmt: skip
_UNNUMBERED: Final = ("heartbeat", "stop_ack", "refused")
_LINKS: Final = ("a", "a", "a", "a", "a", "b", "c")
_TALKS: Final = ("t", "t", "u")


def words(message: Message) -> str:
    return text_format.MessageToString(message, as_one_line=True, as_utf8=False)


def invented(service: str, numbers: Sequence[int]) -> Case:
    maker = _Maker(service)
    for number in numbers:
        maker.step(Random(number))
    return Case(tuple(maker.steps))


class _Maker:
    """What a case holds so far, and what the dispatcher should expect next in each session."""

    def __init__(self, service: str) -> None:
        self.steps: list[Step] = []
        self._open: set[str] = set()
        self._sequences: dict[tuple[str, int], int] = {}
        link, talk, admin, watch = self._link_step, self._talk_step, self._admin_step, self._watch
        likely: dict[str, list[Callable[[Random], None]]] = {
            "ChatStream": [link, link, link, link, link, link, link, link, talk, admin],
            "Chat": [talk, talk, talk, talk, talk, watch, link, link, link, admin],
            "Admin": [admin, admin, admin, admin, admin, admin, watch, talk, link, link],
        }
        self._likely = likely[service]

    def step(self, dice: Random) -> None:
        if not self.steps and dice.random() < 0.85:
            self._begin(dice)
        else:
            act = dice.choice(self._likely)
            for _ in range(dice.choice((1, 1, 2, 3, 5))):
                act(dice)
                if dice.random() < 0.3:
                    self.steps.append(Step("settle", "all"))

    def _begin(self, dice: Random) -> None:
        """A session that runs, so that there is something to break."""
        self._link("a")
        self._stream("t", "Converse")
        asked = packets.ask(Random(0))
        asked.agent = packets.AGENTS[0]
        self._send("t", chat_pb2.ClientPacket(client_ref="r0", ask=asked))

    def _link(self, name: str, *resumed: str) -> None:
        """A link that is welcome, of a commander that remembers right what it still runs."""
        greeting = agent_pb2.Hello(
            commander_id=f"c{ord(name) - ord('a')}",
            instance="i0",
            slots=2,
            agents=packets.offers(ord(name)),
            resumes=[
                agent_pb2.Resume(
                    session_id=each, attempt=1, last_sequence_sent=self._sequences.get((each, 1), 0)
                )
                for each in resumed
            ],
        )
        self._open.discard(name)
        self._stream(name, "ChatStream")
        self._send(name, packets.Up(hello=greeting))

    def _stream(self, name: str, method: str, request: str = "") -> None:
        if name not in self._open:
            self._open.add(name)
            self.steps.append(Step("open", name, f"{method} {request}".rstrip()))

    def _send(self, name: str, packet: Message, edits: str = "") -> None:
        self.steps.append(
            Step("mangle", name, f"{edits}; {words(packet)}") if edits else Step("send", name, words(packet))
        )

    def _sent(self, dice: Random, name: str, packet: Message) -> None:
        """The packet, mostly as it is; or edited, or bytes instead of it; or the end of the stream."""
        fate = dice.random()
        if fate < 0.80:
            self._send(name, packet)
        elif fate < 0.93:
            self._send(name, packet, _edits(dice))
        elif fate < 0.95:
            data = dice.randbytes(dice.choice((0, 1, 2, 5, 30, 500)))
            self.steps.append(Step("bytes", name, data.hex()))
        else:
            self.steps.append(Step(dice.choice(("half_close", "cancel")), name))
        if fate >= 0.80 and isinstance(packet, packets.Up) and packet.sequence:
            # It did not arrive, so its number is still to come.
            said = packet.session_id, packet.attempt
            due = self._sequences.get(said, 0)
            self._sequences[said] = max(0, due - (packet.sequence == due))
        if fate >= 0.80 and dice.random() < 0.6:
            # That was most likely its end.
            self._open.discard(name)

    # --- links -------------------------------------------------------------------------------------------

    def _link_step(self, dice: Random) -> None:
        name = dice.choice(_LINKS)
        fresh = name not in self._open
        if fresh and dice.random() < 0.5:
            self._link(name, *(("$s0", "$s1")[: dice.choice((0, 1, 1, 2))]))
            return
        self._stream(name, "ChatStream")
        packet = packets.Up(hello=packets.hello(dice)) if fresh and dice.random() < 0.75 else self._up(dice)
        self._sent(dice, name, packet)

    def _up(self, dice: Random) -> Any:
        fate = dice.random()
        if fate < 0.65:
            return self._spoken(dice)
        if fate < 0.75:
            return packets.whatever(dice, packets.Up)
        if fate < 0.85:
            batch = agent_pb2.UpstreamBatch(
                packets=[self._up(dice) for _ in range(dice.choice((0, 1, 2, 5)))]
            )
            return packets.Up(batch=batch)
        if fate < 0.9:
            return packets.Up(hello=packets.hello(dice))
        if fate < 0.93:
            return packets.Up(goodbye=packets.payload(dice, "goodbye"))
        # As a minimal commander speaks: about nobody, without a number.
        kind = dice.choice(_SPOKEN)
        return packets.Up(**{kind: packets.payload(dice, kind)})

    def _spoken(self, dice: Random) -> Any:
        session = dice.choice(("$s0", "$s0", "$s0", "$s0", "$s1", "$s2", "nobody"))
        kind = dice.choice((*_SPOKEN, *_UNNUMBERED))
        # After a failover its attempt is the second.
        attempt = dice.choice((1, 1, 1, 1, 1, 2))
        packet = packets.Up(session_id=session, attempt=attempt, **{kind: packets.payload(dice, kind)})
        if kind not in _UNNUMBERED:
            due = self._sequences.get((session, attempt), 0) + 1
            packet.sequence = due
            if dice.random() < 0.12:
                packet.sequence = dice.choice((0, max(0, due - 1), due + 1, 2**64 - 1))
            else:
                self._sequences[session, attempt] = due
        if dice.random() < 0.08:
            packet.attempt = dice.choice((0, 2, 2**32 - 1))
        if dice.random() < 0.15:
            packet.agent = dice.choice(("team", "team/insight", "a b", "x" * 300, "\0"))
            packet.signals_received = dice.choice((0, 1, 2**64 - 1))
            packet.messages_read = dice.choice((0, 1, 2**64 - 1))
        return packet

    # --- applications ------------------------------------------------------------------------------------

    def _talk_step(self, dice: Random) -> None:
        name = dice.choice(_TALKS)
        self._stream(name, "Converse")
        self._sent(dice, name, self._request(dice))

    def _request(self, dice: Random) -> Any:
        a, of = chat_pb2, dice.choice
        if dice.random() < 0.2:
            return packets.whatever(dice, a.ClientPacket)
        packet = a.ClientPacket(client_ref=of((*packets.REFS, "r0", "r0", "")), request_id=of(("", "n")))
        if dice.random() < 0.3:
            packet.session_id = of(("$s0", "$s1", "nobody"))
        kind = of(("ask", "answer", "answer", "message", "stop", "none"))
        if kind == "ask":
            packet.ask.CopyFrom(packets.ask(dice))
        elif kind == "answer":
            packet.answer.question_id = of(
                (*packets.QUESTIONS, *packets.QUESTIONS, *packets.APPROVALS, "q9", "")
            )
            if dice.random() < 0.8:
                packet.answer.value_json = of(
                    (
                        '"approve"',
                        '"approve"',
                        '{"approve": {"a": 3, "b": 3}}',
                        '{"approve": {"a": "x"}}',
                        '{"deny": "no"}',
                        '"yes"',
                        "1",
                        "",
                        "nope",
                        "NaN",
                        "[" * 90_000,
                        "9" * 5_000,
                        "1e999",
                    )
                )
            else:
                packet.answer.decline = dice.random() < 0.5
        elif kind == "message":
            packet.message.text = of(("", "more", "more" * 5_000))
        elif kind == "stop":
            packet.stop.reason = of(("", "Enough", "r" * 2_000))
        return packet

    def _watch(self, dice: Random) -> None:
        name = dice.choice(("v", "w", "x"))
        cursor = chat_pb2.Cursor(
            epoch=dice.choice(("$e", "$e", "", "other", "\0")),
            offset=dice.choice((0, 1, 2, 5, 1_000, 2**64 - 1)),
        )
        request: Any = chat_pb2.SubscribeRequest(session_id=dice.choice(("$s0", "$s0", "$s1", "nobody", "")))
        request = packets.whatever(dice, chat_pb2.SubscribeRequest) if dice.random() < 0.2 else request
        if dice.random() < 0.8:
            request.cursor.CopyFrom(cursor)
        method = dice.choice(("Subscribe", "Subscribe", "WatchSession"))
        if method == "WatchSession":
            request.ClearField("include_thoughts")
        if name in self._open:
            self.steps.append(Step("cancel", name))
            self._open.discard(name)
        else:
            self._stream(name, method, words(request))
        if dice.random() < 0.4:
            self._call(dice, "ListAgents", chat_pb2.ListAgentsRequest(page_token=_token(dice)))

    # --- operators ---------------------------------------------------------------------------------------

    def _admin_step(self, dice: Random) -> None:
        method = dice.choice(sorted(_UNARY))
        if dice.random() < 0.2:
            self._watch(dice)
            return
        if method == "Drain" and dice.random() < 0.99:
            method = "ListSessions"
        request = packets.whatever(dice, _UNARY[method])
        if hasattr(request, "page_token") and dice.random() < 0.5:
            request.page_token = _token(dice)
        if hasattr(request, "session_id") and dice.random() < 0.6:
            request.session_id = "$s0"
        if method == "SetLimits" and dice.random() < 0.8:
            request.Clear()
            for _ in range(dice.choice((1, 2))):
                value = dice.choice((0.0, -1.0, 0.5, 1.0, 3.0, 1e18, float("nan"), float("inf")))
                request.values[dice.choice(_LIMITS)] = value
        self._call(dice, method, request)

    def _call(self, dice: Random, method: str, request: Message) -> None:
        fate = dice.random()
        if fate < 0.75:
            self.steps.append(Step("call", method, words(request)))
        elif fate < 0.95:
            self.steps.append(Step("call", f"{method}!", f"{_edits(dice)}; {words(request)}"))
        else:
            self.steps.append(Step("call", f"{method}#", dice.randbytes(dice.choice((0, 1, 30))).hex()))


_LIMITS: Final = (
    "sessions_max", "queue_sessions_max", "queue_wait_s", "credit_packets", "credit_bytes", "ack_interval_s",
    "detach_grace_s", "stop_grace_s", "messages_waiting_max", "questions_open_max", "content_chars_max",
    "tool_calls_max", "total_time_s", "first_token_s", "deny_hold_chars_max", "journal_session_bytes",
    "journal_bytes", "journal_keep_s", "journal_keep_sessions", "tool_timeout_s", "tool_output_bytes", "links_max",
    "nonsense",
)  # fmt: skip


def _edits(dice: Random) -> str:
    names = sorted(EDITS)
    return ", ".join(
        f"{dice.choice(names)} {dice.randrange(1 << 20)}" for _ in range(dice.choice((1, 1, 2, 4)))
    )


def _token(dice: Random) -> str:
    return dice.choice(("", "$p0", "$s0", "nobody", "\0", "a\0b", "c0", "z" * 300, "🌍"))
