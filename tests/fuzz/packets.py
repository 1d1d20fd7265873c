"""Messages of the contract with whatever in them: every type, by its descriptor, and those that make sense."""

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from southwest.ai.agent.v1 import agent_pb2, chat_pb2

Up = agent_pb2.UpstreamPacket

# What a case calls its own: few, so that its steps meet.
AGENTS: Final = ("echo", "twin")
COMMANDERS: Final = ("c0", "c1", "c2")
QUESTIONS: Final = ("q0", "q1")
APPROVALS: Final = ("approve-k0", "approve-k1", "approve-call-1", "approve-2.k0")
REFS: Final = ("r0", "r1", "r2")
# What the player puts in: sessions, the journal's epoch, tokens of pages, ids of stops.
KNOWN: Final = ("$s0", "$s0", "$s0", "$s1", "$s2", "$e", "$p0", "$x0")

_TEXTS: Final = (
    "", "x", " ", "{}", '{"a": 1, "b": 2}', "[" * 3_000, "nul\0l", "🌍" * 3, "y" * 129, "y" * 300, "z" * 9_000,
    "\u202e\u2028\x7f\r\n", "%s%n{0}", "../..", "null", "NaN", "1e999", '"\\ud800"', '{"$ref": "#"}', "9" * 5_000,
    "UNKNOWN", "s-000000000000000000000000",
)  # fmt: skip
_DOUBLES: Final = (0.0, -0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324)
_FLOATS: Final = (0.0, 1.5, float("nan"), float("inf"), float("-inf"), -3e38)
_NUMBERS: Final = {
    Field.TYPE_INT32: (0, 1, -1, 7, 999_999_999, 1_000_000_000, -(2**31), 2**31 - 1),
    Field.TYPE_INT64: (0, 1, -1, 7, 315_576_000_000, 2**63 - 1, -(2**63)),
    Field.TYPE_UINT32: (0, 1, 2, 3, 7, 1_000, 2**31, 2**32 - 1),
    Field.TYPE_UINT64: (0, 1, 2, 3, 7, 1_000, 2**53 + 1, 2**63, 2**64 - 1),
    Field.TYPE_FIXED32: (0, 1, 2**32 - 1),
}
_DEPTH_MAX: Final = 3


def _scalar(dice: Random, field: Field) -> Any:
    if field.enum_type is not None:
        return dice.choice([*(value.number for value in field.enum_type.values), 99, -1, 2**31 - 1])
    if field.type == Field.TYPE_STRING:
        own = (*KNOWN, *AGENTS, *COMMANDERS, *QUESTIONS, *REFS)
        return dice.choice(own if dice.random() < 0.6 else _TEXTS)
    if field.type == Field.TYPE_BYTES:
        return dice.randbytes(dice.choice((0, 1, 20, 2_000)))
    if field.type == Field.TYPE_BOOL:
        return dice.random() < 0.5
    if field.type == Field.TYPE_DOUBLE:
        return dice.choice(_DOUBLES)
    if field.type == Field.TYPE_FLOAT:
        return dice.choice(_FLOATS)
    return dice.choice(_NUMBERS[field.type])


def whatever(dice: Random, of: type[Message], depth: int = 0) -> Any:
    """A message of this type with anything in it. Of a oneof, what was set last stays."""
    message: Any = of()
    likely = dice.choice((0.2, 0.5, 0.9))
    for field in message.DESCRIPTOR.fields:
        nested = field.message_type
        if dice.random() > likely or (nested is not None and depth >= _DEPTH_MAX):
            continue
        value = getattr(message, field.name)
        if nested is not None and nested.GetOptions().map_entry:
            key, held = nested.fields_by_name["key"], nested.fields_by_name["value"]
            for _ in range(dice.choice((1, 2, 70))):
                value[_scalar(dice, key)] = _scalar(dice, held)
        elif field.is_repeated:
            for _ in range(dice.choice((0, 1, 2, 2, 5))):
                if nested is None:
                    value.append(_scalar(dice, field))
                else:
                    value.add().CopyFrom(whatever(dice, GetMessageClass(nested), depth + 1))
        elif nested is not None:
            value.CopyFrom(whatever(dice, GetMessageClass(nested), depth + 1))
        else:
            setattr(message, field.name, _scalar(dice, field))
    return message


