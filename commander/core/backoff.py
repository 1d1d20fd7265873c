"""How long to wait before the next try to link."""


def delay_s(failures: int, *, first_s: float, max_s: float, random_unit: float) -> float:
    """Seconds to wait after `failures` (at least 1) tries in a row that failed.

    Full jitter: anything from nothing to a bound that doubles from `first_s` up to `max_s`, so that a thousand
    commanders that lost one dispatcher do not come back in step. `random_unit` is drawn from [0, 1).
    """
    doublings = min(max(failures, 1) - 1, 32)
    bound: float = min(max_s, first_s * 2.0**doublings)
    return bound * random_unit
