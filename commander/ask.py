"""`commander ask`: one turn of a local agent against any dispatcher, one that knows only the minimal contract too.

No Hello, no batch, no sequence: thoughts, content and tool calls go up as they come, one to a message, and the
last content says that it is the last. Results without a call id belong to calls in the order asked. What the
agent says is printed as it is sent. Questions are asked here, of whoever sits at the terminal.
"""

import asyncio
import os
import time
from contextlib import suppress
from enum import IntEnum

import grpc
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import codec, dialing, unsealing
from commander.agent import AnyAgent
from commander.conversation import Message, Request, UserAnswer
from commander.core.batch import Rotation
from commander.core.turn import Done, Numbered, Outcome, Turn
from commander.crossing import Crossing, CrossingBounds
from commander.doorbell import Doorbell
from commander.metrics import Metrics
from commander.models.registry import open_models
from commander.printer import Printer
from commander.racing import at_most, first_of
from commander.runner import Runner
from commander.settings import Settings
from commander.stream import Stream, StreamCut, StreamEnded

# When all is said, the dispatcher has this long to end the call.
END_WAIT_S = 10.0


class Exit(IntEnum):
    """How it came out, for scripts."""

    COMPLETED = 0
    STOPPED = 3
    FAILED = 4
    UNREACHABLE = 6


