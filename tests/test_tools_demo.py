"""The demo's tools: arithmetic that agrees with Python, a clock for anywhere, a search that stays at home."""

import asyncio
import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.tools import (
    PythonTool,
    ToolArgumentsError,
    ToolContext,
    ToolDenied,
    ToolError,
    ToolOutcome,
    ToolRequest,
    ToolRunner,
    load_tools,
)
from dispatcher.tools.demo import FOLDER_VARIABLE, TEXTS, TOOLS, calculate, clock, search_files
from dispatcher.tools.demo_arithmetic import EXPRESSION_CHARS_MAX, evaluate
from dispatcher.tools.demo_search import FILE_BYTES_MAX, FILES_MAX, MATCHES_MAX, Found, Match, search

# --- calculate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * (3 + 4)", 14),
        ("7 / 2", 3.5),
        ("7 // 2 + 7 % 2", 4),
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("2 ^ 10", 1024),
        ("3 × 4 ÷ 2 − 1", 5),
        ("1_000 + .5 + 5. + 1e3", 2005.5),
        ("  1\n +\t2 ", 3),
        ("sqrt(16) + max(1, 2, 3) + round(2.567, 1)", 9.6),
        ("log(e) + cos(0) + floor(pi)", 5.0),
        ("+".join(["1"] * 250), 250),
        ("2 ** 4095", 2**4095),
        ("(-8) ** 3", -512),
        ("0 ** 99999999999999", 0),
        ("1 ** 99999999999999", 1),
        ("(-1) ** 99999999999999", -1),
        ("10 ** -2", 0.01),
        ("round(1234, -2)", 1200),
    ],
)
def test_it_calculates(expression: str, value: float) -> None:
    assert calculate(expression) == {"expression": expression, "result": value}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("1 / 0", "1 / 0 divides by zero"),
        ("5 // (3 - 3)", "5 // 0 divides by zero"),
        ("5 % 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("9 ** 9 ** 9", "digits; that is too large"),
        ("2 ** 99999999999999999999", "too large"),
        ("(10 ** 400) / 3", "too large"),
        ("2.5 ** 9999", "too large"),
        ("1e308 * 10", "too large"),
        ("1e999", "too large"),
        ("exp(1000)", "exp(1000) is too large"),
        ("(-8) ** 0.5", "not a real number"),
        ("sqrt(-1)", "sqrt(-1) has no value"),
        ("log(0)", "log(0) has no value"),
        ("log(5, 1)", "has no value"),
        ("max()", "max() has no value"),
        ("sqrt(1, 2)", "has no value"),
        ("round(1, -10 ** 9)", "from -400 to 400"),
        ("round(1.5, 0.5)", "from -400 to 400"),
        ("", "is empty"),
        ("2 +", "can't be read"),
        ("(1", "can't be read"),
        ("1 2", "can't be read"),
        ("007", "can't be read"),
        ("1,000", "write 1000 or 1_000"),
        ("2 apples", "can't be read"),
        ("apples", "'apples' is not known"),
        ("open(1)", "'open' is not known"),
        ("pi()", "'pi' is not known"),
        ("sqrt", "'sqrt' is not known"),
        ("__import__(1)", "'__import__' is not known"),
        ("(1).real", "can't be read at character 4"),
        ("[1]", "can't be read at character 1"),
        ("'a' * 9", "can't be read at character 1"),
        ("0x10", "can't be read at character 1"),
        ("2j", "can't be read"),
        ("1 if 2 else 3", "not arithmetic"),
        ("1 or 2", "not arithmetic"),
        ("1 is 1", "not arithmetic"),
        ("True", "not arithmetic"),
        ("max(*1)", "not arithmetic"),
        ("lambda", "can't be read"),
        ("-" * 300 + "1", "50 deep"),
        ("(" * 250 + "1" + ")" * 248, "can't be read"),
        ("sqrt(" * 60 + "1" + ")" * 60, "50 deep"),
        ("max(" + ",".join("1" * 120) + ")", "more than 100 arguments"),
        ("1" * (EXPRESSION_CHARS_MAX + 1), "501 characters; at most 500"),
        ("1\x00", "can't be read"),
        ("\ud800", "can't be read"),
    ],
)
def test_what_has_no_value_says_why(expression: str, text: str) -> None:
    with pytest.raises(ToolArgumentsError) as caught:
        calculate(expression)
    assert text in caught.value.message


