"""Any Python function as a tool.

The schema comes from the signature, what is said about the tool and its parameters from the docstring, and
arguments arrive as the types the function names. A sync function runs in one of the runner's threads; an
async one runs on the dispatcher's own loop and must not block it. What can't be served is refused when the
tool is made, never at its first call.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, overload

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import SchemaError, core_schema

from dispatcher.tools.arguments import PROBLEMS_MAX, at_path
from dispatcher.tools.contract import (
    ToolArgumentsError,
    ToolContext,
    ToolLimits,
    ToolLoadError,
)
from dispatcher.tools.result import JsonText, encode

F = TypeVar("F", bound=Callable[..., object])

# Where `tool` leaves what it was told; the function itself stays what it was.
_MARK = "__chatstream_tool__"


@dataclass(frozen=True, slots=True)
class _Told:
    name: str | None
    description: str | None
    limits: ToolLimits
    idempotent: bool = False


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float | None = None,
    output_bytes: int | None = None,
    concurrency: int | None = None,
    idempotent: bool = False,
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float | None = None,
    output_bytes: int | None = None,
    concurrency: int | None = None,
    idempotent: bool = False,
) -> F | Callable[[F], F]:
    """Says of a function what its signature and docstring don't. Optional: a plain function is a tool too.

    `idempotent`: to run it twice with the same idempotency key does no more than to run it once, so a call that a
    dispatcher's death has interrupted is run again instead of being answered with `unknown_outcome`. The function is
    returned unchanged and can be called as before. Raises ValueError for a limit that isn't greater than 0.
    """
    told = _Told(name, description, ToolLimits(timeout_s, output_bytes, concurrency), idempotent)

    def mark(marked: F) -> F:
        setattr(marked, _MARK, told)
        return marked

    return mark if function is None else mark(function)


class PythonTool:
    """A tool made of a function, a method, a `functools.partial` or an object with `__call__`."""

    __slots__ = (
        "_function",
        "_is_async",
        "_signature",
        "description",
        "is_idempotent",
        "limits",
        "name",
        "parameters_schema",
        "source",
    )

    def __init__(self, function: Callable[..., object]) -> None:
        """Raises ToolLoadError that names the function and the parameter."""
        inner = _unwrapped(function)
        told = (
            getattr(function, _MARK, None) or getattr(inner, _MARK, None) or _Told(None, None, ToolLimits())
        )
        self.name: str = told.name or getattr(inner, "__name__", None) or type(inner).__name__
        where = f"tool {self.name!r} ({_place_of(inner)})"
        _require_returns_once(function, inner, where)
        about, parameters = _docstring(inner)
        self.description: str = about if told.description is None else told.description
        self.limits: ToolLimits = told.limits
        self.is_idempotent: bool = told.idempotent
        self.source: str = _place_of(inner)
        self._function = function
        # A sync function that returns an awaitable is served too; see `call`.
        self._is_async = any(inspect.iscoroutinefunction(each) for each in (inner, _routine(inner)))
        self._signature = _Signature(function, inner, where, parameters)
        self.parameters_schema: Mapping[str, object] = self._signature.schema

    def __repr__(self) -> str:
        return f"<PythonTool {self.name} of {_place_of(_unwrapped(self._function))}>"

    async def call(self, arguments: dict[str, object], context: ToolContext) -> object:
        """Raises ToolArgumentsError where a value fits the schema and not the type."""
        if self._is_async:
            result = self._function(**self._signature.bound(arguments, context))
        else:
            result = await context.in_thread(self._call_in_thread, arguments, context)
        return await result if inspect.isawaitable(result) else result

    def _call_in_thread(self, arguments: dict[str, object], context: ToolContext) -> object:
        result = self._function(**self._signature.bound(arguments, context))
        # Made into text here, where it keeps nobody waiting.
        return result if inspect.isawaitable(result) else JsonText(encode(result, context.output_bytes))


class _Signature:
    """What a function takes: a schema for agents, a pydantic model for the values."""

    def __init__(
        self, function: Callable[..., object], inner: object, where: str, descriptions: Mapping[str, str]
    ) -> None:
        self._fields: dict[str, str] = {}  # the model's field name -> the parameter
        self._context_parameters: list[str] = []
        definitions: dict[str, Any] = {}
        for number, parameter in enumerate(_parameters(function, where)):
            annotation = _annotation(parameter, inner, where)
            if _is_context(annotation):
                self._context_parameters.append(parameter.name)
                continue
            # Fields are numbered, parameters are their aliases: a parameter may be called "_x" or "schema",
            # a field may not.
            field = f"p{number}"
            self._fields[field] = parameter.name
            definitions[field] = _definition(parameter, annotation, descriptions.get(parameter.name), where)
        self._model: type[BaseModel] = create_model("Arguments", __config__=_CONFIG, **definitions)
        self.schema: dict[str, object] = self._model.model_json_schema(schema_generator=_Schema)
        self.schema.pop("title", None)
        self.schema.setdefault("properties", {})

    def bound(self, arguments: dict[str, object], context: ToolContext) -> dict[str, object]:
        """The arguments as the function's types; what wasn't given is left to the function's own defaults."""
        try:
            values = self._model.model_validate(arguments)
        except ValidationError as error:
            raise ToolArgumentsError(f"the arguments don't fit: {_explained(error)}") from None
        given = {
            name: getattr(values, field)
            for field, name in self._fields.items()
            if field in values.model_fields_set
        }
        return given | dict.fromkeys(self._context_parameters, context)


