"""A turn that runs again what an attempt has run that was parked while a person was asked.

The agent begins at its beginning. The same calls and the same questions get the results and answers that they got
before, and nothing is asked or run a second time; what it says before it has the last answer was said already. What it
has not waited for before it waits for once more, in vain: it gives up again, as it did. Where it does something else
than before, nobody can tell what it means to do: that fails, and says so.
"""

from typing import Final

from commander.conversation import Published, PublishedAnswer, PublishedCall, ToolAnswer, UserAnswer
from commander.errors import AgentError, AgentFailure

CODE = "rerun_differs"
_ADVICE = "an agent that parks does the same again up to the question that it waits for"
# Of a question: why it has no answer.
_WITHDRAWN: Final = "withdrawn"


class Withdrawn:
    """The attempt before has asked the same, and has waited no longer."""


class Rerun:
    """What the attempt before was given."""

    def __init__(self, published: Published) -> None:
        self._calls: list[PublishedCall] = list(published.calls)
        self._answers: list[PublishedAnswer] = list(published.answers)

    def __repr__(self) -> str:
        return f"<Rerun of {len(self._calls)} calls and {len(self._answers)} answers>"

    @property
    def is_silent(self) -> bool:
        """What is said now was said before."""
        return any(not _is_withdrawn(answered) for answered in self._answers)

    def result(self, tool: str, arguments_json: str) -> ToolAnswer | Withdrawn | None:
        """What the same call has come to; None: it is a new one. AgentError for a new one where none can be."""
        for call in self._calls:
            if (call.tool, call.arguments_json) == (tool, arguments_json):
                self._calls.remove(call)
                if call.result_json is None:
                    return Withdrawn()
                return ToolAnswer(call.result_json, call.failure)
        if self.is_silent:
            raise AgentError(f"it calls {tool!r}, and has not called that before; {_ADVICE}", code=CODE)
        return None

    def answer(self, text: str, options: tuple[str, ...]) -> UserAnswer | Withdrawn | None:
        """What was answered to the same question; None: it is a new one. AgentError for a new one where none can be."""
        for answered in self._answers:
            if (answered.text, answered.options) == (text, options):
                self._answers.remove(answered)
                return Withdrawn() if _is_withdrawn(answered) else answered.answer
        if self.is_silent:
            raise AgentError(f"it asks {text[:80]!r}, and has not asked that before; {_ADVICE}", code=CODE)
        return None

    def unfinished(self) -> AgentFailure | None:
        """Why an agent fails that ends before it has asked again what it had asked."""
        missed = next((each for each in self._answers if not _is_withdrawn(each)), None)
        if missed is None:
            return None
        told = f"it ends without asking {missed.text[:80]!r}, which it had asked before; {_ADVICE}"
        return AgentFailure(CODE, told)


def _is_withdrawn(answered: PublishedAnswer) -> bool:
    return answered.answer.unanswered == _WITHDRAWN
