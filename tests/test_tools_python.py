"""Python functions as tools: their schema, the types of their arguments, and what is refused at the start."""

import asyncio
import dataclasses
import enum
import functools
import json
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, TypedDict, Union

import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

from dispatcher.tools import (
    PythonTool,
    Tool,
    ToolArgumentsError,
    ToolContext,
    ToolLimits,
    ToolLoadError,
    tool,
)
from dispatcher.tools.result import JsonText
from dispatcher.tools.schema import ArgumentsSchema

if TYPE_CHECKING:
    from collections import Counter


class Unit(enum.Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


@dataclasses.dataclass
class Place:
    city: str
    country: str = "DE"


class Node(BaseModel):
    """A tree."""

    name: str
    below: list["Node"] = []


class OldOptions(TypedDict):
    loud: bool


class Options(typing_extensions.TypedDict, total=False):
    loud: bool


UserId = NewType("UserId", int)


def called(
    function: Callable[..., object], arguments: dict[str, object], context: ToolContext | None = None
) -> object:
    """What a tool returns for arguments that have passed its schema."""
    made = PythonTool(function)
    ArgumentsSchema(made.name, made.parameters_schema).check(arguments)

    async def scene() -> object:
        result = await made.call(arguments, context or ToolContext())
        return json.loads(result.text) if isinstance(result, JsonText) else result

    return asyncio.run(scene())


def properties(function: Callable[..., object]) -> dict[str, Any]:
    found = PythonTool(function).parameters_schema["properties"]
    assert isinstance(found, dict)
    return found


# --- schema ----------------------------------------------------------------------------------------------


def test_the_schema_comes_from_the_signature() -> None:
    def weather(
        city: str,
        unit: Unit = Unit.METRIC,
        days: Annotated[int, Field(ge=1, le=7)] = 3,
        *,
        style: Literal["short", "long"] = "short",
        near: Place | None = None,
    ) -> str:
        return city

    schema = PythonTool(weather).parameters_schema
    assert schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["city"],
        "properties": {
            "city": {"type": "string"},
            "unit": {"$ref": "#/$defs/Unit", "default": "metric"},
            "days": {"type": "integer", "minimum": 1, "maximum": 7, "default": 3},
            "style": {"type": "string", "enum": ["short", "long"], "default": "short"},
            "near": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}], "default": None},
        },
        "$defs": schema["$defs"],
    }


GOOGLE = """Tells the weather.

    For any city.

    Args:
        city: Where.
        days (int): How far ahead,
            in days.

    Returns:
        A text.
    """
NUMPY = """Tells the weather.

    For any city.

    Parameters
    ----------
    city : str
        Where.
    days : int
        How far ahead,
        in days.
    """
