"""When a request that failed in passing is made again: how long to wait, or that it is not worth it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """`attempts` in all. The waits between them begin with `first_s` and grow by `factor`; a peer that says how long it
    wants to be left alone is left alone so long, up to `asked_max_s`."""

    attempts: int
    first_s: float
    factor: float
    asked_max_s: float

    def wait_s(
        self, failures: int, *, asked_s: float | None, left_s: float | None, random_unit: float
    ) -> float | None:
        """Seconds to wait after `failures` (at least 1) in a row, the last of which asked for `asked_s`. None: there is
        to be no further attempt.

        Between half of the wait and all of it, by lot (`random_unit` from [0, 1)), so that many that failed together
        do not come back together; and never before the time asked for. `left_s` is what the asker itself has left: a
        wait that would take all of it is none.
        """
        if failures >= self.attempts or (asked_s is not None and asked_s > self.asked_max_s):
            return None
        # Past this, the power has no place in a float; nobody waits so long.
        bound = self.first_s * self.factor ** min(failures - 1, 64)
        wait = max(bound * (0.5 + random_unit / 2), asked_s or 0.0)
        return None if left_s is not None and wait >= left_s else wait
