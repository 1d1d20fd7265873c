"""The show: what a newcomer sees of a dispatcher and two commanders, in a few acts, each checked as it is shown.

Everything goes over the real wire, by the code that the command line runs. An act that does not come to what it
claims raises DemoError.
"""

import asyncio
import os
import shlex
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc.aio
from prometheus_client.parser import text_string_to_metric_families
from southwest.ai.agent.v1 import admin_pb2, agent_pb2, chat_pb2

from dispatcher.console.chat import chat
from dispatcher.console.connection import Connection, Endpoint
from dispatcher.console.errand import tell
from dispatcher.console.outcome import ConsoleError, Exit
from dispatcher.console.terminal import Look, Tone
from dispatcher.console.view import view_of
from scripts.demo_processes import DRAIN_S, Child, DemoError, Processes
from scripts.demo_seat import PatientKeyboard, Witness

TOOLS: Final = "dispatcher.tools.demo:TOOLS"
COMMANDERS: Final = ("demo-one", "demo-two")
ASKED: Final = (
    "What is 17 * 23 + 4, and what time is it in Tokyo and Lisbon?",
    "What time is it?",
    "Tell me a long story",
)
RPC_S: Final = 10.0
# A newcomer does not wait for the default, which lets a commander come back over a bad network.
DETACH_GRACE_S: Final = 3.5
GRACE: Final = ("--heartbeat-interval-s", "1", "--detach-grace-s", str(DETACH_GRACE_S))
# An act with a person in it takes as long as the person likes to talk, within reason.
ACT_S: Final = 30.0
ACT_WITH_PERSON_S: Final = 180.0
PATIENCE_S: Final = 12.0
# Nobody reads along in a pipe.
PACE_IN_PIPE_MS: Final = 2

EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143