SPHINX = """Tells the weather.

    For any city.

    :param city: Where.
    :param days: How far ahead,
        in days.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_descriptions_come_from_the_docstring(text: str) -> None:
    def weather(city: str, days: int = 1) -> None: ...

    weather.__doc__ = text
    assert PythonTool(weather).description == "Tells the weather.\n\nFor any city."
    assert properties(weather)["city"]["description"] == "Where."
    assert properties(weather)["days"]["description"] == "How far ahead,\nin days."


def test_a_description_at_the_type_wins() -> None:
    def find(
        a: Annotated[str, Field(description="of the field")], b: Annotated[str, "of the text"], c: str
    ) -> None:
        """Finds.

        Args:
            a: of the docstring
            b: of the docstring
            c: of the docstring
        """

    said = {name: each["description"] for name, each in properties(find).items()}
    assert said == {"a": "of the field", "b": "of the text", "c": "of the docstring"}


def test_a_docstring_in_no_style_is_all_description() -> None:
    def odd(a: int) -> None: ...

    odd.__doc__ = ":param: :raises\n  a b\n ---\n Args:\n:"
    assert isinstance(PythonTool(odd).description, str)
    odd.__doc__ = None
    assert PythonTool(odd).description == ""


def test_names_that_pydantic_keeps_for_itself_are_fine() -> None:
    def odd(_x: int, schema: int, model_config: int, copy: int, self: int, p0: int, json: int = 0) -> object:
        return [_x, schema, model_config, copy, self, p0, json]

    names = ["_x", "schema", "model_config", "copy", "self", "p0"]
    assert called(odd, {name: index for index, name in enumerate(names)}) == [0, 1, 2, 3, 4, 5, 0]


# --- arguments as the types they are ---------------------------------------------------------------------


def test_arguments_arrive_as_their_types() -> None:
    seen: list[object] = []

    def take(  # type: ignore[no-untyped-def]  # one is without a type on purpose
        when: datetime,
        day: date,
        unit: Unit,
        place: Place,
        tree: Node,
        money: Decimal,
        tags: set[str],
        pair: tuple[int, str],
        user: UserId,
        options: Options,
        anything: Any,
        untyped,
        maybe: Optional[int] = None,  # noqa: UP045 - the old spelling is served too
        either: Union[int, str] = "x",  # noqa: UP007
    ) -> None:
        seen.extend(
            [when, day, unit, place, tree, money, tags, pair, user, options, anything, untyped, maybe, either]
        )

    called(
        take,
        {
            "when": "2026-01-02T03:04:05Z",
            "day": "2026-01-02",
            "unit": "imperial",
            "place": {"city": "Kiel"},
            "tree": {"name": "a", "below": [{"name": "b"}]},
            "money": "1.10",
            "tags": ["a", "b"],
            "pair": [1, "b"],
            "user": 7,
            "options": {"loud": True},
            "anything": {"x": [1]},
            "untyped": None,
            "either": 3,
        },
    )
    assert seen == [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        date(2026, 1, 2),
        Unit.IMPERIAL,
        Place("Kiel"),
        Node(name="a", below=[Node(name="b")]),
        Decimal("1.10"),
        {"a", "b"},
        (1, "b"),
        7,
        {"loud": True},
        {"x": [1]},
        None,
        None,
        3,
    ]


def test_what_is_left_out_is_the_functions_own_default() -> None:
    marker = object()

    def take(a: int, b: Any = marker, c: list[int] = [1]) -> bool:  # noqa: B006 - that very list
        c.append(a)
        return b is marker

    assert called(take, {"a": 5}) is True
    assert take.__defaults__ == (marker, [1, 5])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"when": "yesterday", "even": 2}, "$.when: "),
        ({"when": "2026-01-02T03:04:05Z", "even": 3}, "$.even: Value error, 3 is odd"),
    ],
)
def test_a_value_that_fits_the_schema_and_not_the_type(arguments: dict[str, object], text: str) -> None:
    def check(value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value

    def take(when: datetime, even: Annotated[int, AfterValidator(check)]) -> None:
        raise AssertionError("ran")

    with pytest.raises(ToolArgumentsError, match=re.escape(text)):
        called(take, arguments)


# --- the context -----------------------------------------------------------------------------------------


def test_the_context_is_given_and_is_no_parameter() -> None:
    def one(a: int, context: ToolContext) -> str:
        return context.call_id

    def two(*, here: ToolContext | None = None, a: int = 1) -> str:
        return here.call_id if here else ""

    def three(here: "Annotated[ToolContext, 'mine']") -> str:
        return here.call_id

    context = ToolContext(call_id="c-9")
    assert called(one, {"a": 1}, context) == called(two, {}, context) == called(three, {}, context) == "c-9"
    assert list(properties(one)) == ["a"]
    assert properties(three) == {}


def test_a_context_made_by_hand_is_good_for_a_test_of_a_tool() -> None:
    async def mine(context: ToolContext) -> list[int]:
        assert context.time_left_s() > 0
        assert not context.cancelled.is_set()
        return await context.in_thread(sorted, [2, 1])

    assert asyncio.run(mine(ToolContext())) == [1, 2]


# --- what can be called ----------------------------------------------------------------------------------


class Shop:
    """Sells."""

    def __init__(self, name: str) -> None:
        self.name = name

    def price(self, item: str) -> str:
        """Tells a price."""
        return f"{self.name}: {item}"

    @classmethod
    def kind(cls, item: str) -> str:
        return cls.__name__ + item

    @staticmethod
    def tax(item: str) -> str:
        return "tax " + item


class Called:
    """An object."""

    def __call__(self, item: str) -> str:
        """Calls."""
        return item


class CalledAsync:
    """An object, awaited."""

    async def __call__(self, item: str) -> str:
        return f"{item} on {threading.current_thread().name}"


async def answer(item: str, key: str = "") -> str:
    """Answers."""
    return item + key


def deferred(item: str) -> object:
    return answer(item, "later")


def logged(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def inner(*arguments: object, **named: object) -> object:
        return function(*arguments, **named)

    return inner


@pytest.mark.parametrize(
    ("function", "name", "description", "result"),
    [
        (Shop("A").price, "price", "Tells a price.", "A: x"),
        (Shop.kind, "kind", "", "Shopx"),
        (Shop.tax, "tax", "", "tax x"),
        (Called(), "Called", "Calls.", "x"),
        (CalledAsync(), "CalledAsync", "An object, awaited.", "x on MainThread"),
        (answer, "answer", "Answers.", "x"),
        (functools.partial(answer, key="!"), "answer", "Answers.", "x!"),
        (functools.partial(functools.partial(answer), key="!"), "answer", "Answers.", "x!"),
        (deferred, "deferred", "", "xlater"),
        (logged(answer), "answer", "Answers.", "x"),
        (logged(Called().__call__), "__call__", "Calls.", "x"),
    ],
)
def test_whatever_can_be_called_is_a_tool(
    function: Callable[..., object], name: str, description: str, result: str
) -> None:
    made = PythonTool(function)
    assert isinstance(made, Tool)
    assert (made.name, made.description) == (name, description)
    assert called(function, {"item": "x"}) == result


def test_what_a_partial_has_bound_is_not_for_agents() -> None:
    bound = functools.partial(answer, key="secret")
    schema = PythonTool(bound).parameters_schema
    assert "secret" not in json.dumps(schema)
    with pytest.raises(ToolArgumentsError, match='"key" is not known'):
        called(bound, {"item": "x", "key": "mine"})


def test_a_sync_function_runs_in_a_thread_and_an_async_one_on_the_loop() -> None:
    def here() -> str:
        return threading.current_thread().name

    async def there() -> str:
        return threading.current_thread().name

    assert called(here, {}) != "MainThread"
    assert called(there, {}) == "MainThread"


# --- the decorator ---------------------------------------------------------------------------------------


def test_the_decorator_adds_and_changes_nothing_else() -> None:
    @tool(name="sum_up", description="Sums.", timeout_s=2, output_bytes=99, concurrency=1)
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    assert add(1, 2) == 3
    made = PythonTool(add)
    assert (made.name, made.description) == ("sum_up", "Sums.")
    assert made.limits == ToolLimits(timeout_s=2, output_bytes=99, concurrency=1)
    assert "sum_up of " in repr(made)
    assert PythonTool(functools.partial(add, b=1)).name == "sum_up"


def test_the_decorator_works_bare_and_on_methods() -> None:
    class Desk:
        @tool
        def plain(self, a: int) -> int:
            """Plain."""
            return a

        @tool(name="told")
        async def named(self, a: int) -> int:
            return a

    assert PythonTool(Desk().plain).description == "Plain."
    assert PythonTool(Desk().named).name == "told"
    assert called(Desk().named, {"a": 4}) == 4


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"timeout_s": 0}, "timeout_s is 0; a number greater than 0"),
        ({"output_bytes": -5}, "output_bytes is -5; a whole number greater than 0"),
        ({"concurrency": 1.5}, "concurrency is 1.5; a whole number greater than 0"),
        ({"concurrency": True}, "concurrency is True"),
        ({"timeout_s": "soon"}, "timeout_s is 'soon'"),
    ],
)
def test_limits_that_make_no_sense_are_named(limits: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        tool(**limits)


# --- refused at the start --------------------------------------------------------------------------------


class Opaque:
    pass


def star(*rest: int) -> None: ...
def stars(**rest: int) -> None: ...
def positional(a: int, /) -> None: ...
def opaque(a: int, thing: Opaque) -> None: ...
def opaque_inside(things: list[Opaque]) -> None: ...
def callback(then: Callable[[], None]) -> None: ...
def unresolved(a: int, b: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - on purpose
def only_typed(b: "Counter[str]") -> None: ...
def field_default(a: int = Field(3, ge=1)) -> None: ...
def look_around(a: Annotated[str, Field(pattern="^(?!x)")]) -> None: ...
def typed_dict(a: OldOptions) -> None: ...
def generator(a: int) -> Iterator[int]:
    yield a


async def async_generator(a: int) -> AsyncIterator[int]:
    yield a


@pytest.mark.parametrize(
    ("function", "texts"),
    [
        (star, ["'star'", "*rest", "name each parameter"]),
        (stars, ["'stars'", "**rest", "name each parameter"]),
        (positional, ["'positional'", "'a' is positional-only", "remove the /"]),
        (opaque, ["'opaque'", "'thing'", "Opaque", "no JSON form"]),
        (opaque_inside, ["'things'", "no JSON form"]),
        (callback, ["'then'", "no JSON form"]),
        (unresolved, ["'b'", "Nowhere", "import it"]),
        (only_typed, ["'b'", "Counter", "TYPE_CHECKING"]),
        (field_default, ["'a'", "Annotated"]),
        (look_around, ["'look_around'", "'a'", "look-around"]),
        pytest.param(
            typed_dict,
            ["'a'", "typing_extensions"],
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes them from 3.12 on"),
        ),
        (generator, ["'generator'", "collect what it yields"]),
        (async_generator, ["'async_generator'", "collect what it yields"]),
        (Opaque, ["is a class"]),
        (dict.get, ["'get'"]),
        (max, ["'max'"]),
        (3, ["can't be called"]),
    ],
)
def test_what_can_not_be_served_is_refused_by_name(function: Any, texts: list[str]) -> None:
    with pytest.raises(ToolLoadError) as caught:
        PythonTool(function)
    for text in texts:
        assert text in str(caught.value)


def test_a_type_that_only_the_return_needs_is_no_concern() -> None:
    def fine(a: int) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821 - on purpose
        return a

    assert called(fine, {"a": 1}) == 1


# --- law -------------------------------------------------------------------------------------------------

TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**53), 2**53)),
    (str, st.text()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (list[int], st.lists(st.integers(-9, 9), max_size=4)),
    (dict[str, bool], st.dictionaries(st.text(max_size=4), st.booleans(), max_size=4)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (int | None, st.none() | st.integers(-9, 9)),
]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_law_what_fits_the_types_arrives_unchanged(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))

    async def take(**arguments: object) -> object:
        return arguments

    names = [f"a{number}" for number in range(len(chosen))]
    source = (
        f"async def take({', '.join(names)}): return dict({', '.join(f'{each}={each}' for each in names)})"
    )
    space: dict[str, Any] = {}
    exec(source, space)  # noqa: S102 - a function with any signature
    space["take"].__annotations__ = {name: kind for name, (kind, _) in zip(names, chosen, strict=True)}
    arguments = {name: data.draw(values) for name, (_, values) in zip(names, chosen, strict=True)}
    assert called(space["take"], json.loads(json.dumps(arguments))) == arguments
