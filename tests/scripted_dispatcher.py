"""A dispatcher that does what a test tells it, over a real socket, and nothing of its own but Welcome.

It is a plain threaded gRPC server, so a test reads like a script: accept a link, send this, expect that. As a
program (`python -m tests.scripted_dispatcher`) it prints its address and keeps welcoming, so that it can be frozen.
"""

import contextlib
import queue
import sys
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from southwest.ai.agent.v1 import agent_pb2 as pb
from southwest.ai.agent.v1 import agent_pb2_grpc

# How long a test waits for what must come. Nothing is measured by it.
PATIENCE_S = 60.0

CREDIT = 64
CREDIT_BYTES = 262_144


class LinkOver(Exception):  # noqa: N818 - named for what happened
    """The commander's side of the link has ended; nothing more will come."""


class ScriptedLink:
    """One ChatStream, seen from the dispatcher."""

    def __init__(self, context: Any) -> None:
        self.hello: pb.Hello = pb.Hello()
        # Every message as it came, batches whole: how many packets each had.
        self.message_sizes: list[int] = []
        self.metadata = dict(context.invocation_metadata())
        self._context = context
        self._down: queue.SimpleQueue[pb.DownstreamPacket | None] = queue.SimpleQueue()
        self._arrived = threading.Condition()
        self._packets: list[pb.UpstreamPacket] = []
        self._is_over = False
        self._code: grpc.StatusCode | None = None
        self._details = ""

    # -- the test's side -------------------------------------------------------------------------------------

    def send(self, *packets: pb.DownstreamPacket) -> None:
        """Sends them: one as it is, several as one batch."""
        if len(packets) == 1:
            self._down.put(packets[0])
        else:
            self._down.put(pb.DownstreamPacket(batch=pb.DownstreamBatch(packets=packets)))

    def expect(
        self, right: Callable[[pb.UpstreamPacket], bool], patience_s: float = PATIENCE_S
    ) -> pb.UpstreamPacket:
        """The first packet that is right, taken out of what has come. LinkOver when none can come any more."""
        with self._arrived:
            found: list[pb.UpstreamPacket] = []

            def has_come() -> bool:
                found[:] = [packet for packet in self._packets if right(packet)][:1]
                return bool(found) or self._is_over

            if not self._arrived.wait_for(has_come, patience_s):
                raise TimeoutError(f"it did not come; there came: {self._packets}")
            if not found:
                raise LinkOver(f"it never came; there came: {self._packets}")
            self._packets.remove(found[0])
            return found[0]

    def expect_payload(self, kind: str, session_id: str | None = None) -> pb.UpstreamPacket:
        """The first packet with this payload, of this session where one is named."""
        return self.expect(
            lambda packet: packet.WhichOneof("payload") == kind and session_id in (None, packet.session_id)
        )

    def seen(self, right: Callable[[pb.UpstreamPacket], bool]) -> list[pb.UpstreamPacket]:
        """What has come so far and is right, left where it is."""
        with self._arrived:
            return [packet for packet in self._packets if right(packet)]

    def wait_over(self, patience_s: float = PATIENCE_S) -> None:
        """Until the commander's side has ended."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._is_over, patience_s):
                raise TimeoutError("the link still lives")

    def kill(self) -> None:
        """The connection is gone, without a word."""
        self._context.cancel()
        self._down.put(None)

    def close(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """Ends the call with this status."""
        self._code, self._details = code, details
        self._down.put(None)

    # -- the server's side -----------------------------------------------------------------------------------

    def read_from(self, packets: Iterator[pb.UpstreamPacket]) -> None:
        try:
            for packet in packets:
                batched = list(packet.batch.packets) if packet.HasField("batch") else [packet]
                with self._arrived:
                    self.message_sizes.append(len(batched))
                    self._packets += batched
                    self._arrived.notify_all()
        except grpc.RpcError:
            pass
        with self._arrived:
            self._is_over = True
            self._arrived.notify_all()
        # As a dispatcher does after Goodbye.
        self._down.put(None)

    def packets_down(self) -> Iterator[pb.DownstreamPacket]:
        while (packet := self._down.get()) is not None:
            yield packet
        if self._code is not None and self._code is not grpc.StatusCode.OK:
            self._context.abort(self._code, self._details)


@dataclass
class Welcoming:
    """How links are welcomed. `refuse_with` refuses them instead."""

    heartbeat_s: float = 30.0
    max_message_bytes: int = 1_048_576
    credit: int = CREDIT
    credit_bytes: int = CREDIT_BYTES
    refuse_with: tuple[grpc.StatusCode, str] | None = None
    # What becomes of a turn named in a Hello, by session. Unnamed ones are unknown.
    verdicts: dict[str, pb.ResumeVerdict] = field(default_factory=dict)
    # Answers the Hello with this instead.
    instead: pb.DownstreamPacket | None = None

    def answer(self, hello: pb.Hello) -> pb.DownstreamPacket:
        if self.instead is not None:
            return self.instead
        verdicts = []
        for resume in hello.resumes:
            verdict = self.verdicts.get(resume.session_id, pb.ResumeVerdict(unknown=pb.Unknown()))
            verdict.session_id, verdict.attempt = resume.session_id, resume.attempt
            verdicts.append(verdict)
        return pb.DownstreamPacket(
            welcome=pb.Welcome(
                protocol_version=1,
                limits=pb.LinkLimits(
                    max_message_bytes=self.max_message_bytes,
                    credit=self.credit,
                    credit_bytes=self.credit_bytes,
                ),
                heartbeat_interval=_duration(self.heartbeat_s),
                resumes=verdicts,
                software_version="scripted/1",
                dispatcher_instance="scripted",
            )
        )


class ScriptedDispatcher(agent_pb2_grpc.AgentInteractionServicer):
    """Listens on a port of its own, or one that another had before, until it is closed; `address` is HOST:PORT."""

    def __init__(
        self,
        welcoming: Welcoming | None = None,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.welcoming = welcoming or Welcoming()
        self._links: queue.SimpleQueue[ScriptedLink] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(16)
        self._server = grpc.server(
            self._threads,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 500),
                ("grpc.max_receive_message_length", 1_048_576),
            ],
        )
        agent_pb2_grpc.add_AgentInteractionServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.stop(None).wait()
        self._threads.shutdown()

    def accept(self, patience_s: float = PATIENCE_S) -> ScriptedLink:
        """The next link that has said Hello and was welcomed."""
        try:
            return self._links.get(timeout=patience_s)
        except queue.Empty:
            raise TimeoutError("nobody has dialled") from None

    def ChatStream(  # noqa: N802 - the contract's name
        self, request_iterator: Iterator[pb.UpstreamPacket], context: Any
    ) -> Iterator[pb.DownstreamPacket]:
        link = ScriptedLink(context)
        first = next(request_iterator)
        if self.welcoming.refuse_with is not None:
            context.abort(*self.welcoming.refuse_with)
        if first.HasField("hello"):
            link.hello = first.hello
            yield self.welcoming.answer(first.hello)
            self._links.put(link)
            reader = threading.Thread(target=link.read_from, args=(request_iterator,), daemon=True)
        else:
            self._links.put(link)
            both = _preceded(first, request_iterator)
            reader = threading.Thread(target=link.read_from, args=(both,), daemon=True)
        reader.start()
        context.add_callback(link.close)
        yield from link.packets_down()


class ScriptedSession:
    """One session on a link: what the dispatcher would keep of it. Acknowledges as it reads, unless told not to."""

    def __init__(
        self,
        link: ScriptedLink,
        session_id: str,
        *,
        agent: str = "",
        text: str = "hello",
        attempt: int = 1,
        credit: int = CREDIT,
        credit_bytes: int = CREDIT_BYTES,
        start: pb.Start | None = None,
    ) -> None:
        self.link = link
        self.session_id = session_id
        self.attempt = attempt
        self.content = ""
        self.last_sequence = 0
        self.thoughts: dict[str, str] = defaultdict(str)
        self.other: list[pb.UpstreamPacket] = []
        self._signals = 0
        told = pb.Start(
            agent=agent,
            messages=[pb.Message(role=pb.ROLE_USER, parts=[pb.ContentPart(text=text)])],
            credit=credit,
            credit_bytes=credit_bytes,
        )
        if start is not None:
            told.MergeFrom(start)
        self.send(pb.DownstreamPacket(start=told))

    def send(self, packet: pb.DownstreamPacket) -> None:
        """Sends it, addressed to this session."""
        packet.session_id, packet.attempt = self.session_id, self.attempt
        self.link.send(packet)

    def ack(self, sequence: int, credit: int = CREDIT, credit_bytes: int = CREDIT_BYTES) -> None:
        ack = pb.Ack(sequence=sequence, credit=credit, credit_bytes=credit_bytes)
        self.send(pb.DownstreamPacket(ack=ack))

    def owe(self, packet: pb.DownstreamPacket) -> None:
        """Sends a signal that is owed: numbered."""
        self._signals += 1
        packet.sequence = self._signals
        self.send(packet)

    def answer_call(
        self, call: pb.UpstreamPacket, result_json: str, error: pb.ToolError | None = None
    ) -> None:
        result = pb.ToolCallResult(
            tool_name=call.tool_call.tool_name, result_json=result_json, call_id=call.tool_call.call_id
        )
        if error is not None:
            result.error.CopyFrom(error)
        self.owe(pb.DownstreamPacket(tool_result=result))

    def stop(self, stop_id: str = "stop-1", reason: str = "UserCancel", grace_ms: int = 0) -> None:
        stop = pb.StopSignal(reason=reason, stop_id=stop_id, code=pb.STOP_CODE_USER_CANCEL, grace_ms=grace_ms)
        self.send(pb.DownstreamPacket(stop=stop))

    def next(self, *, acked: bool = True) -> pb.UpstreamPacket:
        """The next numbered packet of the session, in order; a hole or a repeat fails."""
        wanted = self.last_sequence + 1
        packet = self.link.expect(lambda each: each.session_id == self.session_id and each.sequence > 0)
        assert packet.sequence == wanted, f"wanted {wanted}, got {packet}"
        assert packet.attempt == self.attempt
        self.last_sequence = wanted
        self._keep(packet)
        if acked:
            self.ack(wanted)
        return packet

    def next_of(self, kind: str, *, acked: bool = True) -> pb.UpstreamPacket:
        """The next packet of this kind; those before it are kept too."""
        while (packet := self.next(acked=acked)).WhichOneof("payload") != kind:
            pass
        return packet

    def done(self) -> pb.Done:
        """Everything up to Done, which must fit what came before it."""
        done = self.next_of("done").done
        assert done.content_chars == len(self.content)
        assert done.content_crc32 == zlib.crc32(self.content.encode())
        return done

    def stop_ack(self, phase: int) -> pb.UpstreamPacket:
        """The acknowledgement that says how far a stop of this session has come."""
        return self.link.expect(
            lambda each: each.session_id == self.session_id and int(each.stop_ack.phase) == phase
        )

    def _keep(self, packet: pb.UpstreamPacket) -> None:
        if packet.HasField("content"):
            self.content += packet.content.text
        elif packet.HasField("thought"):
            self.thoughts[packet.thought.step_name] += packet.thought.delta
        else:
            self.other.append(packet)


def _preceded(first: pb.UpstreamPacket, rest: Iterator[pb.UpstreamPacket]) -> Iterator[pb.UpstreamPacket]:
    yield first
    yield from rest


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def main() -> None:
    """Welcomes with the heartbeat interval given, heartbeats itself, and says what comes and goes."""
    interval_s = float(sys.argv[1])
    with contextlib.closing(ScriptedDispatcher(Welcoming(heartbeat_s=interval_s))) as dispatcher:
        print(dispatcher.address, flush=True)
        while True:
            link = dispatcher.accept(86_400)
            print(f"linked {link.hello.commander_id}", flush=True)
            threading.Thread(target=_beat, args=(link, interval_s), daemon=True).start()


def _beat(link: ScriptedLink, interval_s: float) -> None:
    while True:
        link.send(pb.DownstreamPacket(heartbeat=pb.Heartbeat()))
        time.sleep(interval_s)


if __name__ == "__main__":
    main()
