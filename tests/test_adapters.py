"""What holds for all adapters: they cost nothing until one is called, and say what is missing; how failures of
providers' libraries are told, whichever library it is."""

import json
import subprocess
import sys
from typing import Any

import httpx
import openai
import pytest
from asynchronous import asynchronous
from hypothesis import given
from hypothesis import strategies as st
from model_server import ModelServer, Raw, Step, says
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider

from commander import adapters
from commander.adapters import upstream
from commander.agent import AnyAgent
from commander.models.failures import FAILURES, Trouble
from commander.testing import run_agent

LIBRARIES = ("pydantic_ai", "openai", "langgraph", "langchain_core", "agents")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_to_import_them_imports_no_library() -> None:
    names = ", ".join(adapters.__all__)
    code = f"import sys; from commander.adapters import {names}; print([n for n in {LIBRARIES} if n in sys.modules])"
    assert run(code) == "[]"


@pytest.mark.parametrize(
    ("call", "module", "package", "extra"),
    [
        ("from_pydantic_ai(None)", "pydantic_ai", "pydantic-ai-slim", "llm"),
        ("from_openai(None, model='m', name='n')", "openai", "openai", "llm"),
        ("openai_pieces(None)", "openai", "openai", "llm"),
        ("from_langgraph(None, 'n')", "langgraph", "langgraph", "adapters"),
        ("from_openai_agents(None)", "agents", "openai-agents", "adapters"),
        ("langchain_tools(None)", "langchain_core", "langchain-core", "adapters"),
    ],
)
def test_a_library_that_is_missing_is_named(call: str, module: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from commander.adapters import *\n"
        f"try:\n    {call}\nexcept ImportError as error:\n    print(error)"
    )
    told = run(code)
    assert told.startswith(f"this adapter needs {package}, which can't be imported")
    assert told.endswith(f"pip install 'chatstream[{extra}]'")


class StatusError(Exception):
    """Anybody's: a status, a body, perhaps a response with headers."""

    def __init__(self, status: object, body: object, retry_after: str | None = None) -> None:
        super().__init__("the library's own words, with the body and all")
        self.status_code = status
        self.body = body
        headers = {} if retry_after is None else {"retry-after": retry_after}
        self.response = type("Response", (), {"headers": headers})()


class APIError(StatusError):
    """As the libraries of providers have it."""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    status=st.integers(400, 599),
    body=JSON | st.fixed_dictionaries({"error": JSON}) | st.fixed_dictionaries({"message": st.text()}),
    retry_after=st.none() | st.text(max_size=10) | st.integers(0, 1_000).map(str),
)
def test_whatever_a_provider_answers_is_a_failure_that_can_be_told(
    status: int, body: object, retry_after: str | None
) -> None:
    trouble = upstream.trouble(APIError(status, body, retry_after))
    assert trouble is not None
    assert (trouble.code in FAILURES, trouble.upstream_status) == (True, status)
    failed = upstream.failed("the model", "m", trouble, has_begun=False)
    assert len(str(failed)) < 400
    assert "\n" not in str(failed)
    if status in (401, 403):
        assert str(failed) == "the model failed: the provider refuses the key"


@given(status=st.none() | st.integers() | st.text())
def test_what_no_provider_is_to_blame_for_stays_what_it_is(status: object) -> None:
    """A tool is a client too, and its errors look the same."""
    assert upstream.trouble(StatusError(status, None)) is None
    assert upstream.trouble(LookupError("no such drawer")) is None
    assert upstream.trouble(AttributeError("no such drawer")) is None
    assert upstream.trouble(httpx.ConnectError("no route to the weather")) is None


def test_what_came_through_a_provider_s_library_is_a_provider_s() -> None:
    library: dict[str, object] = {"__name__": "openai._streaming"}
    exec("def read(error):\n    raise error", library)  # noqa: S102 - a module that is called like one
    for error, code in (
        (StatusError(503, None), "model_unavailable"),
        (httpx.ReadTimeout("late"), "model_timeout"),
        (httpx.RemoteProtocolError("broken off"), "model_unreachable"),
        (AttributeError("'list' object has no attribute 'usage'"), "model_malformed"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), "model_malformed"),
        (LookupError("no such drawer"), None),
        (TypeError("create() got an unexpected keyword argument 'temprature'"), None),
    ):
        with pytest.raises(type(error)) as raised:
            library["read"](error)  # type: ignore[operator]
        trouble = upstream.trouble(raised.value)
        assert (trouble and trouble.code) == code


def test_when_to_come_back_is_told_only_where_that_helps() -> None:
    for status, retry_after_s in ((429, 7.0), (400, None)):
        trouble = upstream.trouble(APIError(status, {"message": "no"}, "7"))
        assert trouble is not None
        assert upstream.failed("m", "m", trouble, has_begun=False).retry_after_s == retry_after_s


