"""What the settings file says of a language model, `[models.NAME]`: its keys, their bounds, what goes together.

Wrong tables are refused with the key, what was wrong and what would be right. Nothing is opened or read here: a key is
named by its variable or file, and never stands in a table.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

# A name may be part of a label, a metric and a command line.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODELS_MAX: Final = 100
# The model that --model makes when it names a provider.
DEFAULT: Final = "default"
# Words in the names of headers and parameters by which keys are told; of a parameter's name, the last one is.
_SECRET_WORDS: Final = {
    *("key", "apikey", "token", "secret", "auth", "authorization", "authentication", "cookie", "password"),
    *("passwd", "credential", "credentials", "bearer", "jwt"),
}
# Parameters that are none, for all their names.
_NO_SECRETS: Final = {"prompt_cache_key", "openai_prompt_cache_key", "bos_token", "eos_token", "pad_token"}
# A key where its variable's name belongs: no variable is called so.
_KEY_CHARS_MIN: Final = 16
# What the commander decides itself, and where.
_NO_PARAMETERS: Final = {
    "max_retries": "set attempts instead",
    "timeout": "set first_token_s, silence_s and whole_s instead",
    "request_timeout": "set whole_s instead",
    "first_event_timeout": "set first_token_s instead",
}


# What every provider's library knows, and what it has to be. One that only some know is called PROVIDER_NAME.
_NUMBER: Final = ("a number", (int, float))
_WHOLE: Final = ("a whole number", (int,))
_TABLE: Final = ("a table", (dict,))
_PARAMETERS: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "max_tokens": _WHOLE,
    "top_k": _WHOLE,
    "seed": _WHOLE,
    "parallel_tool_calls": ("true or false", (bool,)),
    "stop_sequences": ("a list of texts", (list,)),
    "thinking": ("true, false or a level", (bool, str)),
    "service_tier": ("a text", (str,)),
    "logit_bias": _TABLE,
    "tool_choice": ("a text or a list of names", (str, list)),
    "citations": ("true or false", (bool,)),
    "cache": ("true, false, a text or a table", (bool, str, dict)),
    "extra_headers": _TABLE,
    "extra_body": _TABLE,
}


# The first words of what the library of one provider alone knows: openai_reasoning_effort.
_FAMILIES: Final = (
    *(
        "openai",
        "anthropic",
        "google",
        "groq",
        "mistral",
        "bedrock",
        "openrouter",
        "cohere",
        "xai",
        "cerebras",
    ),
    *("huggingface", "snowflake", "zai"),
)
# Where to put what no library knows.
UNKNOWN_ADVICE: Final = "what the server knows besides goes into extra_body = { … }, which is sent as it is"


def _model(text: str) -> str:
    provider, colon, name = text.partition(":")
    if not (provider and colon and name and text.isprintable() and len(text) <= 256):
        raise ValueError("should be PROVIDER:NAME, e.g. openai-chat:qwen3")
    return text


def is_model(text: str) -> bool:
    """Whether it is a PROVIDER:NAME."""
    try:
        return bool(_model(text))
    except ValueError:
        return False


def check_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        right = (
            parts.scheme in ("http", "https") and parts.hostname and text.isprintable() and " " not in text
        )
        _ = parts.port
    except ValueError:
        right = None
    if not right or parts.query or parts.fragment:
        raise ValueError("should be an http:// or https:// address, e.g. http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ValueError("should hold no user and no password: name a key by api_key_env or api_key_file")
    return text


def check_variable(text: str) -> str:
    is_key = len(text) >= _KEY_CHARS_MIN and re.search("[a-z]", text) and re.search("[0-9]", text)
    if is_key or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(
            "should be the name of an environment variable, e.g. OPENAI_API_KEY, never the key itself"
        )
    return text


def _path(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("should be the path of a file with the key alone in it")
    return text


def _mime(text: str) -> str:
    if not re.fullmatch(r"[a-z]+/([a-z0-9.+-]+|\*)", text):
        raise ValueError("should be a MIME type, e.g. image/png or image/*")
    return text


def _parameters(told: dict[str, Any]) -> dict[str, Any]:
    for name, why in _NO_PARAMETERS.items():
        if name in told:
            raise ValueError(f"should not have {name}: {why}")
    for name, value in told.items():
        _check_parameter(name, value)
    for name in _secrets(told):
        raise ValueError(f"should hold no key, as {name} does: name it by api_key_env or api_key_file")
    return told


def _check_parameter(name: str, value: object) -> None:
    """A mistyped one would be ignored, and one of another type fail every request."""
    if name in _PARAMETERS:
        right, kinds = _PARAMETERS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{name} should be {right}")
        if name == "max_tokens" and isinstance(value, int) and value < 1:
            raise ValueError("max_tokens should be at least 1")
    elif near := difflib.get_close_matches(name, _PARAMETERS, n=1, cutoff=0.75):
        raise ValueError(f"{name} is no parameter; did you mean {near[0]}?")


def unknown_parameters(table: "ModelTable") -> Iterator[str]:
    """What is wrong with each that no library knows: it would be ignored. A provider of somebody else's has names of
    its own. Whether those of one provider alone are right is known when the model is connected."""
    for name in table.parameters:
        if name not in _PARAMETERS and name.partition("_")[0] not in _FAMILIES:
            yield (
                f"parameters {name[:80]} is no parameter; there are {', '.join(_PARAMETERS)}, and those of one"
                f" provider, as openai_reasoning_effort; {UNKNOWN_ADVICE}"
            )


def _secrets(told: Mapping[str, Any], *, are_headers: bool = False) -> Iterator[str]:
    """The names by which a key may be told."""
    for name, value in told.items():
        words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", str(name)).lower())
        if isinstance(value, Mapping):
            yield from _secrets(value, are_headers=name in ("extra_headers", "headers"))
            continue
        is_secret = name not in _NO_SECRETS and _SECRET_WORDS & set(words if are_headers else words[-1:])
        if is_secret and isinstance(value, str):
            yield str(name)


def _limit(default: float, least: float, most: float, told: str) -> Any:
    return Field(default, ge=least, le=most, description=told)


class ModelTable(BaseModel):
    """One language model, as the settings tell it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    model: Annotated[str, AfterValidator(_model)] = Field(
        description="PROVIDER:NAME. openai-chat is every server that is compatible with OpenAI's chat completions."
    )
    base_url: Annotated[str, AfterValidator(check_url)] | None = Field(
        None, description="Where the provider is. Left out: the provider's own address."
    )
    api_key_env: Annotated[str, AfterValidator(check_variable)] | None = Field(
        None,
        description="The variable that has the key. Left out, with no base_url: the provider's usual one.",
    )
    api_key_file: Annotated[str, AfterValidator(_path)] | None = Field(
        None, description="The file that has the key, alone."
    )
    system: str = Field("", max_length=100_000, description="The system prompt of requests that bring none.")
    parameters: Annotated[dict[str, Any], AfterValidator(_parameters)] = Field(
        default_factory=dict,
        description="For the provider: temperature, max_tokens, thinking, seed, extra_body, extra_headers …",
    )
    fallbacks: tuple[str, ...] = Field(
        (),
        max_length=8,
        description="Models of other tables to ask, in this order, when this one fails in passing.",
    )
    accepts: tuple[Annotated[str, AfterValidator(_mime)], ...] | None = Field(
        None,
        description="MIME types of the parts it reads besides text. Left out: whatever its provider takes.",
    )
    calls_tools: bool | None = Field(None, description="For applications to see: it calls tools.")
    structured_output: bool | None = Field(
        None, description="For applications to see: it answers in JSON that fits a schema."
    )
    shows_reasoning: bool | None = Field(
        None, description="For applications to see: it shows how it comes to its answer."
    )
    output_tokens_max: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Budget: tokens that it may say in one turn, all rounds together.",
    )
    rounds: int = _limit(
        10, 1, 1_000, "How often a turn of the assistant may call it, with tools in between."
    )
    first_token_s: float = _limit(120.0, 0.05, 3_600, "Wait so long for the first token.")
    silence_s: float = _limit(60.0, 0.05, 3_600, "Wait so long for each further one.")
    whole_s: float = _limit(600.0, 0.05, 86_400, "An answer may take so long in all.")
    attempts: int = _limit(3, 1, 20, "So many tries, the first included, before the first token.")
    retry_first_s: float = _limit(1.0, 0.01, 600, "The wait before the second try, less up to a half by lot.")
    retry_factor: float = _limit(2.0, 1, 10, "Each further wait is so much longer.")
    retry_after_max_s: float = _limit(
        30.0, 0, 3_600, "A provider that wants to be left alone for longer is not asked again."
    )
    concurrency: int = _limit(100, 1, 10_000, "Requests under way at once.")

    @property
    def provider(self) -> str:
        return self.model.partition(":")[0]

    @property
    def circuit(self) -> str:
        """Whose failures count together."""
        return f"{self.provider} {self.base_url or ''}".strip()


