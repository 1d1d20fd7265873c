"""What policies read in JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.readable import readable


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
