"""The tables `[models.NAME]`: what is right, and how what is wrong is refused, with its key and what would be right."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from commander_process import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from commander.errors import ModelFailed
from commander.metrics import Metrics
from commander.models.failures import FAILURES, Trouble
from commander.models.registry import named_models, open_models
from commander.models.table import ModelTable
from commander.settings import Loaded, Settings, SettingsError, add_arguments, load, render


def told(toml: str, tmp_path: Path, *flags: str) -> Loaded:
    """What a commander with this settings file would be told."""
    path = tmp_path / "settings.toml"
    path.write_text(toml)
    parser = argparse.ArgumentParser()
    add_arguments(parser, [name for name in Settings.model_fields if name != "models"])
    return load(parser.parse_args([*flags, "--config", str(path)]), {})


def refusal(toml: str, tmp_path: Path, *flags: str) -> str:
    with pytest.raises(SettingsError) as caught:
        told(toml, tmp_path, *flags)
    return str(caught.value)


FAST = '[models.fast]\nmodel = "openai-chat:m"\n'
WHOLE = """
[models.fast]
model = "openai-chat:qwen3"
base_url = "http://127.0.0.1:8000/v1"
api_key_env = "THE_KEY"
system = "Be brief."
parameters = { temperature = 0.2, extra_body = { top_k = 3 } }
fallbacks = ["deep"]
accepts = ["image/*", "application/pdf"]
calls_tools = true
structured_output = false
shows_reasoning = true
output_tokens_max = 4000
rounds = 5
first_token_s = 10
silence_s = 5.5
whole_s = 60
attempts = 2
retry_first_s = 0.5
retry_factor = 3
retry_after_max_s = 9
concurrency = 7