class _Wrong:
    """What was wrong, as `repr` shows it in a refusal."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def checked(told: object) -> object:
    """The tables as they are told, once they are right; for pydantic: raises ValidationError with a line for each
    mistake, ValueError for what are no tables."""
    if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
        raise ValueError('should be tables of a TOML file: [models.fast] with model = "PROVIDER:NAME"')
    wrong = [*_wrong_by_themselves(told)] or [*_wrong_together(read(told))]
    if wrong:
        raise refusal(wrong)
    return told


def refusal(wrong: Iterable[tuple[str, str]]) -> ValidationError:
    """What is shown in place of each wrong value, and why it is wrong."""
    errors = [
        InitErrorDetails(
            type=PydanticCustomError("model_table", "{why}", {"why": why}), loc=(), input=_Wrong(shown)
        )
        for shown, why in wrong
    ]
    return ValidationError.from_exception_data("models", errors)


def read(told: Mapping[str, Mapping[str, object]]) -> dict[str, ModelTable]:
    """The tables of checked settings, in their order."""
    return {name: ModelTable.model_validate(table) for name, table in told.items()}


def _wrong_by_themselves(told: dict[str, dict[str, object]]) -> Iterator[tuple[str, str]]:
    if len(told) > MODELS_MAX:
        yield f"{len(told)} tables", f"should be at most {MODELS_MAX}"
    for name, table in told.items():
        if not NAME.fullmatch(name):
            yield f"[models.{name!r}]", "should be 1 to 64 letters, digits, dots, - or _"
        try:
            ModelTable.model_validate(table)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                yield _told(name, each)


def _told(name: str, error: ErrorDetails) -> tuple[str, str]:
    """Which key, and what would be right. The value of a key that is none may be a secret, and is not shown."""
    key = ".".join(map(str, error["loc"]))
    place = f"[models.{name}] {key}"
    if error["type"] == "missing":
        return place, 'is missing: name the model, e.g. model = "openai-chat:qwen3"'
    if error["type"] == "extra_forbidden":
        if re.search("key|secret|token$", key.lower()):
            return (
                place,
                'is no key of a table: name the variable or the file, api_key_env = "…" or api_key_file = "…"',
            )
        near = difflib.get_close_matches(key, ModelTable.model_fields, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(ModelTable.model_fields)}"
        return place, f"is no key of a table; {known}"
    why = (
        str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"].removeprefix("Input ")
    )
    # Whoever put the key itself there is told so without it being said once more.
    if key.startswith(("api_key_env", "parameters", "base_url")):
        return place, why
    shown = repr(error["input"])
    return f"{place} = {shown if len(shown) <= 80 else shown[:80] + '…'}", why


def _wrong_together(tables: dict[str, ModelTable]) -> Iterator[tuple[str, str]]:
    for name, table in tables.items():
        if table.api_key_env and table.api_key_file:
            yield f"[models.{name}] api_key_env, api_key_file", "should be one of the two"
        for fallback in table.fallbacks:
            if fallback not in tables:
                there_are = ", ".join(tables)
                yield (
                    f"[models.{name}] fallbacks = {fallback!r}",
                    f"should be the name of a table; there are {there_are}",
                )
        if cycle := _cycle(tables, name):
            path = " -> ".join(cycle)
            yield f"[models.{name}] fallbacks: {path}", "should lead nowhere twice: leave one of them out"


def _cycle(tables: Mapping[str, ModelTable], name: str) -> list[str] | None:
    """The way by fallbacks from this model back to it, if there is one."""
    ways = [[name]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for fallback in tables[way[-1]].fallbacks:
            if fallback == name:
                return [*way, fallback]
            if fallback in tables and fallback not in seen:
                seen.add(fallback)
                ways.append([*way, fallback])
    return None
