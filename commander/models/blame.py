"""What pydantic-ai and the libraries below it raise, as Trouble with a code: whose fault it is, in one place.

Imported with the adaptor, when a model is first used.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

import httpx2
from pydantic_ai import exceptions

from commander.models.failures import Trouble

# The most specific first.
_CODES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.ModelRateLimitError, "model_rate_limited"),
    (exceptions.ModelQuotaExceededError, "model_quota_exhausted"),
    (exceptions.ModelUnavailableError, "model_unavailable"),
    (exceptions.ModelServerError, "model_unavailable"),
    (exceptions.ModelTimeoutError, "model_timeout"),
    (exceptions.ModelRequestTimeout, "model_timeout"),
    (exceptions.ModelConnectionError, "model_unreachable"),
    (exceptions.ModelAuthenticationError, "model_key_refused"),
    (exceptions.ModelContextWindowExceededError, "model_context_too_long"),
    (exceptions.ModelNotFoundError, "model_unknown"),
    (exceptions.ContentFilterError, "model_content_filtered"),
    (exceptions.ModelRequestRejectedError, "model_request_refused"),
    (exceptions.UnexpectedModelBehavior, "model_malformed"),
    (httpx2.TimeoutException, "model_timeout"),
    (httpx2.TransportError, "model_unreachable"),
    (httpx2.StreamError, "model_unreachable"),
    (json.JSONDecodeError, "model_malformed"),
    (UnicodeDecodeError, "model_malformed"),
    (exceptions.UserError, "model_request_refused"),
    (NotImplementedError, "model_input_refused"),
)
_KNOWN: Final[tuple[type[Exception], ...]] = (exceptions.ModelAPIError, *(kind for kind, _ in _CODES))
# By words that servers use in place of a status that says it, or with one that says something else; the first is right.
_WORDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), code)
    for pattern, code in (
        (
            r"content_filter|content_policy|content management policy|moderation|safety system",
            "model_content_filtered",
        ),
        (
            r"context[ _](length|window|size)|maximum (context|number of tokens)|(prompt|input) is too long",
            "model_context_too_long",
        ),
        (
            r"input token count|max_new_tokens|range of input length|too many (input )?tokens",
            "model_context_too_long",
        ),
        (
            r"(invalid|incorrect) api[ _]key|api[ _]key (is )?(not valid|invalid)|api_key_invalid",
            "model_key_refused",
        ),
        (
            r"not a valid model|model not exist|model_not_found|no such model|unknown model",
            "model_unknown",
        ),
        (
            r"model \S{1,200} does not exist",
            "model_unknown",
        ),
        (r"(country|region|territory|location)\b.{0,80}not supported", "model_request_refused"),
    )
)


def trouble(error: Exception) -> Trouble | None:
    """The same, as Trouble; None for what no provider is to blame for. Texts are as they came: `Entry.told` hides the
    keys in them, and cuts them."""
    if isinstance(error, Trouble):
        return error
    if not isinstance(error, _KNOWN):
        return None
    status = error.status_code if isinstance(error, exceptions.ModelHTTPError) else None
    said = _said(error)
    retry_after_s = error.retry_after if isinstance(error, exceptions.ModelAPIError) else None
    return Trouble(
        _code(error, status, said.lower()), said, upstream_status=status, retry_after_s=retry_after_s
    )


def _code(error: Exception, status: int | None, said: str) -> str:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    # A status of 403 may be of the key, and of much else.
    if isinstance(error, exceptions.ModelAPIError) and (
        code == "model_request_refused" or status in (403, 413)
    ):
        names = f"{error.provider_error_code} {error.provider_error_type} {said}".lower()
        for words, meant in _WORDS:
            if words.search(names):
                return meant
        if status == 413:
            return "model_context_too_long"
    if code is not None:
        return code
    if status is not None:
        return "model_unavailable" if status >= 500 or status in (408, 409, 425) else "model_request_refused"
    if isinstance(error, exceptions.ModelAPIError):
        # One that the provider sent in the stream has words of its own; else the stream was none.
        return "model_error" if error.in_stream else "model_malformed"
    return "model_error"


def _said(error: Exception) -> str:
    """What the provider says, without what the libraries say around it."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        text = inner.get("message") if isinstance(inner, Mapping) else inner
    else:
        text = body if isinstance(body, str) and not body.lstrip().startswith("<") else None
    if not isinstance(text, str) or not text.strip():
        status = getattr(error, "status_code", None)
        text = f"status {status}" if status else (str(error) or type(error).__name__)
    return text
