"""The begin of a match, judged by RE2 on whole texts and by what patterns mean."""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st
from re2_grammar import Grown, begins, patterns, texts

from dispatcher.begins import NESTING_MAX, begin_of


def compiled(pattern: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def is_begin(pattern: str, text: str, start: int = 0) -> bool:
    return compiled(f"(?:{begin_of(pattern).begin})\\z").match(text, start) is not None


# Each pattern with texts that it matches whole, and texts that begin none of its matches.
SYNTAX = [
    ("password", ["password"], ["x", "pasw", "passwordx", "assword"]),
    ("a|bcd|", ["a", "bcd"], ["c", "ab"]),
    ("colou?r", ["color", "colour"], ["colr", "colouur"]),
    ("(?i)straße", ["STRAßE", "straße"], ["strasse"]),
    ("(?i)ab(?-i)C|d", ["aBC", "d"], ["aBc", "D"]),
    ("x(?i:ab)c", ["xABc", "xabc"], ["XA", "xABC"]),
    ("(a(?i)b|c)d", ["aBd", "Cd"], ["Ab", "aBD"]),
    ("(?P<user>[a-z]+)@(?<host>[a-z.]+)", ["me@here.org"], ["@", "me@@"]),
    (r"\d{3}-\d{2,4}", ["123-4567", "123-45"], ["1234", "123-45678"]),
    (r"a{3,}b", ["aaab", "aaaaaab"], ["b", "ab"]),
    (r"(?:ab){2,3}c", ["ababc", "abababc"], ["abababab", "abc"]),
    ("a{0}b", ["b"], ["a"]),
    ("x{,5}", ["x{,5}"], ["xx"]),
    ("x{2", ["x{2"], ["xx"]),
    ("x{01}", ["x{01}"], ["xx"]),
    ("x{1000000000000}", ["x{1000000000000}"], ["xx"]),
    ("a*(?i)*b", ["aab"], ["A"]),
    (r"\Qa.b*\E+", ["a.b*", "a.b***"], ["axb"]),
    (r"x\Q(.|", ["x(.|"], ["x(a"]),
    (r"x\Q\E*y", ["xxy", "y"], ["yx"]),
    (r"\x41\x{1F600}\101\07", ["A\U0001f600A\a"], ["B"]),
    (r"\a\f\n\r\t\v\.\_", ["\a\f\n\r\t\v._"], ["a"]),
    (r"[]^-][^]a][\]\d\x{41}]", ["]b]", "^b1", "-bA"], ["]]b", "]a"]),
    ("[[:alpha]+x", ["[:alphax"], ["b"]),
    (r"[[:^digit:]\pN]", ["a", "1"], ["ab"]),
    (r"\pL\p{Greek}\P{Greek}\p{^Lu}", ["aαaa"], ["1", "ab"]),
    (r"\s\S\w\W\D", [" aa a"], ["aa", "  "]),
    (".b", ["ab"], ["\n"]),
    ("(?s).b", ["\nb", "ab"], ["bbb"]),
    ("(?U)a+b*?", ["ab", "aabb"], ["b"]),
    (r"^ab$", ["ab"], ["b", "abc"]),
    (r"(?m)^a$\n^b$", ["a\nb"], ["ab"]),
    (r"\Aa\b \bb\Bb\z", ["a bb"], ["ab", "a b "]),
    (r"(?:\ba\b|\Bb)+", ["a"], ["b"]),
    ("((((a))))", ["a"], ["b"]),
    ("()a", ["a"], ["b"]),
]


@pytest.mark.parametrize(("pattern", "matches", "others"), SYNTAX)
def test_every_begin_of_a_match_is_one_and_nothing_else(
    pattern: str, matches: list[str], others: list[str]
) -> None:
    for text in matches:
        assert compiled(pattern).fullmatch(text), text
        assert compiled(f"(?:{begin_of(pattern).whole})").fullmatch(text), text
        for length in range(1, len(text) + 1):
            assert is_begin(pattern, text[:length]), text[:length]
    for text in others:
        assert not is_begin(pattern, text), text
    assert not is_begin(pattern, "")


@given(pattern=patterns(edges=True), text=texts())
def test_whole_finds_what_the_pattern_finds(pattern: Grown, text: str) -> None:
    as_written = compiled(pattern.source).search(text)
    whole = compiled(begin_of(pattern.source).whole)
    found = whole.search(text)
    assert whole.groups == 0
    assert (found and found.span()) == (as_written and as_written.span())


@given(pattern=patterns(edges=True), text=texts())
def test_every_begin_of_a_match_in_its_surroundings_is_one(pattern: Grown, text: str) -> None:
    for found in compiled(pattern.source).finditer(text):
        for end in range(found.start() + 1, found.end() + 1):
            assert is_begin(pattern.source, text[:end], found.start())


@given(pattern=patterns(edges=False), text=texts(8).filter(bool))
def test_a_begin_is_what_could_become_a_match(pattern: Grown, text: str) -> None:
    assert is_begin(pattern.source, text) == begins(pattern.tree, text)


@given(pattern=patterns(edges=True), text=texts(8).filter(bool))
def test_assertions_never_make_more_a_begin(pattern: Grown, text: str) -> None:
    if is_begin(pattern.source, text):
        assert begins(pattern.tree, text)


@pytest.mark.parametrize(
    "pattern",
    [
        "a*",
        "",
        "a|",
        r"\b",
        "^",
        "$",
        "(?i)",
        "a{0}",
        "(a|b*)",
        r"\b(?:x?)$",
        "(?m)^$",
        "(?:a*)+",
        "(?:a|){2}",
    ],
)
def test_it_says_when_empty_text_matches(pattern: str) -> None:
    assert begin_of(pattern).may_be_empty


@given(pattern=patterns(edges=True))
def test_it_says_when_empty_text_does_not_match(pattern: Grown) -> None:
    assert not begin_of(pattern.source).may_be_empty


def test_a_single_byte_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"'\\\\C' at character 1 is not known"):
        begin_of(r"a\Cb")


def test_nesting_is_bounded() -> None:
    assert begin_of("(" * NESTING_MAX + "a" + ")" * NESTING_MAX).begin == "a"
    with pytest.raises(ValueError, match=f"nested more than {NESTING_MAX} deep"):
        begin_of("(" * (NESTING_MAX + 1) + "a" + ")" * (NESTING_MAX + 1))


@given(length=st.integers(1, 3000))
def test_a_long_pattern_gives_a_begin_of_bounded_length(length: int) -> None:
    assert len(begin_of("a" * length).begin) < 32 * length + 32


@pytest.mark.parametrize(
    ("pattern", "copies"),
    [
        ("password", 0),
        ("pass ?word+", 0),
        (".{1,300}", 300),
        ("a{0}", 0),
        (r"x(?:\d[ -]?){16}", 32),
        ("(?:ab|c){3}", 9),
        ("(?:a{2}b){3}", 9),
        ("a{5,}", 5),
    ],
)
def test_it_says_how_many_characters_counted_repeats_stand_for(pattern: str, copies: int) -> None:
    assert begin_of(pattern).copies == copies