def payload(dice: Random, kind: str) -> Any:
    """A payload that makes sense for a running session, mostly."""
    a: Any = agent_pb2
    of = dice.choice
    to_agent = dice.random() < 0.25
    some_json = of(
        (
            '{"a": 1, "b": 2}',
            '{"a": 1, "b": 2}',
            '{"text": "Hi"}',
            "{}",
            "",
            "nonsense",
            '{"a": "x"}',
            '{"a": 1e999, "b": 2}',
        )
    )
    error = a.ErrorSignal(
        code="broken", message="it broke", scope=of((0, 1, 2, 3, 9)), origin=of((0, 1, 3, 5))
    )
    made: dict[str, Any] = {
        "content": a.ContentChunk(text=of(("", "a", "word ", "🌍")), is_finish=dice.random() < 0.15),
        "thought": a.ThoughtChain(step_name=of(("", "plan")), delta="hm"),
        "tool_call": a.ToolCallRequest(
            tool_name=of((*AGENTS, "nobody") if to_agent else ("add", "hang", "pay", "pay", "desk", "none", "")),
            arguments_json=of(('{"text": "Hi"}', '{"text": "Hi"}', some_json)) if to_agent else some_json,
            call_id=of(("", "k0", "k1")), to_agent=to_agent,
        ),
        "error": error,
        "progress": a.Progress(text="half", current=of(_DOUBLES), total=of(_DOUBLES)),
        "question": a.Question(
            question_id=of((*QUESTIONS, "")),
            text="?",
            options=of(([], ["yes", "no"])),
            response_schema_json=of(("", '{"type": "string"}', '{"$ref": "#"}', "x")),
        ),
        "withdrawal": of((a.Withdrawal(call_id=of(("k0", "k1"))), a.Withdrawal(question_id=of(QUESTIONS)))),
        "agent_event": a.AgentEvent(started=a.AgentStarted(description="d")),
        "artifact": a.Artifact(name="f", artifact_id=of(("", "f0")), data=b"\xff\0", is_last=dice.random() < 0.5),
        "embedding": a.Embedding(values=[of(_FLOATS)] * 3),
        "usage": a.Usage(input_tokens=of((1, 2**64 - 1)), output_tokens=of((0, 2**63))),
        "heartbeat": a.Heartbeat(phase=of((0, 1, 2, 99)), running=1, stuck=of((0, 1, 2**32 - 1))),
        "stop_ack": a.StopAck(stop_id=of(("$x0", "x")), phase=of((0, 1, 2, 3, 4, 9)), last_sequence=of((0, 1, 99))),
        "refused": a.Refused(code=of(("no_slot", "draining", "odd")), why="no"),
        "done": a.Done(outcome=of((0, 1, 1, 2, 7)), content_chars=of((0, 1, 5, 2**64 - 1)), error=of((None, error))),
        "goodbye": a.Goodbye(reason="over"),
    }  # fmt: skip
    return made[kind]


def offers(number: int) -> list[agent_pb2.AgentOffer]:
    """Both agents; what becomes of their sessions when a commander is lost, and whether they park, is chosen by the
    number."""
    restarts = agent_pb2.OnRestart.values()
    return [
        agent_pb2.AgentOffer(name=name, on_restart=restarts[(number + i) % 4], parks=(number + i) % 2 == 1)
        for i, name in enumerate(AGENTS)
    ]


def hello(dice: Random) -> agent_pb2.Hello:
    """One that is welcome, mostly, with lies about what it still runs, sometimes."""
    resumes = [
        agent_pb2.Resume(
            session_id=dice.choice(("$s0", "$s1", "nobody", "")),
            attempt=dice.choice((0, 1, 1, 1, 2, 2**32 - 1)),
            last_sequence_sent=dice.choice((0, 1, 2, 5, 2**64 - 1)),
            last_signal_received=dice.choice((0, 1, 2**64 - 1)),
            open_call_ids=dice.choice(([], ["k0", "call-1", "none"])),
            open_question_ids=dice.choice(([], ["q0", "none"])),
        )
        for _ in range(dice.choice((0, 0, 0, 1, 2)))
    ]
    return agent_pb2.Hello(
        commander_id=dice.choice(COMMANDERS),
        instance=dice.choice(("i0", "i0", "i0", "i1")),
        agents=offers(dice.randrange(4))[: dice.choice((1, 2))],
        slots=dice.choice((1, 2, 2, 3)),
        running=len(resumes),
        resumes=resumes,
        protocol_version=dice.choice((0, 1, 1, 1, 2**32 - 1)),
        draining=dice.random() < 0.05,
        models=models(dice),
    )


def models(dice: Random) -> list[agent_pb2.ModelOffer]:
    """Of some names, mostly told once."""
    names = dice.choice(
        ((), ("fast",), ("fast", "deep")) if dice.random() < 0.95 else (("fast", "fast"), ("",))
    )
    return [
        agent_pb2.ModelOffer(
            name=name,
            model=dice.choice(("", "x:y", "x:z", "x" * 256)),
            calls_tools=dice.choice((None, True, False)),
        )
        for name in names
    ]


def ask(dice: Random) -> chat_pb2.Ask:
    message = agent_pb2.Message(role=agent_pb2.ROLE_USER, parts=[agent_pb2.ContentPart(text="Hi")])
    asked = chat_pb2.Ask(
        agent=dice.choice((AGENTS[0], AGENTS[0], AGENTS[1], "nobody", "")), messages=[message]
    )
    if dice.random() < 0.3:
        asked.MergeFrom(whatever(dice, chat_pb2.Ask))
    elif dice.random() < 0.3:
        asked.idempotency_key = "once"
    return asked


def kinds(of: Any) -> Sequence[str]:
    return [field.name for field in of.fields]
