"""What policies read in JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.readable import readable, same_call


@pytest.mark.parametrize(
    ("json_text", "plain"),
    [
        ('{"q": "s\\u0065cret"}', '{"q": "secret"}'),
        ('["a\\tb", {"k\\n": [1, null, "v"]}]', '["a\tb", {"k\n": [1, null, "v"]}]'),
        ('{"a": "one \\/", "a": "two"}', '{"a": "one /", "a": "two"}'),
        ('"\\ud83d\\ude00"', '"😀"'),
        ('"half \\ud800 of a pair"', '"half \ufffd of a pair"'),
        ("no \\json", "no json"),
        ("[" * 100_000 + '"\\u0041"', "[" * 100_000 + '"A"'),
        ('{"n": ' + "9" * 5_000 + ', "q": "\\u0041"}', '{"n": ' + "9" * 5_000 + ', "q": "A"}'),
        ("at the end \\", "at the end \\"),
    ],
)
def test_json_is_readable_without_its_escapes(json_text: str, plain: str) -> None:
    assert readable(json_text) == f"{json_text}\n{plain}"


def test_what_has_no_escapes_is_readable_as_it_is() -> None:
    assert readable('{"q": "plain"}') == '{"q": "plain"}'


@given(st.recursive(st.text(), lambda deeper: st.lists(deeper) | st.dictionaries(st.text(), deeper)))
def test_every_string_can_be_read(value: object) -> None:
    read = readable(json.dumps(value))
    found = [value]
    while found:
        each = found.pop()
        if isinstance(each, str):
            # As a parser that takes half characters would have it, which no text has.
            assert each.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") in read
        elif isinstance(each, dict):
            found += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            found += each


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ('{"a": "\\u0061"}', '{"a": "a"}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ("no JSON", "no JSON", True),
        ("no JSON", "no  JSON", False),
        ("[" * 100_000, "[" * 100_000, True),
        ('"\\ud800"', '"\\ud800"', True),
    ],
)
def test_calls_are_the_same_however_they_are_written(one: str, other: str, same: bool) -> None:
    assert (same_call("tool", one) == same_call("tool", other)) == same
    assert same_call("tool", one) != same_call("other", one)
