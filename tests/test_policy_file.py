"""The policy file: what it may say, what is wrong with it in one line each, and what is judged by it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.rules import KINDS, Judges, Kind, Price, RuleBook
from dispatcher.patterns import Patterns, compile_patterns
from dispatcher.policy_file import PolicyFileError, RuleTable, read_policy_file, rule_book

HOLD_CHARS = 100


def written(folder: Path, text: str) -> Path:
    path = folder / "policies.toml"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def book(folder: Path, text: str, deny: dict[str, str] | None = None, *, deny_stops: bool = True) -> RuleBook:
    return rule_book(read_policy_file(written(folder, text), HOLD_CHARS), deny or {}, deny_stops=deny_stops)


def found(matcher: object, text: str) -> str:
    """The name of what matches the text first."""
    assert isinstance(matcher, Patterns)
    sighting = matcher.scan(text, 0, True)
    return sighting.pattern if sighting is not None else ""


def test_a_rule_says_what_in_what_and_what_then(tmp_path: Path) -> None:
    of = book(
        tmp_path,
        r"""
        [rule.card]
        pattern = '\b[0-9]{13,19}\b'
        on = ["content", "user"]
        action = "redact"
        mark = "[card]"

        [rule.code-names]
        literals = ["Blue (Sky)", "ärger."]
        ignore_case = true
        action = "stop"

        [rule.words]
        literals = ["ass"]
        whole_words = true
        on = ["any"]
        agents = ["support"]
        action = "observe"
        """,
    )
    assert of.names == {"card", "code-names", "words"}
    assert of.marks == {"card": "[card]"}
    others = of.judges("sales")
    assert set(others) == set(KINDS)
    assert others["user"].stop is None
    assert others["thought"].redact is None
    assert found(others["content"].redact, "a 4111111111111111.") == "card"
    assert found(others["content"].redact, "a 41111111111111111111.") == ""
    assert found(others["thought"].stop, "BLUE (sky)") == "code-names"
    assert found(others["thought"].stop, "ÄRGER.") == "code-names"
    assert found(others["thought"].stop, "ÄRGERE") == ""
    assert not any(judges.observe for judges in others.values())
    support = of.judges("support")
    assert found(support["user"].observe, "you ass") == "words"
    assert found(support["user"].observe, "a class") == ""


def test_the_version_is_that_of_the_bytes(tmp_path: Path) -> None:
    one, other = book(tmp_path, "").version, book(tmp_path, "# \n").version
    assert one != other
    assert one == "e3b0c44298fc"


def test_patterns_of_the_settings_hold_for_what_agents_say(tmp_path: Path) -> None:
    rule = "[rule.a]\nliterals = ['a']\naction = 'stop'\non = ['content']"
    of = book(tmp_path, rule, {"deny 1": "secret"})
    for kind, judges in of.judges("").items():
        assert found(judges.stop, "secret") == "deny 1"
        assert found(judges.stop, "a") == ("a" if kind == "content" else "")
    assert "user" not in of.judges("")
    observed = book(tmp_path, rule, {"deny 1": "secret"}, deny_stops=False).judges("")
    assert found(observed["content"].observe, "secret") == "deny 1"
    assert found(observed["content"].stop, "secret") == ""


KIND_OF: dict[str, Kind] = {
    "content": "content",
    "thoughts": "thought",
    "tool_calls": "tool_call",
    "tool_results": "tool_result",
    "questions": "question",
    "user": "user",
}


@pytest.mark.parametrize("on", KIND_OF)
def test_a_rule_is_on_what_it_says(tmp_path: Path, on: str) -> None:
    of = book(tmp_path, f"[rule.a]\nliterals = ['a']\naction = 'stop'\non = ['{on}']")
    assert set(of.judges("")) == {KIND_OF[on]}


@given(literals=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), text=st.text(max_size=20))
def test_literals_are_taken_as_they_are(literals: list[str], text: str) -> None:

    matcher = compile_patterns({"words": RuleTable(literals=literals, action="stop").source})
    assert bool(found(matcher, text)) == any(literal in text for literal in literals)


def test_prices_are_by_the_names_of_models(tmp_path: Path) -> None:
    text = """
    [price."openai:small-1.5"]
    input_dollars = 0.25
    output_dollars = 2
    [price.deep]
    input_dollars = 1
    output_dollars = 8
    reasoning_dollars = 4
    """
    assert book(tmp_path, text).prices == {
        "openai:small-1.5": Price(0.25, 2.0, 2.0),
        "deep": Price(1.0, 8.0, 4.0),
    }


RULE = "[rule.a]\naction = 'stop'\n"
REDACT = "[rule.a]\naction = 'redact'\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = [", "is not TOML: "),
        ("[[rule]]\npattern = 'a'", "rule: should be tables with a name each, e.g. [rule.mine]"),
        ("[rules.a]\n", "rules: there is no such table; did you mean rule?"),
        ("[rule.'a b']\n", "rule.a b: its name should have 1 to 64 letters, digits, _ and -"),
        (
            RULE + "pattern = 'a'\n" + RULE,
            "rule.a: stands twice (at line 4, column 8); each needs a name of its own",
        ),
        (RULE, "rule.a: should have either pattern, in RE2's syntax, or literals, a list of texts"),
        (RULE + "pattern = 'a'\nliterals = ['b']", "rule.a: should have either pattern, "),
        ("[rule.a]\npattern = 'a'", "rule.a.action: is missing"),
        (RULE + "patern = 'a'", "rule.a.patern: there is no such key; did you mean pattern?"),
        (RULE + "pattern = '('", "rule.a.pattern: missing ): ("),
        (RULE + "pattern = 'a*'", "rule.a.pattern: must not match empty text; it would match everywhere"),
        (RULE + r"pattern = '\bx\1'", "rule.a.pattern: "),
        (RULE + "pattern = 'a'\non = ['contents']", "rule.a.on[0]: should be 'content', 'thoughts', "),
        (RULE + "pattern = 'a'\non = []", "rule.a.on: "),
        (
            RULE + "pattern = 'a'\nwhole_words = true",
            r"rule.a: whole_words is for literals; in a pattern \b says the same",
        ),
        (
            RULE + "literals = ['a.']\nwhole_words = true",
            "rule.a: whole_words needs literals that begin and end with ",
        ),
        (RULE + "pattern = 'a'\nmark = 'x'", 'rule.a: mark is for action = "redact"'),
        (
            "[rule.a]\naction = 'block'\npattern = 'a'",
            "rule.a.action: should be 'observe', 'redact' or 'stop'",
        ),
        (
            REDACT + "pattern = 'a+'",
            "rule.a.pattern: may match without end, and what is to be redacted is held back",
        ),
        (REDACT + "pattern = 'a{101}'", "rule.a.pattern: may match up to 101 characters, "),
        (REDACT + "pattern = 'a'\non = ['questions']", "rule.a: a question can't be redacted"),
        (REDACT + "pattern = 'a'\nmark = ' '", "rule.a.mark: should be something that can be seen"),
        (REDACT + "pattern = 'ed'", "rule.a.mark: rule a matches it; choose another"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(tmp_path: Path, text: str, why: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PolicyFileError) as wrong:
        read_policy_file(path, HOLD_CHARS)
    assert f"{path}: {why}" in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = RULE + "pattern = '('\n[rule.b]\naction = 'redact'\npattern = 'a+'\n[rule.c]\nliterals = ['x']"
    with pytest.raises(PolicyFileError) as wrong:
        read_policy_file(written(tmp_path, text), HOLD_CHARS)
    assert [line.split(": ")[1] for line in str(wrong.value).splitlines()] == [
        "rule.c.action",
        "rule.a.pattern",
        "rule.b.pattern",
    ]


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match="can't be read: No such file or directory"):
        read_policy_file(tmp_path / "none.toml", HOLD_CHARS)
    (tmp_path / "binary").write_bytes(b"a = '\xff'")
    with pytest.raises(PolicyFileError, match="should be text in UTF-8: invalid start byte at byte 5"):
        read_policy_file(tmp_path / "binary", HOLD_CHARS)


def test_rules_that_take_too_long_together_are_refused(tmp_path: Path) -> None:
    text = "".join(
        f"[rule.r{number}]\naction = 'stop'\npattern = 'x.{{1,300}}{number}'\n" for number in range(20)
    )
    with pytest.raises(PolicyFileError, match="those with action stop: all patterns together"):
        read_policy_file(written(tmp_path, text), HOLD_CHARS)


def test_nothing_is_judged_where_nothing_is_said(tmp_path: Path) -> None:
    assert book(tmp_path, "").judges("any") == {}
    assert Judges() == (None, None, None, ())
