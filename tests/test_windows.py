"""Speakers are judged apart, each in its order, and together they stop."""

import pytest

from dispatcher.core.holdback import Spot
from dispatcher.core.windows import OBSERVED_MAX, Finding, Outcome, Release, Windows
from dispatcher.patterns import Patterns, compile_patterns

SECRET = compile_patterns({"secret": "secret"})


def windows(deny: Patterns | None = SECRET, observed: Patterns | None = None, speakers: int = 10) -> Windows:
    return Windows(deny, observed, 100, speakers)


def finished(windows: Windows) -> Outcome:
    out = Outcome()
    windows.finish(out)
    return out


def test_text_that_goes_on_as_it_is_needs_no_outcome() -> None:
    of = windows()
    assert of.take("content", "hello", 1, "", "") is None
    assert of.take("content", "", 2, "", "") is None
    assert of.since is None
    assert finished(of) == Outcome()


def test_speakers_are_judged_apart() -> None:
    of = windows()
    assert of.take("content", "one sec", 1, "", "") == Outcome([Release("content", "one ")])
    assert of.take("content", "ret", 2, "team/insight", "") is None
    assert of.take("thought", "ret", 3, "", "Planning") is None
    assert of.since == 1
    blocked = of.take("content", "ret", 4, "", "")
    assert blocked == Outcome([], [Finding("content", "", Spot(4, "secret"), True)], True)
    assert of.since == 1


def test_another_step_ends_the_one_before() -> None:
    of = windows()
    assert of.take("thought", "a sec", 1, "", "Planning") == Outcome(
        [Release("thought", "a ", "", "Planning")]
    )
    assert of.take("thought", "ret", 2, "", "Searching") == Outcome(
        [Release("thought", "sec", "", "Planning"), Release("thought", "ret", "", "Searching")]
    )
    assert of.since is None


def test_a_step_without_text_ends_the_one_before_too() -> None:
    of = windows()
    of.take("thought", "sec", 1, "", "Planning")
    assert of.take("thought", "", 2, "", "Searching") == Outcome(
        [Release("thought", "sec", "", "Planning"), Release("thought", "", "", "Searching")]
    )


def test_a_match_at_the_end_of_a_step_blocks_the_next() -> None:
    of = windows(compile_patterns({"end": "secret$"}))
    of.take("thought", "secret", 1, "", "Planning")
    blocked = of.take("thought", "fine", 2, "", "Searching")
    assert blocked == Outcome([], [Finding("thought", "", Spot(0, "end"), True)], True)
    assert of.since == 1


def test_at_the_end_what_came_first_goes_first() -> None:
    of = windows()
    of.take("content", "x", 1, "b", "")
    of.take("content", "se", 2, "a", "")
    of.take("content", "sec", 3, "b", "")
    assert finished(of) == Outcome([Release("content", "se", "a"), Release("content", "sec", "b")])
    assert of.since is None


def test_after_a_match_at_the_end_nothing_more_goes_on() -> None:
    of = windows(compile_patterns({"end": "secret$"}))
    of.take("content", "sec", 1, "a", "")
    of.take("content", "secret", 2, "b", "")
    of.take("content", "sec", 3, "c", "")
    assert finished(of) == Outcome(
        [Release("content", "sec", "a")], [Finding("content", "b", Spot(0, "end"), True)], True
    )
    assert of.since == 2


def test_observing_holds_nothing() -> None:
    of = windows(None, SECRET)
    assert of.take("content", "the sec", 1, "", "") is None
    assert of.take("content", "ret", 2, "", "") == Outcome(
        [Release("content", "ret")], [Finding("content", "", Spot(4, "secret"), False)]
    )
    assert of.since is None


def test_only_what_is_released_is_observed() -> None:
    of = windows(SECRET, compile_patterns({"e": "e"}))
    out = of.take("content", "keep secret", 1, "", "")
    assert out is not None
    assert [finding.spot for finding in out.findings] == [Spot(1, "e"), Spot(2, "e"), Spot(5, "secret")]


def test_more_speakers_than_can_be_looked_at_are_blocked() -> None:
    of = windows(speakers=2)
    assert of.take("content", "x", 1, "a", "") is None
    assert of.take("content", "x", 2, "b", "") is None
    assert of.take("content", "x", 3, "c", "") == Outcome([], [Finding("content", "c", None, True)], True)


def test_more_speakers_than_can_be_observed_are_told_of_once() -> None:
    of = windows(None, SECRET, speakers=1)
    assert of.take("content", "x", 1, "a", "") is None
    assert of.take("content", "secret", 2, "b", "") == Outcome(
        [Release("content", "secret", "b")], [Finding("content", "b", None, False)]
    )
    assert of.take("content", "secret", 3, "c", "") is None


def test_a_session_is_told_of_so_many_matches_and_no_more() -> None:
    of = windows(None, compile_patterns({"a": "a"}))
    found = 0
    for agent in ("one", "two"):
        out = of.take("content", "a" * OBSERVED_MAX, 1, agent, "")
        found += 0 if out is None else len(out.findings)
    assert found == OBSERVED_MAX


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ("all is well", None),
        ("my sec", None),
        ("my secret", Spot(3, "secret")),
        ("x" * 300 + "secret", Spot(300, "secret")),
    ],
)
def test_a_statement_is_judged_whole_and_leaves_nothing_behind(text: str, spot: Spot | None) -> None:
    of = windows()
    of.take("content", "se", 1, "", "")
    findings = [Finding("statement", "", spot, True)] if spot else []
    assert of.state(text, 2, "") == Outcome([], findings, bool(spot))
    assert of.since == 1


def test_an_observed_statement_is_told_of() -> None:
    of = windows(None, SECRET)
    assert of.state("secret", 1, "a") == Outcome([], [Finding("statement", "a", Spot(0, "secret"), False)])


def test_its_repr_tells_no_text() -> None:
    of = windows()
    of.take("content", "my sec", 1, "", "")
    assert repr(of) == "<Windows 1 speakers, 1 held back>"
