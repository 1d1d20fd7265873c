"""A journal that logs the thoughts it keeps: one line for each step of an agent, at level `debug`.

What a policy holds back is never kept, so it is never logged either. Put around another journal by `serve.py`
where the log's level asks for it: thoughts come by the token, and may tell what users have said.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.core.mark import Mark
from dispatcher.core.packets import SessionEvent
from dispatcher.journal import Journal
from dispatcher.journal.around import Around

log = logging.getLogger(__name__)

# A step that says more than this is logged in several lines.
STEP_CHARS_MAX: Final = 8_192


@dataclass(slots=True)
class _Step:
    """What an agent has thought in the step it is in."""

    attempt: int
    name: str
    text: str


class ThoughtLog(Around):
    """See the module."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        # By session, then by the path of the agent: they interleave.
        self._steps: dict[str, dict[str, _Step]] = {}

    def __repr__(self) -> str:
        return f"<ThoughtLog of {len(self._steps)} sessions around {self._journal!r}>"

    def append(self, session_id: str, events: Sequence[SessionEvent], mark: Callable[[], Mark]) -> None:
        super().append(session_id, events, mark)
        for event in events:
            self._heard(session_id, event)

    def _heard(self, session_id: str, event: SessionEvent) -> None:
        steps = self._steps.get(session_id)
        if event.kind == "thought":
            if steps is None:
                steps = self._steps[session_id] = {}
            self._thought(session_id, steps, event)
        elif event.kind == "ended":
            for agent, step in (self._steps.pop(session_id, None) or {}).items():
                _tell(session_id, agent, step)
        elif steps and event.agent in steps:
            _tell(session_id, event.agent, steps.pop(event.agent))

    def _thought(self, session_id: str, steps: dict[str, _Step], event: SessionEvent) -> None:
        name = str(event.body)
        step = steps.get(event.agent)
        if step is not None and (
            (step.attempt, step.name) != (event.attempt, name)
            or len(step.text) + len(event.text) > STEP_CHARS_MAX
        ):
            _tell(session_id, event.agent, step)
            step = None
        if step is None:
            steps[event.agent] = _Step(event.attempt, name, event.text)
        else:
            step.text += event.text


def _tell(session_id: str, agent: str, step: _Step) -> None:
    who = f"{agent}: " if agent else ""
    what = f"{step.name}: " if step.name else ""
    log.debug("thought: %s%s%s", who, what, step.text, extra={"session": session_id, "attempt": step.attempt})
