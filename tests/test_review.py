"""What waits for services: nothing of it goes on that was not judged together with what is around it, and all of it
goes on that may."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.mark import ReviewMark
from dispatcher.core.review import ASKED_CHARS_MAX, SPAN_CHARS_MAX, Reviews, TextQuestion, apart, unreviewed
from dispatcher.core.rules import Judges, Service, Span
from dispatcher.core.windows import Release

HOLD = 4
BEFORE = 6


def reviews(hold_chars: int = HOLD, before_chars: int = BEFORE) -> Reviews:
    service = Service(
        "judge", fails_open=False, hold_chars=hold_chars, before_chars=before_chars, gather_s=0.1
    )
    return Reviews({"content": Judges(services=(service,)), "thought": Judges(services=(service,))})


def passes(text: str) -> list[Span]:
    return []


def no_pins(text: str) -> list[Span]:
    """No four digits in a row."""
    return [Span(*match.span(), "#") for match in re.finditer("1234", text)]


class Play:
    """Text that is told to reviews in pieces, and what comes out of them."""

    def __init__(self, waiting: Reviews, judge: Callable[[str], list[Span]] = passes) -> None:
        self.waiting = waiting
        self.judge = judge
        self.told = ""
        self.shown = ""
        self.steps: list[tuple[str, str]] = []
        # The begin of each question in all that was told, and its text.
        self.asked: list[tuple[int, TextQuestion]] = []
        self.under_way: list[TextQuestion] = []

    def say(self, text: str, step: str = "") -> None:
        self.told += text
        kind = "thought" if step else "content"
        release = Release("thought" if kind == "thought" else "content", text, "", step)
        assert self.waiting.take([release], len(self.told)) == []

    def ask(self) -> None:
        for question in self.waiting.ask():
            begin = self.told.rindex(question.text) if self.judge is passes else -1
            self.asked.append((begin, question))
            self.under_way.append(question)

    def answer(self) -> None:
        for question in self.under_way:
            reviewed = self.waiting.answered(question.review_id, apart(self.judge(question.text)))
            for release in reviewed.releases:
                self.shown += release.text
                self.steps.append((release.step, release.text))
        self.under_way.clear()

    def close(self) -> None:
        self.waiting.close()
        while self.waiting.is_waiting:
            self.ask()
            assert self.under_way, "something waits, and nobody is asked"
            self.answer()


# Pieces of text, and what happens after each: nothing, a question, its answer, or both.
PIECES = st.lists(
    st.tuples(st.text("1234ab", max_size=6), st.sampled_from(("", "ask", "answer", "ask answer"))),
    max_size=12,
)


def played(pieces: list[tuple[str, str]], play: Play) -> Play:
    for text, then in pieces:
        if text:
            play.say(text)
        if "ask" in then:
            play.ask()
        if "answer" in then:
            play.answer()
    return play


@given(PIECES)
def test_what_may_go_on_goes_on_whole_and_in_its_order(pieces: list[tuple[str, str]]) -> None:
    play = played(pieces, Play(reviews()))
    assert play.told.startswith(play.shown)
    play.close()
    assert play.shown == play.told
    assert play.waiting.since is None
    assert play.waiting.chars == 0


@given(PIECES, st.integers(0, 6))
def test_of_any_stretch_that_is_held_back_all_was_judged_before_any_was_shown(
    pieces: list[tuple[str, str]], hold_chars: int
) -> None:
    # Each character is another one, so a question says where it stands.
    told = iter(map(chr, range(0x4E00, 0x9FFF)))
    unlike = [("".join(next(told) for _ in text), then) for text, then in pieces]
    play = Play(reviews(hold_chars))
    for text, then in unlike:
        if text:
            play.say(text)
        for step in then.split():
            getattr(play, step)()
            judged = [(begin, begin + len(question.text)) for begin, question in play.asked]
            shown = len(play.shown)
            for begin in range(max(0, shown - hold_chars), shown):
                # What begins in what is shown, as long as may be, and has come.
                end = min(begin + hold_chars + 1, len(play.told))
                if end - begin == hold_chars + 1:
                    assert any(first <= begin and end <= last for first, last in judged)


@given(PIECES)
def test_a_match_is_never_shown_however_it_was_cut(pieces: list[tuple[str, str]]) -> None:
    play = played(pieces, Play(reviews(), no_pins))
    play.close()
    assert play.shown == play.told.replace("1234", "#")


@given(PIECES)
def test_one_question_at_a_time_that_brings_along_what_came_before_it(pieces: list[tuple[str, str]]) -> None:
    waiting = reviews()
    play = Play(waiting)
    for text, then in pieces:
        if text:
            play.say(text)
        for step in then.split():
            shown = play.shown
            getattr(play, step)()
            assert len(play.under_way) <= 1
            if step == "ask" and play.under_way and play.shown == shown and len(play.asked):
                assert play.under_way[0].before == shown[-BEFORE:]


@given(PIECES, PIECES)
def test_another_goes_on_where_this_one_stood(
    pieces: list[tuple[str, str]], then: list[tuple[str, str]]
) -> None:
    first = played(pieces, Play(reviews(), no_pins))
    second = Play(reviews(), no_pins)
    for mark in first.waiting.marks:
        second.waiting.put_back(mark)
    assert second.waiting.since == first.waiting.since
    assert second.waiting.chars == first.waiting.chars
    second.told, second.shown = first.told, first.shown
    played(then, second).close()
    assert second.shown == second.told.replace("1234", "#")


@given(PIECES)
def test_what_nobody_is_to_judge_any_more_goes_on(pieces: list[tuple[str, str]]) -> None:
    play = played(pieces, Play(reviews()))
    rest = [release for mark in play.waiting.marks for release in unreviewed(mark)]
    assert play.shown + "".join(release.text for release in rest) == play.told


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.text("1234", min_size=1, max_size=5)), max_size=8))
def test_thoughts_keep_their_steps(said: list[tuple[str, str]]) -> None:
    play = Play(reviews(), no_pins)
    for step, text in said:
        play.say(text, step)
        play.ask()
        play.answer()
    play.close()
    steps: dict[int, str] = {}
    for step, text in said:
        for _ in text:
            steps[len(steps)] = step
    # Without a mark nothing has moved.
    if "1234" not in play.told:
        shown = [step for step, text in play.steps for _ in text]
        assert shown == [steps[at] for at in range(len(steps))]
    assert play.shown == play.told.replace("1234", "#")


def test_the_first_packet_is_known_of_which_something_waits() -> None:
    waiting = reviews()
    waiting.take([Release("content", "abcdef")], 3)
    waiting.take([Release("content", "gh")], 4)
    assert waiting.since == 3
    question = waiting.ask()[0]
    assert not question.is_final
    waiting.answered(question.review_id, [])
    # "efgh" is left: both brought some of it.
    assert waiting.since == 3
    waiting.take([Release("content", "ijkl")], 5)
    question = waiting.ask()[0]
    assert (question.before, question.text) == ("abcd", "efghijkl")
    waiting.answered(question.review_id, [])
    assert waiting.since == 5


def test_a_match_that_ends_with_the_question_may_go_on_and_is_waited_for() -> None:
    waiting = reviews()
    waiting.take([Release("content", "pay with 1111")], 1)
    question = waiting.ask()[0]
    reviewed = waiting.answered(question.review_id, [Span(9, 13, "#")])
    assert [release.text for release in reviewed.releases] == ["pay with "]
    assert reviewed.redacted == []
    # Nothing is new, so nobody is asked again about the same.
    assert waiting.ask() == []
    waiting.take([Release("content", "2222, please")], 2)
    question = waiting.ask()[0]
    assert question.text == "11112222, please"
    reviewed = waiting.answered(question.review_id, [Span(0, 8, "#")])
    assert [release.text for release in reviewed.releases] == ["#, pl"]
    assert reviewed.redacted == [(9, Span(0, 8, "#"))]


def test_a_match_without_end_is_not_waited_for_without_end() -> None:
    waiting = reviews()
    waiting.take([Release("content", "x" * (SPAN_CHARS_MAX + 1))], 1)
    question = waiting.ask()[0]
    reviewed = waiting.answered(question.review_id, [Span(0, len(question.text), "#")])
    assert [release.text for release in reviewed.releases] == ["#"]


def test_what_is_long_is_asked_about_in_several_questions() -> None:
    play = Play(reviews())
    play.say("x" * (2 * ASKED_CHARS_MAX))
    play.ask()
    assert len(play.under_way[0].text) == ASKED_CHARS_MAX
    play.answer()
    play.close()
    assert play.shown == play.told
    assert all(len(question.text) <= ASKED_CHARS_MAX + HOLD for _, question in play.asked)
    assert [question.is_final for _, question in play.asked].count(True) == 1


def test_speakers_wait_each_for_themselves() -> None:
    waiting = reviews()
    waiting.take([Release("content", "one", "a"), Release("content", "two", "b")], 1)
    first, second = waiting.ask()
    assert {first.agent, second.agent} == {"a", "b"}
    assert waiting.about(first.review_id) == ("content", "a", 0)
    waiting.close()
    assert waiting.ask() == []
    waiting.answered(first.review_id, [])
    last = waiting.ask()[0]
    assert (last.agent, last.text, last.is_final) == ("a", "one", True)


@pytest.mark.parametrize("goes_on", [True, False])
def test_another_attempt_takes_nothing_along_that_waited(goes_on: bool) -> None:
    waiting = reviews()
    waiting.take([Release("content", "shown, then not")], 1)
    waiting.answered(waiting.ask()[0].review_id, [])
    waiting.take([Release("content", " ever")], 2)
    lost = waiting.ask()[0]
    waiting.begin_anew(goes_on=goes_on)
    assert waiting.about(lost.review_id) is None
    assert (waiting.since, waiting.chars) == (None, 0)
    waiting.take([Release("content", "anew")], 1)
    question = waiting.ask()[0]
    assert question.text == "anew"
    assert question.before == (", then" if goes_on else "")


def test_stretches_that_overlap_are_one() -> None:
    assert apart([Span(4, 6, "b"), Span(0, 3, "a"), Span(2, 5, "c")]) == [Span(0, 6, "a")]
    assert apart([Span(4, 6, "b"), Span(0, 3, "a")]) == [Span(0, 3, "a"), Span(4, 6, "b")]


def test_what_is_put_back_brings_no_more_along_than_is_asked_for_now() -> None:
    waiting = reviews(before_chars=2)
    waiting.put_back(ReviewMark("content", "", "abcdef", "gh", 6, ((3, 8),), ((8, ""),)))
    assert waiting.ask()[0].before == "ef"


@given(PIECES)
def test_what_is_held_back_for_what_follows_was_judged(pieces: list[tuple[str, str]]) -> None:
    play = Play(reviews())
    for text, then in pieces:
        if text:
            play.say(text)
        for step in then.split():
            getattr(play, step)()
        assert 0 <= play.waiting.chars - play.waiting.unjudged_chars <= HOLD
    play.answer()
    play.ask()
    play.answer()
    assert play.waiting.unjudged_chars == 0
