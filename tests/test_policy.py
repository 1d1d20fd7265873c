"""Verdicts: what a session may do, what goes on, and what is safe to acknowledge."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.endings import Ending
from dispatcher.core.packets import Usage
from dispatcher.core.policy import (
    CALLS_KNOWN_MAX,
    MEANINGS,
    PASS,
    Budgets,
    Guard,
    Mode,
    Policy,
    PolicyLimits,
    Verdict,
    Violation,
)
from dispatcher.core.rules import Judges, Kind, Price, RuleBook, said_by_agents
from dispatcher.core.windows import Release
from dispatcher.patterns import compile_patterns

SECRET = compile_patterns({"secret": "secret"})
LETTERS = compile_patterns({"ab": r"ab+c\b", "word": "bab"})
OBSERVE = Mode.OBSERVE
ENFORCE = Mode.ENFORCE


def text_of(verdict: Verdict, whole: str) -> str:
    return whole if verdict is PASS else "".join(release.text for release in verdict.releases)


# --- limits in numbers -------------------------------------------------------------------------------------


def test_what_is_within_its_limits_passes() -> None:
    guard = Guard(PolicyLimits())
    assert guard.content("hello", 1) is PASS
    assert guard.thought("so", 2, "insight", "Planning") is PASS
    assert guard.tool_call() is PASS
    assert guard.used(10) is PASS
    assert guard.finish() is PASS
    assert guard.safe(2) == 2
    assert (guard.content_chars, guard.thought_chars, guard.tool_calls) == (5, 2, 1)


@given(pieces=st.lists(st.text(max_size=6)), limit=st.integers(0, 20))
def test_content_is_cut_exactly_at_its_limit(pieces: list[str], limit: int) -> None:
    guard = Guard(PolicyLimits(content_chars_max=limit))
    gone = ""
    for number, piece in enumerate(pieces, 1):
        verdict = guard.content(piece, number)
        gone += text_of(verdict, piece)
        if verdict.stop is not None:
            assert verdict.stop == Violation(Policy.CONTENT_CHARS, ENFORCE, limit)
            assert guard.safe(number) == number - 1
            break
        assert guard.safe(number) == number
    assert gone == "".join(pieces)[:limit]


@pytest.mark.parametrize("kind", ["content", "thought"])
def test_observed_limits_are_told_of_once_and_cut_nothing(kind: Kind) -> None:
    limits = PolicyLimits(
        content_chars_max=3, content_chars_mode=OBSERVE, thought_chars_max=3, thought_chars_mode=OBSERVE
    )
    guard = Guard(limits)
    said = guard.content if kind == "content" else guard.thought
    policy = Policy.CONTENT_CHARS if kind == "content" else Policy.THOUGHT_CHARS
    assert said("abc", 1) is PASS
    told = Violation(policy, OBSERVE, 3)
    assert said("de", 2) == Verdict(False, (Release(kind, "de"),), (told,), None)
    assert said("f", 3) is PASS
    assert guard.safe(3) == 3


def test_thoughts_have_a_limit_of_their_own() -> None:
    guard = Guard(PolicyLimits(content_chars_max=3, thought_chars_max=2))
    assert guard.content("abc", 1) is PASS
    verdict = guard.thought("xyz", 2, "insight", "Planning")
    stop = Violation(Policy.THOUGHT_CHARS, ENFORCE, 2)
    assert verdict == Verdict(False, (Release("thought", "xy", "insight", "Planning"),), (stop,), stop)


def test_one_tool_call_too_many_stops() -> None:
    guard = Guard(PolicyLimits(tool_calls_max=1))
    assert guard.tool_call() is PASS
    stop = Violation(Policy.TOOL_CALLS, ENFORCE, 1)
    assert guard.tool_call() == Verdict(False, (), (stop,), stop)


def test_the_same_call_again_and_again_is_a_loop() -> None:
    guard = Guard(PolicyLimits(repeated_calls_max=2, repeated_calls_mode=ENFORCE))
    assert [guard.repeated(call) for call in ("a", "b", "a", "b")] == [PASS] * 4
    stop = Violation(Policy.REPEATED_CALLS, ENFORCE, 2, agent="team")
    assert guard.repeated("a", "team").stop == stop
    assert stop.message == (
        "repeated_calls_max: more than 2 times the same tool call with the same arguments; agent 'team' is likely in "
        "a loop"
    )


def test_what_another_attempt_asks_again_is_no_loop() -> None:
    guard = Guard(PolicyLimits(repeated_calls_max=2, repeated_calls_mode=ENFORCE))
    for _ in range(3):
        assert guard.repeated("a") is PASS
        assert guard.repeated("a") is PASS
        guard.begin_anew(0, 0)


def test_an_observed_loop_is_told_of_once_and_none_where_there_is_no_limit() -> None:
    guard = Guard(PolicyLimits(repeated_calls_max=1))
    told = [violation for _ in range(5) for violation in guard.repeated("a").violations]
    assert told == [Violation(Policy.REPEATED_CALLS, OBSERVE, 1)]
    free = Guard(PolicyLimits(repeated_calls_max=0, repeated_calls_mode=ENFORCE))
    assert {free.repeated("a") for _ in range(100)} == {PASS}


def test_calls_are_known_up_to_a_bound() -> None:
    guard = Guard(PolicyLimits(repeated_calls_max=1, repeated_calls_mode=ENFORCE))
    for number in range(CALLS_KNOWN_MAX):
        assert guard.repeated(f"{number}") is PASS
    assert guard.repeated("new") is guard.repeated("new") is PASS
    assert guard.repeated("0").stop is not None


PRICED = RuleBook(prices={"m": Price(1.0, 10.0, 4.0)})


def test_what_was_used_costs_what_the_price_says() -> None:
    guard = Guard(PolicyLimits(rules=PRICED))
    assert guard.price(Usage(1_000_000, 200_000, 100_000, "m")) == (1 + 1 + 0.4, PASS)
    # More reasoning than output is told by those that count it apart: it is no more than all.
    assert guard.price(Usage(0, 100_000, 300_000, "m")) == (0.4, PASS)


@pytest.mark.parametrize("mode", [None, OBSERVE, ENFORCE])
def test_a_model_without_a_price_is_free_or_told_of_once_or_an_error(mode: Mode | None) -> None:
    guard = Guard(PolicyLimits(rules=PRICED, unpriced_mode=mode))
    used = Usage(1, 1, 0, "other")
    first, then = guard.price(used)[1], guard.price(used)[1]
    assert first.violations == (() if mode is None else (Violation(Policy.UNPRICED, mode),))
    assert (first.stop is not None) == (then.stop is not None) == (mode is ENFORCE)
    assert then.violations == ()
    assert guard.price(Usage(model="other")) == (None, PASS)
    # Where nothing has a price, nobody asks.
    assert Guard(PolicyLimits(unpriced_mode=mode)).price(used) == (None, PASS)


def test_a_session_costs_no_more_than_it_may_and_goes_on_counting_over_attempts() -> None:
    guard = Guard(PolicyLimits(session_cost_dollars_max=1.0))
    assert guard.spent(0.5, 0.5) is PASS
    guard.begin_anew(0, 0)
    assert guard.spent(0.5, 1.0) is PASS
    stop = guard.spent(0.01, 1.01).stop
    assert stop == Violation(Policy.SESSION_COST, ENFORCE, 1.0)
    assert stop.message == (
        "session_cost_dollars_max: it has cost more than 1 dollars, by the prices of the policy file"
    )


def test_a_restart_forgets_no_cost() -> None:
    guard, then = Guard(PolicyLimits()), Guard(PolicyLimits(session_cost_dollars_max=1.0))
    guard.spent(0.9, 0)
    then.put_back(guard.mark)
    assert then.spent(0.2, 0).stop is not None


def test_what_its_user_has_spent_counts_too() -> None:
    guard = Guard(PolicyLimits(user_cost_dollars_max=5.0, user_cost_mode=OBSERVE))
    assert guard.spent(1.0, 5.0) is PASS
    assert guard.spent(1.0, 6.0).violations == (Violation(Policy.USER_COST, OBSERVE, 5.0),)
    assert guard.spent(1.0, 7.0) is PASS


def test_output_tokens_are_those_of_the_whole_session() -> None:
    guard = Guard(PolicyLimits(output_tokens_max=100, output_tokens_mode=OBSERVE), Budgets(output_tokens=200))
    assert guard.used(100) is PASS
    assert guard.used(101).violations == (Violation(Policy.OUTPUT_TOKENS, OBSERVE, 100),)
    assert guard.used(200) is PASS
    assert guard.used(201).stop == Violation(Policy.OUTPUT_TOKENS, ENFORCE, 200)


def test_after_a_stop_nothing_passes_and_the_stop_is_repeated() -> None:
    guard = Guard(PolicyLimits(tool_calls_max=0, deny=SECRET))
    guard.content("a sec", 1)
    stop = guard.tool_call().stop
    assert stop is not None
    repeated = Verdict(False, (), (), stop)
    assert guard.content("x", 2) == repeated
    assert guard.thought("", 3) == repeated
    assert guard.tool_call() == repeated
    assert guard.used(1) == repeated
    assert guard.time_passed(1e9, 0, 0) == repeated
    assert guard.finish() == repeated
    assert guard.next_deadline(0, 0) is None
    assert guard.safe(3) == 0


@pytest.mark.parametrize(
    ("mode", "limit", "budget", "violations"),
    [
        (ENFORCE, 5, None, [(ENFORCE, 5)]),
        (ENFORCE, 5, 3, [(ENFORCE, 3)]),
        (ENFORCE, 5, 9, [(ENFORCE, 5)]),
        (OBSERVE, 5, None, [(OBSERVE, 5)]),
        (OBSERVE, 5, 3, [(ENFORCE, 3)]),
        (OBSERVE, 5, 7, [(OBSERVE, 5), (ENFORCE, 7)]),
        (ENFORCE, 5, 0, [(ENFORCE, 0)]),
    ],
)
def test_budgets_only_tighten(
    mode: Mode, limit: int, budget: int | None, violations: list[tuple[Mode, int]]
) -> None:
    guard = Guard(PolicyLimits(tool_calls_max=limit, tool_calls_mode=mode), Budgets(tool_calls=budget))
    told = [violation for _ in range(10) for violation in guard.tool_call().violations]
    assert [(violation.mode, violation.limit) for violation in told] == violations


def test_every_budget_counts() -> None:
    own = Budgets(1, 1, 1, 1, 1.0, 1.0)
    calling = Guard(PolicyLimits(), own)
    calling.tool_call()
    stops = [
        Guard(PolicyLimits(), own).content("ab", 1).stop,
        Guard(PolicyLimits(), own).thought("ab", 1).stop,
        calling.tool_call().stop,
        Guard(PolicyLimits(), own).used(2).stop,
        Guard(PolicyLimits(), own).time_passed(1.0, 0.0, None).stop,
        Guard(PolicyLimits(), own).time_passed(1.0, 0.0, 0.0).stop,
    ]
    assert [stop and (stop.policy, stop.limit) for stop in stops] == [
        (policy, 1)
        for policy in (
            Policy.CONTENT_CHARS,
            Policy.THOUGHT_CHARS,
            Policy.TOOL_CALLS,
            Policy.OUTPUT_TOKENS,
            Policy.TOTAL_TIME,
            Policy.FIRST_TOKEN,
        )
    ]


# --- deadlines ---------------------------------------------------------------------------------------------

SECONDS = st.floats(0, 1e10, allow_nan=False)


@given(
    opened_at=SECONDS,
    queued=st.floats(0, 1e6),
    total=st.floats(1e-3, 1e6),
    first=st.floats(1e-3, 1e6),
    came=st.booleans(),
)
def test_a_deadline_is_due_when_it_said_and_not_before(
    opened_at: float, queued: float, total: float, first: float, came: bool
) -> None:
    guard = Guard(PolicyLimits(total_time_s=total, first_token_s=first))
    silent_since = None if came else opened_at + queued
    due = guard.next_deadline(opened_at, silent_since)
    assert due == (
        opened_at + total if silent_since is None else min(opened_at + total, silent_since + first)
    )
    assert guard.time_passed(opened_at - 1, opened_at, silent_since) is PASS
    stop = guard.time_passed(due, opened_at, silent_since).stop
    assert stop is not None
    assert stop.policy in ((Policy.TOTAL_TIME,) if came else (Policy.TOTAL_TIME, Policy.FIRST_TOKEN))


def test_observed_deadlines_are_told_of_once_and_the_next_is_armed() -> None:
    limits = PolicyLimits(total_time_s=50, total_time_mode=OBSERVE, first_token_s=5, first_token_mode=OBSERVE)
    guard = Guard(limits, Budgets(total_time_s=90))
    assert guard.next_deadline(100, 100) == 105
    assert guard.time_passed(104.9, 100, 100) is PASS
    assert guard.time_passed(105, 100, 100).violations == (Violation(Policy.FIRST_TOKEN, OBSERVE, 5),)
    assert guard.next_deadline(100, 100) == 150
    assert guard.time_passed(150, 100, None).violations == (Violation(Policy.TOTAL_TIME, OBSERVE, 50),)
    assert guard.next_deadline(100, None) == 190
    assert guard.time_passed(190, 100, None).stop == Violation(Policy.TOTAL_TIME, ENFORCE, 90)


def test_without_a_limit_there_is_no_deadline() -> None:
    guard = Guard(PolicyLimits(total_time_s=inf, first_token_s=inf))
    assert guard.next_deadline(1, 1) is None
    assert guard.time_passed(1e12, 1, 1) is PASS


def test_a_first_token_that_came_is_no_longer_waited_for() -> None:
    guard = Guard(PolicyLimits(total_time_s=60, first_token_s=5))
    assert guard.next_deadline(0, None) == 60
    assert guard.time_passed(6, 0, None) is PASS


# --- text --------------------------------------------------------------------------------------------------


def test_a_blocked_text_never_leaves() -> None:
    guard = Guard(PolicyLimits(deny=SECRET))
    assert guard.content("it is a ", 1) is PASS
    assert guard.content("sec", 2) == Verdict(False, (), (), None)
    assert guard.safe(2) == 1
    stop = Violation(Policy.DENY, ENFORCE, 0, "secret", "content", "", 8)
    assert guard.content("ret!", 3) == Verdict(False, (), (stop,), stop)
    assert guard.safe(3) == 1
    assert guard.finish() == Verdict(False, (), (), stop)


def test_a_harmless_text_goes_on_with_what_was_held() -> None:
    guard = Guard(PolicyLimits(deny=SECRET))
    assert guard.content("sec", 1) == Verdict(False, (), (), None)
    assert guard.content("ond", 2) == Verdict(False, (Release("content", "second"),), (), None)
    assert guard.safe(2) == 2
    assert guard.content("s", 3) == Verdict(False, (), (), None)
    assert guard.finish() == Verdict(False, (Release("content", "s"),), (), None)
    assert guard.safe(3) == 3


def test_observed_matches_hold_nothing_and_are_counted() -> None:
    guard = Guard(PolicyLimits(deny_observed=SECRET))
    assert guard.content("sec", 1) is PASS
    told = Violation(Policy.DENY, OBSERVE, 0, "secret", "content", "", 0)
    assert guard.content("ret", 2) == Verdict(False, (Release("content", "ret"),), (told,), None)
    assert guard.finish() is PASS
    assert guard.safe(2) == 2


def test_what_is_undecided_for_too_long_is_stopped() -> None:
    guard = Guard(PolicyLimits(deny=compile_patterns({"quote": '".*"'}), deny_hold_chars_max=4))
    assert guard.content('a "bcd', 1) == Verdict(False, (Release("content", "a "),), (), None)
    stop = Violation(Policy.DENY_HOLD, ENFORCE, 4, "", "content", "", 2)
    assert guard.content("e", 2) == Verdict(False, (), (stop,), stop)


def test_too_many_speakers_are_stopped() -> None:
    guard = Guard(PolicyLimits(deny=SECRET, deny_speakers_max=1))
    assert guard.content("x", 1, "a") is PASS
    stop = Violation(Policy.DENY_SPEAKERS, ENFORCE, 1, "", "content", "b")
    assert guard.content("x", 2, "b") == Verdict(False, (), (stop,), stop)
    assert guard.safe(2) == 1


def test_a_statement_goes_on_unless_it_is_blocked() -> None:
    assert Guard(PolicyLimits()).statement("secret", 1) is PASS
    guard = Guard(PolicyLimits(deny=SECRET, deny_observed=LETTERS))
    assert guard.statement("", 1) is PASS
    assert guard.statement("sec", 1) is PASS
    told = Violation(Policy.DENY, OBSERVE, 0, "word", "statement", "insight", 2)
    assert guard.statement("a bab", 2, "insight") == Verdict(False, (), (told,), None)
    stop = Violation(Policy.DENY, ENFORCE, 0, "secret", "statement", "", 2)
    assert guard.statement("a secret", 3) == Verdict(False, (), (stop,), stop)
    assert guard.safe(3) == 2
    assert guard.statement("x", 4).stop == stop


def test_a_limit_cuts_what_patterns_then_judge_as_the_end() -> None:
    guard = Guard(PolicyLimits(deny=SECRET, content_chars_max=8))
    guard.content("se", 1, "insight")
    verdict = guard.content("a secret", 2)
    assert verdict.releases == (
        Release("content", "a "),
        Release("content", "se", "insight"),
        Release("content", "secr"),
    )
    assert verdict.stop == Violation(Policy.CONTENT_CHARS, ENFORCE, 8)
    assert guard.safe(2) == 1


def test_a_match_before_the_limit_is_what_stops() -> None:
    guard = Guard(PolicyLimits(deny=SECRET, content_chars_max=8))
    verdict = guard.content("a secret or two", 1)
    assert verdict.releases == (Release("content", "a "),)
    assert verdict.stop == Violation(Policy.DENY, ENFORCE, 0, "secret", "content", "", 2)


def test_a_match_at_the_limit_is_not_released() -> None:
    guard = Guard(PolicyLimits(deny=compile_patterns({"end": "secret$"}), content_chars_max=8))
    verdict = guard.content("a secret or two", 1)
    assert verdict.releases == (Release("content", "a "),)
    assert [violation.policy for violation in verdict.violations] == [Policy.CONTENT_CHARS, Policy.DENY]


SAID = st.lists(
    st.tuples(
        st.sampled_from(["content", "content", "thought", "other"]),
        st.text("abc ", max_size=5),
        st.sampled_from(["", "x", "x/y"]),
        st.sampled_from(["Planning", "Searching"]),
    ),
    max_size=25,
)


@given(said=SAID, limit=st.sampled_from([0, 7, 1000]))
def test_of_every_speaker_a_begin_is_released_and_safe_packets_are_whole(
    said: list[tuple[str, str, str, str]], limit: int
) -> None:
    """Runs a session and keeps the account of it: each character's packet, and what has gone on."""
    guard = Guard(PolicyLimits(deny=LETTERS, content_chars_max=limit))
    owed: dict[tuple[str, str], list[tuple[str, int]]] = {}  # each speaker's text not released, with packets
    stopped = False
    for number, (kind, words, agent, step) in enumerate(said, 1):
        text = words if kind in ("content", "thought") else ""
        if kind == "content":
            verdict = guard.content(text, number, agent)
        elif kind == "thought":
            verdict = guard.thought(text, number, agent, step)
        else:
            verdict = PASS
        owed.setdefault((kind, agent), []).extend((char, number) for char in text)
        if verdict is PASS and text:
            released: tuple[Release, ...] = (
                Release("content" if kind == "content" else "thought", text, agent),
            )
        else:
            released = verdict.releases
        for release in released:
            speaker = owed[release.kind, release.agent]
            due, speaker[:] = speaker[: len(release.text)], speaker[len(release.text) :]
            assert "".join(char for char, _ in due) == release.text
        stopped = stopped or verdict.stop is not None
        missing = [packet for speaker in owed.values() for _, packet in speaker]
        assert guard.safe(number) == min(missing, default=number + 1) - 1
        if stopped:
            return
    verdict = guard.finish()
    for release in verdict.releases:
        speaker = owed[release.kind, release.agent]
        assert "".join(char for char, _ in speaker[: len(release.text)]) == release.text
        del speaker[: len(release.text)]
    assert (verdict.stop is not None) == any(owed.values())


