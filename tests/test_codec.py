"""A commander's wire in the core's words and back: every case of the contract, by a loop over its descriptors."""

from collections.abc import Iterator
from typing import Any, Final, get_args

import pytest
from filled import cases, filled, unset
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.core import packets as core
from dispatcher.readable import same_call
from dispatcher.rpc import codec

UP: Final = agent_pb2.UpstreamPacket.DESCRIPTOR.oneofs_by_name["payload"]
DOWN: Final = agent_pb2.DownstreamPacket.DESCRIPTOR.oneofs_by_name["signal"]

# Up, and no part of a session's content: about the link, or about what is told of a session.
CONTROL: Final = {"hello", "batch", "refused", "heartbeat", "stop_ack", "goodbye"}
# Fields of a signal that this dispatcher does not send yet.
NOT_SENT_YET: Final = {"Start.published"}
FAILURE: Final = core.ToolFailure("too_large", "its output is over the limit", True, 500)


def test_an_example_is_filled_in_to_the_last_field() -> None:
    for name in cases(UP):
        packet = filled(agent_pb2.UpstreamPacket(), name)
        assert packet.WhichOneof("payload") == name
        assert not list(unset(packet))


# --- up --------------------------------------------------------------------------------------------------


def received(packet: agent_pb2.UpstreamPacket) -> core.Packet:
    packets = codec.upstream(packet.SerializeToString())
    assert isinstance(packets, list)
    assert len(packets) == 1
    return packets[0]


def test_every_kind_is_content_or_control_and_none_both() -> None:
    assert set(cases(UP)) | {"unknown"} == core.SEQUENCED | CONTROL
    assert not core.SEQUENCED & CONTROL


@pytest.mark.parametrize("case", [name for name in cases(UP) if name not in ("hello", "batch")])
def test_every_payload_is_read(case: str) -> None:
    wire = agent_pb2.UpstreamPacket()
    filled(wire, case)
    packet = received(wire)
    assert packet.kind == case
    assert (packet.session_id, packet.attempt, packet.sequence) == ("a-session_id", 7, 7)
    assert (packet.agent, packet.signals_received) == ("a-agent", 7)
    payload = getattr(wire, case)
    if case == "content":
        assert (packet.text, packet.is_finish) == ("a-text", True)
    elif case == "thought":
        assert (packet.text, packet.body) == ("a-delta", "a-step_name")
    elif case == "tool_call":
        assert packet.body == same_call("a-tool_name", "a-arguments_json")
    else:
        assert isinstance(packet.body, bytes)
        _without_ours(wire)
        assert type(payload).FromString(packet.body) == payload
        assert packet.size == len(packet.body)


def _without_ours(wire: agent_pb2.UpstreamPacket) -> None:
    """The dispatcher alone says these; from a commander they are passed over."""
    for kind, name in (("question", "approves_call_id"), ("progress", "call_id")):
        if wire.WhichOneof("payload") == kind:
            getattr(wire, kind).ClearField(name)


def strings(message: Message) -> list[str]:
    """Every text in a message."""
    found: list[str] = []
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if isinstance(each, Message):
                found += strings(each)
            elif isinstance(each, str):
                found.append(each)
    return found


@pytest.mark.parametrize("case", sorted(core.SEQUENCED - {"content", "thought", "unknown"}))
def test_all_that_people_may_read_is_given_to_the_policies(case: str) -> None:
    wire = agent_pb2.UpstreamPacket()
    for nested in _filled_every_way(wire, case):
        _without_ours(nested)
        told = received(nested).text.split(core.PART)
        assert sorted(told) == sorted(strings(getattr(nested, case)))


def _filled_every_way(wire: agent_pb2.UpstreamPacket, case: str) -> Iterator[agent_pb2.UpstreamPacket]:
    if case == "agent_event":
        for event in ("started", "completed", "failed"):
            packet = agent_pb2.UpstreamPacket()
            filled(getattr(packet.agent_event, event))
            yield packet
    else:
        filled(wire, case)
        yield wire


@pytest.mark.parametrize("case", [name for name in cases(UP) if name not in ("hello", "batch")])
def test_a_payload_with_nothing_set_is_read_as_well(case: str) -> None:
    wire = agent_pb2.UpstreamPacket()
    getattr(wire, case).SetInParent()
    packet = received(wire)
    assert packet.kind == case
    assert (packet.text, packet.sequence, packet.attempt) == ("", 0, 0)


