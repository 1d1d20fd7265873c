"""How log lines look: text for people, JSON for collectors; as the dispatcher's.

Each has the session and attempt of its turn where there is one, an agent's own lines too: those come from a
context variable that the runner sets, the commander's own by `extra=about(…)`.
"""

import json
import logging
import sys
from contextvars import ContextVar
from typing import Final

# Session and attempt of the turn that runs here.
CURRENT_TURN: ContextVar[tuple[str, int] | None] = ContextVar("current_turn", default=None)

# Looking at every character of a line takes time that agents want.
LINE_CHARS_MAX: Final = 16_384
# Of a traceback: an exception's text may be of any length, and of any number of lines.
BELOW_CHARS_MAX: Final = 65_536
# Fields that a line may carry besides its text, in this order.
FIELDS: Final = ("session", "attempt")


def about(session_id: str, attempt: int) -> dict[str, object]:
    """For `extra=` of a log line about a turn, written outside of it."""
    return {"session": session_id, "attempt": attempt}


class _OfTurn(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        current = CURRENT_TURN.get()
        if current is not None and not hasattr(record, "session"):
            record.session, record.attempt = current
        return True


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,123 info    hub: ended: completed | session=s-1 attempt=1`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = _one_line("".join(f" {k}={getattr(record, k)}" for k in FIELDS if getattr(record, k, "")))
        text = _one_line(record.getMessage())
        name = record.name.removeprefix("commander.")
        line = f"{self.formatTime(record)} {record.levelname.lower():<7} {name}: {text}"
        below = [_one_line(each) for text in _below(self, record) for each in text.split("\n")]
        return "\n".join([line + (f" |{fields}" if fields else ""), *below])


def _one_line(text: str) -> str:
    """Peers choose some of the words, so none of their characters may begin a line or move a cursor."""
    text = _cut(text, LINE_CHARS_MAX)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}… ({len(text):,} characters)"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (Unix seconds), level, logger, message, and the fields that are set."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage(), LINE_CHARS_MAX),
        }
        line |= {k: getattr(record, k) for k in FIELDS if getattr(record, k, "")}
        below = _below(self, record)
        if below:
            line["traceback"] = "\n".join(below)
        return json.dumps(line, ensure_ascii=False, default=str)


def _below(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """What belongs below the line: where an exception came from, or where a thread stands (`extra` "stack")."""
    below = [formatter.formatException(record.exc_info)] if record.exc_info else []
    stack = getattr(record, "stack", "")
    return [_cut(each, BELOW_CHARS_MAX) for each in ([*below, stack] if stack else below)]


def configure(log_format: str, log_level: str) -> None:
    """Sends this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(_OfTurn())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    # gRPC tells at debug of every call that it uses an event loop.
    logging.getLogger("grpc").setLevel(logging.WARNING)
