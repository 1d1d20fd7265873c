"""What goes wrong, as OpenAI's APIs tell it: `{"error": {"message", "type", "param", "code"}}`.

Their clients decide by the status whether to ask again, and take `x-should-retry` for the better word.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatcher.core.endings import Ending, error_of, traits_of
from dispatcher.core.packets import Ended
from dispatcher.edge.native import json_bytes
from dispatcher.edge.problems import MEDIA_TYPE
from dispatcher.edge.rendering import Gap, GoAway, Notice, Slow

_MAIN_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
# Our names of fields, as their requests have them.
_FIELD: Final = re.compile(r"^(?:ask\.)?(agent_version|agent|user_id|labels)\b")
_PARAMS: Final = {
    "agent": "model",
    "agent_version": "model",
    "user_id": "user",
    "labels": "metadata",
}
# Where their clients call.
_PATHS: Final = ("/v1/chat/", "/v1/models", "/v1/responses")
_KEPT_HEADERS: Final = {"allow", "connection", "www-authenticate"}
_CODES: Final = {
    "no_such_agent": "model_not_found",
    "unauthenticated": "invalid_api_key",
    "model_context_too_long": "context_length_exceeded",
    "model_content_filtered": "content_filter",
    "model_rate_limited": "rate_limit_exceeded",
}


class Trouble(NamedTuple):
    """`more`: what is told besides, by names that their clients do not know."""

    status: int
    message: str
    code: str
    param: str = ""
    retryable: bool = False
    retry_after_s: float | None = None
    more: dict[str, Any] | None = None

    @property
    def record(self) -> dict[str, Any]:
        kind = _MAIN_TYPES.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "message": self.message,
            "type": kind,
            "param": self.param or None,
            "code": self.code,
            **(self.more or {}),
        }

    def response(self) -> Response:
        headers = {"cache-control": "no-store", "x-should-retry": "true" if self.retryable else "false"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
            headers["retry-after-ms"] = str(max(1, round(self.retry_after_s * 1000)))
        return Response(json_bytes({"error": self.record}), self.status, headers, "application/json")


def of_problem(problem: Mapping[str, Any]) -> Trouble:
    """What is wrong with a request, as its `ProblemError` tells it."""
    detail, field = problem.get("detail", problem["title"]), problem.get("field", "")
    if not field and " " not in detail.partition(":")[0]:
        field = detail.partition(":")[0]
    retry_after_ms = problem.get("retry_after_ms")
    return Trouble(
        problem["status"],
        _FIELD.sub(_param, detail).removeprefix("ask."),
        _CODES.get(problem["code"], problem["code"]),
        _FIELD.sub(_param, field).removeprefix("ask."),
        retry_after_ms is not None or problem["status"] == 408,
        None if retry_after_ms is None else retry_after_ms / 1000,
    )


def _param(found: re.Match[str]) -> str:
    return _PARAMS[found[1]]


def of_ending(ended: Ended) -> Trouble:
    """An ending that is no answer."""
    traits, error = traits_of(ended), error_of(ended)
    return Trouble(
        traits.http,
        ended.message or traits.advice,
        ended.ending if error is None else _CODES.get(error.code, error.code),
        retryable=traits.retryable,
        retry_after_s=traits.retry_after_s,
        more={"ending": ending_record(ended)},
    )


def of_reset() -> Trouble:
    """An attempt was lost when part of its answer had been shown, and another answer may not be put behind it."""
    traits = Ending.COMMANDER_LOST.traits
    told = "the worker was lost in the middle of its answer; another one begins anew: discard this, and ask again"
    return Trouble(traits.http, told, "commander_lost", retryable=True, retry_after_s=traits.retry_after_s)


def of_notice(notice: Notice) -> Trouble | None:
    """What ends a stream before its session has ended."""
    match notice:
        case GoAway():
            told = f"{notice.reason}; the session goes on, and is there at its location when it is back"
            return Trouble(503, told, "goaway", retryable=True, retry_after_s=notice.retry_after_ms / 1000)
        case Slow():
            told = f"nothing was taken of the stream for {notice.after_s:g} s"
            return Trouble(408, told, "slow", retryable=True)
        case Gap():
            return Trouble(404, "the session is no longer kept", notice.reason)
    return None


def ending_record(ended: Ended) -> dict[str, Any]:
    """Tells more than their words for it can."""
    told = {"name": ended.ending, "message": ended.message, "retryable": traits_of(ended).retryable}
    error = error_of(ended)
    if error is not None:
        told["error"] = {"code": error.code, "upstream_status": error.upstream_status}
    return told


class TheirForm:
    """Around the app: what is refused on their paths, by whomever, is told as their clients read it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PATHS):
            await self._app(scope, receive, send)
            return
        refused: Message | None = None
        body = b""

        async def told(message: Message) -> None:
            nonlocal refused, body
            if message["type"] == "http.response.start" and _is_problem(message):
                refused = message
            elif refused is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    response = of_problem(orjson.loads(body)).response()
                    before = Headers(raw=refused["headers"])
                    response.headers.update({name: before[name] for name in _KEPT_HEADERS if name in before})
                    await response(scope, receive, send)

        await self._app(scope, receive, told)


def _is_problem(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE
