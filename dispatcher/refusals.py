"""What was refused, told in the log in one line for many: whoever guesses is not to fill it."""

import logging
import time
from typing import Final

# They are told no more often.
TOLD_EVERY_S: Final = 10.0

log = logging.getLogger(__name__)


class Refusals:
    """Of one kind, named in the plural: "calls"."""

    def __init__(self, what: str) -> None:
        self._what = what
        # Refused and not yet told, and when it was last told.
        self._untold = 0
        self._told_at = -TOLD_EVERY_S

    def tell(self, why: str) -> None:
        self._untold += 1
        now = time.monotonic()
        if now - self._told_at >= TOLD_EVERY_S:
            log.warning("refused %d %s; the last: %s", self._untold, self._what, why)
            self._untold, self._told_at = 0, now
