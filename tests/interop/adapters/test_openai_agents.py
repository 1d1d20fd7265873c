"""An agent of OpenAI's Agents SDK, served: the real SDK, its models against a scripted server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_scene import (
    answers_fails_and_stops,
    closes_its_connection,
    closes_when_it_is_left,
    script,
    served,
)
from adapters_page import read
from asynchronous import asynchronous
from model_server import Call, Finish, ModelServer, Reset, Status, Step, calls, says

from commander import Blob, JsonPart, Message, ToolDenied
from commander.adapters import from_openai_agents
from commander.testing import DECLINED, AgentRun, run_agent, running_agent

pytestmark = pytest.mark.interop
sdk: Any = pytest.importorskip("agents")
openai: Any = pytest.importorskip("openai")
# Nothing is to be sent to the maker of the SDK.
sdk.set_tracing_disabled(True)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def model_of(server: ModelServer) -> Any:
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-secret", max_retries=0)
    return sdk.OpenAIChatCompletionsModel(model="scripted", openai_client=client)


def foreign(server: ModelServer, **told: Any) -> Any:
    return sdk.Agent(**{"name": "Ada", "model": model_of(server), **told})


def double(a: int) -> int:
    """Twice as much"""
    return 2 * a


def progress(run: AgentRun) -> list[str]:
    return [event.fields["text"] for event in run.events if event.kind == "progress"]


def returned(server: ModelServer, number: int) -> dict[str, str]:
    """What the model was told of its calls, by their ids."""
    told = server.requests[number].messages
    return {each["tool_call_id"]: each["content"] for each in told if each["role"] == "tool"}


# ---- what it says ----


@asynchronous
async def test_text_comes_as_it_is_said_and_usage_is_told(server: ModelServer) -> None:
    server.then(["Hel", "lo", Finish(reasoning_tokens=2)])
    run = await run_agent(from_openai_agents(foreign(server)), "Hi")
    assert (run.outcome, run.text) == ("completed", "Hello")
    assert (run.usage.input_tokens, run.usage.output_tokens, run.usage.reasoning_tokens) == (7, 3, 2)


@asynchronous
async def test_its_own_tools_are_shown_and_are_no_calls_of_the_dispatcher(server: ModelServer) -> None:
    server.then(["Let me see. ", *calls(Call("double", ['{"a": 21}']))], says("It is 42."))
    agent = foreign(server, tools=[sdk.function_tool(double)])
    run = await run_agent(from_openai_agents(agent), "Hi")
    assert run.text == "Let me see. It is 42."
    assert not run.calls
    assert progress(run) == ["double …"]
    assert run.thoughts == '{"a": 21}\n→ 42\n'
    assert run.usage.input_tokens == 14


@asynchronous
async def test_an_answer_that_is_a_tool_s_is_said(server: ModelServer) -> None:
    server.then(calls(Call("double", ['{"a": 21}'])))
    agent = foreign(server, tools=[sdk.function_tool(double)], tool_use_behavior="stop_on_first_tool")
    run = await run_agent(from_openai_agents(agent), "Hi")
    assert run.text == "42"


# ---- tools ----


@asynchronous
async def test_the_dispatcher_s_tools_are_its_tools_too(server: ModelServer) -> None:
    wanted = [
        Call("search", ['{"q": "x"}'], "c-1", 0),
        Call("closed", ["{}"], "c-2", 1),
        Call("search", ["[1]"], "c-3", 2),
    ]
    server.then(calls(*wanted), says("Found."))

    def search(q: str) -> dict[str, str]:
        """Looks it up"""
        return {"found": q}

    def closed() -> None:
        raise ToolDenied("closed", "not today")

    made = from_openai_agents(foreign(server), tools=["search", "closed"])
    run = await run_agent(made, "Find x", tools={"search": search, "closed": closed, "hidden": lambda: 1})
    assert run.text == "Found."
    assert sorted((call.tool, call.failure) for call in run.calls) == [("closed", "denied"), ("search", "")]
    assert progress(run) == []
    offered = {each["function"]["name"]: each["function"] for each in server.requests[0].body["tools"]}
    assert list(offered) == ["search", "closed"]
    assert offered["search"]["description"] == "Looks it up"
    assert returned(server, 1) == {
        "c-1": '{"found": "x"}',
        "c-2": "denied: not today",
        "c-3": "invalid_arguments: the arguments should be a JSON object",
    }


@asynchronous
@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_agents_that_it_hands_over_to_have_them_as_well(server: ModelServer, is_wrapped: bool) -> None:
    server.then(
        calls(Call("transfer_to_bob", ["{}"], "c-1")),
        calls(Call("search", ['{"q": "x"}'], "c-2")),
        says("Found."),
    )
    bob = foreign(server, name="Bob", instructions="You are Bob.")
    ada = foreign(server, handoffs=[sdk.handoff(bob) if is_wrapped else bob])
    # Back again: they know one another.
    bob.handoffs = [ada]
    run = await run_agent(from_openai_agents(ada), "Find x", tools={"search": lambda q: q})
    assert run.text == "Found.", run.failure
    assert [call.tool for call in run.calls] == ["search"]
    assert progress(run) == ["handed over to Bob"]
    assert server.requests[1].messages[0]["content"] == "You are Bob."
    # The agents themselves are as they were.
    assert (ada.tools, bob.tools) == ([], [])


# ---- the conversation ----


@asynchronous
async def test_the_conversation_is_handed_over(server: ModelServer) -> None:
    conversation = [
        Message("system", ("Speak English.",)),
        Message("user", ("Hello",)),
        Message("assistant", ("Hello to you",)),
        Message("tool", (JsonPart('{"a": 1}'),)),
        Message(
            "user",
            ("What is this?", Blob("image/png", b"\x89PNG"), Blob("application/pdf", b"%PDF", name="a.pdf")),
        ),
    ]
    run = await run_agent(from_openai_agents(foreign(server, instructions="You are Ada.")), conversation)
    assert run.text == "Hello, world!"
    told = server.requests[0].messages
    assert [each["role"] for each in told] == ["system", "system", "user", "assistant", "user", "user"]
    assert [told[0]["content"], told[1]["content"]] == ["You are Ada.", "Speak English."]
    assert told[4]["content"] == 'A tool returned: {"a": 1}'
    assert [part["type"] for part in told[5]["content"]] == ["text", "image_url", "file"]
    assert told[5]["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBORw=="


@asynchronous
async def test_what_can_not_be_handed_over_is_told(server: ModelServer) -> None:
    conversation = [Message("user", (Blob("image/png", uri="file:///etc/passwd"),))]
    run = await run_agent(from_openai_agents(foreign(server)), conversation)
    assert run.failure is not None
    assert (run.failure.code, len(server.requests)) == ("model_input_refused", 0)


@asynchronous
async def test_its_tools_have_what_context_makes_of_the_turn(server: ModelServer) -> None:
    server.then(calls(Call("whoami", ["{}"])), says("Done."))

    async def whoami(ctx: Any) -> str:
        """Who asks"""
        return str(ctx.context["user"])

    whoami.__annotations__["ctx"] = sdk.RunContextWrapper[Any]
    agent = foreign(server, tools=[sdk.function_tool(whoami)])
    made = from_openai_agents(agent, context=lambda turn: {"user": turn.user_id})
    await run_agent(made, "Hi", user_id="ada")
    assert returned(server, 1) == {"call_1": "ada"}


# ---- people ----


def risky(server: ModelServer) -> Any:
    def refund(amount: int) -> str:
        """Gives it back"""
        return f"{amount} are on their way"

    return foreign(server, tools=[sdk.function_tool(refund, needs_approval=True)])


@asynchronous
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("approve", "5 are on their way"),
        ("deny", "The user does not allow this call."),
        (DECLINED, "The user does not allow this call."),
    ],
)
async def test_a_tool_that_needs_approval_asks_the_user(
    server: ModelServer, answer: object, told: str
) -> None:
    server.then(calls(Call("refund", ['{"amount": 5}'])), says("So be it."))
    made = from_openai_agents(risky(server))
    run = await run_agent(made, "Refund", answers={'May refund run with {"amount": 5}?': answer})
    assert run.text == "So be it."
    assert run.questions[0].options == ("approve", "deny")
    assert returned(server, 1) == {"call_1": told}
    assert (run.usage.input_tokens, run.usage.output_tokens) == (14, 6)


@asynchronous
async def test_several_approvals_are_asked_at_once(server: ModelServer) -> None:
    wanted = [Call("refund", [f'{{"amount": {number}}}'], f"c-{number}", number) for number in range(2)]
    server.then(calls(*wanted), says("So be it."))
    async with running_agent(from_openai_agents(risky(server)), "Refund") as run:
        await run.until("question")
        await run.until("question")
        run.answer("deny", run.questions[1].question_id)
        run.answer("approve", run.questions[0].question_id)
        await run.over()
    assert returned(server, 1) == {"c-0": "0 are on their way", "c-1": "The user does not allow this call."}


# ---- what goes wrong ----


@asynchronous
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status(401, "wrong key sk-secret"), "model_key_refused"),
        (Status(429, "slow down", headers={"Retry-After": "7"}), "model_rate_limited"),
        (Status(503, "overloaded"), "model_unavailable"),
        (Status(400, "maximum context length", "context_length_exceeded"), "model_context_too_long"),
    ],
)
async def test_errors_of_the_model_have_a_code_and_the_status(
    server: ModelServer, status: Status, code: str
) -> None:
    server.then([status])
    run = await run_agent(from_openai_agents(foreign(server)), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == (code, "model")
    assert run.failure.upstream_status == status.status
    assert run.failure.retry_after_s == (7 if status.status == 429 else None)
    assert "sk-secret" not in run.failure.message


@asynchronous
async def test_a_run_without_an_end_has_one(server: ModelServer) -> None:
    server.then(lambda request: calls(Call("double", ['{"a": 1}'], f"c-{len(request.messages)}")))
    agent = foreign(server, tools=[sdk.function_tool(double)])
    run = await run_agent(from_openai_agents(agent, max_turns=3), "Hi")
    assert run.failure is not None
    assert (run.failure.code, len(server.requests)) == ("rounds_spent", 3)


@asynchronous
async def test_a_guardrail_that_trips_is_told(server: ModelServer) -> None:
    def never(context: Any, agent: Any, asked: Any) -> Any:
        return sdk.GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    guardrail = sdk.InputGuardrail(guardrail_function=never, run_in_parallel=False)
    run = await run_agent(from_openai_agents(foreign(server, input_guardrails=[guardrail])), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.text) == ("guardrail_tripped", "")


@asynchronous
async def test_an_answer_that_breaks_off_is_the_model_s_failure(server: ModelServer) -> None:
    server.then(["half", Reset()])
    run = await run_agent(from_openai_agents(foreign(server)), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == ("model_unreachable", "model")
    assert "after it had begun" in run.failure.message


@asynchronous
async def test_one_that_is_left_closes_the_model_s_connection(server: ModelServer) -> None:
    await closes_when_it_is_left(from_openai_agents(foreign(server)), server)


@asynchronous
@pytest.mark.parametrize("before", [[], ["Well, "]])
async def test_a_stop_closes_the_model_s_connection(server: ModelServer, before: list[Step]) -> None:
    await closes_its_connection(from_openai_agents(foreign(server)), server, *before)


def test_it_is_an_agent_like_others() -> None:
    made = from_openai_agents(sdk.Agent(name="Triage agent"), description="Mine", version="2")
    assert (made.name, made.description, made.version) == ("Triage-agent", "Mine", "2")


# ---- all of it ----

FILE = """
import agents
from openai import AsyncOpenAI

from commander.adapters import from_openai_agents

agents.set_tracing_disabled(True)
client = AsyncOpenAI(base_url="{base_url}", api_key="none", max_retries=0)
model = agents.OpenAIChatCompletionsModel(model="scripted", openai_client=client)
calculator = from_openai_agents(agents.Agent(name="calculator", model=model), tools=["calculate"])
"""


@asynchronous
async def test_through_a_real_dispatcher(server: ModelServer, tmp_path: Path) -> None:
    server.then(script)
    async with served(tmp_path, FILE.format(base_url=server.base_url), "calculator") as conversation:
        await answers_fails_and_stops(conversation, "calculator", server)


def test_the_page_s_examples_run(tmp_path: Path) -> None:
    read(tmp_path, "An agent of OpenAI's Agents SDK")
