"""The audit trail: what policies found in which session and what was done about it, as lines of the log from
`dispatcher.audit`. With `log_format = "json"` each is an object whose keys a collector can keep.

Knows names and positions, and never the text in question. Called by the hub.
"""

import logging

from dispatcher.core.events import Audit

log = logging.getLogger(__name__)


def write_down(verdict: Audit) -> None:
    """Writes one line."""
    fields = {
        "session": verdict.session_id,
        "attempt": verdict.attempt,
        "policy": verdict.policy,
        "rule": verdict.rule,
        "action": verdict.action,
        "kind": verdict.kind,
        "agent": verdict.agent,
        # 0 is a position, and no field is shown that is empty.
        "position": "" if verdict.position is None else str(verdict.position),
    }
    log.warning("%s", verdict.told, extra={key: value for key, value in fields.items() if value})
