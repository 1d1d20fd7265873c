"""What an endpoint says of itself: its parameters, its body and its answers. `openapi.py` makes the description of it.

It stands right above the code that does it, and a test holds the two together by trying every endpoint with whatever
its description allows, and with what it does not.
"""

import functools
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, cast

from pydantic import BaseModel
from starlette.requests import Request

from dispatcher.edge.problems import ProblemError

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Any]])
Schema = Mapping[str, Any]

_ATTRIBUTE: Final = "__operation__"
_OWN: Final = frozenset({"sessions", "agents"})
TEXT: Final[Schema] = {"type": "string"}
TRUTH: Final[Schema] = {"type": "string", "enum": ["true", "false"]}
# Of each event of a stream in another client's dialect, which only that client reads.
DATA: Final[Schema] = {"type": "object", "required": ["data"], "properties": {"data": TEXT}}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One in the path, the query or a header."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Schema = field(default_factory=lambda: TEXT)

    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "in": self.place,
            "required": self.place == "path",
            "description": self.description,
            "schema": dict(self.schema),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes with a status. `schema` by media type; none: an answer without a body."""

    description: str
    content: Mapping[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """`problems` are codes of PROBLEMS or names of refusals, besides those that every endpoint may answer with.
    `errors`: the form in which they are told. `ends`: an ending that is no answer is told as an error too."""

    answers: Mapping[int, Answer]
    body: type[BaseModel] | None = None
    is_body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = ()
    tag: str = "sessions"
    errors: Literal["Problem", "OpenAiError"] = "Problem"
    ends: bool = False

    @property
    def is_strict(self) -> bool:
        """It is our own, and no client adds what it does not know."""
        return self.tag in _OWN


def object_of(**properties: Any) -> dict[str, Any]:
    """All of these are always there."""
    return {"type": "object", "required": sorted(properties), "properties": properties}


def json_answer(description: str, schema: Schema) -> Answer:
    return Answer(description, {"application/json": schema})


def operation(**told: Any) -> Callable[[Endpoint], Endpoint]:
    """Says what an endpoint takes and gives. Its summary is the first line of its docstring."""

    made = Operation(**told)
    known = frozenset(parameter.name for parameter in made.parameters if parameter.place == "query")

    def decorate(endpoint: Endpoint) -> Endpoint:
        @functools.wraps(endpoint)
        async def strict(edge: Any, request: Request) -> Any:
            _require_known(request, known)
            return await endpoint(edge, request)

        decorated = strict if made.is_strict else endpoint
        setattr(decorated, _ATTRIBUTE, made)
        return cast("Endpoint", decorated)

    return decorate


def _require_known(request: Request, known: Collection[str]) -> None:
    """A name that nobody knows is a mistake, as in a body: what was meant would be left out in silence."""
    for name in request.query_params:
        if name not in known:
            right = ", ".join(sorted(known)) or "none"
            told = f"{name[:80]}: there is no such parameter; there are: {right}"
            raise ProblemError("invalid_request", told, field=name[:80])


def operation_of(endpoint: Any) -> Operation | None:
    found: Operation | None = getattr(endpoint, _ATTRIBUTE, None)
    return found
