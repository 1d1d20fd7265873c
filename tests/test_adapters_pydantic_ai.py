"""A pydantic-ai Agent, served: the real library, with scripted models and against a scripted server."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from adapter_scene import (
    answers_fails_and_stops,
    closes_its_connection,
    closes_when_it_is_left,
    script,
    served,
)
from asynchronous import asynchronous
from model_server import ModelServer, Raw, Reset, Status, Step
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, BinaryImage, CallDeferred, DeferredToolRequests, RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import (
    AgentInfo,
    DeltaThinkingCalls,
    DeltaThinkingPart,
    DeltaToolCall,
    FunctionModel,
)
from pydantic_ai.models.function import DeltaToolCalls as Calls
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

from commander import Blob, JsonPart, Message, ToolDenied, ToolTimeout, Turn, agent
from commander.adapters import from_pydantic_ai
from commander.testing import DECLINED, Event, Question, run_agent, running_agent

Said = str | Calls | DeltaThinkingCalls


class Scripted:
    """A model that says this, round by round, and records what it was asked."""

    def __init__(self, *rounds: list[Said]) -> None:
        self.asked: list[list[ModelMessage]] = []
        self.infos: list[AgentInfo] = []
        self.model = FunctionModel(stream_function=self._stream)
        self._rounds = list(rounds)

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Said]:
        self.asked.append(list(messages))
        self.infos.append(info)
        for said in self._rounds.pop(0):
            yield said

    def parts(self, number: int = -1) -> list[tuple[str, Any]]:
        """What a request consisted of."""
        return [
            (part.part_kind, getattr(part, "content", None))
            for message in self.asked[number]
            for part in message.parts
        ]


def calling(*names: str, arguments: str = "{}") -> Calls:
    return {
        number: DeltaToolCall(name, arguments, tool_call_id=f"c-{number}")
        for number, name in enumerate(names, 1)
    }


def told(events: list[Event], kind: str, field: str) -> list[Any]:
    return [event.fields[field] for event in events if event.kind == kind]


# ---- what it says ----


@asynchronous
async def test_text_is_content_reasoning_is_thoughts_and_usage_is_told() -> None:
    scripted = Scripted(
        [{0: DeltaThinkingPart(content="Hm, ")}, {0: DeltaThinkingPart(content="well.")}, "Hel", "lo"]
    )
    run = await run_agent(from_pydantic_ai(Agent(scripted.model), "polite"), "Hi")
    assert (run.outcome, run.text, run.thoughts) == ("completed", "Hello", "Hm, well.")
    assert run.usage.input_tokens > 0
    assert run.usage.output_tokens > 0
    assert run.kinds() == ["thought", "content", "usage"]


@asynchronous
async def test_its_own_tools_are_shown_and_are_no_calls_of_the_dispatcher() -> None:
    scripted = Scripted(["Let me see. ", calling("double", arguments='{"a": 21}')], ["It is 42."])
    agent = Agent(scripted.model)

    @agent.tool_plain
    def double(a: int) -> int:
        return 2 * a

    run = await run_agent(from_pydantic_ai(agent, "polite"), "Hi")
    assert run.text == "Let me see. It is 42."
    assert not run.calls
    assert told(run.events, "progress", "text") == ["double …"]
    assert set(told(run.events, "thought", "step_name")) == {"double"}
    assert run.thoughts == '{"a": 21}\n→ 42\n'


@asynchronous
async def test_tools_that_the_provider_runs_are_shown_and_files_are_artifacts(server: ModelServer) -> None:
    picture = {
        "type": "image_generation_call", "id": "ig-1", "status": "completed", "output_format": "png",
        "result": base64.b64encode(b"\x89PNG").decode(),
    }  # fmt: skip
    response = {
        "id": "r", "object": "response", "created_at": 1, "model": "scripted", "output": [picture],
        "status": "completed", "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip
    place = {"output_index": 0, "sequence_number": 1}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "output": []}, "sequence_number": 0},
        {"type": "response.output_item.added", "item": {**picture, "status": "in_progress"}, **place},
        {"type": "response.output_item.done", "item": picture, **place},
        {"type": "response.completed", "response": response, "sequence_number": 9},
    ]
    server.then([Raw(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode()) for each in events])
    client = AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    model = OpenAIResponsesModel("gpt-5", provider=OpenAIProvider(openai_client=client))
    agent = Agent(model, output_type=BinaryImage)
    run = await run_agent(from_pydantic_ai(agent, "painter"), "Paint")
    assert list(run.artifacts.values()) == [b"\x89PNG"], run.failure
    assert told(run.events, "progress", "text") == ["image_generation …"]
    assert "→" in run.thoughts
    assert run.text == ""


class Weather(BaseModel):
    city: str
    rain_mm: float


@asynchronous
async def test_structured_output_is_json() -> None:
    scripted = Scripted([calling("final_result", arguments='{"city": "Oslo", "rain_mm": 3}')])
    run = await run_agent(from_pydantic_ai(Agent(scripted.model, output_type=Weather), "weather"), "Rain?")
    assert Weather.model_validate_json(run.text) == Weather(city="Oslo", rain_mm=3)
    assert told(run.events, "progress", "text") == []


# ---- the dispatcher's tools ----


@asynchronous
async def test_the_dispatcher_s_tools_are_its_tools_too() -> None:
    scripted = Scripted([calling("search", "closed", "slow", arguments='{"q": "x"}')], ["Found."])

    def search(q: str) -> dict[str, str]:
        """Looks it up"""
        return {"found": q}

    def closed(q: str) -> None:
        raise ToolDenied("closed", "not today")

    def slow(q: str) -> None:
        raise ToolTimeout("slow", "took too long", retryable=True)

    tools: dict[str, Callable[..., Any]] = {"search": search, "closed": closed, "slow": slow}
    run = await run_agent(from_pydantic_ai(Agent(scripted.model), "seeker"), "Find x", tools=tools)
    assert run.text == "Found."
    assert [(call.tool, call.failure) for call in run.calls] == [
        ("search", ""), ("closed", "denied"), ("slow", "timeout"),
    ]  # fmt: skip
    assert [tool.name for tool in scripted.infos[0].function_tools] == ["search", "closed", "slow"]
    assert scripted.infos[0].function_tools[0].description == "Looks it up"
    assert [content for kind, content in scripted.parts() if kind == "tool-return"] == [
        '{"found": "x"}', "denied: not today", "timeout: took too long; the same call may succeed later",
    ]  # fmt: skip
    # Viewers see them as what they are, and not a second time.
    assert told(run.events, "progress", "text") == []


@asynchronous
async def test_arguments_that_are_none_are_for_the_model_to_mend() -> None:
    scripted = Scripted(
        [calling("search", arguments="[1]")], [calling("search", arguments='{"q": 1}')], ["Found."]
    )
    agent = from_pydantic_ai(Agent(scripted.model), "seeker")
    run = await run_agent(agent, "Find x", tools={"search": lambda q: q})
    assert (run.text, len(run.calls)) == ("Found.", 1)


@asynchronous
async def test_tools_can_be_chosen() -> None:
    scripted = Scripted(["Hi"])
    agent = from_pydantic_ai(Agent(scripted.model), "seeker", tools=["b"])
    await run_agent(agent, "Hi", tools={"a": lambda: 1, "b": lambda: 2})
    assert [tool.name for tool in scripted.infos[0].function_tools] == ["b"]
    run = await run_agent(agent, "Hi", tools={"a": lambda: 1})
    assert run.failure is not None
    assert (run.failure.code, run.failure.message) == (
        "tool_not_offered", "tools: there is no tool 'b' on offer; there are a",
    )  # fmt: skip


@asynchronous
async def test_two_tools_of_one_name_are_a_mistake_that_is_told() -> None:
    agent = Agent(Scripted(["Hi"]).model)

    @agent.tool_plain
    def search(q: str) -> str:
        return q

    run = await run_agent(from_pydantic_ai(agent, "seeker"), "Hi", tools={"search": lambda q: q})
    assert run.failure is not None
    assert run.failure.code == "agent_misconfigured"
    assert "from_pydantic_ai(tools=…)" in run.failure.message


# ---- the conversation ----


@asynchronous
async def test_the_conversation_is_its_history() -> None:
    scripted = Scripted(["A cat."])
    agent = Agent(scripted.model, system_prompt="You are Ada.", instructions="Be brief.")
    conversation = [
        Message("system", ("Speak English.",)),
        Message("user", ("Hello",)),
        Message("assistant", ("Hello to you",)),
        Message("user", ("What is this?", Blob("image/png", b"\x89PNG"), JsonPart('{"a": 1}'))),
    ]
    run = await run_agent(from_pydantic_ai(agent, "ada"), conversation)
    assert run.text == "A cat."
    kinds = [kind for kind, _ in scripted.parts()]
    assert kinds == ["system-prompt", "user-prompt", "text", "user-prompt"]
    assert scripted.parts()[0][1] == "You are Ada."
    content = scripted.parts()[-1][1]
    assert content[0] == "What is this?"
    assert isinstance(content[1], BinaryContent)
    assert (content[1].data, content[1].media_type) == (b"\x89PNG", "image/png")
    assert content[2] == '{"a": 1}'
    last = scripted.asked[0][-1]
    assert isinstance(last, ModelRequest)
    assert last.instructions == "Be brief.\n\nSpeak English."


@asynchronous
async def test_what_can_not_be_handed_over_is_told() -> None:
    conversation = [Message("user", (Blob("image/png", uri="file:///etc/passwd"),))]
    run = await run_agent(from_pydantic_ai(Agent(TestModel()), "ada"), conversation)
    assert run.failure is not None
    assert (run.failure.code, "only images" in run.failure.message) == ("model_input_refused", True)


@asynchronous
async def test_nothing_to_answer_is_told() -> None:
    run = await run_agent(from_pydantic_ai(Agent(TestModel()), "ada"), [])
    assert run.failure is not None
    assert run.failure.code == "model_request_refused"


@dataclass
class Deps:
    user: str


@asynchronous
async def test_its_tools_have_what_deps_makes_of_the_turn() -> None:
    scripted = Scripted([calling("whoami")], ["Done."])
    agent = Agent(scripted.model, deps_type=Deps)

    @agent.tool
    def whoami(ctx: RunContext[Deps]) -> str:
        return ctx.deps.user

    def deps(turn: Turn) -> Deps:
        return Deps(turn.user_id)

    await run_agent(from_pydantic_ai(agent, "who", deps=deps), "Hi", user_id="ada")
    assert ("tool-return", "ada") in scripted.parts()


# ---- people ----


def risky_agent(scripted: Scripted) -> Agent[None, str]:
    agent = Agent(scripted.model)

    @agent.tool_plain(requires_approval=True)
    def refund(amount: int) -> str:
        return f"{amount} are on their way"

    return agent


@asynchronous
@pytest.mark.parametrize(
    ("answer", "returned"),
    [
        ("approve", "5 are on their way"),
        ("deny", "The user does not allow this call."),
        (DECLINED, "The user does not allow this call."),
    ],
)
async def test_a_tool_that_wants_approval_asks_the_user(answer: object, returned: str) -> None:
    scripted = Scripted([calling("refund", arguments='{"amount": 5}')], ["So be it."])
    agent = from_pydantic_ai(risky_agent(scripted), "till")
    run = await run_agent(agent, "Refund", answers={'May refund run with {"amount": 5}?': answer})
    assert run.text == "So be it."
    assert run.questions[0].options == ("approve", "deny")
    assert ("tool-return", returned) in scripted.parts()


@asynchronous
async def test_several_approvals_are_asked_at_once() -> None:
    scripted = Scripted([calling("refund", "refund", arguments='{"amount": 5}')], ["So be it."])
    async with running_agent(from_pydantic_ai(risky_agent(scripted), "till"), "Refund") as run:
        await run.until("question")
        await run.until("question")
        run.answer("deny", run.questions[1].question_id)
        run.answer("approve", run.questions[0].question_id)
        await run.over()
    returned = [content for kind, content in scripted.parts() if kind == "tool-return"]
    assert returned == ["5 are on their way", "The user does not allow this call."]


@asynchronous
async def test_a_question_that_a_tool_defers_is_put_to_the_user() -> None:
    scripted = Scripted(
        [calling("ask_user", arguments='{"question": "Which size?", "options": ["S", "M"]}')], ["Fine."]
    )
    agent = Agent(scripted.model)

    @agent.tool_plain
    def ask_user(question: str, options: list[str]) -> str:
        raise CallDeferred(kind="question")

    def answer(question: Question) -> str:
        assert (question.text, question.options) == ("Which size?", ("S", "M"))
        return "M"

    run = await run_agent(from_pydantic_ai(agent, "tailor"), "A hat", answers=answer)
    assert run.text == "Fine."
    assert ("tool-return", "M") in scripted.parts()


@asynchronous
@pytest.mark.parametrize(
    ("output", "code"),
    [(str, "agent_misconfigured"), ([str, DeferredToolRequests], "tools_unanswered")],
)
async def test_a_call_that_nobody_runs_is_told(output: Any, code: str) -> None:
    scripted = Scripted([calling("elsewhere")])
    agent: Agent[None, Any] = Agent(scripted.model, output_type=output)

    @agent.tool_plain
    def elsewhere() -> str:
        raise CallDeferred

    run = await run_agent(from_pydantic_ai(agent, "tailor"), "A hat")
    assert run.failure is not None
    assert run.failure.code == code
    assert "HandleDeferredToolCalls" in run.failure.message


@asynchronous
async def test_what_the_user_adds_is_answered_too() -> None:
    has_said, may_end = asyncio.Event(), asyncio.Event()
    asked: list[list[ModelMessage]] = []

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        asked.append(list(messages))
        if len(asked) == 1:
            yield "Three."
            has_said.set()
            await may_end.wait()
        else:
            yield "Drei."

    async with running_agent(
        from_pydantic_ai(Agent(FunctionModel(stream_function=stream)), "n"), "1 + 2?"
    ) as run:
        await run.until_text("Three.")
        run.say("In German")
        may_end.set()
        await run.over()
    assert run.text == "Three.\n\nDrei."
    assert has_said.is_set()
    last = asked[1][-1].parts[0]
    assert getattr(last, "content", None) in ("In German", ["In German"])


# ---- what goes wrong ----


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def model_of(server: ModelServer) -> Model[Any]:
    client = AsyncOpenAI(base_url=server.base_url, api_key="sk-secret", max_retries=0)
    return OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=client))


@asynchronous
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status(401, "wrong key sk-secret"), "model_key_refused"),
        (Status(404, "no such model"), "model_unknown"),
        (Status(429, "slow down", headers={"Retry-After": "7"}), "model_rate_limited"),
        (Status(503, "overloaded"), "model_unavailable"),
        (Status(400, "maximum context length", "context_length_exceeded"), "model_context_too_long"),
    ],
)
async def test_errors_of_the_model_have_a_code_and_the_status(
    server: ModelServer, status: Status, code: str
) -> None:
    server.then([status])
    run = await run_agent(from_pydantic_ai(Agent(model_of(server)), "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == (code, "model")
    assert run.failure.upstream_status == status.status
    assert run.failure.retry_after_s == (7 if status.status == 429 else None)
    assert "sk-secret" not in run.failure.message
    assert run.failure.message.startswith("the model of agent 'ada' failed")


@asynchronous
async def test_of_fallbacks_that_all_fail_the_last_is_told() -> None:
    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        if messages:
            raise ModelHTTPError(503, "m", {"message": "overloaded"})
        yield ""

    models = [FunctionModel(stream_function=stream), FunctionModel(stream_function=stream)]
    run = await run_agent(from_pydantic_ai(Agent(FallbackModel(*models)), "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.upstream_status) == ("model_unavailable", 503)


@asynchronous
async def test_its_limits_are_told_as_such() -> None:
    agent = Agent(Scripted([calling("a")], ["Hi"]).model)
    once = from_pydantic_ai(agent, "ada", usage_limits=UsageLimits(request_limit=1))
    run = await run_agent(once, "Hi", tools={"a": lambda: 1})
    assert run.failure is not None
    assert run.failure.code == "usage_limit_exceeded"


@asynchronous
@pytest.mark.parametrize(
    "error",
    [
        LookupError("no such drawer"),
        NotImplementedError("no such drawer"),
        httpx2.ConnectError("no such drawer"),
        json.JSONDecodeError("no such drawer", "", 0),
    ],
)
async def test_what_its_author_s_code_raises_stays_what_it_is(error: Exception) -> None:
    agent = Agent(Scripted([calling("broken")]).model)

    @agent.tool_plain
    def broken() -> str:
        raise error

    run = await run_agent(from_pydantic_ai(agent, "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.error_type) == ("agent_exception", type(error).__name__)
    assert run.failure.message.startswith("no such drawer")


@asynchronous
@pytest.mark.parametrize(
    ("steps", "code"),
    [(["half", Reset()], "model_unreachable"), ([Raw(b"data: {nope\n\n")], "model_malformed")],
)
async def test_an_answer_that_breaks_off_is_the_model_s_failure(
    server: ModelServer, steps: list[Step], code: str
) -> None:
    server.then(steps)
    run = await run_agent(from_pydantic_ai(Agent(model_of(server)), "ada"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin) == (code, "model")


@asynchronous
async def test_one_that_is_left_closes_the_model_s_connection(server: ModelServer) -> None:
    await closes_when_it_is_left(from_pydantic_ai(Agent(model_of(server)), "ada"), server)


@asynchronous
@pytest.mark.parametrize("before", [[], ["Well, "]])
async def test_a_stop_closes_the_model_s_connection(server: ModelServer, before: list[Step]) -> None:
    await closes_its_connection(from_pydantic_ai(Agent(model_of(server)), "ada"), server, *before)


# ---- as an agent ----


def test_it_is_an_agent_like_others() -> None:
    made = from_pydantic_ai(Agent(TestModel(), name="my_agent"), description="Mine", version="2")
    assert (made.name, made.description, made.version) == ("my-agent", "Mine", "2")
    assert "image/*" in made.accepts
    with pytest.raises(ValueError, match="give it one: from_pydantic_ai"):
        from_pydantic_ai(Agent(TestModel()))


@asynchronous
async def test_it_may_be_of_a_team() -> None:
    """As any agent: what it says, calls and asks is told under its path."""
    seeker = from_pydantic_ai(
        Agent(Scripted([calling("search", arguments='{"q": "x"}')], ["Found."]).model), "seeker"
    )
    till = from_pydantic_ai(
        risky_agent(Scripted([calling("refund", arguments='{"amount": 5}')], ["Done."])), "till"
    )

    @agent("both")
    async def both(turn: Turn) -> AsyncIterator[str]:
        async with turn.team() as team:
            team.start("seeker", seeker)
            team.start("till", till)
        yield "All told."

    answers = {'May refund run with {"amount": 5}?': "approve"}
    run = await run_agent(both, "Go", tools={"search": lambda q: q}, answers=answers)
    assert (run.text, run.outcome) == ("All told.", "completed"), run.failure
    by_path = {
        path: [event.kind for event in run.events if event.agent == path and event.kind != "thought"]
        for path in ("seeker", "till")
    }
    assert [kind for kind in by_path["seeker"] if kind in ("tool_call", "content")] == [
        "tool_call",
        "content",
    ]
    assert [kind for kind in by_path["till"] if kind in ("question", "content")] == ["question", "content"]


FILE = """
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from commander.adapters import from_pydantic_ai

client = AsyncOpenAI(base_url="{base_url}", api_key="none", max_retries=0)
model = OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=client))
calculator = from_pydantic_ai(Agent(model), "calculator", tools=["calculate"])
"""


@asynchronous
async def test_through_a_real_dispatcher(server: ModelServer, tmp_path: Path) -> None:
    server.then(script)
    async with served(tmp_path, FILE.format(base_url=server.base_url), "calculator") as conversation:
        await answers_fails_and_stops(conversation, "calculator", server)
