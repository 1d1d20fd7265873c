"""Speakers are judged apart, each in its order, and together they stop."""

import pytest

from dispatcher.core.holdback import Spot
from dispatcher.core.rules import Finding, Judges, Kind, said_by_agents
from dispatcher.core.windows import OBSERVED_MAX, Outcome, Release, Windows
from dispatcher.patterns import Patterns, compile_patterns

SECRET = compile_patterns({"secret": "secret"})


def windows(deny: Patterns | None = SECRET, observed: Patterns | None = None, speakers: int = 10) -> Windows:
    return Windows(said_by_agents(Judges(deny, None, observed)), {}, 100, speakers)


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
    assert of.state(text, 2, "", "statement") == Outcome([], findings, bool(spot))
    assert of.since == 1


def test_an_observed_statement_is_told_of() -> None:
    of = windows(None, SECRET)
    assert of.state("secret", 1, "a", "statement") == Outcome(
        [], [Finding("statement", "a", Spot(0, "secret"), False)]
    )


# --- marks -------------------------------------------------------------------------------------------------

PIN = compile_patterns({"pin": "[0-9]{4}"})


def redacting(stop: Patterns | None = None, observe: Patterns | None = None) -> Windows:
    return Windows(said_by_agents(Judges(stop, PIN, observe)), {"pin": "#"}, 100, 10)


def marked(at: int, agent: str = "", kind: Kind = "content") -> Finding:
    return Finding(kind, agent, Spot(at, "pin"), enforced=False, redacted=True)


def test_a_mark_stands_where_the_match_was() -> None:
    of = redacting()
    assert of.take("content", "pin 12", 1, "", "") == Outcome([Release("content", "pin ")])
    assert of.since == 1
    assert of.take("content", "34.", 2, "", "") == Outcome([Release("content", "#.")], [marked(4)])
    assert of.since is None


def test_what_stops_is_looked_for_before_marks_are_put_in() -> None:
    of = redacting(compile_patterns({"secret": "1234x"}))
    assert of.take("content", "a 1234", 1, "", "") == Outcome([Release("content", "a ")])
    blocked = of.take("content", "x", 2, "", "")
    assert blocked == Outcome([], [Finding("content", "", Spot(2, "secret"), True)], True)
    assert of.since == 1


def test_what_waits_for_a_mark_does_not_go_on_before_what_stops() -> None:
    of = redacting(SECRET)
    assert of.take("content", "a 12", 1, "", "") == Outcome([Release("content", "a ")])
    blocked = of.take("content", "secret", 2, "", "")
    assert blocked == Outcome([], [Finding("content", "", Spot(4, "secret"), True)], True)
    assert of.since == 1


def test_what_waits_for_a_mark_does_not_go_on_before_what_stops_at_the_end_either() -> None:
    of = redacting(compile_patterns({"end": "secret$"}))
    assert of.take("content", "12secret", 1, "", "") == Outcome()
    blocked = Outcome([], [Finding("content", "", Spot(2, "end"), True)], True)
    assert finished(of) == blocked


def test_a_held_packet_is_that_of_the_first_character_whoever_holds_it() -> None:
    of = redacting(compile_patterns({"long": "12x"}))
    assert of.take("content", "1", 1, "", "") == Outcome()
    assert of.take("content", "2", 2, "", "") == Outcome()
    assert of.take("content", "3", 3, "", "") == Outcome()
    assert of.since == 1
    assert of.take("content", "!", 4, "", "") == Outcome([Release("content", "123!")])
    assert of.since is None


def test_what_is_observed_is_what_was_there_before_the_mark() -> None:
    of = redacting(observe=compile_patterns({"one": "12"}))
    out = of.take("content", "1234", 1, "", "")
    assert out == Outcome([], [Finding("content", "", Spot(0, "one"), enforced=False)])
    out = of.take("content", ".", 2, "", "")
    assert out == Outcome([Release("content", "#.")], [marked(0)])


def test_a_session_is_told_of_so_many_marks_and_more_are_put_in() -> None:
    of = redacting()
    pins = "1234 " * (OBSERVED_MAX + 5)
    out = of.take("content", pins, 1, "", "")
    assert out is not None
    assert out.releases == [Release("content", "# " * (OBSERVED_MAX + 5))]
    assert len(out.findings) == OBSERVED_MAX
    assert of.state("1234", 2, "", "statement").blocked
    assert of.redact("1234", "", "tool_call")[0] == "#"


def test_what_comes_whole_and_takes_no_marks_is_blocked() -> None:
    of = redacting()
    finding = Finding("question", "a", Spot(3, "pin"), enforced=True)
    assert of.state("is 1234?", 1, "a", "question") == Outcome([], [finding], True)
    assert of.state("is 1234?", 1, "a", "question", rewritten=True) == Outcome()
    assert of.redact("is 1234?", "a", "question") == ("is #?", [marked(3, "a", "question")])


@pytest.mark.parametrize("stops", [None, SECRET])
@pytest.mark.parametrize("marks", [None, PIN])
@pytest.mark.parametrize("stops_then", [None, SECRET])
@pytest.mark.parametrize("marks_then", [None, PIN])
@pytest.mark.parametrize("text", ["a sec", "a 12", "a 12se", "1234 12se"])
def test_others_go_on_where_these_stood_whatever_they_look_for(
    text: str,
    stops: Patterns | None,
    marks: Patterns | None,
    stops_then: Patterns | None,
    marks_then: Patterns | None,
) -> None:
    before = Windows(said_by_agents(Judges(stops, marks)), {"pin": "#"}, 100, 10)
    after = Windows(said_by_agents(Judges(stops_then, marks_then)), {"pin": "#"}, 100, 10)
    out = before.take("content", text, 1, "", "") or Outcome([Release("content", text)])
    rest = [release for release, _ in after.put_back(before.held)]
    out.releases += rest
    shown = "".join(release.text for release in out.releases)
    assert (after.since is None) == (len(shown.replace("#", "1234")) == len(text))
    out.add(after.take("content", "!", 2, "", "") or Outcome([Release("content", "!")]))
    assert "".join(release.text for release in out.releases) == (
        text.replace("1234", "#" if marks else "1234") + "!"
    )


def test_its_repr_tells_no_text() -> None:
    of = windows()
    of.take("content", "my sec", 1, "", "")
    assert repr(of) == "<Windows 1 speakers, 1 held back>"
