"""What is held back and what goes on: never what matches, and never more than needed.

The truth is RE2 on the whole text, and, on what could still become a match, what the pattern means.
"""

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st
from re2_grammar import Case, Grown, cases, first_begin, packets

from dispatcher.core.holdback import Hold, Redaction, Spot, Tally, Watch
from dispatcher.patterns import Patterns, compile_patterns

# More than any text here has.
ENOUGH = 1_000
WORDS = st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4)
BOUNDS = st.sampled_from([1, 2, 3, 5, ENOUGH])


def matcher(grown: list[Grown]) -> Patterns:
    return compile_patterns({str(number): pattern.source for number, pattern in enumerate(grown)})


def leftmost(grown: list[Grown], text: str, start: int = 0) -> tuple[int, int] | None:
    """Where RE2 finds the leftmost match in the whole text, and where the longest one from there ends."""
    options = re2.Options()
    options.longest_match = True
    options.log_errors = False
    found = [re2.compile(pattern.source, options).search(text, start) for pattern in grown]
    spans = [match.span() for match in found if match]
    if not spans:
        return None
    begin = min(span[0] for span in spans)
    return begin, max(span[1] for span in spans if span[0] == begin)


def held_back(deny: Patterns, pieces: list[str], bound: int = ENOUGH) -> tuple[str, Spot | None]:
    """All that goes on, and the spot."""
    hold = Hold(deny, bound)
    gone = ""
    for number, piece in enumerate(pieces, 1):
        released, spot = hold.take(piece, number)
        gone += released
        assert hold.chars <= bound
        if spot is not None:
            return gone, spot
    released, spot = hold.finish()
    return gone + released, spot


