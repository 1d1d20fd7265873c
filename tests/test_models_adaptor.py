"""The adaptor over pydantic-ai: when it is imported, what it can connect, what it says of what it can't."""

import subprocess
import sys

import pytest
from page import ROOT

from commander.models.adaptor import Adaptor
from commander.models.failures import Trouble
from commander.models.words import Connection, Secret

KEY = Secret("sk-hunter2")


def python(program: str) -> str:
    """What it prints, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT / "tests",
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_nothing_of_it_is_imported_before_a_model_is_used() -> None:
    told = "import sys, commander.serve, commander.agents.assistant, commander.cli"
    heavy = "{'pydantic_ai', 'openai', 'anthropic', 'jsonschema'}"
    assert python(f"{told}; print(sorted({heavy} & sys.modules.keys()))") == "[]"


def test_without_the_extra_it_is_named() -> None:
    told = """
import asyncio, sys
sys.modules["pydantic_ai"] = None
from model_scene import Scene
failure = asyncio.run(Scene({"fast": {"model": "openai-chat:m", "base_url": "http://127.0.0.1:1"}}).failure())
print(failure.code, failure)
"""
    said = python(told)
    assert said.startswith("model_not_configured")
    assert "need the extra llm: pip install 'chatstream[llm]'" in said


@pytest.mark.parametrize(
    "connection",
    [
        Connection("openai-chat", "qwen3", "http://127.0.0.1:8000/v1"),
        Connection("openai", "gpt-5", key=KEY),
        Connection("openai", "gpt-5", "https://proxy.example/v1", KEY),
        Connection("anthropic", "claude-sonnet-4-5", key=KEY),
        Connection("anthropic", "claude-sonnet-4-5", "http://127.0.0.1:9", KEY),
        Connection("deepseek", "deepseek-chat", key=KEY),
        Connection("ollama", "llama3", "http://127.0.0.1:11434/v1"),
    ],
)
def test_what_it_connects(connection: Connection) -> None:
    shown = repr(Adaptor(connection)) + repr(connection)
    assert connection.model in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("connection", "right"),
    [
        (
            Connection("opanai", "gpt-5", key=KEY),
            "there is no provider 'opanai': openai-chat is right for every",
        ),
        (Connection("deepseek", "m", "http://127.0.0.1:9", KEY), "provider 'deepseek' takes no base_url"),
        (Connection("groq", "llama", key=KEY), "groq"),
    ],
)
def test_what_it_can_not_connect_is_told(connection: Connection, right: str) -> None:
    with pytest.raises(Trouble) as caught:
        Adaptor(connection)
    assert caught.value.code == "model_not_configured"
    assert right in caught.value.message
    assert "hunter2" not in caught.value.message


def test_parameters_that_the_library_of_a_provider_knows_are_right() -> None:
    for provider, name in (
        ("openai-chat", "openai_reasoning_effort"),
        ("openai", "openai_text_verbosity"),
        ("anthropic", "anthropic_metadata"),
    ):
        Adaptor(
            Connection(provider, "m", "http://127.0.0.1:9", parameters={name: "x", "extra_body": {"y": 1}})
        )


@pytest.mark.parametrize(
    ("provider", "name", "right"),
    [
        ("openai-chat", "openai_reasoning_efort", "did you mean openai_reasoning_effort"),
        ("openai-chat", "anthropic_effort", "is no parameter of provider 'openai-chat'"),
        ("anthropic", "openai_user", "its own are anthropic_"),
        ("openai", "zzz", "goes into extra_body = { … }"),
    ],
)
def test_one_that_it_would_ignore_is_told(provider: str, name: str, right: str) -> None:
    with pytest.raises(Trouble) as caught:
        Adaptor(Connection(provider, "m", "http://127.0.0.1:9", parameters={name: "low"}))
    assert caught.value.code == "model_not_configured"
    assert f"parameters {name} is no parameter" in caught.value.message
    assert right in caught.value.message


def test_a_provider_s_usual_key_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Trouble, match="OPENAI_API_KEY"):
        Adaptor(Connection("openai-chat", "gpt-5"))
