"""The commander's link over a real socket: greeting, credit, breaks, verdicts, refusals, silence, leaving."""

import asyncio
import threading
from collections.abc import Iterator

import grpc
import pytest
from commander_here import PATIENCE_S, Told, serving, wait_until
from scripted_dispatcher import (
    CREDIT,
    CREDIT_BYTES,
    ScriptedDispatcher,
    ScriptedLink,
    ScriptedSession,
    Welcoming,
)
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import Turn, agent
from commander.agent import ON_RESTART, AnyAgent, OnRestart


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


@agent("echo", description="Says it again", version="2")
async def echo(turn: Turn) -> object:
    yield turn.text


class Counting:
    """An agent that counts to `upto`, and how far it has come; `gate` holds it at the beginning."""

    def __init__(self, upto: int) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.was_cancelled = threading.Event()

        @agent("counting")
        async def counting(_: Turn) -> object:
            try:
                yield "begin "
                await asyncio.to_thread(self.gate.wait)
                while self.count < upto:
                    self.count += 1
                    yield f"{self.count} "
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise

        self.agent: AnyAgent = counting
        self.text = "begin " + "".join(f"{number + 1} " for number in range(upto))


def resumed(next_sequence: int, credit: int = CREDIT) -> pb.ResumeVerdict:
    return pb.ResumeVerdict(
        resumed=pb.Resumed(next_sequence=next_sequence, credit=credit, credit_bytes=CREDIT_BYTES)
    )


def told_to(on_restart: OnRestart) -> AnyAgent:
    @agent(on_restart, on_restart=on_restart)
    async def told(_: Turn) -> None: ...

    return told


# ---- greeting and turns ----


def test_hello_says_who_it_is(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo, slots=7, labels={"region": "eu"}):
        hello = dispatcher.accept().hello
    assert hello.commander_id == "worker"
    assert hello.instance
    assert hello.software_version.startswith("chatstream")
    assert [(each.name, each.version, each.description) for each in hello.agents] == [
        ("echo", "2", "Says it again")
    ]
    assert list(hello.agents[0].accepted_input) == ["text/plain"]
    assert (hello.slots, hello.running, hello.stuck, hello.protocol_version) == (7, 0, 0, 1)
    assert dict(hello.labels) == {"region": "eu"}
    assert hello.heartbeat_interval.seconds == 2


def test_hello_says_what_its_agents_do_on_a_restart(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo, *map(told_to, ON_RESTART)):
        offers = dispatcher.accept().hello.agents
    assert {offer.name: offer.on_restart for offer in offers} == {
        "echo": pb.ON_RESTART_RESTART,
        "restart": pb.ON_RESTART_RESTART,
        "continue": pb.ON_RESTART_CONTINUE,
        "never": pb.ON_RESTART_NEVER,
    }


def test_a_turn_from_start_to_done(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo):
        session = ScriptedSession(dispatcher.accept(), "s", agent="echo", text="hello")
        done = session.done()
    assert session.content == "hello"
    assert done.outcome == pb.OUTCOME_COMPLETED


def test_what_gathers_of_many_sessions_goes_out_together(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo, slots=100):
        link = dispatcher.accept()
        starts = []
        for number in range(100):
            start = pb.Start(agent="echo", credit=CREDIT, credit_bytes=CREDIT_BYTES)
            starts.append(pb.DownstreamPacket(session_id=f"s-{number}", attempt=1, start=start))
        link.send(*starts)
        for number in range(100):
            link.expect_payload("done", f"s-{number}")
    assert max(link.message_sizes) > 1
    assert sum(link.message_sizes) >= 100


