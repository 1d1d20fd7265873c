"""The assistant: rounds, tools, steering, what it reads, what an application may attach; over a real link, and once
through a real dispatcher with its tools."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from commander_here import serving
from commander_process import running_commander
from dispatcher_process import running_dispatcher
from model_scene import table
from model_server import Call, Finish, ModelServer, Pause, Request, Status, Step, calls, says
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander.agents.assistant import CALLS_MAX, RESULT_CHARS_MAX, assistant

ADD = pb.ToolOffer(name="add", description="Adds", parameters_schema_json='{"type": "object"}')
FIND = pb.ToolOffer(name="find", description="Finds", parameters_schema_json='{"type": "object"}')


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


def session_of(dispatcher: ScriptedDispatcher, **start: object) -> ScriptedSession:
    return ScriptedSession(dispatcher.accept(), "s", start=pb.Start(**{"tools": [ADD, FIND], **start}))  # type: ignore[arg-type]


def returns(request: Request) -> dict[str, str]:
    """What the model was told of its calls, by their ids."""
    return {each["tool_call_id"]: each["content"] for each in request.messages if each["role"] == "tool"}


def failures(request: Request) -> dict[str, str]:
    """Those that it was told of as failures, in the library's way."""
    told = {call_id: text for call_id, text in returns(request).items() if text.startswith('{"error":')}
    return {call_id: json.loads(text)["error"] for call_id, text in told.items()}