DETAILS: dict[str, core.Detail] = {
    "tool_call": core.ToolCall("a-call_id", "a-tool_name", "a-arguments_json", "a-idempotency_key", 7, True),
    "error": core.ErrorReport(
        "a-code", "client", "session", "a-message", "a-error_type", True, 7, 7, "a-call_id"
    ),
    "usage": core.Usage(7, 7, 7, "a-model"),
    "question": core.Question("a-question_id", 1.5, b""),
    "withdrawal": core.Withdrawal("a-call_id", ""),
    "done": core.Done(
        False,
        7,
        7,
        core.Usage(7, 7, 7, "a-model"),
        core.ErrorReport("a-code", "client", "session", "a-message", "a-error_type", True, 7, 7, "a-call_id"),
    ),
    "stop_ack": core.StopAck("abandoned"),
    "refused": core.Refused("a-code", "a-why"),
    "heartbeat": core.Heartbeat(4, 1.5, 7, 7, draining=True),
    "goodbye": core.Goodbye("a-reason"),
}


@pytest.mark.parametrize("case", cases(UP))
def test_what_decides_something_is_taken_apart(case: str) -> None:
    if case in ("hello", "batch"):
        return
    detail = received(filled(agent_pb2.UpstreamPacket(), case)).detail
    expected = DETAILS.get(case)
    if isinstance(detail, core.Question):
        assert isinstance(detail.body, bytes)
        assert agent_pb2.Question.FromString(detail.body).question_id == detail.question_id
        assert not agent_pb2.Question.FromString(detail.body).approves_call_id, "ours to say"
        detail = detail._replace(body=b"")
    assert detail == expected


def test_what_may_be_unset_is_told_from_zero() -> None:
    wire = agent_pb2.UpstreamPacket(tool_call=agent_pb2.ToolCallRequest(timeout_ms=0))
    assert received(wire).detail == core.ToolCall("", "", "", "", 0)
    wire = agent_pb2.UpstreamPacket(tool_call=agent_pb2.ToolCallRequest())
    assert received(wire).detail == core.ToolCall("", "", "", "", None)
    question = agent_pb2.Question(question_id="q")
    detail = received(agent_pb2.UpstreamPacket(question=question)).detail
    assert isinstance(detail, core.Question)
    assert detail.expires_in_s is None
    question.expires_in.SetInParent()
    detail = received(agent_pb2.UpstreamPacket(question=question)).detail
    assert isinstance(detail, core.Question)
    assert detail.expires_in_s == 0
    done = received(agent_pb2.UpstreamPacket(done=agent_pb2.Done(outcome=agent_pb2.OUTCOME_COMPLETED))).detail
    assert done == core.Done(True, 0, 0, None, None)


FLAWED: Final[dict[str, dict[str, Any]]] = {
    "tool_call.call_id": {"tool_call": agent_pb2.ToolCallRequest(tool_name="add", call_id="two words")},
    "tool_call.idempotency_key": {"tool_call": agent_pb2.ToolCallRequest(idempotency_key="k" * 129)},
    "question.question_id": {"question": agent_pb2.Question(question_id="q" * 129)},
    "artifact.artifact_id": {"artifact": agent_pb2.Artifact(artifact_id="a b")},
    "error.call_id": {"error": agent_pb2.ErrorSignal(call_id="a b")},
    "agent": {"agent": "p" * 257, "content": agent_pb2.ContentChunk(text="x")},
}


@pytest.mark.parametrize("field", FLAWED)
def test_an_id_that_is_no_id_is_a_flaw(field: str) -> None:
    packet = received(agent_pb2.UpstreamPacket(**FLAWED[field]))
    assert packet.flaw.startswith(f"{field}: up to ")
    assert packet.flaw.endswith(" printable characters without blanks are right")
    assert packet.agent == ""


@pytest.mark.parametrize("name", ["get weather", "a\nb", "", "n" * 10_000])
def test_a_name_that_no_tool_can_have_is_no_breach(name: str) -> None:
    """Models invent names: that there is no such tool is the agent's to hear."""
    call = agent_pb2.ToolCallRequest(tool_name=name, call_id="call-1")
    packet = received(agent_pb2.UpstreamPacket(tool_call=call))
    assert packet.flaw == ""
    assert isinstance(packet.detail, core.ToolCall)
    assert packet.detail.tool_name == name[: codec.ID_CHARS_MAX]


