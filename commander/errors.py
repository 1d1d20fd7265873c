"""What an agent's author may raise or catch.

AgentError              the agent gives up, and says why in its own words
ToolFailed              a tool call came to nothing; `code` says how
  ToolNotFound          no tool of that name
  InvalidArguments      they don't fit the tool's schema, or are no JSON; nothing ran
  ToolDenied            not allowed here; nothing ran
  ToolTimeout           it took too long
  ToolCancelled         the session was stopped meanwhile
  ToolTooLarge          arguments or output over the limit
  ToolOutcomeUnknown    it began, and nobody knows how it ended
QuestionUnanswered      the user will not answer; `why` says why
Stopped                 the turn is over: stopped, or ended. A CancelledError, so leave it alone
"""

import asyncio
from dataclasses import dataclass


class AgentError(Exception):
    """Ends the turn as failed, with this message for the user instead of a generic one.

    `code` is a stable name in snake_case for programs; `retryable` says that the same request may succeed
    later, `retry_after_s` how much later.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "agent_error",
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """Why an agent failed, fit to be told."""

    code: str
    message: str
    error_type: str = ""
    retryable: bool = False
    retry_after_s: float | None = None


class ToolFailed(Exception):  # noqa: N818 - named for what happened, like its subclasses
    """A tool call came to nothing. As this very class: the tool ran and failed."""

    code = "failed"

    def __init__(
        self, tool: str, message: str, *, retryable: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"tool {tool!r}: {message}")
        self.tool = tool
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ToolNotFound(ToolFailed):
    """No tool of that name."""

    code = "not_found"


class InvalidArguments(ToolFailed):
    """The arguments don't fit the tool's schema, or are no JSON. Nothing ran."""

    code = "invalid_arguments"


class ToolDenied(ToolFailed):
    """Not allowed here. Nothing ran."""

    code = "denied"


class ToolTimeout(ToolFailed):
    """It took too long."""

    code = "timeout"


class ToolCancelled(ToolFailed):
    """The session was stopped meanwhile."""

    code = "cancelled"


class ToolTooLarge(ToolFailed):
    """Arguments or output over the limit."""

    code = "too_large"


class ToolOutcomeUnknown(ToolFailed):
    """It began, and the process that ran it died: nobody knows."""

    code = "unknown_outcome"


# By `ToolFailed.code`, which is also the name on the wire.
TOOL_FAILURES: dict[str, type[ToolFailed]] = {
    failure.code: failure
    for failure in (
        ToolFailed,
        ToolNotFound,
        InvalidArguments,
        ToolDenied,
        ToolTimeout,
        ToolCancelled,
        ToolTooLarge,
        ToolOutcomeUnknown,
    )
}


class QuestionUnanswered(Exception):  # noqa: N818 - named for what happened
    """There will be no answer. `why` is a stable name: "expired", "declined"."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the question has no answer: {why}")
        self.why = why


class Stopped(asyncio.CancelledError):
    """The turn is over and what it says or asks counts no more.

    It derives from CancelledError so that `except Exception` does not swallow it.
    """
