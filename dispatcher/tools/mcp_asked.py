"""What an MCP server asks of us, and has not read the answers of: so much and no more, however it is reached."""

from collections import Counter
from typing import Final

from mcp_types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

ASKED_MAX: Final = 100


class LeaveError(Exception):
    """A server is not to be talked to any longer. The text says why."""


class Asked:
    """By the server's own numbers. It may use one twice."""

    def __init__(self) -> None:
        self._asked: Counter[RequestId] = Counter()

    def heard(self, message: JSONRPCMessage) -> None:
        """What it says. Raises LeaveError when it is too much."""
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._settle((message.params or {}).get("requestId"))
        if not isinstance(message, JSONRPCRequest):
            return
        self._asked[message.id] += 1
        if self._asked.total() > ASKED_MAX:
            raise LeaveError(f"it has asked more than {ASKED_MAX} things whose answers it has not read")

    def told(self, message: JSONRPCMessage) -> None:
        """What it has read."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._settle(message.id)

    def _settle(self, number: object) -> None:
        if isinstance(number, int | str) and number in self._asked:
            self._asked -= Counter([number])


def listing_is_long(bytes_max: int, name: str) -> str:
    """Why a server is left whose listing would hold up everybody while it is read."""
    return f"its list of tools is over {bytes_max:,} bytes, listing_bytes_max of {name}"
