"""The log's own manners; what it says of sessions is tested with those."""

import importlib
import logging
from collections.abc import Iterator

import pytest

from dispatcher import logs

# It has no types.
cygrpc = importlib.import_module(logs.GRPC_CORE)


@pytest.fixture
def grpc_log() -> Iterator[logging.Logger]:
    """gRPC's own logger under a log as configured, which is put back as it was."""
    root, core = logging.getLogger(), logging.getLogger(logs.GRPC_CORE)
    before = (root.handlers[:], root.level, core.filters[:])
    yield core
    root.handlers[:], core.filters[:] = before[0], before[2]
    root.setLevel(before[1])


def _raised(log: logging.Logger, error: Exception) -> None:
    try:
        raise error
    except Exception:
        log.exception("raised in core")


def test_a_client_that_leaves_is_no_traceback(
    grpc_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("text", "info")
    _raised(grpc_log, cygrpc.ExecuteBatchError("failed", ()))
    said = capsys.readouterr().err
    assert "info    grpc._cython.cygrpc: a client left while its call was ended" in said
    assert "Traceback" not in said


def test_it_is_not_worth_a_warning(grpc_log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "warning")
    _raised(grpc_log, cygrpc.ExecuteBatchError("failed", ()))
    assert capsys.readouterr().err == ""


def test_what_else_goes_wrong_in_grpc_is_told_whole(
    grpc_log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("text", "warning")
    _raised(grpc_log, ValueError("something else"))
    said = capsys.readouterr().err
    assert "raised in core" in said
    assert "ValueError: something else" in said


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()], ids=["text", "json"])
@pytest.mark.parametrize("text", ["x" * 1_000_000, "x\n" * 500_000], ids=["line", "lines"])
def test_neither_a_line_nor_what_is_below_it_is_longer_than_it_may_be(
    formatter: logging.Formatter, text: str
) -> None:
    error = ValueError(text)
    record = logging.LogRecord(
        "dispatcher.hub", logging.ERROR, "", 0, "%s", (text,), (ValueError, error, None)
    )
    told = formatter.format(record)
    assert told.count(" characters)") >= 2
    assert len(told) < 2 * (logs.LINE_CHARS_MAX + logs.BELOW_CHARS_MAX)
