"""Random patterns for laws: RE2 source together with what it means, so that a test can judge it by itself.

Texts are made of ALPHABET. A meaning is a tree of tuples: ("one", characters), ("run", trees), ("choice",
trees), ("many", tree, least, most or None). Assertions have no meaning here beyond having no width.
"""

from functools import cache
from typing import Any, NamedTuple

from hypothesis import strategies as st

ALPHABET = "abB1 \né-"

Tree = tuple[Any, ...]
EMPTY: Tree = ("run", ())


class Grown(NamedTuple):
    """A pattern and its meaning; `edges`: it has assertions."""

    source: str
    tree: Tree
    edges: bool = False


def _one(source: str, chars: str) -> Grown:
    return Grown(source, ("one", frozenset(chars)))


def _but(chars: str) -> str:
    return "".join(char for char in ALPHABET if char not in chars)


ONES = [
    *(_one(char, char) for char in "abB1 é-"),
    _one(r"\n", "\n"),
    _one(r"\x61", "a"),
    _one(r"\x{e9}", "é"),
    _one(r"\142", "b"),
    _one(r"\-", "-"),
    _one(r"\Qb\E", "b"),
    _one("[ab]", "ab"),
    _one("[a-b1]", "ab1"),
    _one("[^a]", _but("a")),
    _one("[^é\\n]", _but("é\n")),
    _one("[]a-]", "a-"),
    _one("[[:alpha:]1]", "abB1"),
    _one("[^[:space:]\\d]", _but(" \n1")),
    _one(r"\d", "1"),
    _one(r"\D", _but("1")),
    _one(r"\w", "abB1"),
    _one(r"\W", " \né-"),
    _one(r"\s", " \n"),
    _one(r"\S", _but(" \n")),
    _one(r"\pL", "abBé"),
    _one(r"\P{L}", "1 \n-"),
    _one(".", _but("\n")),
    _one("(?s:.)", ALPHABET),
    _one("(?i:b)", "bB"),
    _one("(?i)B(?-i)", "bB"),
]
EDGES = [Grown(source, EMPTY, True) for source in ("^", "$", r"\b", r"\B", r"\A", r"\z", "(?m:^)", "(?m:$)")]
GROUPS = ["(?:", "(", "(?P<name>", "(?s-i:(?-s)", "(?U:"]
COUNTS = [("*", 0, None), ("+", 1, None), ("?", 0, 1), ("{2}", 2, 2), ("{1,}", 1, None), ("{0,3}", 0, 3)]


def _run(parts: list[Grown]) -> Grown:
    source = "".join(part.source for part in parts)
    return Grown(source, ("run", tuple(p.tree for p in parts)), any(p.edges for p in parts))


def _group(head: str, options: list[Grown]) -> Grown:
    source = f"{head}{'|'.join(option.source for option in options)})"
    tree = ("choice", tuple(option.tree for option in options))
    return Grown(source, tree, any(option.edges for option in options))


def _many(part: Grown, count: tuple[str, int, int | None], lazy: bool) -> Grown:
    sign, least, most = count
    source = f"(?:{part.source}){sign}{'?' if lazy else ''}"
    return Grown(source, ("many", part.tree, least, most), part.edges)


def patterns(edges: bool) -> st.SearchStrategy[Grown]:
    """Patterns that don't match empty text by their meaning; with assertions anywhere, or without."""
    leaves = st.sampled_from(ONES + (EDGES if edges else []))
    grown = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(_run, st.lists(inner, min_size=1, max_size=4)),
            st.builds(_group, st.sampled_from(GROUPS), st.lists(inner, min_size=1, max_size=3)),
            st.builds(_many, inner, st.sampled_from(COUNTS), st.booleans()),
        ),
        max_leaves=7,
    )
    return grown.filter(lambda pattern: not may_be_empty(pattern.tree))


def words(edges: bool) -> st.SearchStrategy[Grown]:
    """A word of two letters, perhaps with an end of more than one kind: what overlaps itself and others."""
    letters = st.lists(st.sampled_from(ONES[:2]), min_size=1, max_size=5)
    none = _run([])
    ends = st.sampled_from([none, _one("[ab]", "ab"), _many(_one("b", "b"), ("+", 1, None), False)])
    edge = st.sampled_from([none, *EDGES]) if edges else st.just(none)
    return st.builds(
        lambda first, word, end, last: _run([first, *word, end, last]), edge, letters, ends, edge
    )


class Case(NamedTuple):
    grown: list[Grown]
    text: str


def cases(edges: bool) -> st.SearchStrategy[Case]:
    """Some patterns and a text: any, or words that often match."""
    anything = st.builds(Case, st.lists(patterns(edges), min_size=1, max_size=3), texts())
    matching = st.builds(Case, st.lists(words(edges), min_size=1, max_size=3), st.text("ab \n", max_size=20))
    return anything | matching


def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    return st.text(ALPHABET, max_size=max_size)


@st.composite
def packets(draw: st.DrawFn, text: str) -> list[str]:
    """`text`, cut somehow."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def may_be_empty(tree: Tree) -> bool:
    match tree:
        case ("one", _):
            return False
        case ("run", parts):
            return all(may_be_empty(part) for part in parts)
        case ("choice", options):
            return any(may_be_empty(option) for option in options)
        case (_, part, least, _):
            return least == 0 or may_be_empty(part)
    raise AssertionError(tree)


@cache
def after(tree: Tree, char: str) -> frozenset[Tree]:
    """What may still have to follow, once `char` was read."""
    match tree:
        case ("one", chars):
            return frozenset({EMPTY}) if char in chars else frozenset()
        case ("run", ()):
            return frozenset()
        case ("run", (first, *others)):
            then = frozenset(("run", (left, *others)) for left in after(first, char))
            return then | after(("run", tuple(others)), char) if may_be_empty(first) else then
        case ("choice", options):
            return frozenset(left for option in options for left in after(option, char))
        case ("many", part, least, most):
            if most == 0:
                return frozenset()
            rest = ("many", part, max(0, least - 1), None if most is None else most - 1)
            return frozenset(("run", (left, rest)) for left in after(part, char))
    raise AssertionError(tree)


def begins(tree: Tree, text: str) -> bool:
    """Whether something could follow `text` so that all of it matches; nothing is enough, too."""
    left = frozenset({tree})
    for char in text:
        left = frozenset(then for one in left for then in after(one, char))
    return bool(left)


def first_begin(trees: list[Tree], text: str) -> int:
    """From where on `text` could become a match of one of these."""
    indexes = range(len(text))
    return next((i for i in indexes if any(begins(tree, text[i:]) for tree in trees)), len(text))
