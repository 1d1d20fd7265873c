"""The description of the HTTP edge at /openapi.json: made of the routes and of what stands above each endpoint."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import orjson
from pydantic.json_schema import models_json_schema
from southwest.ai.agent.v1 import chat_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dispatcher.core.endings import ENDINGS, REFUSALS, Refusal
from dispatcher.edge.operations import Operation, operation_of
from dispatcher.edge.problems import MEDIA_TYPE, PROBLEMS
from dispatcher.edge.schemas import OPENAI_ERROR, PROBLEM, RecordSchemas, Schema, event, ref, session

_ABOUT: Final = """Sessions of agents: asked for, watched with a cursor that is the same everywhere, answered, steered
and stopped. The same sessions are served by gRPC, by WebSocket at /v1/ws, and in the dialects of other clients."""
# What every endpoint may answer with.
_ALWAYS: Final = ("host_not_allowed", "internal")
_WITH_TOKEN: Final = ("unauthenticated", "permission_denied", "too_many_connections", "too_many_requests")
# The least status that is one of errors.
_ERROR: Final = 400
_WITH_BODY: Final = (
    "invalid_request",
    "origin_not_allowed",
    "request_timeout",
    "too_large",
    "unsupported_media_type",
    "journal_stalled",
)


def described(
    routes: Sequence[BaseRoute], software_version: str, open_paths: Sequence[str]
) -> dict[str, Any]:
    """The whole description. Endpoints without an `operation` are not in it."""
    records = RecordSchemas()
    records.of(chat_pb2.AgentListing)
    schemas = {
        "Problem": PROBLEM,
        "OpenAiError": OPENAI_ERROR,
        "Event": event(records),
        "Session": session(records),
    }
    operations = [
        (route, told)
        for route in routes
        if isinstance(route, Route) and (told := operation_of(route.endpoint)) is not None
    ]
    bodies = {told.body for _, told in operations if told.body is not None}
    # Two dialects may call theirs alike: each has the name that it is given here.
    named, definitions = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=lambda body: (body.__name__, body.__module__))],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for route, told in operations:
        body = named[told.body, "validation"] if told.body is not None else None
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = re.sub(r":\w+}", "}", route.path)
            paths.setdefault(path, {})[method.lower()] = _described(
                route.endpoint, told, body, is_open=route.path in open_paths
            )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dispatcher", "version": software_version, "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": {**records.made, **schemas, **definitions.get("$defs", {})},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        # Only where the dispatcher asks for tokens.
        "security": [{"bearer": []}, {}],
    }


def _described(endpoint: Any, told: Operation, body: Schema | None, *, is_open: bool) -> dict[str, Any]:
    summary, _, more = (endpoint.__doc__ or "").partition("\n")
    answers: dict[str, Any] = {
        str(status): {
            "description": answer.description,
            **(
                {"content": {kind: {"schema": dict(schema)} for kind, schema in answer.content.items()}}
                if answer.content
                else {}
            ),
        }
        for status, answer in told.answers.items()
    }
    media_type = MEDIA_TYPE if told.errors == "Problem" else "application/json"
    for status, codes in sorted(_errors(told, is_open=is_open).items()):
        answers[str(status)] = {
            "description": ", ".join(sorted(codes)),
            "content": {media_type: {"schema": ref(told.errors)}},
        }
    operation: dict[str, Any] = {
        "operationId": endpoint.__qualname__.replace(".", "_"),
        "summary": summary.strip(),
        "tags": [told.tag],
        "responses": answers,
    }
    if more.strip():
        operation["description"] = " ".join(more.split())
    if told.parameters:
        operation["parameters"] = [parameter.described() for parameter in told.parameters]
    if body is not None:
        operation["requestBody"] = {
            "required": told.is_body_required,
            "content": {"application/json": {"schema": body}},
        }
    if is_open:
        operation["security"] = []
    return operation


def _errors(told: Operation, *, is_open: bool) -> dict[int, set[str]]:
    """By status: the codes that may come with it."""
    codes = [*_ALWAYS, *told.problems]
    if not is_open:
        codes += _WITH_TOKEN
    if told.body is not None:
        codes += _WITH_BODY
    if told.is_strict:
        codes.append("invalid_request")
    if any(parameter.place == "path" for parameter in told.parameters):
        # What can't be one, as with a line break, leads nowhere.
        codes.append("not_found")
    found: defaultdict[int, set[str]] = defaultdict(set)
    for code in codes:
        found[_status(code)].add(code)
    if told.ends:
        for ending, traits in ENDINGS.items():
            if traits.http >= _ERROR:
                found[traits.http].add(ending.value)
    return found


def _status(code: str) -> int:
    if code in PROBLEMS:
        return PROBLEMS[code][0]
    return REFUSALS[Refusal(code)].http


class Description:
    """The endpoint. The description is made once, of `routes` and its own."""

    def __init__(self, software_version: str) -> None:
        self._software_version = software_version
        self._made = b""

    def routes(self) -> list[Route]:
        return [Route("/openapi.json", self.serve, methods=["GET"])]

    def tell(self, routes: Sequence[BaseRoute], open_paths: Sequence[str]) -> None:
        self._made = orjson.dumps(described(routes, self._software_version, open_paths))

    async def serve(self, _: Request) -> Response:
        return Response(self._made, 200, {"cache-control": "no-cache"}, "application/json")