def test_what_is_told_of_an_error_is_cut() -> None:
    error = agent_pb2.ErrorSignal(code="c" * 1_000, message="m" * 1_000_000, error_type="t" * 1_000)
    detail = received(agent_pb2.UpstreamPacket(error=error)).detail
    assert isinstance(detail, core.ErrorReport)
    assert len(detail.message) == codec.MESSAGE_CHARS_MAX
    assert len(detail.code) == len(detail.error_type) == codec.ID_CHARS_MAX


def test_what_this_version_cannot_read_is_not_passed_on() -> None:
    unknown = agent_pb2.Progress(text="x").SerializeToString() + b"\xba\x3e\x06secret"
    data = b"\x42" + bytes([len(unknown)]) + unknown
    field = agent_pb2.UpstreamPacket.DESCRIPTOR.fields_by_name["progress"].number
    packets = codec.upstream(bytes([field << 3 | 2]) + data[1:])
    assert isinstance(packets, list)
    assert packets[0].kind == "progress"
    assert packets[0].body == agent_pb2.Progress(text="x").SerializeToString()


def test_a_grace_of_nothing_is_told_from_no_grace() -> None:
    assert codec.stop_signal(core.Stop("stop-1", "admin", "AdminStop", 0)).grace_ms == 1


def test_a_batch_is_its_packets_in_order() -> None:
    wire = agent_pb2.UpstreamPacket()
    for name in cases(UP):
        if name not in ("hello", "batch"):
            filled(wire.batch.packets.add(), name)
    packets = codec.upstream(wire.SerializeToString())
    assert isinstance(packets, list)
    assert [packet.kind for packet in packets] == [
        name for name in cases(UP) if name not in ("hello", "batch")
    ]
    assert codec.upstream(agent_pb2.UpstreamPacket(batch=agent_pb2.UpstreamBatch()).SerializeToString()) == []


@pytest.mark.parametrize("case", ["hello", "batch"])
def test_what_must_not_be_in_a_batch_is_named(case: str) -> None:
    wire = agent_pb2.UpstreamPacket()
    filled(wire.batch.packets.add(), case)
    with pytest.raises(codec.WireError, match=f"{case}: is not allowed inside a batch; send it as a message"):
        codec.upstream(wire.SerializeToString())


def test_a_payload_that_this_version_does_not_know_is_unknown() -> None:
    field_9999 = b"\xfa\xf0\x04\x00"
    packets = codec.upstream(
        agent_pb2.UpstreamPacket(session_id="s", sequence=3).SerializeToString() + field_9999
    )
    assert isinstance(packets, list)
    assert [(packet.kind, packet.sequence) for packet in packets] == [("unknown", 3)]


def test_an_enum_value_that_this_version_does_not_know_is_not_said() -> None:
    error = agent_pb2.ErrorSignal()
    error.ParseFromString(b"\x10\x63\x18\x63")  # origin 99, scope 99
    detail = received(agent_pb2.UpstreamPacket(error=error)).detail
    assert isinstance(detail, core.ErrorReport)
    assert (detail.origin, detail.scope) == ("", "")
    ack = agent_pb2.StopAck()
    ack.ParseFromString(b"\x10\x63")  # phase 99
    detail = received(agent_pb2.UpstreamPacket(stop_ack=ack)).detail
    assert isinstance(detail, core.StopAck)
    assert detail.phase == ""


def test_plain_text_is_charged_by_its_bytes() -> None:
    assert received(agent_pb2.UpstreamPacket(content=agent_pb2.ContentChunk(text="plain"))).size == 5


@pytest.mark.parametrize("text", ["plain", "déjà vu", "日本語", "👋"])
def test_text_is_charged_as_its_sender_charges_it(text: str) -> None:
    """The credit is in bytes on both sides: charged by characters, Japanese would wait for a timer, not flow."""
    content = received(agent_pb2.UpstreamPacket(content=agent_pb2.ContentChunk(text=text * 2)))
    thought = received(agent_pb2.UpstreamPacket(thought=agent_pb2.ThoughtChain(step_name=text, delta=text)))
    assert (content.size, thought.size) == (2 * len(text.encode()), 2 * len(text.encode()))


@given(st.binary(max_size=64))
def test_no_bytes_do_more_harm_than_a_sentence(data: bytes) -> None:
    try:
        codec.upstream(data)
    except codec.WireError as error:
        said = str(error)
    else:
        return
    ours = f"the message ({len(data)} bytes) is not a protobuf southwest.ai.agent.v1.UpstreamPacket"
    assert said == ours or "is not allowed inside a batch" in said or said.startswith("hello.")


# --- hello -----------------------------------------------------------------------------------------------


def good_hello() -> agent_pb2.Hello:
    return agent_pb2.Hello(
        commander_id="c1", instance="i1", slots=1, agents=[agent_pb2.AgentOffer(name="echo")]
    )


def greeting(hello: agent_pb2.Hello) -> core.Hello | list[core.Packet]:
    return codec.upstream(agent_pb2.UpstreamPacket(hello=hello).SerializeToString())


def test_a_hello_is_read_to_the_last_field() -> None:
    wire = agent_pb2.Hello()
    filled(wire)
    assert greeting(wire) == core.Hello(
        "a-commander_id",
        "a-instance",
        "a-software_version",
        (core.AgentOffer("a-name", "a-version", "a-description", ("a-accepted_input",), "never", True),),
        {"key": "value"},
        7,
        7,
        (core.Resume("a-session_id", 7, 7, 7),),
        draining=True,
        message_bytes_max=7,
        models=(core.ModelOffer("a-name", "a-model", True, True, True, True, True),),
    )


def test_what_a_hello_leaves_open_of_a_model_is_not_known() -> None:
    hello = good_hello()
    hello.models.add(name="fast", calls_tools=False)
    read = greeting(hello)
    assert isinstance(read, core.Hello)
    assert read.models == (core.ModelOffer("fast", "", None, None, False, None, None),)


def test_a_hello_without_models_has_none() -> None:
    read = greeting(good_hello())
    assert isinstance(read, core.Hello)
    assert read.models == ()


BAD_HELLOS: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"commander_id": ""}, "hello.commander_id: has 0 characters; 1 to 128 are right"),
    "long id": ({"commander_id": "c" * 129}, "hello.commander_id: has 129 characters; 1 to 128 are right"),
    "no instance": ({"instance": ""}, "hello.instance: has 0 characters; 1 to 128 are right"),
    "long instance": ({"instance": "i" * 200}, "hello.instance: has 200 characters; 1 to 128 are right"),
    "no slots": ({"slots": 0}, "hello.slots: is 0; 1 to 100000 are right"),
    "too many slots": ({"slots": 100_001}, "hello.slots: is 100001; 1 to 100000 are right"),
    "no agents": ({"agents": []}, "hello.agents: has 0; 1 to 250 are right"),
    "too many agents": (
        {"agents": [agent_pb2.AgentOffer(name="a")] * 251},
        "hello.agents: has 251; 1 to 250 are right",
    ),
    "a long version": (
        {"agents": [agent_pb2.AgentOffer(name="a", version="v" * 129)]},
        "hello.agents[0]: version and accepted_input have up to 128 characters each",
    ),
    "many inputs": (
        {"agents": [agent_pb2.AgentOffer(name="a", accepted_input=["text/plain"] * 17)]},
        "hello.agents[0].accepted_input: up to 16 are right",
    ),
    "many labels": (
        {"labels": {f"{number}": "x" for number in range(65)}},
        "hello.labels: up to 64 are right, of up to 128 characters each",
    ),
    "a long label": (
        {"labels": {"key": "x" * 129}},
        "hello.labels: up to 64 are right, of up to 128 characters each",
    ),
    "an agent without a name": (
        {"agents": [agent_pb2.AgentOffer(name="a"), agent_pb2.AgentOffer()]},
        "hello.agents[1].name: has 0 characters; 1 to 128 are right",
    ),
    "an agent with a long name": (
        {"agents": [agent_pb2.AgentOffer(name="a" * 129)]},
        "hello.agents[0].name: has 129 characters; 1 to 128 are right",
    ),
    "many models": (
        {"models": [agent_pb2.ModelOffer(name=f"m{number}") for number in range(129)]},
        "hello.models: has 129; at most 128 are right",
    ),
    "models of many bytes": (
        {"models": [agent_pb2.ModelOffer(name=f"m{number}", model="🜁" * 256) for number in range(128)]},
        "hello.models: has 132114 bytes; at most 131072 are right",
    ),
    "a model without a name": (
        {"models": [agent_pb2.ModelOffer(name="m"), agent_pb2.ModelOffer(model="x:y")]},
        "hello.models[1].name: 1 to 128 printable characters without blanks are right",
    ),
    "a model with a long name": (
        {"models": [agent_pb2.ModelOffer(name="m" * 129)]},
        "hello.models[0].name: 1 to 128 printable characters without blanks are right",
    ),
    "a model with a name that can't be printed": (
        {"models": [agent_pb2.ModelOffer(name="fa\x1bst")]},
        "hello.models[0].name: 1 to 128 printable characters without blanks are right",
    ),
    "a model told twice": (
        {"models": [agent_pb2.ModelOffer(name="m"), agent_pb2.ModelOffer(name="m", model="x:y")]},
        "hello.models[1].name: 'm' is told twice; each name once is right",
    ),
    "a model's model that is long": (
        {"models": [agent_pb2.ModelOffer(name="m", model="x" * 257)]},
        "hello.models[0].model: up to 256 printable characters are right",
    ),
    "a model's model of two lines": (
        {"models": [agent_pb2.ModelOffer(name="m", model="x:y\nz")]},
        "hello.models[0].model: up to 256 printable characters are right",
    ),
}


