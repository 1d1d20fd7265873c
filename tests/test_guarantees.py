"""docs/guarantees.md: every promise names tests, and every test that it names exists."""

import re
from pathlib import Path

import pytest

import commander.settings
import dispatcher.settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
PROMISES = PAGE.split("\n## ")[1:]
DEFINED = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def title(promise: str) -> str:
    return promise.partition("\n")[0]


@pytest.mark.parametrize("promise", PROMISES, ids=title)
def test_each_promise_is_shown_by_tests_that_exist(promise: str) -> None:
    _, shown, names = promise.partition("Shown by:")
    assert shown, f"{title(promise)}: names no test"
    named = re.findall(r"`(test_\w+)`", names)
    assert named, title(promise)
    missing = set(named) - DEFINED
    assert not missing, f"{title(promise)}: there is no {missing}"


def test_every_setting_that_is_named_there_exists() -> None:
    known = {*dispatcher.settings.Settings.model_fields, *commander.settings.Settings.model_fields}
    units = "s|max|bytes|packets|missed|sync|sessions"
    named = set(re.findall(rf"`(?!test_)([a-z]+(?:_[a-z]+)*_(?:{units}))\b", PAGE))
    assert named - known == set()
    assert len(named) > 10
