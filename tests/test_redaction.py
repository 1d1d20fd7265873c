"""Marks in JSON: it stays JSON, what was not touched stays as it was, and nothing of a match is left."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.holdback import Spot
from dispatcher.core.rules import KINDS, Finding, Judges
from dispatcher.core.windows import Windows
from dispatcher.patterns import Patterns, compile_patterns
from dispatcher.readable import readable
from dispatcher.redaction import redacted_json

CARD = compile_patterns({"card": "[0-9]{4}"})


def redacted(text: str, matcher: Patterns = CARD) -> tuple[str, list[Finding]]:
    windows = Windows(dict.fromkeys(KINDS, Judges(redact=matcher)), {"card": "#"}, 100, 10)

    def redact(part: str) -> tuple[str, list[Finding]]:
        return windows.redact(part, "", "tool_call")

    return redacted_json(text, redact, lambda _: "#")


def is_left(text: str, matcher: Patterns = CARD) -> bool:
    seen = matcher.scan(readable(text), 0, True)
    return seen is not None and seen.match >= 0


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ('{"a": 1.50, "a": [1e3, true, null, "x"]}', '{"a": 1.50, "a": [1e3, true, null, "x"]}'),
        ('{"card":"no 12345!","left": 1.50}', '{"card": "no #!", "left": 1.50}'),
        ('{"1234": 1}', '{"#": 1}'),
        ("[1234, 12, NaN]", '["#", 12, NaN]'),
        ('["\\u0031234", "\\ud800 1234"]', '["#", "\\ud800 #"]'),
        ('"12" and 34', '"12" and 34'),
        ("no JSON 1234", '{"redacted": "#"}'),
        ("[" * 5_000 + "1234", '{"redacted": "#"}'),
    ],
)
def test_examples(text: str, then: str) -> None:
    assert redacted(text)[0] == then
    assert not is_left(then)


def test_what_stands_across_texts_takes_all_of_it() -> None:
    across = compile_patterns({"card": 'b", "c'})
    told, findings = redacted('["ab", "cd"]', across)
    assert told == '{"redacted": "#"}'
    assert findings == [Finding("tool_call", "", Spot(3, "card"), enforced=False, redacted=True)]


def test_each_mark_is_found_where_its_text_has_it() -> None:
    _, findings = redacted('{"a": "see 1234", "b": ["5678"]}')
    assert [finding.spot for finding in findings] == [Spot(4, "card"), Spot(0, "card")]


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('1234ab\\"é\ud800', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("123a", max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(value=VALUES, escaped=st.booleans())
def test_it_stays_json_and_nothing_of_a_match_is_left(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    then, findings = redacted(text)
    assert not is_left(then)
    assert bool(findings) == is_left(text)
    if not findings:
        assert then == text
    json.loads(then)