@pytest.mark.parametrize("what", BAD_HELLOS)
def test_a_bad_hello_names_the_field_and_what_would_be_right(what: str) -> None:
    fields, message = BAD_HELLOS[what]
    hello = good_hello()
    for name, value in fields.items():
        hello.ClearField(name)  # type: ignore[arg-type]  # names of fields, by the table above
        if isinstance(value, list):
            getattr(hello, name).extend(value)
        elif isinstance(value, dict):
            hello.labels.update(value)
        else:
            setattr(hello, name, value)
    with pytest.raises(codec.WireError) as raised:
        greeting(hello)
    assert str(raised.value) == message


def test_the_bounds_themselves_are_right() -> None:
    hello = good_hello()
    hello.commander_id, hello.instance, hello.slots = "c" * 128, "i", 100_000
    for number in range(128):
        hello.models.add(name=f"{number:🜁>100}", model="x" * 256)
    assert isinstance(greeting(hello), core.Hello)


# --- down ------------------------------------------------------------------------------------------------


def ask() -> chat_pb2.Ask:
    message = chat_pb2.Ask()
    filled(message)
    return message


def downstream() -> codec.Downstream:
    offer = agent_pb2.ToolOffer()
    filled(offer)
    return codec.Downstream(
        max_message_bytes=1_000_000,
        heartbeat_interval_s=2.0,
        software_version="chatstream/1",
        instance="dispatcher-1",
        tools=[offer],
    )


VERDICTS: Final = (
    core.Verdict("s1", 1, "resumed", 5, 64, 1_000),
    core.Verdict("s2", 2, "fenced", why="attempt 3 counts now"),
    core.Verdict("s3", 1, "ended", why="stopped"),
    core.Verdict("s4", 1, "unknown"),
)
SIGNALS: dict[str, core.SignalBody] = {
    "ack": core.Ack(9, 64, 262_144),
    "stop": core.Stop("stop-1", "admin", "AdminStop", 5_000, "admin:bob", "deny_patterns"),
    "tool_result": core.ToolResult("call-1", "add", core.ToolOutcome('{"error": {}}', FAILURE)),
    "welcome": core.Welcome(64, 262_144, VERDICTS),
    "start": core.Start("echo", "2", "alice", 12.5, 64, 262_144, ask().SerializeToString(), id_prefix="7."),
    "answer": core.Answer("q1", '"yes"'),
    "user_message": core.UserMessage("m1", "faster"),
    "drain": core.Drain("AdminDrain", 30.0),
    "goodbye": core.Goodbye("upgrade"),
    "heartbeat": core.LinkHeartbeat(),
}


def sent(body: core.SignalBody) -> agent_pb2.DownstreamPacket:
    packet = downstream().packet(core.Signal(body, "s1", 2, 3), unix_ms=1_700_000_000_000)
    assert (packet.session_id, packet.attempt, packet.sequence) == ("s1", 2, 3)
    assert packet.timestamp == 1_700_000_000_000
    return packet


