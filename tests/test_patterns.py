"""Deny patterns on RE2: what is refused, what is seen, under which name, and where."""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st
from re2_grammar import Case, Grown, cases, first_begin, texts

from dispatcher.core.holdback import Sighting
from dispatcher.patterns import (
    COPIES_MAX,
    PATTERN_CHARS_MAX,
    PATTERNS_MAX,
    PatternError,
    Patterns,
    compile_patterns,
)


def matcher(grown: list[Grown]) -> Patterns:
    return compile_patterns({str(number): pattern.source for number, pattern in enumerate(grown)})


def starts(grown: list[Grown], text: str, start: int) -> list[int]:
    """Where RE2 finds each of them first, with all of the text to see."""
    options = re2.Options()
    options.log_errors = False
    found = [re2.compile(pattern.source, options).search(text, start) for pattern in grown]
    return [match.start() for match in found if match is not None]


@given(case=cases(edges=True), left=st.booleans())
def test_in_a_final_text_the_leftmost_match_is_seen(case: Case, left: bool) -> None:
    grown, text = case
    start = 1 if left and text else 0
    seen = matcher(grown).scan(text, start, True)
    expected = starts(grown, text, start)
    if not expected:
        assert seen is None
    else:
        assert seen is not None
        assert (seen.match, seen.hold) == (min(expected), len(text))
        assert min(expected) in starts([grown[int(seen.pattern)]], text, start)


@given(case=cases(edges=True), after=texts(6))
def test_what_is_certain_stays_so_and_what_is_not_held_never_matches(case: Case, after: str) -> None:
    grown, text = case
    seen = matcher(grown).scan(text, 0, False) or Sighting(-1, "", len(text))
    match = min(starts(grown, text + after, 0), default=len(text))
    if seen.match >= 0:
        assert match == seen.match
        assert seen.match <= seen.hold
    else:
        assert match >= seen.hold


@given(case=cases(edges=False))
def test_what_is_held_is_what_could_become_a_match(case: Case) -> None:
    grown, text = case
    deny = matcher(grown)
    seen = deny.scan(text, 0, False) or Sighting(-1, "", len(text))
    begin = first_begin([one.tree for one in grown], text)
    assert seen.hold == begin
    assert deny.may_grow(text, 0) == (begin == 0 and text != "")


@given(case=cases(edges=True))
def test_the_name_is_that_of_the_pattern_certain_first(case: Case) -> None:
    grown, text = case
    deny = matcher(grown)
    seen = deny.scan(text, 0, True)
    if seen is None:
        return
    for length in range(seen.match + 1, len(text) + 1):
        alone = [deny_one(one).scan(text[:length], seen.match, False) for one in grown]
        certain = [str(i) for i, s in enumerate(alone) if s is not None and s.match == seen.match]
        if certain:
            assert seen.pattern == certain[0]
            return


def deny_one(pattern: Grown) -> Patterns:
    return compile_patterns({"only": pattern.source})


@given(case=cases(edges=True))
def test_the_end_is_that_of_the_longest(case: Case) -> None:
    grown, text = case
    seen = matcher(grown).scan(text, 0, True)
    if seen is None:
        return
    options = re2.Options()
    options.longest_match = True
    options.log_errors = False
    found = [re2.compile(one.source, options).match(text, seen.match) for one in grown]
    assert matcher(grown).end(text, seen.match) == max(match.end() for match in found if match is not None)


