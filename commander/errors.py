"""What an agent's author may raise or catch.

AgentError              the agent gives up, and says why in its own words
  ModelFailed           a language model gave no answer, or broke off; `code` says how
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
import math
from dataclasses import dataclass
from typing import Literal

# Who caused a failure: the commander with its agent, or a language model with its provider.
Origin = Literal["commander", "model"]


class AgentError(Exception):
    """Ends the turn as failed, with this message for the user instead of a generic one.

    `code` is a stable name in snake_case for programs; `retryable` says that the same request may succeed
    later, `retry_after_s` how much later.
    """

    origin: Origin = "commander"
    upstream_status: int | None = None

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


class ModelFailed(AgentError):  # noqa: N818 - named for what happened, as ToolFailed
    """A language model gave no answer, or broke off in the middle of one.

    Retries and fallbacks have come to nothing by then. `model` is its name in the settings, `code` one of those in
    docs/models.md, `upstream_status` what the provider answered, where it did. `has_begun` says that a part of the
    answer had come already.
    """

    origin: Origin = "model"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        model: str,
        retryable: bool = False,
        retry_after_s: float | None = None,
        upstream_status: int | None = None,
        has_begun: bool = False,
    ) -> None:
        super().__init__(message, code=code, retryable=retryable, retry_after_s=retry_after_s)
        self.model = model
        self.upstream_status = upstream_status
        self.has_begun = has_begun


# What an exception says to the user is cut here, and so are the names in it.
MESSAGE_CHARS_MAX = 500
NAME_CHARS_MAX = 100
# Nobody comes back after more than a week; on the wire it is a number of milliseconds.
RETRY_AFTER_S_MAX = 604_800.0


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """Why an agent failed, fit to be told: `of` makes it so of whatever an author gave."""

    code: str
    message: str
    error_type: str = ""
    retryable: bool = False
    retry_after_s: float | None = None
    origin: Origin = "commander"
    # What the origin answered, e.g. 429.
    upstream_status: int | None = None

    @classmethod
    def of(
        cls,
        code: object,
        message: str,
        error_type: str,
        retryable: object,
        retry_after_s: object,
        origin: Origin = "commander",
        upstream_status: object = None,
    ) -> "AgentFailure":
        """Cuts what is too long, replaces what no UTF-8 has, and leaves out a time that is none."""
        again_s: float | None = None
        if isinstance(retry_after_s, int | float) and 0 <= retry_after_s < math.inf:
            again_s = min(float(retry_after_s), RETRY_AFTER_S_MAX)
        return cls(
            fit(str(code), NAME_CHARS_MAX) or "agent_error",
            fit(message, MESSAGE_CHARS_MAX),
            fit(error_type, NAME_CHARS_MAX),
            bool(retryable),
            again_s,
            origin if origin == "model" else "commander",
            upstream_status if isinstance(upstream_status, int) and 0 <= upstream_status < 1_000 else None,
        )


def fit(text: str, chars_max: int) -> str:
    """The text as it may be told: cut, and without what no UTF-8 has."""
    cut = text if len(text) <= chars_max else text[: chars_max - 1] + "…"
    return cut.encode(errors="replace").decode()


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
