"""The commander's one link: dials out, says Hello, resumes, keeps it alive, comes back, says Goodbye.

All of it runs in the link's own thread and loop, so that no agent can silence it; what other threads may call
says so.
"""

import asyncio
import logging
import random

import grpc
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import codec, dialing, unsealing
from commander.core import backoff
from commander.core.turn import Turn
from commander.doorbell import Doorbell
from commander.hub import Hub, SignalMissing
from commander.metrics import Metrics
from commander.pulse import Change, Pulse
from commander.racing import at_most
from commander.settings import Settings
from commander.stream import Stream, StreamEnded

_LOG = logging.getLogger(__name__)

# The same trouble is told again after so long.
REPEAT_LOG_S = 30.0

# A dispatcher that bears no message of this size can't be served.
MESSAGE_BYTES_LEAST = 16_384

# A writer whose writes take longer than this of late pauses after each, the longer the slower they are: fewer and
# fuller messages give time back. A write takes about 0.15 ms on a machine that has time. Measured on two cores, against
# a pause that begins with 5 ms: 100 × 50 tokens/s p99 6.7 to 1.6 ms, for a machine that is a little short of time is
# not made to wait; and 1,000 × 50, which use both cores up, 255 to 83 ms.
LAG_S = 0.0007
# How long it pauses for each second that a write takes beyond that.
PAUSE_RATIO = 4.0
# Less is not worth a timer.
PAUSE_LEAST_S = 0.0005
PAUSE_MAX_S = 0.05
# The share of the last write in what "of late" means.
LAG_SHARE = 0.25

# Trouble that trying again won't mend, and what will. Tried again all the same, slowly: somebody may mend it.
STUBBORN = {
    grpc.StatusCode.UNAUTHENTICATED: "put the token it expects into the file that token_file names",
    grpc.StatusCode.PERMISSION_DENIED: "give this commander a token that has the role commander",
    grpc.StatusCode.UNIMPLEMENTED: "what listens there is no dispatcher; mend the address",
    grpc.StatusCode.INVALID_ARGUMENT: "the dispatcher does not accept what this commander says of itself",
    grpc.StatusCode.ALREADY_EXISTS: "another process uses this commander_id; give each its own",
    grpc.StatusCode.ABORTED: "another process uses this commander_id; give each its own",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "raise the dispatcher's limit, or run fewer commanders",
}