@given(pieces=st.lists(st.text("abc ", max_size=5), max_size=10), data=st.data())
def test_what_another_speaker_says_changes_nothing(pieces: list[str], data: st.DataObject) -> None:
    alone, among = Guard(PolicyLimits(deny=LETTERS)), Guard(PolicyLimits(deny=LETTERS))
    for number, piece in enumerate(pieces, 1):
        others = data.draw(st.lists(st.text("ac ", max_size=3), max_size=2))
        for other in others:
            among.content(other, number, "other")
            among.thought(other, number, "")
        here, there = alone.content(piece, number), among.content(piece, number)
        assert here == there
        if here.stop is not None:
            return


# --- marks -------------------------------------------------------------------------------------------------

PIN = compile_patterns({"pin": "[0-9]{4}"})
BOOK = RuleBook("v1", frozenset({"pin"}), {"pin": "#"}, of_others=said_by_agents(Judges(SECRET, PIN)))


def test_a_rule_puts_a_mark_and_nothing_ends() -> None:
    guard = Guard(PolicyLimits(rules=BOOK))
    assert guard.content("pin 12", 1) == Verdict(False, (Release("content", "pin "),), (), None)
    assert guard.safe(1) == 0
    told = Violation(Policy.RULE, Mode.REDACT, 0, "pin", "content", "", 4)
    assert guard.content("34.", 2) == Verdict(False, (Release("content", "#."),), (told,), None)
    assert guard.safe(2) == 2
    assert told.message == "policy_file: rule 'pin' matches the content of the agent from character 4 on"
    assert (told.action, Violation(Policy.RULE, OBSERVE).action) == ("redact", "observe")


