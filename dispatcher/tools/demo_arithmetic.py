"""Arithmetic on an expression somebody typed, in bounded time and space.

The expression is parsed by Python's `ast` and walked; nothing is ever evaluated by Python. Every number on
the way is bounded, so `9**9**9` is refused before it is computed.
"""

import ast
import math
import operator
import re
from collections.abc import Callable

from dispatcher.tools.contract import ToolArgumentsError

EXPRESSION_CHARS_MAX = 500
DEPTH_MAX = 50
# About 1,200 digits.
INTEGER_BITS_MAX = 4_096
ARGUMENTS_MAX = 100
DIGITS_MAX = 400

Number = int | float

_OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Number, Number], Number]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}
_SIGNS: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def _round(value: Number, digits: Number | None = None) -> Number:
    if digits is None:
        return round(value)
    if not isinstance(digits, int) or abs(digits) > DIGITS_MAX:
        # Python would compute ten to the power of it.
        raise ValueError(f"the digits to round to are a whole number from -{DIGITS_MAX} to {DIGITS_MAX}")
    return round(value, digits)


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": _round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}

# What people type for what Python writes.
_TYPED = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**"})
_TOKEN = re.compile(
    r"""
    \s+
    | [A-Za-z_]\w*
    | (?: \d[\d_]*\.?[\d_]* | \.\d[\d_]* ) (?: [eE][+-]?\d+ )? (?! [\w.] )
    | \*\* | // | [-+*/%(),]
    """,
    re.ASCII | re.VERBOSE,
)


def evaluate(expression: str) -> Number:
    """The value, as Python would have it. Raises ToolArgumentsError, and nothing else."""
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise ToolArgumentsError(
            f"the expression has {len(expression)} characters; at most {EXPRESSION_CHARS_MAX} may be"
        )
    typed = " ".join(expression.translate(_TYPED).split())
    if not typed:
        raise ToolArgumentsError('the expression is empty; something like "2 * (3 + 4)" is needed')
    _require_tokens(typed)
    try:
        # The tokens were looked at, so the parser has no occasion for a warning.
        tree = ast.parse(typed, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is too much at once"
        raise ToolArgumentsError(f"the expression can't be read: {reason}") from None
    return _finite(_value(tree, DEPTH_MAX))


def _require_tokens(typed: str) -> None:
    at = 0
    while at < len(typed):
        token = _TOKEN.match(typed, at)
        if token is None:
            raise ToolArgumentsError(
                f"the expression can't be read at character {at + 1}, near {typed[at : at + 10]!r}; numbers, "
                f"+ - * / // % **, brackets and {', '.join([*_FUNCTIONS, *_CONSTANTS])} are known"
            )
        at = token.end()


def _value(node: ast.expr, depth: int) -> Number:
    if depth == 0:
        raise ToolArgumentsError(f"the expression is nested more than {DEPTH_MAX} deep; split it")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _finite(number)
        case ast.BinOp():
            return _chain(node, depth)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](_value(operand, depth - 1))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
            return _function(name, [_value(each, depth - 1) for each in given[: ARGUMENTS_MAX + 1]])
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)):
            known = ", ".join([*_FUNCTIONS, *_CONSTANTS])
            raise ToolArgumentsError(f"{name!r} is not known here; known are {known}")
        case ast.Tuple():
            raise ToolArgumentsError(
                "a comma only stands between arguments; write 1000 or 1_000 for a thousand"
            )
        case _:
            raise ToolArgumentsError(
                "the expression is not arithmetic; numbers, operators and brackets are known"
            )


def _chain(node: ast.BinOp, depth: int) -> Number:
    """A sum of two hundred terms is a chain to the left: long, not deep."""
    links = [node]
    while isinstance(links[-1].left, ast.BinOp):
        links.append(links[-1].left)
    value = _value(links[-1].left, depth - 1)
    for link in reversed(links):
        value = _applied(link.op, value, _value(link.right, depth - 1))
    return value


def _applied(kind: ast.operator, left: Number, right: Number) -> Number:
    if type(kind) not in _OPERATORS:
        raise ToolArgumentsError("that operator is not arithmetic; + - * / // % ** are known")
    sign, operate = _OPERATORS[type(kind)]
    if (
        isinstance(kind, ast.Pow)
        and isinstance(left, int)
        and isinstance(right, int)
        and abs(left) > 1 < right
    ):
        # Before it is computed: the result's size is known from the operands'.
        _require_bits(right if right > INTEGER_BITS_MAX else int(right * math.log2(abs(left))))
    try:
        return _finite(operate(left, right))
    except ZeroDivisionError:
        raise ToolArgumentsError(f"{_short(left)} {sign} {_short(right)} divides by zero") from None
    except OverflowError:
        raise ToolArgumentsError(f"{_short(left)} {sign} {_short(right)} is too large") from None


def _function(name: str, given: list[Number]) -> Number:
    if len(given) > ARGUMENTS_MAX:
        raise ToolArgumentsError(f"{name} has more than {ARGUMENTS_MAX} arguments")
    shown = f"{name}({', '.join(_short(each) for each in given[:5])}{', …' if len(given) > 5 else ''})"
    try:
        return _finite(_FUNCTIONS[name](*given))
    except OverflowError:
        raise ToolArgumentsError(f"{shown} is too large") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ToolArgumentsError(f"{shown} has no value: {error}") from None


def _finite(value: Number | complex) -> Number:
    if isinstance(value, complex):
        raise ToolArgumentsError("the root of a negative number is not a real number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ToolArgumentsError(
                "a number is too large; at most about 1.8e308 may be, where it has a fraction"
            )
        return value
    _require_bits(value.bit_length())
    return value


def _require_bits(bits: int) -> None:
    if bits > INTEGER_BITS_MAX:
        raise ToolArgumentsError(
            f"a number has over {int(INTEGER_BITS_MAX * 0.30103):,} digits; that is too large"
        )


def _short(value: Number) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:17]}…"
