"""How log lines look: text for people, JSON for collectors. Fields such as session and attempt come by `extra`."""

import json
import logging
import sys
from typing import Final

# Looking at every character of a line takes the loop's time.
LINE_CHARS_MAX: Final = 16_384
# Of a traceback: an exception's text may be of any length, and of any number of lines.
BELOW_CHARS_MAX: Final = 65_536
# Who tells of calls that went wrong inside gRPC.
GRPC_CORE: Final = "grpc._cython.cygrpc"
# Fields that a line may carry besides its text, in this order.
FIELDS: Final = (
    "session",
    "attempt",
    "link",
    "commander",
    "tool",
    "call",
    "policy",
    "rule",
    "action",
    "kind",
    "agent",
    "position",
)


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,123 info    dispatcher.hub  ended: completed  session=s-1 attempt=1`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = _one_line("".join(f" {k}={getattr(record, k)}" for k in FIELDS if getattr(record, k, "")))
        text = _one_line(record.getMessage())
        name = record.name.removeprefix("dispatcher.")
        line = f"{self.formatTime(record)} {record.levelname.lower():<7} {name}: {text}"
        line += f" |{fields}" if fields else ""
        below = [
            getattr(record, "stack", ""),
            self.formatException(record.exc_info) if record.exc_info else "",
        ]
        cut = [_cut(text, BELOW_CHARS_MAX) for text in below if text]
        return "\n".join([line, *(_one_line(each) for text in cut for each in text.split("\n"))])


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
        if stack := getattr(record, "stack", ""):
            line["stack"] = _cut(stack, BELOW_CHARS_MAX)
        if record.exc_info:
            line["traceback"] = _cut(self.formatException(record.exc_info), BELOW_CHARS_MAX)
        return json.dumps(line, ensure_ascii=False, default=str)


class ClientLeft(logging.Filter):
    """Takes the traceback from what is no fault: grpc.aio tells it as an error of ours when a client goes in the very
    moment in which the end of its call is sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None and kind.__name__ == "ExecuteBatchError":
            record.msg, record.args, record.exc_info = "a client left while its call was ended", (), None
            record.levelno, record.levelname = logging.INFO, "INFO"
            return logging.getLogger().isEnabledFor(logging.INFO)
        return True


def configure(log_format: str, log_level: str) -> None:
    """Sends this process's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    # gRPC tells at debug of every call that it uses an event loop.
    logging.getLogger("grpc").setLevel(logging.WARNING)
    grpc_core = logging.getLogger(GRPC_CORE)
    grpc_core.filters[:] = [ClientLeft()]