[models.deep]
model = "anthropic:claude-sonnet-4-5"
"""


def test_every_key_of_a_table_is_heeded_and_printed_to_be_loaded_again(tmp_path: Path) -> None:
    loaded = told(WHOLE, tmp_path)
    table = ModelTable.model_validate(loaded.settings.models["fast"])
    assert table.model_fields_set >= set(ModelTable.model_fields) - {"api_key_file"}
    assert (table.provider, table.circuit) == ("openai-chat", "openai-chat http://127.0.0.1:8000/v1")
    assert told(render(loaded), tmp_path).settings == loaded.settings


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ('model = "qwen3"', "[models.fast] model = 'qwen3' should be PROVIDER:NAME"),
        ('base_url = "localhost:8000"', "[models.fast] base_url should be an http:// or https:// address"),
        ('base_url = "http://me:hunter2@h/v1"', "base_url should hold no user and no password"),
        (
            'api_key_env = "sk-hunter2"',
            "[models.fast] api_key_env should be the name of an environment variable",
        ),
        (
            'api_key = "sk-hunter2"',
            "[models.fast] api_key is no key of a table: name the variable or the file",
        ),
        ('secret_token = "sk-hunter2"', "[models.fast] secret_token is no key of a table"),
        (
            "first_tokens_s = 1",
            "[models.fast] first_tokens_s is no key of a table; did you mean first_token_s?",
        ),
        ("zzz = 1", "[models.fast] zzz is no key of a table; there are model, base_url"),
        ("attempts = 0", "[models.fast] attempts = 0 should be greater than or equal to 1"),
        ('attempts = "few"', "[models.fast] attempts = 'few' should be a valid integer"),
        ("silence_s = inf", "[models.fast] silence_s = inf should be a finite number"),
        ('accepts = ["pictures"]', "[models.fast] accepts.0 = 'pictures' should be a MIME type"),
        ("parameters = { max_retries = 9 }", "parameters should not have max_retries: set attempts instead"),
        ("parameters = { timeout = 9 }", "parameters should not have timeout"),
        ('parameters = { extra_headers = { Authorization = "hunter2" } }', "parameters should hold no key"),
        *(
            (f'parameters = {{ {where} = "hunter2" }}', "[models.fast] parameters should hold no key, as")
            for where in (
                *(
                    "api_key",
                    "extra_body.key",
                    "extra_body.auth.access_token",
                    "extra_headers.X-Goog-Api-Key",
                ),
                *("extra_headers.Ocp-Apim-Subscription-Key", "extra_headers.X-Auth-Token", "accessToken"),
                *("extra_headers.Set-Cookie2", "extra_headers.X-Secret-Thing", "password"),
            )
        ),
        (
            "parameters = { temprature = 0.2 }",
            "parameters temprature is no parameter; did you mean temperature?",
        ),
        ('parameters = { max_tokens = "many" }', "parameters max_tokens should be a whole number"),
        ("parameters = { max_tokens = 0 }", "parameters max_tokens should be at least 1"),
        ("parameters = { seed = true }", "parameters seed should be a whole number"),
        ('parameters = { extra_body = "x" }', "parameters extra_body should be a table"),
        (
            'api_key_env = "gsk_hunter2hunter2hunter2"',
            "[models.fast] api_key_env should be the name of an environment variable",
        ),
        (
            'fallbacks = ["deep"]',
            "[models.fast] fallbacks = 'deep' should be the name of a table; there are fast",
        ),
        ('fallbacks = ["fast"]', "[models.fast] fallbacks: fast -> fast should lead nowhere twice"),
        (
            'api_key_env = "A"\napi_key_file = "b"',
            "[models.fast] api_key_env, api_key_file should be one of the two",
        ),
    ],
)
def test_a_wrong_table_is_refused(line: str, right: str, tmp_path: Path) -> None:
    head = "[models.fast]\n" if line.startswith("model") else FAST
    problem = refusal(head + line, tmp_path)
    assert "settings.toml: models: [models.fast] " in problem
    assert right in problem
    assert "hunter2" not in problem


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    problem = refusal('[models.fast]\nattempts = 0\n[models."a b"]\nmodel = "x:y"\n', tmp_path)
    assert '[models.fast] model is missing: name the model, e.g. model = "openai-chat:qwen3"' in problem
    assert "[models.fast] attempts = 0" in problem
    assert "[models.'a b'] should be 1 to 64 letters" in problem
    assert len(problem.splitlines()) == 3


def test_what_are_no_tables_is_refused(tmp_path: Path) -> None:
    for toml in ('models = "fast"', 'models = ["fast"]', '[models]\nfast = "openai:gpt-5"'):
        assert "should be tables of a TOML file" in refusal(toml, tmp_path)


def test_a_cycle_of_fallbacks_is_refused_with_its_way(tmp_path: Path) -> None:
    toml = "".join(
        f'[models.{name}]\nmodel = "x:y"\nfallbacks = ["{to}"]\n' for name, to in ("ab", "bc", "ca")
    )
    assert "[models.a] fallbacks: a -> b -> c -> a should lead nowhere twice" in refusal(toml, tmp_path)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=4), max_size=6)
)
def test_fallbacks_are_taken_exactly_if_every_way_ends(fallbacks: dict[str, list[str]]) -> None:
    tables = {name: {"model": "x:y", "fallbacks": each} for name, each in fallbacks.items()}
    seen: dict[str, bool] = {}

    def ends(name: str) -> bool:
        if name not in seen:
            seen[name] = False
            seen[name] = name in fallbacks and all(map(ends, fallbacks[name]))
        return seen[name]

    if all(map(ends, fallbacks)):
        models = open_models(Settings.model_validate({"models": tables}), {}, Metrics())
        for name, theirs in fallbacks.items():
            route = [entry.name for entry in models.route(models.entry(name))]
            assert route[0] == name
            assert len(route) == len(set(route))
            assert set(theirs) <= set(route)
    else:
        with pytest.raises(ValueError, match="fallbacks"):
            Settings.model_validate({"models": tables})


# ---- the default ----


def default_of(toml: str, tmp_path: Path, *flags: str) -> str:
    settings = told(toml, tmp_path, *flags).settings
    entry = open_models(settings, {"THE_KEY": "k"}, Metrics()).entry("")
    return f"{entry.name} {entry.table.model} {entry.table.base_url or ''} {entry.table.api_key_env or ''}".strip()


def test_the_default_is_the_first_table_or_what_is_named(tmp_path: Path) -> None:
    assert default_of(WHOLE, tmp_path) == "fast openai-chat:qwen3 http://127.0.0.1:8000/v1 THE_KEY"
    assert default_of(WHOLE, tmp_path, "--model", "deep") == "deep anthropic:claude-sonnet-4-5"
    flags = ("--model", "openai-chat:m:7b", "--base-url", "https://h/v1", "--api-key-env", "THE_KEY")
    assert default_of(WHOLE, tmp_path, *flags) == "default openai-chat:m:7b https://h/v1 THE_KEY"
    assert default_of("", tmp_path, *flags) == "default openai-chat:m:7b https://h/v1 THE_KEY"
    assert list(named_models(told(WHOLE, tmp_path, *flags).settings)) == ["default", "fast", "deep"]


@pytest.mark.parametrize(
    ("flags", "right"),
    [
        (("--model", "fats"), "there is no table [models.fats] (there are fast); or name a PROVIDER:NAME"),
        (("--model", "a b"), "should be PROVIDER:NAME, e.g. openai-chat:qwen3, or the NAME of a table"),
        (("--base-url", "http://h"), "base_url goes with a model of the form PROVIDER:NAME"),
        (
            ("--model", "fast", "--api-key-env", "K"),
            "api_key_env goes with a model of the form PROVIDER:NAME",
        ),
        (("--model", "x:y", "--base-url", "h"), "should be an http:// or https:// address"),
        (("--model", "x:y", "--api-key-env", "sk-hunter2"), "should be the name of an environment variable"),
        (
            ("--model", "x:y", "--api-key-env", "gsk_hunter2hunter2hunter2"),
            "--api-key-env: its value should be the name of an environment variable",
        ),
        (
            ("--model", "x:y", "--base-url", "http://bob:hunter2@127.0.0.1/v1"),
            "--base-url: its value should hold no user and no password",
        ),
    ],
)
def test_wrong_flags_are_refused(flags: tuple[str, ...], right: str, tmp_path: Path) -> None:
    problem = refusal(FAST, tmp_path, *flags)
    assert right in problem
    assert "hunter2" not in problem


def test_a_table_called_default_and_a_default_by_flag_are_one_too_many(tmp_path: Path) -> None:
    problem = refusal('[models.default]\nmodel = "x:y"', tmp_path, "--model", "x:z")
    assert "name that table another way" in problem


# ---- keys ----


def opened(line: str, environ: dict[str, str]) -> str:
    """What is wrong with the key; nothing."""
    key, _, value = line.partition(" = ")
    settings = Settings.model_validate({"models": {"fast": {"model": "x:y", key: value}}})
    try:
        models = open_models(settings, environ, Metrics())
    except SettingsError as error:
        return str(error)
    assert "hunter2" not in repr(models) + repr(models.entry("fast"))
    return ""


def test_a_key_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    assert opened("api_key_env = K", {"K": "hunter2\n"}) == ""
    for environ in ({}, {"K": " "}):
        assert opened("api_key_env = K", environ) == (
            "[models.fast] api_key_env: the variable K is not set: set it, or name another"
        )
    file = tmp_path / "key"
    named = f"api_key_file = {file}"
    assert "can't be read: No such file" in opened(named, {})
    file.write_text("\n")
    assert "is empty: it should hold the key alone" in opened(named, {})
    file.write_text("hunter2\n")
    assert opened(named, {}) == ""
    file.write_bytes(b"\xff\xfe")
    assert "it is no text" in opened(named, {})
    file.write_text("hunter2 and\nmore")
    problem = opened(named, {})
    assert "holds no key: one line" in problem
    assert "hunter2" not in problem


def test_a_key_where_the_name_of_its_variable_belongs_is_not_told() -> None:
    assert opened("api_key_env = hunter_two", {}) == (
        "[models.fast] api_key_env: the variable that it names is not set: set it, or name another"
    )


def test_a_key_of_the_usual_variable_that_is_none_is_told_at_the_start() -> None:
    def opens(key: str, **more: str) -> None:
        tables = {"fast": {"model": "openai-chat:m", **more}}
        open_models(Settings.model_validate({"models": tables}), {"OPENAI_API_KEY": key}, Metrics())

    for key in ("hunter2\n", "hunter2 hunter2", "hünter2"):
        with pytest.raises(SettingsError, match="the variable OPENAI_API_KEY holds no key") as caught:
            opens(key)
        assert "hunter2" not in str(caught.value)
        opens(key, base_url="http://127.0.0.1:9")
    opens("hunter2")
    opens("")


def test_parameters_that_only_sound_secret_are_right(tmp_path: Path) -> None:
    body = '{ prompt_cache_key = "a", stop_token_ids = [1], eos_token = "</s>", min_tokens = 3 }'
    told(f"{FAST}parameters = {{ max_tokens = 9, extra_body = {body} }}", tmp_path)


def unknown(parameters: dict[str, object], model: str = "openai-chat:m") -> str:
    """What is said of these at the start; nothing where they are right."""
    tables = {"fast": {"model": model, "base_url": "http://127.0.0.1:9", "parameters": parameters}}
    try:
        open_models(Settings.model_validate({"models": tables}), {}, Metrics())
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["reasoning_effort", "zzz", "min_p", "framing_announcement", "repetition"])
def test_a_parameter_that_nobody_knows_is_refused_with_those_there_are(name: str) -> None:
    problem = unknown({name: 1, "temperature": 1})
    assert problem.startswith(
        f"[models.fast] parameters {name} is no parameter; there are temperature, top_p"
    )
    assert "extra_body = { … }, which is sent as it is" in problem


def test_what_only_the_server_knows_goes_into_extra_body() -> None:
    assert not unknown({"extra_body": {"min_p": 0.1, "zzz": {"a": 1}}, "extra_headers": {"X-Zzz": "1"}})


def test_a_provider_of_somebody_else_s_has_names_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "zzz is no parameter" in unknown({"zzz": 1}, "parrot:polly")
    there = tmp_path / "parrot-1.dist-info"
    there.mkdir()
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1\n")
    (there / "entry_points.txt").write_text("[chatstream.models]\nparrot = parrot:Parrot\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not unknown({"zzz": 1}, "parrot:polly")


def test_parameters_of_one_provider_alone_are_right(tmp_path: Path) -> None:
    told(
        f'{FAST}parameters = {{ openai_reasoning_effort = "low", temperature = 1, thinking = "high" }}',
        tmp_path,
    )


def test_a_process_without_its_key_does_not_start(tmp_path: Path) -> None:

    (tmp_path / "settings.toml").write_text(f'{FAST}api_key_env = "NO_SUCH_KEY"\n')
    for command in (["run", "demo"], ["ask", "Hi"]):
        ended = subprocess.run(
            [sys.executable, "-m", "commander", *command, "--config", "settings.toml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 2
        assert "commander: [models.fast] api_key_env: the variable NO_SUCH_KEY is not set" in ended.stderr
        assert "Traceback" not in ended.stderr


# ---- the table of failures ----


def test_what_is_tried_again_also_falls_back_and_may_be_asked_again() -> None:
    for code, traits in FAILURES.items():
        assert code.startswith("model_")
        assert traits.told.endswith(".")
        assert not traits.is_retried or (traits.falls_back and traits.is_retryable), code


def test_trouble_of_an_unknown_code_is_an_error_like_any_other() -> None:
    assert Trouble("no_such_code", "x").code == "model_error"
    assert isinstance(ModelFailed("x", code="model_error", model="m"), Exception)


def test_a_table_by_a_setting_s_name_is_told_from_one(tmp_path: Path) -> None:
    told = refusal('[model.fast]\nmodel = "openai-chat:m"\n', tmp_path)
    assert "model: is a setting, and no table; did you mean [models.NAME]?" in told
