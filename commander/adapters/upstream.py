"""What the libraries of providers raise, as `ModelFailed`: by shape, so that none of them need be there.

The clients of OpenAI, Anthropic and Groq, which LangChain and OpenAI's Agents SDK use as well, are made by one
generator: an `APIError` with a body, those with a status, and two of the connection. The rest is known by its status,
or by the HTTP client below. What an agent's author raises may look alike, for tools are clients too: so where the shape
alone does not tell, the traceback does.
"""

from collections.abc import Mapping
from json import JSONDecodeError
from typing import Final

from commander.errors import ModelFailed
from commander.models.failures import Trouble

# What is told of what a provider says.
SAID_CHARS_MAX: Final = 240
_BY_STATUS: Final = {
    401: "model_key_refused",
    402: "model_quota_exhausted",
    403: "model_key_refused",
    404: "model_unknown",
    408: "model_unavailable",
    409: "model_unavailable",
    425: "model_unavailable",
    429: "model_rate_limited",
}
_QUOTA_WORDS: Final = ("insufficient_quota", "billing")
_FILTER_WORDS: Final = ("content_filter", "content_policy", "content management policy")
_LENGTH_WORDS: Final = (
    "context length",
    "context_length",
    "maximum context",
    "context window",
    "context size",
)
# The most specific first, by the names of classes.
_BY_NAME: Final = (
    ("APITimeoutError", "model_timeout"),
    ("APIConnectionError", "model_unreachable"),
    ("APIResponseValidationError", "model_malformed"),
    ("APIError", "model_error"),
)
# httpx, and the one that its successor is called.
_HTTP_CLIENTS: Final = ("httpx", "httpx2", "httpcore", "httpcore2")
# Whose errors are a model's.
_PROVIDERS: Final = (
    "openai",
    "anthropic",
    "groq",
    "mistralai",
    "cohere",
    "ollama",
    "litellm",
    "google.genai",
    "huggingface_hub",
    "langchain_",
    "pydantic_ai.models",
)
# What a library fails with that reads something else than an answer, or sends on what it took from one. A TypeError may
# be its author's own parameters.
_UNREADABLE: Final = (AttributeError, RecursionError, UnicodeEncodeError, JSONDecodeError)
_BY_HTTP_NAME: Final = (("TimeoutException", "model_timeout"), ("TransportError", "model_unreachable"))


def trouble(error: BaseException) -> Trouble | None:
    """Of what a provider is to blame for; None for the rest."""
    if isinstance(error, Trouble):
        return error
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(error, "status_code", None)
    is_status = isinstance(status, int) and 400 <= status < 600
    if "APIError" in names or (is_status and is_provider_s(error)):
        return _of_provider(error, names, status if is_status else None)
    if type(error).__module__.partition(".")[0] in _HTTP_CLIENTS and is_provider_s(error):
        code = next((code for name, code in _BY_HTTP_NAME if name in names), None)
        return None if code is None else Trouble(code, _one_line(str(error) or type(error).__name__))
    if (
        isinstance(error, _UNREADABLE)
        and is_provider_s(error)
        and _is_raised_in(error, _PROVIDERS + _HTTP_CLIENTS)
    ):
        return Trouble(
            "model_malformed", _one_line(f"an answer in another form ({type(error).__name__}: {error})")
        )
    return None


def is_provider_s(error: BaseException) -> bool:
    """Whether a provider's library made it, or it came through one."""
    modules = [type(error).__module__]
    frame = error.__traceback__
    while frame is not None:
        modules.append(str(frame.tb_frame.f_globals.get("__name__", "")))
        frame = frame.tb_next
    return any(module.startswith(_PROVIDERS) for module in modules)


def _is_raised_in(error: BaseException, modules: tuple[str, ...]) -> bool:
    """Or in the reader of JSON that one of them calls."""
    frame, last = error.__traceback__, ""
    while frame is not None:
        module = str(frame.tb_frame.f_globals.get("__name__", ""))
        last, frame = last if module in ("json", "json.decoder") else module, frame.tb_next
    return last.startswith(modules)


def failed(whose: str, model: str, trouble: Trouble, *, has_begun: bool) -> ModelFailed:
    """What a turn ends with. `whose` begins the sentence for the user: the model of which agent."""
    begun = " after it had begun to answer" if has_begun else ""
    again = "; ask again later" if trouble.traits.is_retryable else ""
    return ModelFailed(
        f"{whose} failed{begun}: {_one_line(trouble.message)}{again}",
        code=trouble.code,
        model=model,
        retryable=trouble.traits.is_retryable,
        retry_after_s=trouble.retry_after_s if trouble.traits.is_retryable else None,
        upstream_status=trouble.upstream_status,
        has_begun=has_begun,
    )


def model_of(agent: str) -> str:
    return f"the model of agent {agent!r}"


def quiet(trouble: Trouble) -> Trouble:
    """Without the words of a provider that refuses a key: it may have quoted a part of it."""
    if trouble.code != "model_key_refused":
        return trouble
    return Trouble(trouble.code, "the provider refuses the key", upstream_status=trouble.upstream_status)


def _of_provider(error: BaseException, names: set[str], status: int | None) -> Trouble:
    said = _said(error)
    words = f"{getattr(error, 'code', '')} {getattr(error, 'type', '')} {said}".lower()
    if status is None:
        code = next((code for name, code in _BY_NAME if name in names), "model_error")
    else:
        code = _BY_STATUS.get(status, "model_unavailable" if status >= 500 else "model_request_refused")
    if code == "model_rate_limited" and any(word in words for word in _QUOTA_WORDS):
        code = "model_quota_exhausted"
    if code in ("model_request_refused", "model_error"):
        if any(word in words for word in _FILTER_WORDS):
            code = "model_content_filtered"
        elif any(word in words for word in _LENGTH_WORDS):
            code = "model_context_too_long"
    return quiet(Trouble(code, said, upstream_status=status, retry_after_s=_retry_after_s(error)))


def _said(error: BaseException) -> str:
    """What the provider says, without what its library says around it."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        body = inner.get("message") if isinstance(inner, Mapping) else inner
    if isinstance(body, str) and body.strip() and not body.lstrip().startswith("<"):
        return _one_line(body)
    status = getattr(error, "status_code", None)
    return f"status {status}" if status else _one_line(str(error) or type(error).__name__)


def _retry_after_s(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:  # a date, or none
        return None


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SAID_CHARS_MAX else text[: SAID_CHARS_MAX - 1] + "…"