def test_an_agent_that_is_brought_does_not_go_on_in_the_middle() -> None:
    """Viewers would have the beginning twice."""
    with pytest.raises(ValueError, match="on_restart should be 'restart' or 'never'"):
        adapters.from_pydantic_ai(Agent(TestModel()), "ada", on_restart="continue")


def test_one_name_of_a_tool_is_not_taken_for_its_letters() -> None:
    tools: Any = "calculate"
    with pytest.raises(TypeError, match=r"e\.g\. \['calculate'\]"):
        adapters.from_pydantic_ai(Agent(TestModel()), "ada", tools=tools)


def test_what_an_adapter_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(
        TypeError, match="from_pydantic_ai: the agent should be an Agent of pydantic-ai, not str"
    ):
        adapters.from_pydantic_ai("ada", "ada")  # type: ignore[arg-type]
    client = openai.AsyncOpenAI(api_key="none")
    with pytest.raises(
        ValueError, match="from_openai: parameters should not have messages, stream: those it says"
    ):
        adapters.from_openai(client, model="m", name="n", parameters={"stream": False, "messages": []})
    with pytest.raises(TypeError, match=r"tools should be names, e\.g\. \['search'\]; 5 is none"):
        adapters.from_openai(client, model="m", name="n", tools=[5])  # type: ignore[list-item]


def test_there_is_one_round_at_least() -> None:
    client = openai.AsyncOpenAI(api_key="none")
    with pytest.raises(ValueError, match="rounds should be 1 or more, not 0"):
        adapters.from_openai(client, model="m", name="ada", rounds=0)


def test_trouble_is_itself() -> None:
    trouble = Trouble("model_timeout", "late")
    assert upstream.trouble(trouble) is trouble


# ---- what a model's server may send ----


def chunk(delta: dict[str, Any] | None, *, finish: str | None = None, **more: Any) -> Raw:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **more,
    }
    return Raw(b"data: " + json.dumps(body).encode() + b"\n\n")


def wants(name: str, arguments: str) -> list[Step]:
    function = {"name": name, "arguments": arguments}
    call = {"index": 0, "id": "c1", "type": "function", "function": function}
    return [chunk({"tool_calls": [call]}), chunk({}, finish="tool_calls")]


def brought(server: ModelServer, library: str) -> AnyAgent:
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    if library == "openai":
        return adapters.from_openai(client, model="m", name="ada")
    model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
    return adapters.from_pydantic_ai(Agent(model), "ada")


STOP = chunk({}, finish="stop")
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


# The library warns of them as well.
@pytest.mark.filterwarnings("ignore:Failed to extract usage", "ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("library", ["openai", "pydantic-ai"])
@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([chunk({"content": "a\ud83d"}), chunk({"content": "\ude00b"}), STOP], "a😀b"),
        ([chunk({"content": "a\ud83db"}), STOP], "a�b"),
        ([chunk({"content": "a\ud83d"}), STOP], "a�"),
        ([chunk({"reasoning_content": "a\ud83d"}), chunk({"content": "b"}), STOP], "b"),
        ([chunk({"content": "a"}), chunk(None), STOP], "a"),
        *(
            ([chunk({"content": "a"}), chunk({}, finish="stop", usage=dict.fromkeys(COUNTS, number))], "a")
            for number in (None, 1.5, -1, 2**70, "7")
        ),
        ([chunk({"content": "a"}), chunk({}, finish="stop", usage={})], "a"),
    ],
)
@asynchronous
async def test_halves_of_characters_and_odd_counts_are_no_failure_of_the_agent(
    steps: list[Step], text: str, library: str
) -> None:
    with ModelServer(steps) as server:
        run = await run_agent(brought(server, library), "Hi")
    assert (run.outcome, run.text) == ("completed", text)


@pytest.mark.parametrize("library", ["openai", "pydantic-ai"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("add", "[" * 200_000),
        ("add", '{"a":' * 100_000),
        ("x" * 3_000, "{}"),
        ("", "{}"),
        ("add", '{"a": NaN}'),
    ],
    ids=["list", "object", "long", "nameless", "nan"],
)
@asynchronous
async def test_a_call_that_can_not_be_made_is_for_the_model_to_mend(
    name: str, arguments: str, library: str
) -> None:
    with ModelServer(wants(name, arguments), says("Never mind.")) as server:
        run = await run_agent(brought(server, library), "Hi", tools={"add": lambda a: a})
    assert (run.outcome, run.text) == ("completed", "Never mind.")


@pytest.mark.parametrize("what", [Raw(b"data: {{{\n\n"), chunk({"content": 5})], ids=["no json", "no text"])
@asynchronous
async def test_what_is_no_part_of_an_answer_is_the_model_s_failure(what: Step) -> None:
    with ModelServer([chunk({"content": "a"}), what, STOP]) as server:
        run = await run_agent(brought(server, "openai"), "Hi")
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin, run.text) == ("model_malformed", "model", "a")
    assert "it sent what is no part of an answer" in run.failure.message
