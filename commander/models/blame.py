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
            r"content[ _]filter|content_policy|content management policy|moderation|safety system",
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
            r"(invalid|incorrect) api[ _]key|api[ _]key (is )?(not valid|invalid)|api_key_invalid|not authenticated",
            "model_key_refused",
        ),
        (
            r"not a valid model|model not exist|model_not_found|no such model|unknown model",
            "model_unknown",
        ),
        (
            r"model \S{1,200} (does not exist|not found)",
            "model_unknown",
        ),
        (r"(country|region|territory|location)\b.{0,80}not supported", "model_request_refused"),
    )
)
# By what providers call an error in its type, code or status, less case, - and _; the first is right.
_NAMES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), code)
    for pattern, code in (
        (r"quota|billing|credit|payment", "model_quota_exhausted"),
        (r"ratelimit|toomanyrequests|resourceexhausted|throttl", "model_rate_limited"),
        (r"overloaded|unavailable|servererror|internal(server)?error|apierror", "model_unavailable"),
        (r"timeout|deadline", "model_timeout"),
        (r"authentication|unauthorized|unauthenticated|invalidapikey|permission", "model_key_refused"),
        (r"notfound", "model_unknown"),
        (r"contentfilter|contentpolicy|safety|moderation", "model_content_filtered"),
        (r"invalidrequest|badrequest|invalidargument|validation", "model_request_refused"),
    )
)
_STATUSES: Final[Mapping[int, str]] = {
    401: "model_key_refused",
    402: "model_quota_exhausted",
    403: "model_key_refused",
    404: "model_unknown",
    408: "model_unavailable",
    409: "model_unavailable",
    413: "model_context_too_long",
    425: "model_unavailable",
    429: "model_rate_limited",
}
# Where a document has its error, the most usual first.
ERRORS: Final = ("error", "errors", "detail", "message", "msg")
# What is wrong with the request as it is, of which words may tell more.
_OF_THE_REQUEST: Final = ("model_request_refused", "model_error")


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


def told(document: Mapping[str, object], retry_after_s: float | None) -> Trouble:
    """The same of an error that came with a status of success, as JSON: {"error": {"message": …, "code": …}} or in one
    of the other forms that servers give it."""
    inner: object = document
    for key in ERRORS:
        if isinstance(found := document.get(key), (str, Mapping, list)) and found:
            inner = found[0] if isinstance(found, list) else found
            break
    if isinstance(inner, str):
        inner = {**document, "message": inner}
    fields = inner if isinstance(inner, Mapping) else {}
    text = next(
        (text for key in ("message", "msg", "detail") if isinstance(text := fields.get(key), str)), ""
    )
    told = [fields.get(key) for key in ("code", "status", "type")]
    status = next((int(text) for text in map(str, told) if re.fullmatch("[45][0-9][0-9]", text)), None)
    names = " ".join(each for each in told if isinstance(each, str))
    said = text.strip() or names or json.dumps(inner)
    code = _named(names, said.lower(), status)
    return Trouble(code, said, upstream_status=status, retry_after_s=retry_after_s)


def _named(names: str, said: str, status: int | None) -> str:
    """The kind of an error by its names, its words and the status that it tells of."""
    name = re.sub("[-_]", "", names.lower())
    code = next((code for pattern, code in _NAMES if pattern.search(name)), None)
    if code is None and status is not None:
        code = _STATUSES.get(status, "model_unavailable" if status >= 500 else "model_request_refused")
    if code is None or code in _OF_THE_REQUEST:
        code = _by_words(f"{names} {said}".lower()) or code
    return code or "model_error"


def _by_words(text: str) -> str | None:
    return next((meant for words, meant in _WORDS if words.search(text)), None)


def _code(error: Exception, status: int | None, said: str) -> str:
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    # A status of 403 may be of the key, and of much else.
    if isinstance(error, exceptions.ModelAPIError) and (
        code == "model_request_refused" or status in (403, 413)
    ):
        names = f"{error.provider_error_code} {error.provider_error_type} {said}".lower()
        if meant := _by_words(names):
            return meant
        if status == 413:
            return "model_context_too_long"
    if code is not None:
        return code
    if status is not None:
        return "model_unavailable" if status >= 500 or status in (408, 409, 425) else "model_request_refused"
    if isinstance(error, exceptions.ModelAPIError):
        if not error.in_stream:
            # The stream was none.
            return "model_malformed"
        names = " ".join(filter(None, (error.provider_error_code, error.provider_error_type)))
        return _named(names, said, None)
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