class Leaving(Exception):  # noqa: N818 - named for what happens
    """Whoever runs the demo wants to go."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


class Show:
    """See the module. `run` is all there is to call."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._processes = Processes()
        self._look = Look.of(sys.stdout, os.environ)
        self._is_person_there = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        self._metadata = {} if self._is_person_there else {"pace_ms": str(PACE_IN_PIPE_MS)}
        self._address = ""
        self._url = ""
        self._metrics_url = ""
        self._acts = 0
        self._exit_code = 0
        self._playing: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """The exit code. DemoError, with all processes' last lines, when a step fails."""
        self._heed_signals()
        self._playing = asyncio.create_task(self._play())
        try:
            await self._unless_one_ends(self._playing)
        except (DemoError, ConsoleError) as error:
            raise DemoError(f"{error}\n{self._processes.tails()}") from None
        except asyncio.CancelledError:
            if not self._exit_code:
                raise
            self._say("\nInterrupted: ending the processes.")
        finally:
            codes = await self._processes.end()
        if not self._exit_code and any(codes.values()):
            raise DemoError(f"not all processes ended as they should; exit codes: {codes}")
        self._say(f"All {len(codes)} processes have ended." if codes else "")
        return 0 if self._keep and self._exit_code == EXIT_INTERRUPTED else self._exit_code

    async def _play(self) -> None:
        self._say("ChatStream: one dispatcher, two commanders, no key, no model, no service.", Tone.BOLD)
        await self._start()
        endpoint = Endpoint(self._address, RPC_S, tls=False, root_certificates=None, token="")
        async with Connection(endpoint) as connection:
            await self._work(connection)
            await self._question(connection)
            await self._stop(connection)
            await self._takeover(connection)
        await self._metrics()
        self._how_to_go_on()
        if self._keep:
            await asyncio.Event().wait()

    # -- the acts --------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._act("Three processes start. Commanders dial the dispatcher; it never dials them.")
        drain = ("--drain-deadline-s", str(DRAIN_S))
        flags = ("--grpc-address", "--http-address", "--metrics-address")
        addresses = [word for flag in flags for word in (flag, "127.0.0.1:0")]
        dispatcher = await self._processes.start(
            "dispatcher", "dispatcher", "serve", *addresses, "--tools", TOOLS, *drain, *GRACE
        )
        ready = await dispatcher.says(r"ready at ([^\s;]+); HTTP at ([^\s;]+); metrics at (\S+)")
        self._address, self._url, self._metrics_url = ready[1], ready[2], ready[3]
        self._say(
            f"  dispatcher  process {dispatcher.pid}, listens on {self._address}; the page is at {self._url}/"
        )
        for commander in [await self._commander(name) for name in COMMANDERS]:
            await self._linked(commander)

    async def _commander(self, name: str) -> Child:
        where = ("--dispatcher", self._address, "--commander-id", name)
        drain = ("--drain-deadline-s", str(DRAIN_S))
        return await self._processes.start(name, "commander", "run", "demo", *where, "--slots", "10", *drain)

    async def _linked(self, commander: Child) -> None:
        await commander.says(r"linked to")
        self._say(f"  commander   process {commander.pid}, {commander.name}, is linked")

    async def _work(self, connection: Connection) -> None:
        self._act("The agent thinks aloud and calls three tools at once; the dispatcher runs them.")
        seen = await self._converse(connection, ASKED[0], Exit.COMPLETED)
        for kind, least in (("thought", 1), ("tool_call", 3), ("tool_result", 3), ("content", 1)):
            _require(seen.kinds[kind] >= least, f"{least} × {kind} was expected, {seen.kinds[kind]} came")
        _require("395" in seen.text, "17 * 23 + 4 = 395 is missing from the answer")

    async def _question(self, connection: Connection) -> None:
        waits = f" Type an answer, or wait {PATIENCE_S:g} s." if self._is_person_there else ""
        self._act(f"Time, but where? The agent asks back, and waits.{waits}")
        seen = await self._converse(connection, ASKED[1], Exit.COMPLETED)
        _require(seen.kinds["question"] >= 1, "the agent asked nothing")
        _require(seen.kinds["answer"] == seen.kinds["question"], "a question was not answered")

    async def _stop(self, connection: Connection) -> None:
        self._act("A long story, until an operator stops it in the middle of a sentence.")
        async with self._conversation(connection, ASKED[2]) as (seen, conversing):
            await self._until(seen.is_mid_sentence, seen, conversing)
            asked_at = time.perf_counter()
            request = admin_pb2.StopSessionRequest(
                session_id=seen.session_id, reason="the demo has heard enough", actor="operator"
            )
            answer = await connection.ask(connection.admin.StopSession, request)
            answered_at = time.perf_counter()
            status = await conversing
        self._leave_if_stopped_by_person(seen, conversing)
        _require(answer.result == admin_pb2.STOP_RESULT_STOPPED, "the stop came too late")
        _require(status is Exit.STOPPED, f"the stopped session's exit status is {status.name}")
        _require(seen.ending.ending == chat_pb2.SESSION_ENDING_STOPPED, f"it ended as {seen.ending.name}")
        _require(not seen.late, f"{seen.late} events came after the ending")
        await self._nothing_follows(connection, seen)
        last_words = " ".join(seen.text.split()[-8:])
        self._say(f"  The sentence ends at: … {last_words}")
        self._say(
            f"  Its viewer had the ending {_ms(seen.ended_at - asked_at)} after the stop was asked for;"
            f" the operator had the answer after {_ms(answered_at - asked_at)}."
        )
        self._say("  The agent has ended too, its slot is free again, and nothing came after the ending.")

    async def _until(self, news: asyncio.Event, seen: Witness, conversing: "asyncio.Task[Exit]") -> None:
        coming = asyncio.create_task(news.wait())
        await asyncio.wait((coming, conversing), return_when=asyncio.FIRST_COMPLETED)
        coming.cancel()
        self._leave_if_stopped_by_person(seen, conversing)
        _require(not conversing.done(), "the story ended too early")

    async def _takeover(self, connection: Connection) -> None:
        self._act(
            "The story again. Its commander is killed in the middle of it, and the other one takes over."
        )
        async with self._conversation(connection, ASKED[2]) as (seen, conversing):
            await self._until(seen.is_mid_sentence, seen, conversing)
            request = admin_pb2.GetSessionRequest(session_id=seen.session_id)
            lost = (await connection.ask(connection.admin.GetSession, request)).session.commander_id
            pid = await self._processes.lose(lost)
            seen.notice(f"\n  (kill -9 {pid}: {lost} is gone; it may come back for {DETACH_GRACE_S:g} s)")
            await self._until(seen.begins_anew, seen, conversing)
            await self._until(seen.is_mid_sentence, seen, conversing)
            message = chat_pb2.AddMessage(text="enough")
            packet = chat_pb2.ClientPacket(session_id=seen.session_id, request_id="enough", message=message)
            receipt = await tell(connection, packet)
            _require(not receipt.HasField("error"), f"the message was refused: {receipt.error.message}")
            status = await conversing
        self._leave_if_stopped_by_person(seen, conversing)
        _require(status is Exit.COMPLETED, f"the session ended as {seen.ending.name}: {seen.ending.message}")
        _require(seen.kinds["reset"] == 1, f"it began anew {seen.kinds['reset']} times")
        _require(len(seen.text) == seen.ending.content_chars, "what followed the reset is not the answer")
        self._say(
            "  What was said from there on is the answer: its length and checksum are those of its ending."
        )
        await self._linked(await self._commander(lost))

    async def _nothing_follows(self, connection: Connection, seen: Witness) -> None:
        """Checks that the stopped session is over for all: its agent has ended, and its journal is as it was seen."""
        await self._slots_are_free(connection)
        kept = ""
        last = ""
        request = chat_pb2.SubscribeRequest(session_id=seen.session_id, include_thoughts=True)
        try:
            async for batch in connection.chat.Subscribe(request, timeout=RPC_S):
                for event in batch.events:
                    last = event.WhichOneof("event") or ""
                    kept += event.content.text
        except grpc.aio.AioRpcError as error:
            raise connection.trouble(error) from None
        _require(last == "ended", f"the journal's last event is {last}, not the ending")
        _require(kept == seen.text, "the journal's content is not what was shown")
        _require(len(kept) == seen.ending.content_chars, "the ending's length is not that of the content")

    async def _slots_are_free(self, connection: Connection) -> None:
        deadline = time.monotonic() + RPC_S
        while True:
            request = admin_pb2.ListCommandersRequest()
            listed = await connection.ask(connection.admin.ListCommanders, request)
            if not any(each.slots_taken or each.slots_stuck for each in listed.commanders):
                return
            _require(time.monotonic() < deadline, "the stopped agent still holds its slot")
            await asyncio.sleep(0.01)  # the dispatcher tells nobody of a slot that becomes free

    async def _metrics(self) -> None:
        self._act(f"What Prometheus would see at {self._metrics_url}:")
        samples = await asyncio.to_thread(_scrape, self._metrics_url)
        ended = {
            dict(labels).get("ending"): value for (name, labels), value in samples.items() if name == _ENDED
        }
        _require(ended == {"completed": 3, "stopped": 1}, f"metrics tell of other endings: {ended}")
        for name in (_ENDED, "dispatcher_tool_calls_total", "dispatcher_events_kept_total", *_STOP_STEPS):
            for (of, labels), value in samples.items():
                if of == name:
                    told = ",".join(f'{key}="{text}"' for key, text in labels)
                    self._say(f"  {name}{{{told}}} {value:g}" if told else f"  {name} {value:g}")

    def _how_to_go_on(self) -> None:
        dispatcher, commander = _typed("dispatcher"), _typed("commander")
        at = f" --dispatcher {self._address}" if self._keep else ""
        if self._keep:
            self._act(
                f"The processes stay until you press Ctrl-C. In another terminal, in {Path.cwd()}, try:"
            )
        else:
            self._act(f"How to go on by hand, each in a terminal of its own, in {Path.cwd()}:")
            self._say(f"  {dispatcher} serve --tools {TOOLS} --http-address 127.0.0.1:8080")
            self._say(f"  {commander} run demo")
        page = self._url if self._keep else "http://127.0.0.1:8080"
        self._say(f"  a browser at {page}/ asks agents, watches, answers, steers and stops")
        self._say(f'  {dispatcher} chat "What do the texts say about credit?"{at}')
        self._say(f'  {dispatcher} chat "Count to 1000"{at}')
        self._say(f"  {dispatcher} stop --all --reason enough{at}")
        self._say(f"  {dispatcher} commanders{at}")
        if not self._keep:
            python = _typed(Path(sys.executable).name)
            self._say(f"  {python} -m scripts.demo --keep    leaves the processes of this demo running")
        self._say("")

    # -- conversing ------------------------------------------------------------------------------------------

    async def _converse(self, connection: Connection, text: str, expected: Exit) -> Witness:
        async with self._conversation(connection, text) as (seen, conversing):
            status = await conversing
        self._leave_if_stopped_by_person(seen, conversing)
        _require(status is expected, f"the session ended as {seen.ending.name}: {seen.ending.message}")
        _require(not seen.late, f"{seen.late} events came after the ending")
        return seen

    @asynccontextmanager
    async def _conversation(
        self, connection: Connection, text: str
    ) -> AsyncIterator[tuple[Witness, asyncio.Task[Exit]]]:
        """One session, as `dispatcher chat` has it; ended with the block."""
        pace = "".join(f" --metadata {key}={value}" for key, value in self._metadata.items())
        command = f'{_typed("dispatcher")} chat "{text}"{pace} --dispatcher {self._address}'
        self._say(f"  $ {command}", Tone.BOLD)
        # Both to one stream, so that the order of things is the same in a pipe.
        seen = Witness(view_of(sys.stdout, sys.stdout, os.environ, as_json=False))
        keyboard = PatientKeyboard(seen, PATIENCE_S, is_person_there=self._is_person_there)
        part = agent_pb2.ContentPart(text=text)
        ask = chat_pb2.Ask(
            agent="demo",
            messages=[agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[part])],
            metadata=self._metadata,
            include_thoughts=True,
        )
        limit_s = ACT_WITH_PERSON_S if self._is_person_there else ACT_S
        conversing = asyncio.create_task(chat(connection, ask, seen, keyboard))
        try:
            async with asyncio.timeout(limit_s):
                yield seen, conversing
        except TimeoutError:
            raise DemoError(f"the session was not over within {limit_s:g} s") from None
        finally:
            conversing.cancel()
            await asyncio.gather(conversing, return_exceptions=True)
            # It has had Ctrl-C for itself meanwhile.
            self._heed_signals()

    def _leave_if_stopped_by_person(self, seen: Witness, conversing: "asyncio.Task[Exit]") -> None:
        is_left = conversing.done() and not conversing.cancelled() and conversing.result() is Exit.LEFT
        if is_left or seen.ending.stop.code == agent_pb2.STOP_CODE_USER_CANCEL:
            self._say("You stopped it: that is what Ctrl-C does in a chat. The demo ends here.")
            self._interrupt(EXIT_INTERRUPTED)
            raise asyncio.CancelledError

    # -- the frame -------------------------------------------------------------------------------------------

    async def _unless_one_ends(self, playing: "asyncio.Task[None]") -> None:
        """Waits for the play; DemoError as soon as a process ends by itself."""
        fallen = self._processes.fallen
        try:
            await asyncio.wait((playing, fallen), return_when=asyncio.FIRST_COMPLETED)
            if fallen.done():
                raise DemoError(f"{fallen.result().name} ended in the middle of the demo")
            await playing
        finally:
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt, EXIT_INTERRUPTED)
        loop.add_signal_handler(signal.SIGTERM, self._interrupt, EXIT_TERMINATED)

    def _interrupt(self, exit_code: int) -> None:
        if self._exit_code:
            # The second time: no more waiting for anybody.
            self._processes.kill()
        self._exit_code = self._exit_code or exit_code
        if self._playing is not None:
            self._playing.cancel()

    def _act(self, text: str) -> None:
        self._acts += 1
        self._say("")
        self._say(f"{self._acts}. {text}", Tone.BOLD)

    def _say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        print(self._look.paint(text, tone), flush=True)


_ENDED: Final = "dispatcher_sessions_ended_total"
_STOP_STEPS: Final = ("dispatcher_stop_step_seconds_count", "dispatcher_stop_step_seconds_sum")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(f"what was shown does not hold: {otherwise}")


def _scrape(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each sample's value by name and labels."""
    # A proxy of the environment is for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=RPC_S) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise DemoError(f"{url} does not answer: {error}") from None
    families = text_string_to_metric_families(text)
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _typed(command: str) -> str:
    """A command as it can be typed from this folder. Not as found on PATH: make has put things there that a new
    terminal does not have."""
    place = Path(sys.executable).parent / command
    here = Path.cwd()
    return shlex.quote(str(place.relative_to(here) if place.is_relative_to(here) else place))