NUMBERS = st.integers(0, 10**12).map(str) | st.floats(0, 1e12, allow_nan=False).map(repr)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
        | st.builds("{} {} {}".format, inner, st.sampled_from(["+", "-", "*", "/"]), inner)
        | st.builds("({} ** {})".format, inner, st.integers(-8, 8))
        | st.builds("{}{}".format, st.sampled_from("+-"), inner)
        | st.builds("max({}, {})".format, inner, inner)
        | st.builds("abs({})".format, inner)
    ),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_law_it_agrees_with_python(expression: str) -> None:
    try:
        mine: object = evaluate(expression)
    except ToolArgumentsError:
        mine = None
    try:
        # The strategy above makes numbers and operators alone.
        python: Any = eval(expression, {"__builtins__": {}}, {"max": max, "abs": abs})  # noqa: S307
    except (ZeroDivisionError, OverflowError):
        python = None
    if mine is None:
        # Refused: Python has no value either, or it is beyond the bounds, on the way at least. Without powers
        # these numbers don't get there.
        beyond = python is None or isinstance(python, complex) or not math.isfinite(python)
        assert beyond or len(expression) > EXPRESSION_CHARS_MAX or "**" in expression
    else:
        assert type(mine) is type(python)
        assert mine == python


@given(st.text(max_size=60) | st.text("0123456789.eE+-*/%() ,_^xmaxsqrt", max_size=60))
def test_law_any_text_is_a_number_or_one_kind_of_error(text: str) -> None:
    try:
        value = evaluate(text)
    except ToolArgumentsError as error:
        message = error.message
    else:
        message = ""
        assert math.isfinite(value)
    assert len(message) < 400


# --- clock -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "zone"),
    [
        ("UTC", "UTC"),
        ("utc", "UTC"),
        ("Europe/Paris", "Europe/Paris"),
        ("europe/paris", "Europe/Paris"),
        ("Tokyo", "Asia/Tokyo"),
        ("new york", "America/New_York"),
        ("New_York", "America/New_York"),
        ("  são paulo ".replace("ã", "a"), "America/Sao_Paulo"),
        ("San Francisco", "America/Los_Angeles"),
        ("Mumbai", "Asia/Kolkata"),
        ("Japan", "Japan"),
    ],
)
def test_the_clock_knows_zones_and_cities(asked: str, zone: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = clock(asked)
    assert told["time_zone"] == zone
    now = datetime.fromisoformat(told["iso"])
    assert before <= now <= datetime.now(UTC)
    assert told["date"] == f"{now:%Y-%m-%d}"
    assert told["time"] == f"{now:%H:%M:%S}"
    assert told["weekday"] == f"{now:%A}"
    assert told["iso"].endswith(told["utc_offset"])


def test_the_clock_is_utc_unless_told() -> None:
    assert clock()["utc_offset"] == "+00:00"
    assert clock("Kathmandu")["utc_offset"] == "+05:45"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("Europe/Pari", 'did you mean "Europe/Paris"'),
        ("Tokio", 'did you mean "Tokyo"'),
        ("../../etc/passwd", "such as Europe/Paris"),
        ("", "such as Europe/Paris"),
        ("x" * 100_000, "such as Europe/Paris"),
    ],
)
def test_an_unknown_zone_is_told_with_the_nearest(asked: str, text: str) -> None:
    with pytest.raises(ToolArgumentsError, match="is not known") as caught:
        clock(asked)
    assert text in caught.value.message
    assert len(caught.value.message) < 300


# --- search_files ----------------------------------------------------------------------------------------


def never() -> bool:
    return False


def test_it_searches_the_texts_that_come_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    found = search_files("stop fenced", ToolContext())
    assert found.files_searched == len(list(TEXTS.glob("*.txt"))) >= 5
    best = found.matches[0]
    assert (best.file, "stop" in best.line, "fenced" in best.line) == ("stopping.txt", True, True)
    line = (TEXTS / best.file).read_text().splitlines()[best.line_number - 1]
    assert line == best.line
    assert found.left_out == []


def test_lines_with_most_of_the_words_come_first(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("one\nONE two THREE\n\n  two one  \n")
    (tmp_path / "a.txt").write_text("three\nnothing\n")
    assert search(tmp_path, "", "two One three", never) == Found(
        [
            Match("b.md", 2, "ONE two THREE"),
            Match("b.md", 4, "two one"),
            Match("a.txt", 1, "three"),
            Match("b.md", 1, "one"),
        ],
        files_searched=2,
    )


def test_folders_within_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "deeper" / "a.txt").write_text("word")
    (tmp_path / "b.txt").write_text("word")
    names = [
        [each.file for each in search(tmp_path, folder, "word", never).matches]
        for folder in ("", "in", "in/../in")
    ]
    assert names == [["b.txt", "in/deeper/a.txt"], ["in/deeper/a.txt"], ["in/deeper/a.txt"]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder to search, beside something that is nobody's business."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("word: secret\n")
    inside = tmp_path / "home"
    inside.mkdir()
    (inside / "open.txt").write_text("word: open\n")
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    (inside / "linked").symlink_to(outside)
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "dangling.txt").symlink_to(inside / "nowhere")
    (inside / ".hidden.txt").write_text("word: hidden\n")
    (inside / ".hidden").mkdir()
    (inside / ".hidden" / "a.txt").write_text("word: hidden\n")
    (inside / "program.py").write_text("word: program\n")
    (inside / "binary.txt").write_bytes(b"word\x00\xff")
    (inside / "folder.txt").mkdir()
    os.mkfifo(inside / "pipe.txt")
    return inside