_CONFIG = ConfigDict(extra="forbid")


class _Schema(GenerateJsonSchema):
    """Without what a model doesn't need, and without patterns that can't run."""

    # A default that isn't JSON is still a default: the argument may be left out.
    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 - declared so by pydantic
        "skipped-choice",
        "non-serializable-default",
    }

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        # Some versions add a pattern with look-around; the value is converted, and so checked, anyway.
        made = super().decimal_schema(schema)
        for branch in made.get("anyOf", (made,)):
            branch.pop("pattern", None)
        return made


# --- reading a function ----------------------------------------------------------------------------------


def _unwrapped(function: object) -> object:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _place_of(inner: object) -> str:
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    return f"{getattr(named, '__module__', '?')}.{getattr(named, '__qualname__', '?')}"


def _require_returns_once(function: object, inner: object, where: str) -> None:
    if isinstance(inner, type):
        raise ToolLoadError(f"{where} is a class; give a function, or an instance with a __call__ method")
    if not callable(function):
        raise ToolLoadError(f"{where} can't be called; a function is needed")
    for each in (inner, _routine(inner)):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise ToolLoadError(
                f"{where} is a generator; a tool returns one value, so collect what it yields in a list"
            )


def _parameters(function: Callable[..., object], where: str) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise ToolLoadError(
            f"{where}: its signature can't be read ({error}); wrap it in a function of your own"
        ) from error
    # What a partial has bound by name is its maker's, perhaps a secret, and not for agents to see or set.
    settled: set[str] = set()
    partial: object = function
    while isinstance(partial, functools.partial):
        settled.update(partial.keywords)
        partial = partial.func
    taken = []
    for parameter in parameters:
        if parameter.name in settled:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise ToolLoadError(
                f"{where}: parameter {stars}{parameter.name} takes anything; name each parameter, or "
                "take one list or dict"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolLoadError(
                f"{where}: parameter {parameter.name!r} is positional-only; arguments come by name, so "
                "remove the / after it"
            )
        taken.append(parameter)
    return taken


def _annotation(parameter: inspect.Parameter, inner: object, where: str) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        hints = typing.get_type_hints(
            holder,
            globalns=getattr(inspect.unwrap(_routine(inner)), "__globals__", {}),
            include_extras=True,
        )
    except Exception as error:
        raise ToolLoadError(
            f"{where}: the type of parameter {parameter.name!r}, {parameter.annotation!r}, can't be found "
            f"({type(error).__name__}: {error}); import it at the top of its module, outside TYPE_CHECKING"
        ) from error
    return hints[parameter.name]


def _is_context(annotation: Any) -> bool:
    if annotation is ToolContext:
        return True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        return any(_is_context(each) for each in typing.get_args(annotation))
    return False


def _definition(
    parameter: inspect.Parameter, annotation: Any, description: str | None, where: str
) -> tuple[Any, FieldInfo]:
    """One field of the model. Raises ToolLoadError where the type has no JSON form."""
    extra: dict[str, Any] = {"alias": parameter.name}
    if isinstance(parameter.default, FieldInfo):
        raise ToolLoadError(
            f"{where}: parameter {parameter.name!r} has a Field as its default; write "
            f"{parameter.name}: Annotated[<type>, Field(...)] = <default>"
        )
    if parameter.default is not parameter.empty:
        extra["default"] = parameter.default
    own = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()
    if not any(isinstance(each, FieldInfo) and each.description for each in own):
        # Annotated[str, "what it is"] is a custom of other frameworks; it costs nothing to honour it.
        description = next((each for each in own if isinstance(each, str)), description)
        if description:
            extra["description"] = description
    field: FieldInfo = Field(**extra)
    try:
        # Alone first, so that the error can say which parameter it is.
        create_model("Probe", __config__=_CONFIG, p=(annotation, field)).model_json_schema(
            schema_generator=_Schema
        )
    except (PydanticUserError, SchemaError, TypeError, ValueError, NameError) as error:
        mend = (
            "use text, numbers, booleans, lists, dicts, Literal, Enum, dates, dataclasses or pydantic models"
        )
        if not isinstance(error, PydanticSchemaGenerationError | PydanticInvalidForJsonSchema):
            mend = " ".join(str(error).split())[:300]  # what is wrong with it, better said than ours
        raise ToolLoadError(
            f"{where}: parameter {parameter.name!r} has the type {annotation!r}, which has no JSON form; {mend}"
        ) from error
    return annotation, field


def _docstring(inner: object) -> tuple[str, dict[str, str]]:
    """What it says of the tool, and of each parameter."""
    # Not getdoc for an object: it would find what `type` says of calling.
    text = inspect.cleandoc(_routine(inner).__doc__ or "") or inspect.getdoc(inner) or ""
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return text, {}  # in no style it knows: then it is all description
    about = "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)
    return about, {each.arg_name: each.description for each in parsed.params if each.description}


def _routine(inner: object) -> Any:
    """The function behind an object with `__call__`; a function or method as it is."""
    return inner if inspect.isroutine(inner) else getattr(type(inner), "__call__")  # noqa: B004, B009


def _explained(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    texts = [f"{at_path(each['loc'])}: {each['msg']}" for each in problems[:PROBLEMS_MAX]]
    return "; ".join(texts + (["and more"] if len(problems) > PROBLEMS_MAX else []))