def test_what_comes_whole_is_rewritten_or_stops() -> None:
    guard = Guard(PolicyLimits(rules=BOOK))
    text, verdict = guard.rewrite("my 1234", "a", "tool_call", is_json=True)
    told = Violation(Policy.RULE, Mode.REDACT, 0, "pin", "tool_call", "a", 3)
    assert (text, verdict) == ("my #", Verdict(False, (), (told,), None))
    assert guard.rewrite("my 123", "a", "tool_call", is_json=True) == ("my 123", PASS)
    assert guard.statement("my 1234", 1, "a", "tool_call", rewritten=True) is PASS
    stop = Violation(Policy.RULE, ENFORCE, 0, "pin", "question", "a", 3)
    assert guard.statement("my 1234", 1, "a", "question").stop == stop
    assert stop.message == "policy_file: rule 'pin' matches the question of agent 'a' from character 3 on"


def test_rules_hold_for_the_agents_that_they_name_and_patterns_of_settings_have_their_name() -> None:
    rules = RuleBook(of_agents={"support": said_by_agents(Judges(SECRET))})
    assert Guard(PolicyLimits(rules=rules), None, "sales").content("a secret", 1) is PASS
    stop = Guard(PolicyLimits(rules=rules), None, "support").content("a secret", 1).stop
    assert stop is not None
    assert stop.policy is Policy.DENY


