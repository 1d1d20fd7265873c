"""What is wrong with a request, as `application/problem+json` (RFC 9457): a stable code, which field, and the mend."""

import math
import re
from typing import Any, Final

import orjson
from starlette.responses import Response

from dispatcher.requests import WrongError

MEDIA_TYPE: Final = "application/problem+json"

# What has an HTTP status of its own besides the core's refusals, which bring theirs, with its title.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "invalid_request": (400, "The request is not as it should be"),
    "unauthenticated": (401, "A token that is accepted is needed"),
    "permission_denied": (403, "The caller may not do this"),
    "host_not_allowed": (421, "This host is not served here"),
    "origin_not_allowed": (403, "Pages of this origin may not call"),
    "not_found": (404, "There is nothing at this path"),
    "unknown_session": (404, "There is no such session"),
    "no_such_question": (404, "There is no such question"),
    "method_not_allowed": (405, "This path has other methods"),
    "request_timeout": (408, "The request did not arrive in time"),
    "session_ended": (409, "The session has ended"),
    "conflict": (409, "It is done already, and otherwise"),
    "too_large": (413, "The request is too large"),
    "unsupported_media_type": (415, "The body should be JSON"),
    "too_many_messages": (429, "Too many messages wait already"),
    "too_many_viewers": (429, "Too many watch the session already"),
    "too_many_connections": (429, "Too many connections of one user"),
    "too_many_requests": (429, "Too many requests of one user"),
    "journal_full": (507, "There is no room for it"),
    "journal_stalled": (503, "The journal can't be written now"),
    "unknown_request": (400, "The request is not known here"),
    "internal": (500, "The dispatcher failed"),
}

_WITHIN: Final = re.compile(r"^(ask|answer|message)\.")


class ProblemError(Exception):
    """Ends a request with a problem. `code` is one of PROBLEMS; `field` names what is wrong in the request."""

    def __init__(
        self, code: str, detail: str, *, field: str = "", retry_after_s: float | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s
        self.more = more
        self.status, self.title = PROBLEMS[code]

    @classmethod
    def of(cls, wrong: WrongError) -> "ProblemError":
        """What the judge of all requests has found."""
        signal = wrong.signal()
        refusal = wrong.declined.refusal if wrong.declined else None
        # The contract's names of fields, which bodies have without what they are in.
        detail = _WITHIN.sub("", str(wrong)).replace("value_json: ", "value: ", 1)
        field, colon, _ = detail.partition(":")
        code = wrong.code if refusal is None else "invalid_request"
        problem = cls(code, detail, field=field if colon and " " not in field else "")
        if refusal is not None:
            problem.code, problem.status, problem.title = (
                refusal.value,
                refusal.traits.http,
                refusal.traits.advice,
            )
        if signal.HasField("retry_after_ms"):
            problem.retry_after_s = signal.retry_after_ms / 1000
        return problem

    def record(self) -> dict[str, Any]:
        told = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        told["code"] = self.code
        if self.field:
            told["field"] = self.field
        if self.retry_after_s is not None:
            told["retry_after_ms"] = max(1, round(self.retry_after_s * 1000))
        return {**told, **self.more}

    def response(self) -> Response:
        headers = {"cache-control": "no-store"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = 'Bearer realm="dispatcher"'
        return Response(orjson.dumps(self.record()), self.status, headers, MEDIA_TYPE)
