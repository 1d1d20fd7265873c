"""How a command of the console ends: its exit status, and the one sentence that explains a failure.

Owns the numbers that scripts rely on. Knows nothing of gRPC or of a terminal.
"""

from enum import IntEnum

from southwest.ai.agent.v1 import chat_pb2


class Exit(IntEnum):
    """Exit statuses. Stable: scripts branch on them."""

    COMPLETED = 0
    USAGE = 2
    STOPPED = 3
    FAILED = 4
    REFUSED = 5
    UNREACHABLE = 6
    LEFT = 130  # as a shell reports a program that SIGINT ended
    PIPE_CLOSED = 141  # as a shell reports a program that SIGPIPE ended


class ConsoleError(Exception):
    """A failure that its user can understand: one sentence with the mend, and the exit status."""

    def __init__(self, text: str, exit_status: Exit) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def exit_of(ending: chat_pb2.SessionEnding.ValueType) -> Exit:
    """The exit status for a session's ending: what neither completed nor was stopped has failed."""
    if ending == chat_pb2.SESSION_ENDING_COMPLETED:
        return Exit.COMPLETED
    if ending == chat_pb2.SESSION_ENDING_STOPPED:
        return Exit.STOPPED
    return Exit.FAILED
