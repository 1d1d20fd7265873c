"""Errors that servers send with a status of success: a JSON document where a stream belongs, or an event of it.

The libraries look for an answer in them, find none, and tell of that alone. Here what comes is looked at as it passes,
and what is an error is told in the provider's words, as the kind that it is.

Imported with the adaptor, when a model is first used.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Final

import httpx2

from commander.models import blame
from commander.models.failures import Trouble

# An error is shorter; what is longer is left to the library, whatever it is.
ERROR_BYTES_MAX: Final = 65_536
_DOCUMENTS: Final = (b"{", b"[")
# Neither is within a longer text, where quotes are escaped: most pieces of an answer need not be read for them.
_SIGNS: Final = (b'"error"', b'"detail"')
_DATA: Final = b"data:"
# By any of these an event is a part of an answer, or an error that the libraries know.
_ANSWERS: Final = frozenset({"choices", "candidates", "type", "id", "output"})
# What tells an error, in a document and in an event of a stream.
_ERRORS: Final[Mapping[bool, tuple[str, ...]]] = {True: blame.ERRORS, False: ("error", "detail")}


async def watch(response: httpx2.Response) -> None:
    """A hook of the client: the answer is looked at while it is read."""
    if response.is_success and not response.headers.get("content-encoding"):
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        response.stream = _Watched(stream, response.headers.get("retry-after", ""))


class _Watched(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, retry_after: str) -> None:
        self._stream = stream
        self._retry_after_s = float(retry_after) if retry_after.isdecimal() else None
        # Of a document all that has come, of a stream the line that is not whole.
        self._kept = bytearray()
        self._is_document: bool | None = None
        self._is_long = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Trouble in place of what is an error."""
        async for piece in self._stream:
            if self._is_document is None and (begun := piece.lstrip()):
                self._is_document = begun.startswith(_DOCUMENTS)
            if self._is_document:
                self._keep(piece)
            elif found := self._find(piece):
                before, trouble = found
                yield piece[:before]
                raise trouble
            yield piece
        if self._is_document and not self._is_long and (last := self._judge(bytes(self._kept))):
            raise last

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _keep(self, piece: bytes) -> None:
        self._is_long = self._is_long or len(self._kept) + len(piece) > ERROR_BYTES_MAX
        if self._is_long:
            self._kept.clear()
        else:
            self._kept += piece

    def _find(self, piece: bytes) -> tuple[int, Trouble] | None:
        """An error that an event tells, and how much of this piece is before it."""
        whole, newline, rest = piece.rpartition(b"\n")
        found = None
        if newline:
            at = -len(self._kept)
            self._keep(whole)
            if any(sign in self._kept for sign in _SIGNS):
                for line in self._kept.splitlines(keepends=True):
                    if line.startswith(_DATA) and (trouble := self._judge(bytes(line[len(_DATA) :]))):
                        found = max(at, 0), trouble
                        break
                    at += len(line)
            self._kept.clear()
            self._is_long = False
        self._keep(rest)
        return found

    def _judge(self, text: bytes) -> Trouble | None:
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(said, list) and said:
            said = said[0]
        if isinstance(said, Mapping) and _is_error(said, is_document=bool(self._is_document)):
            return blame.told(said, self._retry_after_s)
        return None


def _is_error(said: Mapping[str, object], *, is_document: bool) -> bool:
    if said.get("object") == "error":
        return True
    if not is_document and _ANSWERS & said.keys():
        return False
    return any(isinstance(said.get(key), (str, Mapping, list)) and said[key] for key in _ERRORS[is_document])