def test_a_single_packet_goes_without_a_batch(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(1)
    with serving(dispatcher.address, counting.agent):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        assert link.message_sizes == [1]
        counting.gate.set()
        session.done()


def test_the_token_goes_with_the_call(dispatcher: ScriptedDispatcher, tmp_path: object) -> None:
    file = tmp_path / "token"  # type: ignore[operator]
    file.write_text("secret-1\n")
    with serving(dispatcher.address, echo, token_file=file):
        link = dispatcher.accept()
    assert link.metadata["authorization"] == "Bearer secret-1"


# ---- credit ----


def test_without_credit_the_generator_waits_and_nobody_else(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(1_000)
    counting.gate.set()
    with serving(dispatcher.address, counting.agent, echo, outbox_packets=16):
        link = dispatcher.accept()
        poor = ScriptedSession(link, "poor", agent="counting", credit=1)
        first = poor.next(acked=False)
        rich = ScriptedSession(link, "rich", agent="echo")
        rich.done()
        # In the first packet, in the outbox, and one that found it full.
        assert counting.count <= len(first.content.text.split()) + 16 + 1
        assert not link.seen(lambda packet: packet.session_id == "poor" and packet.sequence > 1)
        poor.ack(1)
        poor.done()
    assert poor.content == counting.text


def test_credit_in_bytes_counts_too(dispatcher: ScriptedDispatcher) -> None:
    @agent("large")
    async def large(_: Turn) -> object:
        yield "x" * 3_000

    with serving(dispatcher.address, large, packet_bytes_max=1_000):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s", credit=64, credit_bytes=1_500)
        for _ in range(2):
            session.next(acked=False)
        ScriptedSession(link, "other").next_of("content")
        assert not link.seen(lambda packet: packet.session_id == "s")
        session.ack(2)
        session.done()
    assert session.content == "x" * 3_000


def test_a_start_without_credit_gets_that_of_welcome(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo):
        session = ScriptedSession(dispatcher.accept(), "s", credit=0, credit_bytes=0)
        session.done()


# ---- breaks ----


def test_after_a_break_nothing_is_lost_and_nothing_doubled(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(2_000)
    with serving(dispatcher.address, counting.agent, packet_bytes_max=256):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s", credit=8)
        session.next()
        counting.gate.set()
        for _ in range(4):
            session.next(acked=False)
        # More is under way, and some of it may have arrived: none of that is kept.
        dispatcher.welcoming.verdicts["s"] = resumed(session.last_sequence + 1)
        first.kill()
        session.link = second = dispatcher.accept()
        (resume,) = second.hello.resumes
        assert (resume.session_id, resume.attempt) == ("s", 1)
        assert resume.last_sequence_sent >= session.last_sequence
        assert second.hello.running == 1
        assert second.hello.instance == first.hello.instance
        session.done()
    assert session.content == counting.text


def test_it_goes_on_generating_while_there_is_no_link(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(10)
    with serving(dispatcher.address, counting.agent, echo):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s", agent="counting")
        session.next()
        dispatcher.welcoming.refuse_with = (grpc.StatusCode.UNAVAILABLE, "not now")
        first.kill()
        first.wait_over()
        counting.gate.set()
        wait_until(lambda: counting.count == 10)
        dispatcher.welcoming.verdicts["s"] = resumed(2)
        dispatcher.welcoming.refuse_with = None
        session.link = dispatcher.accept()
        session.done()
    assert session.content == counting.text


def test_without_a_link_it_waits_when_its_outbox_is_full_and_goes_on_with_the_next(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    told, counting, loop_turns = Told(caplog), Counting(2_000), [0]

    @agent("neighbour")
    async def neighbour(_: Turn) -> object:
        yield "begin "
        while True:
            loop_turns[0] += 1
            await asyncio.sleep(0)

    with serving(dispatcher.address, counting.agent, neighbour, outbox_packets=16):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s", agent="counting")
        session.next()
        ScriptedSession(first, "n", agent="neighbour").next()
        dispatcher.welcoming.refuse_with = (grpc.StatusCode.UNAVAILABLE, "not now")
        first.kill()
        told.wait_for("lost link")
        counting.gate.set()
        wait_until(lambda: counting.count == 16)
        seen = loop_turns[0]
        wait_until(lambda: loop_turns[0] > seen + 1_000)
        assert counting.count == 16
        dispatcher.welcoming.verdicts["s"] = resumed(2)
        dispatcher.welcoming.refuse_with = None
        session.link = dispatcher.accept()
        session.done()
    assert session.content == counting.text


def test_a_done_that_is_not_acknowledged_is_resumed(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s", agent="echo", text="hello")
        session.next_of("done", acked=False)
        dispatcher.welcoming.verdicts["s"] = resumed(1)
        first.kill()
        session.link = dispatcher.accept()
        session.last_sequence, session.content = 0, ""
        session.done()
        assert session.content == "hello"


@pytest.mark.parametrize(
    "verdict",
    [
        pb.ResumeVerdict(fenced=pb.Fenced(why="a newer attempt runs")),
        pb.ResumeVerdict(ended=pb.Ended(ending="stopped")),
        pb.ResumeVerdict(unknown=pb.Unknown()),
        pb.ResumeVerdict(),
    ],
    ids=["fenced", "ended", "unknown", "not said"],
)
def test_a_turn_that_does_not_count_any_more_is_cancelled(
    dispatcher: ScriptedDispatcher, verdict: pb.ResumeVerdict, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(caplog)

    @agent("waiting")
    async def waiting(_: Turn) -> object:
        try:
            yield "begin "
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    was_cancelled = threading.Event()
    with serving(dispatcher.address, waiting, echo, slots=1):
        first = dispatcher.accept()
        ScriptedSession(first, "s", agent="waiting").next()
        dispatcher.welcoming.verdicts["s"] = verdict
        first.kill()
        second = dispatcher.accept()
        assert was_cancelled.wait(PATIENCE_S)
        # Its slot is free again, and of the old session nothing came.
        told.wait_for("ended: lost")
        ScriptedSession(second, "next", agent="echo").done()
        assert not second.seen(lambda packet: packet.session_id == "s" and packet.sequence > 0)


def test_what_it_waits_for_is_in_the_hello_and_comes_but_once(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> object:
        one, two = await asyncio.gather(turn.call_tool("add", n=1), turn.call_tool("add", n=2))
        yield f"{one} {two} {await turn.ask('Sure?')}"

    with serving(dispatcher.address, caller):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s")
        calls = [session.next(), session.next()]
        session.answer_call(calls[0], "10")
        # The receipt is told with the next packet, or at the latest with a heartbeat.
        dispatcher.welcoming.verdicts["s"] = resumed(3)
        wait_until(lambda: turn_of(first, session, calls[0]))
        first.kill()
        session.link = second = dispatcher.accept()
        (resume,) = second.hello.resumes
        assert resume.last_signal_received == 1
        assert list(resume.open_call_ids) == ["call-2"]
        # The first result once more, as after a resume: it must not settle anything again.
        repeat = pb.ToolCallResult(call_id=calls[0].tool_call.call_id, result_json="999")
        session.send(pb.DownstreamPacket(tool_result=repeat, sequence=1))
        session.answer_call(calls[1], "20")
        question = session.next_of("question").question
        session.owe(
            pb.DownstreamPacket(answer=pb.Answer(question_id=question.question_id, value_json='"yes"'))
        )
        session.done()
    assert session.content == "10 20 yes"


def test_what_was_read_is_told_again_on_the_next_link(dispatcher: ScriptedDispatcher) -> None:
    goes_on = threading.Event()

    @agent("reader")
    async def reader(turn: Turn) -> object:
        async for message in turn.messages():
            yield message.text
            break
        await asyncio.to_thread(goes_on.wait)
        yield "end"

    with serving(dispatcher.address, reader):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s")
        session.owe(pb.DownstreamPacket(user_message=pb.UserMessage(text="one")))
        assert session.next().messages_read == 1
        # The packet is kept; what it told besides may be lost with the dispatcher that took it.
        dispatcher.welcoming.verdicts["s"] = resumed(2)
        first.kill()
        session.link = dispatcher.accept()
        goes_on.set()
        packet = session.next()
        assert (packet.content.text, packet.messages_read) == ("end", 1)
        assert session.next().messages_read == 0


def test_a_silent_turn_says_what_it_has_read_on_each_link() -> None:
    @agent("reader")
    async def reader(turn: Turn) -> None:
        async for _ in turn.messages():
            break
        await asyncio.Event().wait()

    welcoming = Welcoming(heartbeat_s=0.1)
    with (
        ScriptedDispatcher(welcoming) as dispatcher,
        serving(dispatcher.address, reader, heartbeats_missed=20),
    ):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s")
        session.owe(pb.DownstreamPacket(user_message=pb.UserMessage(text="one")))
        first.expect(lambda packet: packet.HasField("heartbeat") and packet.messages_read == 1)
        welcoming.verdicts["s"] = resumed(1)
        first.kill()
        second = dispatcher.accept()
        # Of its own packets the first tells it.
        heartbeat = second.expect_payload("heartbeat", "s")
        assert (heartbeat.signals_received, heartbeat.messages_read) == (0, 1)


def turn_of(link: ScriptedLink, session: ScriptedSession, call: pb.UpstreamPacket) -> bool:
    """A stop of another session comes back when everything before it has been taken."""
    marker = f"after-{call.tool_call.call_id}"
    stop = pb.StopSignal(stop_id=marker, reason="marker")
    link.send(pb.DownstreamPacket(session_id="nobody", attempt=1, stop=stop))
    assert session.session_id
    return link.expect(lambda packet: packet.stop_ack.stop_id == marker) is not None


def test_a_signal_left_out_is_fetched_by_a_resume(dispatcher: ScriptedDispatcher) -> None:
    @agent("caller")
    async def caller(turn: Turn) -> object:
        yield f"{await turn.call_tool('a')} {await turn.call_tool('b')}"

    with serving(dispatcher.address, caller):
        first = dispatcher.accept()
        session = ScriptedSession(first, "s")
        call = session.next()
        dispatcher.welcoming.verdicts["s"] = resumed(2)
        early = pb.ToolCallResult(call_id="call-2", result_json="2")
        session.send(pb.DownstreamPacket(tool_result=early, sequence=2))
        session.link = dispatcher.accept()
        session.answer_call(call, "1")
        session.answer_call(session.next(), "2")
        session.done()
    assert session.content == "1 2"


def test_without_a_link_for_long_its_turns_are_cancelled(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(1)
    counting.gate.set()

    @agent("waiting")
    async def waiting(_: Turn) -> object:
        try:
            yield "begin "
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    was_cancelled = threading.Event()
    with serving(dispatcher.address, waiting, unlinked_keep_s=0.05):
        first = dispatcher.accept()
        ScriptedSession(first, "s").next()
        dispatcher.welcoming.refuse_with = (grpc.StatusCode.UNAVAILABLE, "not now")
        first.kill()
        assert was_cancelled.wait(PATIENCE_S)


def test_a_goodbye_of_the_dispatcher_is_followed_by_a_new_link(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo):
        dispatcher.accept().send(pb.DownstreamPacket(goodbye=pb.Goodbye(reason="moving")))
        ScriptedSession(dispatcher.accept(), "s").done()


# ---- refusals ----


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "token_file"),
        (grpc.StatusCode.PERMISSION_DENIED, "role commander"),
        (grpc.StatusCode.INVALID_ARGUMENT, "does not accept"),
        (grpc.StatusCode.ABORTED, "commander_id"),
    ],
)
def test_what_trying_again_will_not_mend_is_said_with_its_mend_and_tried_again(
    dispatcher: ScriptedDispatcher, code: grpc.StatusCode, mend: str, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher.welcoming.refuse_with = (code, "for this reason")
    told = Told(caplog)
    with serving(dispatcher.address, echo):
        line = told.wait_for("no link")
        assert "for this reason" in line
        assert mend in line
        dispatcher.welcoming.refuse_with = None
        ScriptedSession(dispatcher.accept(), "s").done()


def test_where_nobody_listens_it_says_so_and_links_when_somebody_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told(caplog)
    with ScriptedDispatcher() as gone:
        address, port = gone.address, gone.port
    with serving(address, echo):
        assert "UNAVAILABLE" in told.wait_for(f"no link to {address}")
        with ScriptedDispatcher(port=port) as back:
            ScriptedSession(back.accept(), "s").done()


def test_one_that_answers_a_hello_with_something_else_is_no_dispatcher_for_it(
    dispatcher: ScriptedDispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher.welcoming.instead = pb.DownstreamPacket(ack=pb.Ack())
    told = Told(caplog)
    with serving(dispatcher.address, echo):
        assert "commander ask" in told.wait_for("no link")


def test_a_start_that_cannot_be_taken_is_refused_with_why(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(1)
    with serving(dispatcher.address, counting.agent, slots=1):
        link = dispatcher.accept()
        ScriptedSession(link, "unknown", agent="weather")
        refused = link.expect_payload("refused", "unknown")
        assert refused.refused.code == "no_such_agent"
        assert "counting" in refused.refused.why
        session = ScriptedSession(link, "first")
        session.next()
        ScriptedSession(link, "second")
        assert link.expect_payload("refused", "second").refused.code == "no_slot"
        counting.gate.set()
        session.done()
        ScriptedSession(link, "third").done()


def test_what_it_does_not_know_is_passed_over(dispatcher: ScriptedDispatcher) -> None:
    with serving(dispatcher.address, echo):
        link = dispatcher.accept()
        # Field 99: from a later version of the contract.
        link.send(pb.DownstreamPacket.FromString(b"\x9a\x06\x03abc"))
        link.send(pb.DownstreamPacket(session_id="nobody", attempt=1, ack=pb.Ack(sequence=5)))
        link.send(pb.DownstreamPacket(start=pb.Start(agent="echo")))
        answer = pb.Answer(question_id="none", value_json="1")
        link.send(pb.DownstreamPacket(session_id="nobody", attempt=1, sequence=1, answer=answer))
        ScriptedSession(link, "s").done()


# ---- silence ----


def test_it_is_heard_every_interval_that_the_dispatcher_wants() -> None:
    counting = Counting(1)
    welcoming = Welcoming(heartbeat_s=0.05)
    with (
        ScriptedDispatcher(welcoming) as dispatcher,
        serving(dispatcher.address, counting.agent, heartbeat_interval_s=60, heartbeats_missed=20),
    ):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()

        def beats_running(packet: pb.UpstreamPacket) -> bool:
            return packet.HasField("heartbeat") and packet.heartbeat.running == 1

        link.expect(beats_running)
        link.expect(beats_running)
        phase = link.expect_payload("heartbeat", "s").heartbeat.phase
        assert phase == pb.HEARTBEAT_PHASE_GENERATING
        counting.gate.set()


def test_a_silent_turn_says_what_it_waits_for() -> None:
    @agent("caller")
    async def caller(turn: Turn) -> object:
        await turn.call_tool("slow")
        yield await turn.ask("Sure?")

    welcoming = Welcoming(heartbeat_s=0.05)
    with (
        ScriptedDispatcher(welcoming) as dispatcher,
        serving(dispatcher.address, caller, heartbeats_missed=20),
    ):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")

        def expect(phase: int) -> None:
            link.expect(lambda packet: packet.session_id == "s" and int(packet.heartbeat.phase) == phase)

        call = session.next()
        expect(pb.HEARTBEAT_PHASE_WAITING_TOOL)
        session.answer_call(call, "1")
        session.next()
        expect(pb.HEARTBEAT_PHASE_WAITING_ANSWER)


def test_a_silent_turn_says_which_signals_it_has_had() -> None:
    @agent("caller")
    async def caller(turn: Turn) -> None:
        await turn.call_tool("slow")

    welcoming = Welcoming(heartbeat_s=0.3)
    with (
        ScriptedDispatcher(welcoming) as dispatcher,
        serving(dispatcher.address, caller, heartbeats_missed=20),
    ):
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        link.expect_payload("heartbeat", "s")
        # It stays in its phase, and the dispatcher is to know all the same that it need not keep these.
        for number in (1, 2):
            session.owe(pb.DownstreamPacket(user_message=pb.UserMessage(text="hurry up")))
            link.expect(lambda packet: packet.HasField("heartbeat") and packet.signals_received == number)  # noqa: B023


def test_a_dispatcher_that_falls_silent_is_left_for_another_link() -> None:
    welcoming = Welcoming(heartbeat_s=0.05)
    with ScriptedDispatcher(welcoming) as dispatcher, serving(dispatcher.address, echo, heartbeats_missed=3):
        for _ in range(2):
            dispatcher.accept()


# ---- leaving ----


def test_told_to_drain_it_finishes_and_leaves(dispatcher: ScriptedDispatcher) -> None:
    counting = Counting(5)
    with serving(dispatcher.address, counting.agent) as here:
        link = dispatcher.accept()
        session = ScriptedSession(link, "s")
        session.next()
        link.send(pb.DownstreamPacket(drain=pb.Drain(reason="an update")))
        ScriptedSession(link, "late")
        assert link.expect_payload("refused", "late").refused.code == "draining"
        counting.gate.set()
        session.done()
        assert link.expect_payload("goodbye").goodbye.reason == "an update"
        link.wait_over()
        link.close()
        assert here.wait_left() == 0
    assert session.content == counting.text


def test_what_still_runs_when_the_time_to_drain_is_over_is_cancelled(
    dispatcher: ScriptedDispatcher,
) -> None:
    counting = Counting(1)

    @agent("waiting")
    async def waiting(_: Turn) -> object:
        try:
            yield "begin "
            await asyncio.Event().wait()
        finally:
            counting.was_cancelled.set()

    with serving(dispatcher.address, waiting) as here:
        link = dispatcher.accept()
        ScriptedSession(link, "s").next()
        drain = pb.Drain(reason="now")
        drain.deadline.nanos = 50_000_000
        link.send(pb.DownstreamPacket(drain=drain))
        assert counting.was_cancelled.wait(PATIENCE_S)
        link.expect_payload("goodbye")
        link.close()
        assert here.wait_left() == 0