class Link:
    """See the module. Made in the thread of its loop."""

    def __init__(
        self,
        settings: Settings,
        identity: codec.Identity,
        hub: Hub,
        doorbell: Doorbell,
        pulse: Pulse,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._hub = hub
        self._doorbell = doorbell
        self._pulse = pulse
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._interval_s = settings.heartbeat_interval_s
        self._is_linked = False
        # Set when the link is to end for good: the reason to tell, and the process's exit code.
        self._leaving = asyncio.Event()
        self._goodbye = ""
        self._exit_code = 0
        self._patience_s = settings.connect_timeout_s
        self._failures = 0
        self._told = ""
        self._told_at = 0.0

    def __repr__(self) -> str:
        state = "linked" if self._is_linked else f"unlinked, {self._failures} tries"
        return f"<Link {self._identity.commander_id} to {self._settings.dispatcher}: {state}>"

    async def run(self) -> int:
        """Keeps linked until told to leave; the exit code that came with that."""
        watch = asyncio.ensure_future(self._watch())
        try:
            while not self._leaving.is_set():
                delay_s = await self._try()
                if not self._leaving.is_set():
                    await at_most(delay_s, self._leaving.wait())
        finally:
            watch.cancel()
        return self._exit_code

    def drain(self, reason: str, deadline_s: float) -> None:
        """Takes no more turns and leaves when those that run are over. In the link's thread."""
        _LOG.info("draining for at most %g s: %s", deadline_s, reason)
        self._hub.drain(deadline_s, lambda: self.leave(0, reason))

    def leave(self, exit_code: int, reason: str, patience_s: float | None = None) -> None:
        """Says Goodbye and ends. In the link's thread; the first call counts.

        `patience_s` is how long the dispatcher has to take leave too; None: `connect_timeout_s`.
        """
        if not self._leaving.is_set():
            self._exit_code, self._goodbye = exit_code, reason
            if patience_s is not None:
                self._patience_s = patience_s
            self._leaving.set()
            self._doorbell.ring_here()

    # -- one link --------------------------------------------------------------------------------------------

    async def _try(self) -> float:
        """One link from dialling to its end; how long to wait before the next, seconds."""
        linked_at: float | None = None
        try:
            channel = dialing.dial(self._settings)
            try:
                stream = Stream(channel, dialing.token(self._settings), self._loop.time)
                try:
                    welcome, asked = await self._greet(stream)
                    linked_at = self._loop.time()
                    await self._hold(stream, welcome, asked)
                finally:
                    await stream.close()
            finally:
                await channel.close()
        except StreamEnded as ended:
            code, why = ended.code, ended.why
        except OSError as error:
            code, why = grpc.StatusCode.FAILED_PRECONDITION, f"{error.filename}: {error.strerror}"
        except Exception:  # noqa: BLE001 - told, with its traceback
            # A mistake of this program's own. The turns and their neighbours deserve another try.
            _LOG.exception("the link broke over a mistake in the commander")
            code, why = grpc.StatusCode.INTERNAL, "a mistake in the commander"
        if self._leaving.is_set():
            return 0.0
        return self._lost(code, why, linked_at)

    async def _greet(self, stream: Stream) -> tuple[pb.Welcome, tuple[Turn, ...]]:
        """Hello and Welcome, within `connect_timeout_s`; and the turns that the Hello named."""
        slots = self._hub.slots
        asked = slots.resumable
        # "Running" to a Hello are those it names too, whose agents may have ended.
        hello = codec.hello(
            self._identity,
            asked,
            slots.running + slots.undelivered,
            slots.stuck,
            draining=slots.is_draining,
        )
        answer = await stream.greet(hello, self._settings.connect_timeout_s, self._leaving)
        if answer is None:
            why = f"no Welcome within {self._settings.connect_timeout_s:g} s"
            raise StreamEnded(grpc.StatusCode.DEADLINE_EXCEEDED, why)
        if answer.WhichOneof("signal") != "welcome":
            why = (
                "it answers a Hello with something else than Welcome; `commander ask` can talk to such a one"
            )
            raise StreamEnded(grpc.StatusCode.UNIMPLEMENTED, why)
        return answer.welcome, asked

    async def _hold(self, stream: Stream, welcome: pb.Welcome, asked: tuple[Turn, ...]) -> None:
        """From Welcome to the end of the link."""
        if welcome.HasField("heartbeat_interval") and unsealing.seconds(welcome.heartbeat_interval) > 0:
            self._interval_s = unsealing.seconds(welcome.heartbeat_interval)
        largest = max(
            welcome.limits.max_message_bytes or self._settings.max_message_bytes, MESSAGE_BYTES_LEAST
        )
        self._is_linked = True
        self._metrics.link_opened()
        _LOG.info(
            "linked to %s (%s), %d turns to resume",
            self._settings.dispatcher,
            welcome.software_version or "which does not say what it is",
            len(asked),
        )
        try:
            self._hub.linked(welcome, asked, min(largest, self._settings.max_message_bytes))
            # Raised without a name, see `Stream.greet`.
            raise await stream.converse(
                self._read(stream), self._write(stream), self._beat(stream), self._take_leave()
            )
        finally:
            self._is_linked = False
            self._metrics.link_closed()
            self._hub.unlinked()

    async def _read(self, stream: Stream) -> None:
        while True:
            packet = await stream.read()
            if packet.HasField("batch"):
                for each in packet.batch.packets:
                    self._received(each)
            else:
                self._received(packet)
            if self._hub.is_choked:
                raise StreamEnded(grpc.StatusCode.RESOURCE_EXHAUSTED, "it sends and sends, and does not read")

    def _received(self, packet: pb.DownstreamPacket) -> None:
        try:
            if packet.HasField("drain"):
                drain = packet.drain
                deadline_s = unsealing.seconds(drain.deadline) if drain.HasField("deadline") else None
                self.drain(
                    drain.reason or "the dispatcher wants it",
                    self._settings.drain_deadline_s if deadline_s is None else deadline_s,
                )
            elif packet.HasField("goodbye"):
                raise StreamEnded(
                    grpc.StatusCode.UNAVAILABLE,
                    f"it says goodbye: {packet.goodbye.reason or 'no reason given'}",
                )
            else:
                self._hub.received(packet)
        except SignalMissing as missing:
            raise StreamEnded(grpc.StatusCode.DATA_LOSS, str(missing)) from None
        except StreamEnded:
            raise
        except Exception:  # noqa: BLE001 - told, with its traceback
            # A mistake of this program's own over one packet: its session suffers, the others need not.
            _LOG.exception("a packet could not be taken", extra={"session": packet.session_id})

    async def _write(self, stream: Stream) -> None:
        hub, leaving = self._hub, self._leaving
        # How long a write takes of late: that is how short of time this process or the other one is.
        lag_s = 0.0
        while True:
            gathered = hub.gather(signals_only=leaving.is_set())
            if gathered:
                began_at = self._loop.time()
                size_bytes = await stream.write(codec.message(gathered))
                self._metrics.message_sent(len(gathered), size_bytes)
                lag_s += (self._loop.time() - began_at - lag_s) * LAG_SHARE
                pause_s = min((lag_s - LAG_S) * PAUSE_RATIO, PAUSE_MAX_S)
                if pause_s >= PAUSE_LEAST_S and hub.may_pause and not leaving.is_set():
                    await self._doorbell.pause(pause_s, lambda: hub.has_urgent or leaving.is_set())
            elif leaving.is_set():
                break
            else:
                await self._doorbell.wait(lambda: hub.has_something or leaving.is_set())
        await stream.write(codec.goodbye(self._goodbye))
        await stream.half_close()
        # The reader hears the end.
        await self._loop.create_future()

    async def _take_leave(self) -> None:
        """For a dispatcher that does not read any more, or does not end the stream after Goodbye."""
        await self._leaving.wait()
        await asyncio.sleep(self._patience_s)
        raise StreamEnded(grpc.StatusCode.DEADLINE_EXCEEDED, "it did not take leave in time")

    async def _beat(self, stream: Stream) -> None:
        """A heartbeat every interval, and an ear for the other side's."""
        while True:
            due = self._loop.time() + self._interval_s
            await asyncio.sleep(self._interval_s)
            now = self._loop.time()
            if now - due > self._interval_s:
                # This process stood still; what came meanwhile has not been read yet.
                stream.heard_at = now
            silent_s = now - stream.heard_at
            if silent_s > self._interval_s * self._settings.heartbeats_missed:
                raise StreamEnded(grpc.StatusCode.UNAVAILABLE, f"nothing heard of it for {silent_s:.1f} s")
            self._hub.beat(self._pulse.blocked_for_s(now))

    async def _watch(self) -> None:
        while True:
            change = self._pulse.look(self._loop.time())
            if change is not None:
                self._changed(change)
            await asyncio.sleep(self._pulse.look_every_s)

    def _changed(self, change: Change) -> None:
        if not change.is_blocked:
            self._metrics.loop_was_blocked(change.seconds)
        # Worth a heartbeat at once.
        if self._is_linked:
            self._hub.beat(change.seconds if change.is_blocked else 0.0)

    # -- between links ---------------------------------------------------------------------------------------

    def _lost(self, code: grpc.StatusCode, why: str, linked_at: float | None) -> float:
        now = self._loop.time()
        if linked_at is not None and now - linked_at >= self._settings.reconnect_max_s:
            # It has held for a while: so this is a new trouble and not the last one going on.
            self._failures = 0
        self._failures += 1
        self._metrics.link_failed(code.name)
        mend = STUBBORN.get(code)
        if code is grpc.StatusCode.UNAVAILABLE and linked_at is None:
            why += self._tls_hint(why)
        luck = random.random()  # noqa: S311 - it keeps no secret, it spreads commanders
        if mend is not None:
            delay_s = self._settings.reconnect_max_s * (1 + luck) / 2
        else:
            delay_s = backoff.delay_s(
                self._failures,
                first_s=self._settings.reconnect_first_s,
                max_s=self._settings.reconnect_max_s,
                random_unit=luck,
            )
        trouble = (
            f"{'lost' if linked_at is not None else 'no'} link to {self._settings.dispatcher}: {code.name}"
        )
        self._tell(now, linked_at is not None, f"{trouble}: {why}" + (f"; {mend}" if mend else ""), delay_s)
        return delay_s

    def _tls_hint(self, why: str) -> str:
        """What a side that wants TLS and one that doesn't make of each other."""
        if not self._settings.tls:
            return "; add --tls if it wants TLS" if "Socket closed" in why else ""
        if "WRONG_VERSION_NUMBER" in why:
            return "; it speaks no TLS: leave out --tls"
        is_unknown = "CERTIFICATE_VERIFY_FAILED" in why
        return "; name the authority that signed its certificate with --tls-ca" if is_unknown else ""

    def _tell(self, now: float, was_linked: bool, trouble: str, delay_s: float) -> None:
        if was_linked or trouble != self._told or now - self._told_at >= REPEAT_LOG_S:
            self._told, self._told_at = trouble, now
            _LOG.warning("%s; next try in %.1f s (number %d)", trouble, delay_s, self._failures)
