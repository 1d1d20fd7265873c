"""Makes text from agents safe to print. Pure.

An agent's text is untrusted: an escape sequence in it could retitle or reprogram a terminal, a carriage
return could overwrite a line, a bidirectional override could show a command backwards. Such characters are
printed as `\\x1b` or `\\u202e` instead. Newlines and tabs pass where a text may have several lines.
"""

import json
import re

from dispatcher.record import JsonValue

# C0 without tab and newline, DEL, C1; the marks, embeddings, overrides and isolates that reorder text; the
# two separators that some terminals take for newlines; surrogates; interlinear annotations; invisible tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_BREAKS = re.compile(r"[ \t\r]*[\n\t][ \t\r\n]*")


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def safe_text(text: str) -> str:
    """`text` with its lines and tabs kept and everything that could steer a terminal made visible."""
    return _UNSAFE.sub(_visible, text.replace("\r\n", "\n"))


def safe_line(text: str) -> str:
    """`text` as a single line: line breaks and tabs become one space, the rest as `safe_text`."""
    return safe_text(_BREAKS.sub(" ", text))


def safe_json(text: str) -> str:
    """A JSON text with unsafe characters as JSON escapes: the same value, harmless on a terminal."""
    return _UNSAFE.sub(_json_escape, text)


def json_line(record: JsonValue) -> str:
    """One line of JSON, without the newline, that is harmless when a terminal shows it."""
    return safe_json(json.dumps(record, ensure_ascii=False, allow_nan=False))