class Asking:
    """One such turn. Everything belongs to the loop it is made in."""

    def __init__(
        self, settings: Settings, agent: AnyAgent, text: str, bounds: CrossingBounds, printer: Printer
    ) -> None:
        self._settings = settings
        self._printer = printer
        self._loop = asyncio.get_running_loop()
        self._doorbell = Doorbell(self._loop)
        self._rotation = Rotation(settings.max_message_bytes)
        request = Request("", 1, (Message("user", (text,)),))
        self._turn = Turn("", 1, bounds.turn, credit=None)
        self._crossing = Crossing(self._turn, request, self._rotation, self._doorbell, bounds)
        self._agent = agent
        key = (agent.name, agent.version)
        metrics = Metrics()
        models = open_models(settings, os.environ, metrics)
        self._runner = Runner({key: agent}, self._loop, self._agent_ended, metrics, models)
        self._has_ended = asyncio.Event()
        # The agent was told to end, and has had its time.
        self._grace_over = asyncio.Event()
        self._stopped_why: str | None = None
        # The agent's end has been sent: how it ended.
        self._sent_end: Outcome | None = None
        # Calls without a result, by id and in the order asked: the tool's name.
        self._tools: dict[str, str] = {}

    @property
    def has_ended(self) -> bool:
        """The agent does not run any more."""
        return self._has_ended.is_set()

    async def run(self) -> Exit:
        """From dialling to the end of the call."""
        try:
            channel = dialing.dial(self._settings)
            token = dialing.token(self._settings)
        except OSError as error:
            self._printer.tell(f"{error.filename}: {error.strerror}")
            return Exit.UNREACHABLE
        try:
            if not await at_most(self._settings.connect_timeout_s, _connected(channel)):
                self._printer.ended(
                    "unreachable",
                    f"no dispatcher at {self._settings.dispatcher}: start one with `dispatcher serve`, or say where"
                    " it is with --dispatcher HOST:PORT or COMMANDER_DISPATCHER",
                )
                return Exit.UNREACHABLE
            return await self._converse(Stream(channel, token, self._loop.time))
        finally:
            await channel.close()

    def stop(self, reason: str) -> None:
        """Ends the agent. From the loop's thread; the first call counts."""
        # Once the end is sent there is nothing left to stop.
        if self._stopped_why is None and self._sent_end is None:
            self._stopped_why = reason
            self._cancel()

    def _cancel(self) -> None:
        self._turn.fence()
        self._runner.cancel(self._crossing, self._stopped_why or "the run is over")
        self._doorbell.ring_here()
        self._loop.call_later(self._settings.stop_grace_s, self._grace_over.set)

    async def _converse(self, stream: Stream) -> Exit:
        reading = asyncio.ensure_future(self._read(stream))
        writing = asyncio.ensure_future(self._write(stream))
        grace_over = asyncio.ensure_future(self._grace_over.wait())
        self._runner.begin(self._crossing, (self._agent.name, self._agent.version))
        try:
            await asyncio.wait((reading, writing, grace_over), return_when=asyncio.FIRST_COMPLETED)
            if self._stopped_why is None and self._sent_end is None:
                # The call has ended before the agent did.
                self._cancel()
                await asyncio.wait((writing, grace_over), return_when=asyncio.FIRST_COMPLETED)
                await first_of(self._has_ended.wait(), self._grace_over.wait())
            if not grace_over.done():
                await asyncio.wait((reading,), timeout=END_WAIT_S)
            return self._came_out(reading.result() if reading.done() else None)
        finally:
            stream.cancel()
            for task in (reading, writing, grace_over):
                task.cancel()
            await asyncio.gather(reading, writing, grace_over, return_exceptions=True)

    async def _read(self, stream: Stream) -> StreamEnded:
        while True:
            try:
                packet = await stream.read()
            except StreamEnded as ended:
                return ended
            for each in packet.batch.packets if packet.HasField("batch") else (packet,):
                if each.HasField("stop"):
                    self.stop(each.stop.reason or "no reason given")
                elif each.HasField("tool_result"):
                    result = each.tool_result
                    self._printer.result(result, self._tool_of(result))
                    self._crossing.tell_result(result.call_id, unsealing.tool_answer(result))
                elif each.HasField("user_message"):
                    said = unsealing.user_message(each.user_message)
                    if not self._crossing.tell_message(said, each.sequence):
                        self.stop(self._crossing.too_many_messages().message)

    async def _write(self, stream: Stream) -> None:
        """Until the agent's end is sent, or it was stopped and has ended."""
        while self._sent_end is None and not (self._turn.fenced and self.has_ended):
            for said in self._rotation.gather():
                if isinstance(said, Numbered):
                    await self._send(stream, said.packet.payload, said.packet.path)
                    self._crossing.tell_room()
            if not self._rotation and self._sent_end is None:
                await self._doorbell.wait(self._has_something)
        await stream.half_close()

    def _has_something(self) -> bool:
        return bool(self._rotation) or (self._turn.fenced and self.has_ended)

    async def _send(self, stream: Stream, payload: object, path: str) -> None:
        if isinstance(payload, pb.Question):
            self._ask_here(payload)
            return
        if isinstance(payload, pb.Withdrawal) and payload.question_id:
            return  # it was asked here; who types is not interrupted
        packet = pb.UpstreamPacket(timestamp=time.time_ns() // 1_000_000)
        if isinstance(payload, Done):
            self._sent_end = payload.outcome
            codec.fill_ending(packet, payload)
        else:
            codec.fill_payload(packet, payload, path)
        if packet.HasField("tool_call"):
            self._tools[packet.tool_call.call_id] = packet.tool_call.tool_name
        self._printer.show(packet, payload)
        await stream.write(packet)

    def _tool_of(self, result: pb.ToolCallResult) -> str:
        """Which tool it is of: a minimal dispatcher answers in the order asked, and names nothing."""
        call_id = result.call_id or next(iter(self._tools), "")
        return self._tools.pop(call_id, "") or result.tool_name

    def _ask_here(self, question: pb.Question) -> None:
        def answered(answer: UserAnswer) -> None:
            with suppress(RuntimeError):  # it is all over already
                self._loop.call_soon_threadsafe(self._crossing.tell_answer, question.question_id, answer)

        self._printer.ask(question, answered)

    def _agent_ended(self, _: Crossing, __: Outcome | None) -> None:
        def ended() -> None:
            self._has_ended.set()
            self._doorbell.ring_here()

        self._loop.call_soon_threadsafe(ended)

    def _came_out(self, ended: StreamEnded | None) -> Exit:
        if self._stopped_why is not None:
            if not self.has_ended:
                self._printer.tell(f"the agent ignored its stop for {self._settings.stop_grace_s:g} s")
            self._printer.ended("stopped", self._stopped_why)
            return Exit.STOPPED
        if self._sent_end is Outcome.FAILED:
            self._printer.ended("failed")
            return Exit.FAILED
        if ended is None:
            self._printer.ended("failed", f"the dispatcher did not end the call within {END_WAIT_S:g} s")
            return Exit.FAILED
        if ended.code is not grpc.StatusCode.OK or self._sent_end is None:
            is_gone = ended.code is grpc.StatusCode.UNAVAILABLE and not isinstance(ended, StreamCut)
            self._printer.ended(
                "unreachable" if is_gone else "failed", f"the dispatcher ended the call: {ended}"
            )
            return Exit.UNREACHABLE if is_gone else Exit.FAILED
        self._printer.ended("completed")
        return Exit.COMPLETED


async def _connected(channel: grpc.aio.Channel) -> bool:
    """The first attempt to connect, and nothing more: True when it worked."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            return False
        await channel.wait_for_state_change(state)
        state = channel.get_state()
    return True