def test_what_nobody_looks_at_is_not_held() -> None:
    rules = RuleBook(of_others={"thought": Judges(SECRET)})
    guard = Guard(PolicyLimits(rules=rules))
    assert guard.content("secret", 1) is PASS
    assert guard.thought("sec", 2) == Verdict(False, (), (), None)


@given(said=st.lists(st.tuples(st.sampled_from(["", "x"]), st.text("12sa ", max_size=5)), max_size=25))
def test_of_every_speaker_what_is_shown_has_no_match_and_a_restart_changes_nothing(
    said: list[tuple[str, str]],
) -> None:
    """Safe packets are those of which nothing is missing but what a mark stands for."""
    limits = PolicyLimits(
        rules=RuleBook(
            names=frozenset({"pin", "word"}),
            marks={"pin": "#"},
            of_others={
                "content": Judges(compile_patterns({"word": "s1+a"}), compile_patterns({"pin": "[12]{2,3}"}))
            },
        )
    )
    guard, among = Guard(limits), Guard(limits)
    shown: dict[str, str] = {"": "", "x": ""}
    for number, (agent, text) in enumerate(said, 1):
        verdict, there = guard.content(text, number, agent), among.content(text, number, agent)
        assert verdict == there
        for release in verdict.releases if verdict is not PASS else (Release("content", text, agent),):
            shown[release.agent] += release.text
        if verdict.stop is not None:
            break
        assert 0 <= guard.safe(number) <= number
        # Another life takes its place.
        guard = Guard(limits)
        assert guard.put_back(among.mark) == []
        assert guard.safe(number) == among.safe(number)
    else:
        for release in guard.finish().releases:
            shown[release.agent] += release.text
        assert guard.safe(len(said)) == len(said)
    assert not any(pair in text for text in shown.values() for pair in ("11", "12", "21", "22"))


