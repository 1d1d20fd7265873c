"""What a peer or an agent says stays within its line of the log, whatever it is."""

import logging

import pytest

from commander.logs import BELOW_CHARS_MAX, LINE_CHARS_MAX, JsonFormatter, TextFormatter, about

TEXT = TextFormatter()


def line_of(
    text: str,
    *values: object,
    error: BaseException | None = None,
    session: str = "s-1",
    formatter: logging.Formatter = TEXT,
) -> str:
    record = logging.getLogger("commander.link").makeRecord(
        "commander.link",
        logging.WARNING,
        "link.py",
        1,
        text,
        values,
        None if error is None else (type(error), error, None),
        extra=about(session, 2),
    )
    return formatter.format(record)


def test_a_line_is_for_people() -> None:
    assert line_of("lost link: %s", "é").endswith(" warning link: lost link: é | session=s-1 attempt=2")


def test_nothing_begins_a_line_or_moves_the_cursor() -> None:
    line = line_of("cancelled: %s", "a\nb\r\x1b[2Jc\u2028d\u202ee", session="s\r\n")
    assert r"cancelled: a\nb\r\x1b[2Jc\u2028d\u202ee | session=s\r\n attempt=2" in line
    assert line.isprintable()


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    first, second = line_of("the agent failed", error=ValueError("a\rb\x1b[2J")).split("\n")
    assert first.endswith("attempt=2")
    assert second == r"ValueError: a\rb\x1b[2J"


def test_a_line_is_no_longer_than_it_may_be() -> None:
    line = line_of("%s", "x" * 100_000)
    assert "… (100,000 characters) |" in line
    assert len(line) < LINE_CHARS_MAX + 200


@pytest.mark.parametrize("formatter", [TEXT, JsonFormatter()], ids=["text", "json"])
@pytest.mark.parametrize("text", ["x" * 1_000_000, "x\n" * 500_000], ids=["line", "lines"])
def test_neither_a_line_nor_what_is_below_it_is_longer_than_it_may_be(
    formatter: logging.Formatter, text: str
) -> None:
    told = line_of("%s", text, error=ValueError(text), formatter=formatter)
    assert told.count(" characters)") >= 2
    assert len(told) < 2 * (LINE_CHARS_MAX + BELOW_CHARS_MAX)
