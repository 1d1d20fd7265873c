"""What can be said of a provider before its library is imported: mistyped names, and keys that nobody has set."""

import inspect
import re
from pathlib import Path

import pytest
from commander_process import running_commander
from pydantic_ai import providers as library

from commander.metrics import Metrics
from commander.models import providers
from commander.models.registry import open_models
from commander.settings import Settings, SettingsError


def refusal(environ: dict[str, str], **table: str) -> str:
    with pytest.raises(SettingsError) as caught:
        open_models(Settings.model_validate({"models": {"fast": table}}), environ, Metrics())
    return str(caught.value)


def accepted(environ: dict[str, str], **table: str) -> None:
    open_models(Settings.model_validate({"models": {"fast": table}}), environ, Metrics())


def test_the_names_are_those_of_the_library() -> None:
    cases = re.findall(r"^\s+case (.+):$", inspect.getsource(library.infer_provider_class), re.MULTILINE)
    assert {name for case in cases for name in re.findall(r"'([^']+)'", case)} == providers.NAMES


@pytest.mark.parametrize(("provider", "variables"), providers.USUAL.items())
def test_the_variables_are_those_of_the_library(provider: str, variables: tuple[str, ...]) -> None:
    module = inspect.getmodule(library.infer_provider_class)
    assert module is not None
    name = "openai" if provider.startswith("openai") else provider
    text = (Path(str(module.__file__)).parent / f"{name}.py").read_text()
    assert [each for each in variables if each not in text] == []


@pytest.mark.parametrize(
    ("wrong", "right"), [("opnai", "openai"), ("antropic", "anthropic"), ("olama", "ollama")]
)
def test_a_mistyped_provider_is_refused_at_the_start(wrong: str, right: str) -> None:
    told = refusal({}, model=f"{wrong}:m", base_url="http://127.0.0.1:1")
    assert told == f"[models.fast] model = '{wrong}:m': there is no provider '{wrong}'; did you mean {right}?"


def test_a_provider_that_a_newer_library_may_know_is_left_to_it() -> None:
    accepted({}, model="brandnew:m", base_url="http://127.0.0.1:1")


@pytest.mark.parametrize(("provider", "variables"), providers.USUAL.items())
def test_a_usual_key_that_is_not_set_is_told_at_the_start(
    provider: str, variables: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for variable in variables:
        accepted({variable: "k"}, model=f"{provider}:m")
    accepted({}, model=f"{provider}:m", base_url="http://127.0.0.1:1")
    accepted({"MINE": "k"}, model=f"{provider}:m", api_key_env="MINE")
    assert caplog.text == ""
    accepted({}, model=f"{provider}:m")
    assert f"the variable {variables[0]} is not set" in caplog.text
    assert ("a compatible server has a base_url" in caplog.text) == (provider == "openai-chat")


@pytest.mark.parametrize("name", ["assistant", "team"])
def test_whoever_serves_an_agent_that_has_no_model_is_told(tmp_path: Path, name: str) -> None:
    with running_commander(tmp_path, name, "--dispatcher", "127.0.0.1:1") as commander:
        commander.wait_for(f"{name}: no language model: name one by --model")