# --- what is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", Policy)
def test_every_policy_ends_a_session_in_its_way(policy: Policy) -> None:
    fails = policy is Policy.SERVICE_FAILED
    denies = policy.name.startswith("DENY") or policy in (Policy.RULE, Policy.SERVICE)
    times = policy in (Policy.TOTAL_TIME, Policy.FIRST_TOKEN)
    ends = Ending.POLICY_BLOCKED if denies else Ending.DEADLINE_EXCEEDED if times else Ending.LIMIT_EXCEEDED
    assert policy.ending is (Ending.POLICY_UNAVAILABLE if fails else ends)
    assert policy.stop_code == ("policy_violation" if denies or fails else "limit")
    assert set(MEANINGS) == set(Policy)
    message = Violation(policy, ENFORCE, 5, "card", "thought", "team/insight", 12).message
    assert message.startswith(f"{policy.value}: ")
    assert "{" not in message


def test_messages_say_which_and_where() -> None:
    violation = Violation(Policy.DENY, ENFORCE, 0, "card", "thought", "team/insight", 12)
    assert violation.message == (
        "deny_patterns: pattern 'card' matches the thought of agent 'team/insight' from character 12 on"
    )
    violation = Violation(Policy.CONTENT_CHARS, OBSERVE, 1000)
    assert violation.message == "content_chars_max: more than 1,000 characters of content"


def test_reprs_tell_no_text() -> None:
    guard = Guard(PolicyLimits(deny=SECRET))
    guard.content("hello sec", 1)
    assert repr(guard) == "<Guard open, 9 + 0 characters, 0 calls>"
    guard.content("ret", 2)
    assert repr(guard) == "<Guard stopped by deny_patterns, 12 + 0 characters, 0 calls>"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("content_chars_max", -1, "content_chars_max: must be at least 0, is -1"),
        ("tool_calls_max", -5, "tool_calls_max: must be at least 0, is -5"),
        ("deny_hold_chars_max", 0, "deny_hold_chars_max: must be at least 1, is 0"),
        ("deny_speakers_max", 0, "deny_speakers_max: must be at least 1, is 0"),
        ("total_time_s", 0, "total_time_s: must be more than 0 seconds, is 0"),
        ("first_token_s", float("nan"), "first_token_s: must be more than 0 seconds, is nan"),
    ],
)
def test_limits_that_make_no_sense_are_refused(field: str, value: float, why: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        PolicyLimits(**{field: value})  # type: ignore[arg-type]  # one field of any type
    assert str(refused.value) == why
