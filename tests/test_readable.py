"""What policies read in JSON."""

import pytest

from dispatcher.readable import readable


@pytest.mark.parametrize(
    ("json_text", "strings_in_it"),
    [
        ('{"q": "plain"}', []),
        ('{"q": "s\\u0065cret"}', ["q", "secret"]),
        ('["a\\tb", {"k\\n": [1, null, "v"]}]', ["a\tb", "k\n", "v"]),
        ('"half \\ud800 of a pair"', ["half ? of a pair"]),
        ("no \\json", []),
        ("[" * 100_000 + "\\", []),
    ],
)
def test_json_is_readable_without_its_escapes(json_text: str, strings_in_it: list[str]) -> None:
    read = readable(json_text)
    assert read.startswith(json_text)
    assert sorted(read[len(json_text) :].split("\n")) == sorted("\n".join(["", *strings_in_it]).split("\n"))