@pytest.mark.parametrize("case", [name for name in cases(DOWN) if name != "batch"])
def test_every_signal_is_sent_whole(case: str) -> None:
    packet = sent(SIGNALS[case])
    assert packet.WhichOneof("signal") == case
    payload: Message = getattr(packet, case)
    # A dispatcher's heartbeat says that it is there, and has nothing else to say.
    missing = set() if case == "heartbeat" else set(unset(payload))
    assert missing - {"AgentStarted.description"} <= NOT_SENT_YET


def test_no_signal_of_the_core_is_without_a_case() -> None:
    assert set(get_args(core.SignalBody)) == {type(body) for body in SIGNALS.values()}
    assert set(SIGNALS) | {"batch"} == set(cases(DOWN))


@pytest.mark.parametrize("case", [name for name in cases(DOWN) if name != "batch"])
def test_a_signal_with_nothing_in_it_is_still_that_signal(case: str) -> None:
    empty: dict[str, core.SignalBody] = {
        "ack": core.Ack(0, 0, 0),
        "stop": core.Stop("", "", "", 0),
        "tool_result": core.ToolResult("", "", core.ToolOutcome("")),
        "welcome": core.Welcome(0, 0, ()),
        "start": core.Start("", "", "", None, 0, 0, None),
        "answer": core.Answer("", None),
        "user_message": core.UserMessage("", ""),
        "drain": core.Drain("", None),
        "goodbye": core.Goodbye(""),
        "heartbeat": core.LinkHeartbeat(),
    }
    assert sent(empty[case]).WhichOneof("signal") == case


def test_a_stop_says_why_in_words_and_in_a_code() -> None:
    stop = sent(SIGNALS["stop"]).stop
    assert (stop.reason, stop.code, stop.grace_ms) == ("AdminStop", agent_pb2.STOP_CODE_ADMIN, 5_000)
    assert (stop.stop_id, stop.actor, stop.policy) == ("stop-1", "admin:bob", "deny_patterns")
    assert sent(core.Stop("stop-1", "shutdown", "", 0)).stop.reason == "shutdown"


def test_a_result_bears_its_failure_typed_and_in_json() -> None:
    result = sent(SIGNALS["tool_result"]).tool_result
    assert (result.call_id, result.tool_name, result.result_json) == ("call-1", "add", '{"error": {}}')
    assert result.error.code == agent_pb2.TOOL_ERROR_CODE_TOO_LARGE
    assert (result.error.retryable, result.error.retry_after_ms) == (True, 500)
    assert not sent(core.ToolResult("c", "add", core.ToolOutcome("1"))).tool_result.HasField("error")


def test_each_verdict_is_its_own_case_in_the_hellos_order() -> None:
    rows = sent(SIGNALS["welcome"]).welcome.resumes
    assert [row.WhichOneof("verdict") for row in rows] == ["resumed", "fenced", "ended", "unknown"]
    assert [(row.session_id, row.attempt) for row in rows] == [("s1", 1), ("s2", 2), ("s3", 1), ("s4", 1)]
    assert (rows[0].resumed.next_sequence, rows[0].resumed.credit, rows[0].resumed.credit_bytes) == (
        5,
        64,
        1_000,
    )
    assert (rows[1].fenced.why, rows[2].ended.ending) == ("attempt 3 counts now", "stopped")


def test_a_start_has_what_was_asked_and_what_is_on_offer() -> None:
    start, asked = sent(SIGNALS["start"]).start, ask()
    assert list(start.messages) == list(asked.messages)
    assert dict(start.metadata) == dict(asked.metadata)
    assert (start.budgets, start.trace_context) == (asked.budgets, asked.trace_context)
    assert (start.agent, start.agent_version, start.user_id) == ("echo", "2", "alice")
    assert codec.seconds(start.time_left) == 12.5
    assert [tool.name for tool in start.tools] == ["a-name"]
    assert not sent(core.Start("echo", "", "", None, 1, 1, None)).start.HasField("time_left")


def test_no_answer_says_why() -> None:
    answer = sent(core.Answer("q1", None, "expired")).answer
    assert (answer.WhichOneof("result"), answer.cancelled.why) == ("cancelled", "expired")
    assert sent(core.Answer("q1", "")).answer.WhichOneof("result") == "value_json"