def test_nothing_but_text_files_within_is_ever_read(home: Path) -> None:
    found = search(home, "", "word", never)
    assert found == Found([Match("open.txt", 1, "word: open")], files_searched=1)


@pytest.mark.parametrize(
    "folder", ["..", "../outside", "linked", "/etc", "/", "in/../../outside", "~/../../.."]
)
def test_a_folder_outside_is_denied(home: Path, folder: str) -> None:
    with pytest.raises(ToolDenied, match="outside the folder that may be searched") as caught:
        search(home, folder, "word", never)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("folder", ["nowhere", "open.txt", "loop", "a\x00b", "x" * 5_000, "x/" * 3_000])
def test_a_folder_that_is_none_is_told(home: Path, folder: str) -> None:
    with pytest.raises(ToolError) as caught:
        search(home, folder, "word", never)
    assert "folder" in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("words", ["", "  \n", "x" * 201])
def test_words_are_needed_and_bounded(home: Path, words: str) -> None:
    with pytest.raises(ToolArgumentsError, match="words"):
        search(home, "", words, never)


def test_bounds_are_kept_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word\n" * 100 + "x" * FILE_BYTES_MAX + "\nword at the end")
    (tmp_path / "b.txt").write_text("word " + "y" * 1_000)
    for number in range(FILES_MAX + 10):
        (tmp_path / f"c{number:04}.txt").write_text("")
    deep = tmp_path.joinpath(*["d"] * 12)
    deep.mkdir(parents=True)
    (deep / "e.txt").write_text("word")
    found = search(tmp_path, "", "word", never)
    assert len(found.matches) == MATCHES_MAX
    assert found.more_matches == 100 - MATCHES_MAX + 1
    assert found.files_searched == FILES_MAX
    assert found.left_out == ["the end of a.txt", f"everything after the first {FILES_MAX} files"]
    (line,) = search(tmp_path, "", "yyy", never).matches
    assert len(line.line) == 240
    below = search(tmp_path, "d", "word", never)
    assert (below.matches, below.left_out) == ([], [f"the folders in {'/'.join('d' * 8)}"])


def test_it_stops_when_nobody_waits_any_more(home: Path) -> None:
    found = search(home, "", "word", lambda: True)
    assert (found.matches, found.left_out) == ([], ["everything after the first 0 files"])


def test_the_folder_can_be_chosen_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("my word")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert [each.file for each in search_files("word", ToolContext()).matches] == ["mine.txt"]
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ToolError, match=f"{FOLDER_VARIABLE} names .*none, which is no folder"):
        search_files("word", ToolContext())


def test_bytes_that_are_no_utf_8_are_read_as_well_as_can_be(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Wörter und word".encode("latin-1"))
    assert search(tmp_path, "", "word", never).matches == [Match("latin.txt", 1, "W�rter und word")]


# --- through the runner ----------------------------------------------------------------------------------


def test_all_three_run_in_threads_and_answer_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    calls: list[tuple[str, dict[str, object]]] = [
        ("calculate", {"expression": "6 * 7"}),
        ("clock", {"time_zone": "Tokyo"}),
        ("search_files", {"words": "credit", "folder": "."}),
        ("calculate", {"expression": "1 / 0"}),
        ("search_files", {"words": "credit", "folder": ".."}),
    ]

    async def scene() -> list[ToolOutcome]:
        runner = ToolRunner(load_tools(["demo"]))
        outcomes = [
            await runner.run(ToolRequest("s", 1, name, name, json.dumps(arguments), "k", None, "", ""))
            for name, arguments in calls
        ]
        await runner.close()
        return outcomes

    answered, told, found, by_zero, outside = asyncio.run(scene())
    assert json.loads(answered.result_json) == {"expression": "6 * 7", "result": 42}
    assert json.loads(told.result_json)["utc_offset"] == "+09:00"
    assert {each["file"] for each in json.loads(found.result_json)["matches"]} == {"limits.txt"}
    assert (by_zero.code, outside.code) == ("invalid_arguments", "denied")


@pytest.mark.parametrize("function", TOOLS)
def test_each_tool_and_each_parameter_is_described(function: Any) -> None:
    made = PythonTool(function)
    assert made.description
    found = made.parameters_schema["properties"]
    assert isinstance(found, dict)
    assert all(each["description"] for each in found.values())
