"""What an endpoint says of itself: its parameters, its body and its answers. `openapi.py` makes the description of it.

It stands right above the code that does it, and a test holds the two together by trying every endpoint with whatever
its description allows, and with what it does not.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Any]])
Schema = Mapping[str, Any]

_ATTRIBUTE: Final = "__operation__"
TEXT: Final[Schema] = {"type": "string"}


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


def object_of(**properties: Any) -> dict[str, Any]:
    """All of these are always there."""
    return {"type": "object", "required": sorted(properties), "properties": properties}


def json_answer(description: str, schema: Schema) -> Answer:
    return Answer(description, {"application/json": schema})


def operation(**told: Any) -> Callable[[Endpoint], Endpoint]:
    """Says what an endpoint takes and gives. Its summary is the first line of its docstring."""

    def decorate(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _ATTRIBUTE, Operation(**told))
        return endpoint

    return decorate


def operation_of(endpoint: Any) -> Operation | None:
    found: Operation | None = getattr(endpoint, _ATTRIBUTE, None)
    return found