def test_it_answers_with_the_system_prompt_of_its_model(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    with serving(dispatcher.address, assistant, models={"fast": table(server, system="You are Ada.")}):
        session = session_of(dispatcher)
        assert session.done().outcome == pb.OUTCOME_COMPLETED
    assert session.content == "Hello, world!"
    assert server.requests[0].messages[0] == {"role": "system", "content": "You are Ada."}
    assert [tool["function"]["name"] for tool in server.requests[0].body["tools"]] == ["add", "find"]


def test_calls_run_at_once_and_their_results_go_back_in_order(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    wanted = [Call("add", ['{"a": 1}'], "c-1", 0), Call("find", ['{"q": "x"}'], "c-2", 1)]
    server.then(["Let me see. ", *calls(*wanted)], says("Found."))
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session = session_of(dispatcher)
        first, second = session.next_of("tool_call"), session.next_of("tool_call")
        assert [each.tool_call.arguments_json for each in (first, second)] == ['{"a": 1}', '{"q": "x"}']
        session.answer_call(second, '{"found": true}')
        session.answer_call(first, "3")
        session.done()
    assert session.content == "Let me see. Found."
    called = server.requests[1].messages[-3]
    assert (called["role"], called["content"]) == ("assistant", "Let me see. ")
    assert list(returns(server.requests[1]).items()) == [("c-1", "3"), ("c-2", '{"found": true}')]


def test_failures_of_tools_are_told_to_the_model(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    wanted = [
        Call("add", ['{"a": 1}'], "failed", 0),
        Call("no_such", ["{}"], "unknown", 1),
        Call("add", ["{nope"], "no-json", 2),
        Call("add", ["[1]"], "no-object", 3),
        Call("add", ['{"a": ' + "[" * 5_000 + "]" * 5_000 + "}"], "deep", 4),
        Call("add", ['{"a": ' + "[" * 150 + "]" * 150 + "}"], "rather-deep", 5),
    ]
    server.then(calls(*wanted), says("I can't."))
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session = session_of(dispatcher)
        call = session.next_of("tool_call")
        error = pb.ToolError(code=pb.TOOL_ERROR_CODE_TIMEOUT, message="took too long", retryable=True)
        session.answer_call(call, '{"error": {}}', error)
        session.done()
    assert session.content == "I can't."
    told = failures(server.requests[1])
    assert told["failed"] == "timeout: took too long; the same call may succeed later"
    assert told["unknown"] == "there is no tool 'no_such'; there are add, find"
    assert told["no-json"].startswith("the arguments are no JSON")
    assert told["no-object"] == "the arguments should be a JSON object"
    assert told["deep"].startswith("the arguments are nested too deeply")
    assert told["rather-deep"].startswith("the arguments are nested too deeply")


def test_too_many_calls_at_once_and_too_long_a_result_are_cut(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    wanted = [Call("add", ["{}"], f"c-{number}", number) for number in range(CALLS_MAX + 1)]
    server.then(calls(*wanted), says("Done."))
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session = session_of(dispatcher)
        for _ in range(CALLS_MAX):
            session.answer_call(session.next_of("tool_call"), json.dumps("x" * (RESULT_CHARS_MAX + 1)))
        session.done()
    told, failed = returns(server.requests[1]), failures(server.requests[1])
    assert told["c-0"].endswith(f"x… (cut: {RESULT_CHARS_MAX + 1:,} characters in all)")
    assert failed[f"c-{CALLS_MAX}"] == f"not called: at most {CALLS_MAX} calls may be made at once"


def test_rounds_without_an_end_have_one(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    server.then(calls(Call("add", ["{}"])))
    with serving(dispatcher.address, assistant, models={"fast": table(server, rounds=3)}):
        session = session_of(dispatcher)
        for _ in range(2):
            session.answer_call(session.next_of("tool_call"), "1")
        error = session.done().error
    assert error.code == "rounds_spent"
    assert "for 3 rounds without an end" in error.message
    first, second, last = server.requests
    assert first.body["tools"]
    assert second.body["tools"]
    # Nobody would see what it called: it is told not to.
    assert "tools" not in last.body or last.body["tool_choice"] == "none"


DOTS = 100
# Two kilobytes that would take a million comparisons.
DOUBLING = json.dumps(
    {
        "$ref": "#/$defs/a0",
        "$defs": {
            f"a{level}": {"anyOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} if level < 20 else {}
            for level in range(21)
        },
    }
)


def say(session: ScriptedSession, text: str) -> None:
    session.owe(pb.DownstreamPacket(user_message=pb.UserMessage(text=text, message_id=text)))


def test_what_the_user_says_meanwhile_is_heeded_between_rounds(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    dots: list[Step] = [step for number in range(DOTS) for step in (Pause(str(number)), ".")]
    server.then(calls(Call("add", ["{}"], "c-1")), ["Three", *dots, Finish()], says("Drei."))
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session = session_of(dispatcher)
        call = session.next_of("tool_call")
        say(session, "Be quick")
        session.answer_call(call, "3")
        session.next_of("content")
        say(session, "In German")
        # What is sent says how much has come: it goes on until it has heard.
        has_heard = False
        for number in range(DOTS):
            server.go_on(str(number))
            has_heard = has_heard or session.next_of("content").signals_received >= 3
        assert has_heard
        done = session.done()
    assert done.outcome == pb.OUTCOME_COMPLETED
    assert session.content == f"Three{DOTS * '.'}\n\nDrei."
    assert server.requests[1].messages[-1] == {"role": "user", "content": "Be quick"}
    assert server.requests[2].messages[-2:] == [
        {"role": "assistant", "content": f"Three{DOTS * '.'}"},
        {"role": "user", "content": "In German"},
    ]


def test_an_answer_that_was_cut_is_told_as_such(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    server.then(["half a", Finish("length")])
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session = session_of(dispatcher)
        session.done()
    (progress,) = [each.progress.text for each in session.other if each.HasField("progress")]
    assert "cut" in progress


# ---- metadata ----


def test_an_application_may_choose_model_system_prompt_and_tools(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    with (
        ModelServer(says("deep")) as other,
        serving(
            dispatcher.address, assistant, models={"fast": table(server), "deep": table(other, system="No.")}
        ),
    ):
        session = session_of(dispatcher, metadata={"model": "deep", "system": "Yes.", "tools": "find"})
        session.done()
    assert session.content == "deep"
    (request,) = other.requests
    assert request.messages[0] == {"role": "system", "content": "Yes."}
    assert [tool["function"]["name"] for tool in request.body["tools"]] == ["find"]


def test_no_tools_at_all_can_be_wished_for(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session_of(dispatcher, metadata={"tools": ""}).done()
    assert "tools" not in server.requests[0].body


def test_an_answer_by_schema_is_checked(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    server.then(says('{"n"', ": 6}"), says('{"m": 6}'))
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        link = dispatcher.accept()
        start = pb.Start(metadata={"schema": schema})
        good = ScriptedSession(link, "good", start=start)
        assert (good.done().outcome, good.content) == (pb.OUTCOME_COMPLETED, '{"n": 6}')
        error = ScriptedSession(link, "bad", start=start).done().error
    assert (error.code, error.origin) == ("model_schema_mismatch", pb.ERROR_ORIGIN_LLM)
    assert "'n' is a required property" in error.message
    assert server.requests[0].body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("metadata", "right"),
    [
        ({"model": "fats"}, "there is no language model 'fats'; did you mean fast?"),
        ({"tools": "add, fnid"}, "metadata tools: there is no tool 'fnid' on offer; there are add, find"),
        ({"schema": "{nope"}, "metadata schema: is no JSON"),
        ({"schema": "[]"}, "metadata schema: should be a JSON Schema, an object"),
        ({"schema": '{"type": "integre"}'}, "metadata schema: is no JSON Schema"),
        ({"schema": '{"items": [{"pattern": "(a+)+$"}]}'}, "metadata schema: should have no pattern"),
        ({"schema": '{"not":' * 400 + "{}" + "}" * 400}, "metadata schema: is nested too deeply"),
        ({"schema": '{"$ref": "#"}'}, "metadata schema: its references lead round"),
        ({"schema": DOUBLING}, "metadata schema: its references multiply"),
        ({"schema": '{"$ref": "#/nope"}'}, "metadata schema: has the reference '#/nope'"),
        ({"schema": '{"$schema": 5}'}, "metadata schema: is no JSON Schema: 5 is not of type 'string'"),
        ({"schema": '{"const": NaN}'}, "metadata schema: Out of range float values"),
        (
            {"schema": "{" + " " * 20_000 + "}"},
            "metadata schema: has 20,002 characters; at most 16,384 may be",
        ),
    ],
)
def test_wrong_metadata_is_told(
    dispatcher: ScriptedDispatcher, server: ModelServer, metadata: dict[str, str], right: str
) -> None:
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        error = session_of(dispatcher, metadata=metadata).done().error
    assert right in error.message
    assert not server.requests


# ---- what it reads ----


def test_pictures_and_files_are_handed_over(dispatcher: ScriptedDispatcher, server: ModelServer) -> None:
    parts = [
        pb.ContentPart(text="What is this?"),
        pb.ContentPart(blob=pb.Blob(mime_type="image/png", data=b"\x89PNG")),
        pb.ContentPart(blob=pb.Blob(mime_type="application/pdf", data=b"%PDF", name="a.pdf")),
    ]
    with serving(dispatcher.address, assistant, models={"fast": table(server)}) as here:
        link = dispatcher.accept()
        (offer,) = link.hello.agents
        assert {"image/*", "application/pdf", "text/plain"} <= set(offer.accepted_input)
        told = pb.Start(messages=[pb.Message(role=pb.ROLE_USER, parts=parts)])
        ScriptedSession(link, "s", start=told).done()
        assert here.commander.settings.models
    kinds = [part["type"] for part in server.requests[0].messages[-1]["content"]]
    assert kinds == ["text", "image_url", "file"]


@pytest.mark.parametrize(
    ("blob", "right"),
    [
        (
            pb.Blob(mime_type="application/pdf", uri="https://h/a.pdf"),
            "is given by its address, which only images",
        ),
        (
            pb.Blob(mime_type="image/png", uri="file:///etc/passwd"),
            "is given by its address, which only images",
        ),
        (pb.Blob(mime_type="image/png"), "is empty: neither bytes nor address"),
    ],
)
def test_what_can_not_be_handed_over_is_told(
    dispatcher: ScriptedDispatcher, server: ModelServer, blob: pb.Blob, right: str
) -> None:
    told = [pb.Message(role=pb.ROLE_USER, parts=[pb.ContentPart(blob=blob)])]
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        error = session_of(dispatcher, messages=told).done().error
    assert (error.code, right in error.message) == ("model_input_refused", True)
    assert not server.requests


def test_a_stop_in_a_call_of_a_tool_ends_the_loop(
    dispatcher: ScriptedDispatcher, server: ModelServer
) -> None:
    server.then(calls(Call("add", ["{}"])))
    with serving(dispatcher.address, assistant, models={"fast": table(server)}):
        session = session_of(dispatcher)
        session.next_of("tool_call")
        session.stop()
        session.stop_ack(pb.STOP_PHASE_APPLIED)
    assert len(server.requests) == 1


# ---- all of it: a real dispatcher, its tools, a commander of its own process ----


@asynchronous
async def test_through_a_real_dispatcher(server: ModelServer, tmp_path: Path) -> None:
    def script(request: Request) -> list[Step]:
        if request.messages[-1]["role"] == "tool":
            return says(f"It is {json.loads(request.messages[-1]['content'])['result']}.")
        if request.messages[-1]["content"] == "Fail":
            return [Status(402, "no credit left")]
        if request.messages[-1]["content"] == "Wait":
            return [Pause()]
        return calls(Call("calculate", ['{"expression": "6 * 7"}']))

    server.then(script)
    with running_dispatcher("--tools", "demo") as dispatcher:
        target = ["commander.agents.assistant:assistant", "--dispatcher", dispatcher.address]
        model = ["--model", "openai-chat:m", "--base-url", server.base_url]
        with running_commander(tmp_path, *target, *model) as commander:
            await asyncio.to_thread(commander.wait_for, "linked")
            async with conversing(dispatcher.address) as conversation:
                seen = await conversation.ask("assistant", "What is 6 * 7?", "1")
                assert (await seen.ended()).name == "completed"
                assert seen.text == "It is 42."
                failed = await conversation.ask("assistant", "Fail", "2")
                error = (await failed.ended()).error
                assert (error.code, error.origin) == ("model_quota_exhausted", pb.ERROR_ORIGIN_LLM)
                assert error.upstream_status == 402
                waits = await conversation.ask("assistant", "Wait", "3")
                await asyncio.to_thread(server.wait_for, 4)
                began_at = time.monotonic()
                await conversation.request("3", stop={"reason": "Enough"})
                await waits.ended()
                assert await asyncio.to_thread(server.wait_left, 4) - began_at < 1
                await conversation.half_close()