@pytest.mark.parametrize(
    ("text", "start", "final", "seen"),
    [
        ("nothing here", 0, False, None),
        ("", 0, False, None),
        ("", 0, True, None),
        ("a pass", 0, False, Sighting(-1, "", 2)),
        ("a pass", 0, True, None),
        ("a password", 0, False, Sighting(2, "word", 2)),
        ("a passwordp", 0, False, Sighting(2, "word", 10)),
        ("größe: 12", 0, False, Sighting(-1, "", 7)),
        ("größe: 12", 0, True, Sighting(7, "number", 9)),
        ("größe: 12 €", 0, False, Sighting(7, "number", 11)),
        ("é12 p", 1, False, Sighting(1, "number", 4)),
        ("a12 p", 1, False, Sighting(-1, "", 4)),
        ("\ud800 12 ", 0, False, Sighting(2, "number", 5)),
    ],
)
def test_examples(text: str, start: int, final: bool, seen: Sighting | None) -> None:
    deny = compile_patterns({"word": "password", "number": r"\b\d+\b"})
    assert deny.scan(text, start, final) == seen


def test_there_may_be_many() -> None:
    deny = compile_patterns({f"word {number}": f"word{number}x" for number in range(PATTERNS_MAX)})
    assert deny.scan("a word77x", 0, False) == Sighting(2, "word 77", 2)


def test_names_of_groups_may_repeat() -> None:
    deny = compile_patterns({"a": "(?P<x>a)", "b": "(?<x>b)", "c": r"\Qc"})
    assert deny.scan("c", 0, True) == Sighting(0, "c", 1)


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ({"x": "a("}, "pattern 'x': missing ): a("),
        ({"x": "(?=a)"}, "pattern 'x': invalid perl operator: (?="),
        ({"x": r"(a)\1"}, r"pattern 'x': invalid escape sequence: \1"),
        ({"x": "a{1001}"}, "pattern 'x': invalid repetition size: {1001}"),
        ({"x": r"a\C"}, r"pattern 'x': '\\C' at character 1 is not known here"),
        ({"ok": "a", "x": "a*"}, "pattern 'x': must not match empty text; it would match everywhere"),
        ({"x": r"\b"}, "pattern 'x': must not match empty text; it would match everywhere"),
        ({"x": ""}, "pattern 'x': must not match empty text; it would match everywhere"),
        ({"x": "\ud800"}, "pattern 'x': must be text that UTF-8 can encode"),
        ({"": "a"}, "pattern 'a': must have a name"),
        ({"x": "(" * 51 + "a" + ")" * 51}, "pattern 'x': groups are nested more than 50 deep"),
        ({}, "there must be 1 to 1000 patterns, there are 0"),
        ({str(i): "a" for i in range(1001)}, "there must be 1 to 1000 patterns, there are 1001"),
        (
            {"x": "a" * (PATTERN_CHARS_MAX + 1)},
            "pattern 'x': must have at most 10000 characters, has 10001",
        ),
        ({"x": r"(?:\pL\pL\pL){1000}"}, "pattern 'x': pattern too large - compile failed"),
        ({"x": r"\pL{300}"}, "all patterns together: too large for RE2"),
    ],
)
def test_a_bad_pattern_is_named_with_the_reason(patterns: dict[str, str], why: str) -> None:
    with pytest.raises(PatternError) as refused:
        compile_patterns(patterns)
    assert str(refused.value) == why


def test_its_repr_names_the_patterns() -> None:
    assert repr(compile_patterns({"a": "x", "b": "y"})) == "<Patterns a, b>"


def test_a_pattern_that_takes_too_long_to_look_at_is_refused() -> None:
    with pytest.raises(PatternError, match=r"pattern 'key': \{1,900\} repeats more than 300 times"):
        compile_patterns({"key": "(?s)-----BEGIN.{1,900}-----END"})
    compile_patterns({"key": "(?s)-----BEGIN.*-----END", "card": r"\b\d{13,19}\b"})


def test_patterns_that_take_too_long_together_are_refused() -> None:
    each = 250
    few = {f"p{number}": f"secret.{{1,{each}}}{number}" for number in range(COPIES_MAX // each)}
    compile_patterns(few)
    with pytest.raises(PatternError, match=r"stand for 5,300 characters.* pattern 'last' with its 300 first"):
        compile_patterns({**few, "last": "x{300}"})
