"""What an author imports: the decorator that makes an agent of a function."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, get_args, overload

P = ParamSpec("P")
R = TypeVar("R")

# What an agent does with a session whose earlier attempt was lost, when viewers already have something of it.
OnRestart = Literal["restart", "continue", "never"]
ON_RESTART: Final[tuple[OnRestart, ...]] = get_args(OnRestart)

# What a dispatcher takes of what an agent says of itself.
LABEL_CHARS_MAX: Final = 128
ACCEPTS_MAX: Final = 16


class Kind(Enum):
    """How an agent's function is run; the value is for people."""

    ASYNC_GENERATOR = "async generator"
    COROUTINE = "coroutine"
    # These two run in a thread of their own, with a BlockingTurn.
    GENERATOR = "generator"
    FUNCTION = "function"

    @property
    def is_blocking(self) -> bool:
        return self in (Kind.GENERATOR, Kind.FUNCTION)


class Agent(Generic[P, R]):
    """A function that can be served under a name. Called, it is still that function."""

    def __init__(
        self,
        function: Callable[P, R],
        name: str,
        description: str,
        version: str,
        accepts: Sequence[str],
        on_restart: OnRestart,
        parks: bool = False,
    ) -> None:
        self.function = function
        self.name = _checked_name(name)
        self.description = _checked_text("description", description)
        self.version = _checked_label("version", version)
        self.accepts = _checked_accepts(accepts)
        self.on_restart = _checked_on_restart(on_restart)
        self.parks = _checked_parks(parks, on_restart)
        self.kind = _kind(function)
        _check_takes_turn(self.name, function)
        self.__name__ = getattr(function, "__name__", name)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<Agent {self.label} ({self.kind.value})>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def label(self) -> str:
        """Name, and version where it has one."""
        return f"{self.name} {self.version}".strip()


# An agent of whatever shape; the runner asks its kind before it calls it.
AnyAgent = Agent[Any, Any]


@overload
def agent(function: Callable[P, R], /) -> Agent[P, R]: ...


@overload
def agent(
    name: str | None = None,
    /,
    *,
    description: str = "",
    version: str = "",
    accepts: Sequence[str] = ("text/plain",),
    on_restart: OnRestart = "restart",
    parks: bool = False,
) -> Callable[[Callable[P, R]], Agent[P, R]]: ...


def agent(
    name: Any = None,
    /,
    *,
    description: str = "",
    version: str = "",
    accepts: Sequence[str] = ("text/plain",),
    on_restart: OnRestart = "restart",
    parks: bool = False,
) -> Any:
    """Makes an agent: `@agent("weather", description="Answers questions about the weather")`.

    It decorates an async generator or a sync one, that yields what it says, or a function, async or not, that
    returns the whole answer. Sync ones run in a thread of their own. Without a name the agent is called like its
    function, with - for _. Without a description it is the first line of the docstring. `accepts` are MIME types.

    ValueError or TypeError for what no dispatcher would take.

    `on_restart` says what becomes of a session whose commander died: the agent begins anew ("restart"), goes on from
    `turn.published` ("continue"), or is not run a second time ("never"). ValueError for anything else.

    `parks`: while a user is asked, its place may be given to others; with the answer it runs again from its beginning,
    and is given the same results and answers as before.
    """
    if callable(name):
        return agent()(name)

    def decorate(function: Callable[P, R]) -> Agent[P, R]:
        own_name = getattr(function, "__name__", "").replace("_", "-")
        told = description or (inspect.getdoc(function) or "").partition("\n")[0]
        return Agent(function, own_name if name is None else name, told, version, accepts, on_restart, parks)

    return decorate


def _kind(function: Callable[..., Any]) -> Kind:
    if not callable(function):
        raise TypeError(f"@agent decorates functions, not {type(function).__name__}")
    while isinstance(function, partial):
        function = function.func
    # An object with __call__ is a function too, of the kind that its __call__ is.
    code = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(code):
        return Kind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(code):
        return Kind.COROUTINE
    if inspect.isgeneratorfunction(code):
        return Kind.GENERATOR
    return Kind.FUNCTION


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= 128 or not name.isprintable() or " " in name:
        raise ValueError(
            f"an agent's name should be 1 to 128 characters without spaces, e.g. 'weather', not {name!r}"
        )
    return name


def _checked_text(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"an agent's {what} should be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"an agent's {what} has half characters (lone surrogates), which no text has"
        ) from None
    return text


def _checked_label(what: str, text: object) -> str:
    """As long as a dispatcher takes it."""
    told = _checked_text(what, text)
    if len(told) > LABEL_CHARS_MAX:
        raise ValueError(f"an agent's {what} has {len(told)} characters; up to {LABEL_CHARS_MAX} are right")
    return told


def _checked_accepts(accepts: object) -> tuple[str, ...]:
    # A text is a sequence of texts too: of its letters.
    if isinstance(accepts, str) or not isinstance(accepts, Iterable):
        raise TypeError(
            f"an agent's accepts should be a list of MIME types, e.g. ['text/plain'], not {type(accepts).__name__}"
        )
    told = tuple(_checked_label("accepts", each) for each in accepts)
    if len(told) > ACCEPTS_MAX:
        raise ValueError(f"an agent's accepts has {len(told)} MIME types; up to {ACCEPTS_MAX} are right")
    return told


def _check_takes_turn(name: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not every function of C has one
        return
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(
            f"agent {name!r}: its function should be called with one argument, the turn: (turn), not {signature}"
        ) from None


def _checked_parks(parks: object, on_restart: object) -> bool:
    if not isinstance(parks, bool):
        raise TypeError(f"an agent's parks should be True or False, not {parks!r}")
    if parks and on_restart == "continue":
        raise ValueError(
            "an agent that parks is run again from its beginning, and one that continues goes on from what was"
            " published: leave out parks, or on_restart='continue'"
        )
    return parks


def _checked_on_restart(on_restart: object) -> OnRestart:
    if on_restart not in ON_RESTART:
        right = ", ".join(map(repr, ON_RESTART))
        raise ValueError(f"an agent's on_restart should be one of {right}, not {on_restart!r}")
    return on_restart