@given(case=cases(edges=True), draw=st.data())
def test_what_goes_on_is_the_text_up_to_the_leftmost_match(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    match = leftmost(grown, text)
    gone, spot = held_back(matcher(grown), draw.draw(packets(text)))
    assert gone == (text if match is None else text[: match[0]])
    assert (spot and spot.at) == (match and match[0])


@given(case=cases(edges=True), bound=BOUNDS, draw=st.data())
def test_it_does_not_depend_on_how_the_text_was_cut(case: Case, bound: int, draw: st.DataObject) -> None:
    grown, text = case
    deny = matcher(grown)
    assert held_back(deny, draw.draw(packets(text)), bound) == held_back(deny, list(text), bound)
    assert held_back(deny, [text], bound) == held_back(deny, list(text), bound)


@given(words=WORDS, text=st.text("ab", max_size=30), bound=st.integers(1, 4))
def test_a_large_packet_is_judged_like_many_small_ones(words: list[str], text: str, bound: int) -> None:
    deny = compile_patterns({word: word for word in words})
    assert held_back(deny, [text], bound) == held_back(deny, list(text), bound)


@given(case=cases(edges=False), draw=st.data())
def test_what_is_held_is_what_could_become_a_match(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    hold = Hold(matcher(grown), ENOUGH)
    so_far = ""
    for number, piece in enumerate(draw.draw(packets(text)), 1):
        _, spot = hold.take(piece, number)
        if spot is not None:
            break
        so_far += piece
        assert hold.chars == len(so_far) - first_begin([one.tree for one in grown], so_far)


@given(case=cases(edges=True), draw=st.data())
def test_assertions_never_make_it_hold_more(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    hold = Hold(matcher(grown), ENOUGH)
    so_far = ""
    for number, piece in enumerate(draw.draw(packets(text)), 1):
        _, spot = hold.take(piece, number)
        if spot is not None:
            break
        so_far += piece
        assert hold.chars <= len(so_far) - first_begin([one.tree for one in grown], so_far)


@given(words=WORDS, text=st.text("abc", max_size=30), draw=st.data())
def test_of_words_the_longest_begin_at_the_end_is_held(
    words: list[str], text: str, draw: st.DataObject
) -> None:
    hold = Hold(compile_patterns({word: word for word in words}), ENOUGH)
    so_far = ""
    for number, piece in enumerate(draw.draw(packets(text)), 1):
        so_far += piece
        _, spot = hold.take(piece, number)
        if any(word in so_far for word in words):
            break
        assert spot is None
        ends = [length for word in words for length in range(1, len(word)) if so_far.endswith(word[:length])]
        assert hold.chars == max(ends, default=0)


@given(case=cases(edges=False), bound=BOUNDS, draw=st.data())
def test_what_stays_possible_for_too_long_counts_as_a_match(
    case: Case, bound: int, draw: st.DataObject
) -> None:
    grown, text = case
    trees = [one.tree for one in grown]
    match = leftmost(grown, text)
    bad = [
        begin
        for begin in range(len(text) - bound)
        if first_begin(trees, text[begin : begin + bound + 1]) == 0
    ]
    if match is not None:
        bad.append(match[0])
    gone, spot = held_back(matcher(grown), draw.draw(packets(text)), bound)
    assert gone == text[: min(bad, default=len(text))]
    assert (spot is None) == (not bad)


@given(case=cases(edges=True), bound=BOUNDS, draw=st.data())
def test_since_is_the_packet_of_the_first_character_not_released(
    case: Case, bound: int, draw: st.DataObject
) -> None:
    grown, text = case
    hold = Hold(matcher(grown), bound)
    whose: list[int] = []
    gone = 0
    for number, piece in enumerate(draw.draw(packets(text)), 7):
        whose += [number] * len(piece)
        released, spot = hold.take(piece, number)
        gone += len(released)
        assert hold.since == (whose[gone] if gone < len(whose) else None)
        if spot is not None:
            return
    released, spot = hold.finish()
    gone += len(released)
    assert hold.since == (whose[gone] if gone < len(whose) else None)


def watched(observed: Patterns, pieces: list[str], bound: int = ENOUGH) -> list[Spot]:
    watch = Watch(observed, bound, Tally(ENOUGH))
    return [spot for piece in pieces for spot in watch.take(piece)] + watch.finish()


@given(case=cases(edges=True), draw=st.data())
def test_a_watch_finds_each_leftmost_longest_match(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    expected = []
    at = 0
    while (match := leftmost(grown, text, at)) is not None:
        expected.append(match[0])
        at = match[1]
    assert [spot.at for spot in watched(matcher(grown), draw.draw(packets(text)))] == expected


@given(case=cases(edges=True), bound=BOUNDS, draw=st.data())
def test_what_a_watch_finds_does_not_depend_on_how_the_text_was_cut(
    case: Case, bound: int, draw: st.DataObject
) -> None:
    grown, text = case
    observed = matcher(grown)
    assert watched(observed, draw.draw(packets(text)), bound) == watched(observed, list(text), bound)
    assert watched(observed, [text], bound) == watched(observed, list(text), bound)


@given(case=cases(edges=True))
def test_a_watch_and_a_hold_agree_on_the_first_spot(case: Case) -> None:
    grown, text = case
    deny = matcher(grown)
    assert held_back(deny, list(text))[1] == next(iter(watched(deny, list(text))), None)


def test_a_match_that_goes_on_is_told_of_once() -> None:
    assert watched(compile_patterns({"number": r"\d+"}), list("12345 6 78")) == [
        Spot(0, "number"),
        Spot(6, "number"),
        Spot(8, "number"),
    ]


def test_a_watch_skips_what_is_undecided_for_too_long() -> None:
    observed = compile_patterns({"quote": '".*"', "b": "b"})
    assert watched(observed, list('"aaaabb'), bound=4) == [Spot(0, ""), Spot(5, "b"), Spot(6, "b")]


def test_a_watch_stops_when_enough_was_told() -> None:
    watch = Watch(compile_patterns({"a": "a"}), ENOUGH, Tally(3))
    assert len(watch.take("aaaa") + watch.take("aa") + watch.finish()) == 3


def test_a_long_text_is_judged_like_its_pieces() -> None:
    deny = compile_patterns({"key": "key=[a-z]{8}"})
    text = "no keys here, " * 5_000 + "key=abcdefgh"
    assert held_back(deny, [text], 16) == (text[:-12], Spot(len(text) - 12, "key"))


@pytest.mark.parametrize(
    ("sources", "pieces", "gone", "name"),
    [
        (["password"], ["the pass", "word"], "the ", "0"),
        (["abcde", "cd"], ["abcd", "f"], "ab", "1"),
        (["abcde", "cd"], ["abcd", "e"], "", "0"),
        ([r"foo\b"], ["foo", "l"], "fool", None),
        ([r"foo\b"], ["foo", " "], "", "0"),
        ([r"foo\b"], ["foo"], "", "0"),
        ([r"foo$"], ["foo", "\n"], "foo\n", None),
        ([r"(?m)foo$"], ["foo", "\n"], "", "0"),
        ([r"foo\B"], ["foo", " "], "foo ", None),
        ([r"foo\B"], ["foo", "l"], "", "0"),
        ([r"foo(?:\B|(?m:$))"], ["foo", " "], "foo ", None),
        ([r"foo(?:\B|(?m:$))"], ["foo", "\n"], "", "0"),
        ([r"\Bfoo"], [" ", "foo"], " foo", None),
        ([r"\Bfoo"], ["x", "foo"], "x", "0"),
        ([r"\Bfoo"], ["xf", "oo"], "x", "0"),
        ([r"^foo"], ["x", "foo"], "xfoo", None),
        ([r"(?m)^foo"], ["x\n", "f", "oo"], "x\n", "0"),
        (["foo", r"\Boo\b"], ["fo", "o"], "", "0"),
        (["(?i)größe"], ["GRÖ", "ßE"], "", "0"),
        ([r"foo\b", r"foo\B"], ["foo", "x"], "", "1"),
        ([r"foo\b", r"foo\B"], ["foo"], "", "0"),
        (["fo+", "foo"], ["foo"], "", "0"),
    ],
)
def test_examples(sources: list[str], pieces: list[str], gone: str, name: str | None) -> None:
    deny = compile_patterns({str(number): source for number, source in enumerate(sources)})
    released, spot = held_back(deny, pieces)
    assert (released, spot and spot.pattern) == (gone, name)


# --- what is replaced --------------------------------------------------------------------------------------


class Any(dict[str, str]):
    """Every pattern has the same mark."""

    def __missing__(self, pattern: str) -> str:
        return "#"


def redacted(matcher: Patterns, pieces: list[str], bound: int = ENOUGH) -> tuple[str, list[int]]:
    """All that goes on, and where something was replaced."""
    redaction = Redaction(matcher, Any(), bound)
    gone, at = "", []
    for number, piece in enumerate(pieces, 1):
        released, spots, undecided = redaction.take(piece, number)
        assert undecided is None
        assert redaction.chars <= bound
        gone += released
        at += [spot.at for spot in spots]
    released, spots = redaction.finish()
    return gone + released, at + [spot.at for spot in spots]


def without_matches(grown: list[Grown], text: str) -> tuple[str, list[int]]:
    """The truth: RE2's longest match in the whole text from each character on, and a mark for what lies together."""
    options = re2.Options()
    options.longest_match = True
    options.log_errors = False
    programs = [re2.compile(pattern.source, options) for pattern in grown]
    gone, at, hidden_until = "", [], 0
    for here in range(len(text)):
        found = (program.match(text, here) for program in programs)
        end = max((match.end() for match in found if match), default=0)
        if end and here >= hidden_until:
            gone += "#"
            at.append(here)
        hidden_until = max(hidden_until, end)
        gone += text[here] if here >= hidden_until else ""
    return gone, at


@given(case=cases(edges=True), draw=st.data())
def test_no_character_of_any_match_goes_on_and_all_else_does(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    assert redacted(matcher(grown), draw.draw(packets(text))) == without_matches(grown, text)


@given(words=WORDS, text=st.text("ab", max_size=40), draw=st.data())
def test_of_words_none_is_left_in_any_cut(words: list[str], text: str, draw: st.DataObject) -> None:
    patterns = compile_patterns({word: word for word in words})
    longest = max(map(len, words))
    gone, _ = redacted(patterns, draw.draw(packets(text)), bound=longest)
    assert not any(word in gone for word in words)
    assert gone == redacted(patterns, [text], bound=longest)[0]


@given(case=cases(edges=True), draw=st.data())
def test_what_is_held_to_be_replaced_has_the_number_of_its_packet(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    redaction = Redaction(matcher(grown), Any(), ENOUGH)
    whose: list[int] = []
    for number, piece in enumerate(draw.draw(packets(text)), 7):
        whose += [number] * len(piece)
        redaction.take(piece, number)
        held = redaction.chars
        assert redaction.since == (whose[-held] if held else None)


@given(case=cases(edges=True), draw=st.data())
def test_another_one_goes_on_where_it_stood(case: Case, draw: st.DataObject) -> None:
    grown, text = case
    cut = draw.draw(st.integers(0, len(text)))
    first, then = Redaction(matcher(grown), Any(), ENOUGH), Redaction(matcher(grown), Any(), ENOUGH)
    gone = first.take(text[:cut], 1)[0]
    then.put_back(first.state)
    gone += then.take(text[cut:], 2)[0] + then.finish()[0]
    assert gone == without_matches(grown, text)[0]


@pytest.mark.parametrize(
    ("sources", "pieces", "gone"),
    [
        (["[0-9]{4}"], ["pin 12", "34 it is"], "pin # it is"),
        (["[0-9]{4}"], ["pin 12", "3 it is"], "pin 123 it is"),
        (["[0-9]{2}"], list("12345"), "#"),
        (["abc", "cd"], ["a", "b", "cd!"], "#!"),
        (["abc", "cd"], ["abc", " cd"], "# #"),
        ([r"\bkey\b"], ["ke", "y", "s and key"], "keys and #"),
        (["a"], ["aa"], "##"),
        (["ab?"], ["a", "b", "a"], "##"),
    ],
)
def test_examples_of_what_is_replaced(sources: list[str], pieces: list[str], gone: str) -> None:
    patterns = compile_patterns({str(number): source for number, source in enumerate(sources)})
    assert redacted(patterns, pieces)[0] == gone


def test_a_match_that_may_grow_for_too_long_is_neither_shown_nor_waited_for() -> None:
    redaction = Redaction(compile_patterns({"number": "[0-9]+"}), Any(), 4)
    assert redaction.take("a 1234", 1) == ("a ", [], None)
    assert redaction.take("5678", 2) == ("", [], Spot(2, ""))
    assert redaction.since == 1


def test_reprs_tell_no_text() -> None:
    secret = compile_patterns({"secret": "secret"})
    hold, watch = Hold(secret, 9), Watch(secret, 9, Tally(1))
    hold.take("my sec", 1)
    watch.take("my sec")
    assert repr(hold) == "<Hold 3 characters released, 3 held>"
    assert repr(watch) == "<Watch 3 characters passed, 3 pending>"
    redaction = Redaction(secret, Any(), 9)
    redaction.take("my sec", 1)
    assert repr(redaction) == "<Redaction 3 characters passed, 3 held>"
