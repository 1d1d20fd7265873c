"""What one user may have, and how fast sessions may be asked for: by each user, and by all.

A request without a user id is under the limits for all alone. Owns who has which sessions; refuses nothing itself but
says why to refuse: `router.py` asks before it opens a session.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from dispatcher.core.endings import Refusal
from dispatcher.core.limits import Limits
from dispatcher.core.policy import Mode
from dispatcher.core.session import Session


class Excess(NamedTuple):
    """Why a request is refused. `retry_after_s` None: as the refusal says."""

    refusal: Refusal
    message: str
    retry_after_s: float | None = None


class Bucket:
    """So many in a minute, and no more than so many at once: tokens that come back evenly."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left: float | None = None  # as many as there may be
        self._at = 0.0

    def take(self, per_minute: int, now: float) -> float:
        """Takes one: 0, or how many seconds until there is one."""
        left = self._refilled(per_minute, now)
        self._at = now
        if left >= 1:
            self._left = left - 1
            return 0.0
        self._left = left
        return (1 - left) * 60 / per_minute

    def give_back(self) -> None:
        """What was taken last led to nothing."""
        self._left = (self._left or 0) + 1

    def _refilled(self, per_minute: int, now: float) -> float:
        if self._left is None:
            return per_minute
        return min(per_minute, self._left + (now - self._at) * per_minute / 60)


class Spending:
    """What somebody has spent in a window that slides by the hundredth."""

    __slots__ = ("_parts", "_total")

    def __init__(self) -> None:
        # When each hundredth began, and what was spent in it.
        self._parts: deque[tuple[float, float]] = deque()
        self._total = 0.0

    def add(self, dollars: float, window_s: float, now: float) -> None:
        if self._parts and now < self._parts[-1][0] + window_s / 100:
            at, spent = self._parts.pop()
            self._parts.append((at, spent + dollars))
        else:
            self._parts.append((now, dollars))
        self._total += dollars

    def total(self, window_s: float, now: float) -> float:
        while self._parts and self._parts[0][0] + window_s <= now:
            self._total -= self._parts.popleft()[1]
        # What is left of sums of fractions.
        self._total = self._total if self._parts else 0.0
        return self._total

    def below_s(self, most: float, window_s: float, now: float) -> float:
        """How long until it is below so much, if nothing more is spent."""
        total = self.total(window_s, now)
        for at, spent in self._parts:
            total -= spent
            if total < most:
                return at + window_s - now
        return 0.0


@dataclass(slots=True)
class User:
    """Somebody who has sessions, or had some in the last minute. Ended ones are in it as long as they are kept."""

    sessions: dict[str, Session] = field(default_factory=dict)
    live: int = 0
    rate: Bucket = field(default_factory=Bucket)
    spending: Spending = field(default_factory=Spending)

    @property
    def kept_bytes(self) -> int:
        return sum(session.kept_bytes for session in self.sessions.values())


class Quotas:
    """All users. Bounded: who has no session is forgotten when there are more than `sessions_max`, the longest
    unheard of first."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, User] = OrderedDict()
        self._rate = Bucket()

    def __len__(self) -> int:
        return len(self._users)

    def __repr__(self) -> str:
        return f"<Quotas of {len(self._users)} users>"

    def entered(self, session: Session) -> None:
        if session.user_id:
            user = self._user(session.user_id)
            user.sessions[session.session_id] = session
            user.live += session.live

    def ended(self, session: Session) -> None:
        if session.user_id:
            self._users[session.user_id].live -= 1

    def forgotten(self, session: Session) -> None:
        if session.user_id:
            del self._users[session.user_id].sessions[session.session_id]

    def ended_of(self, user_id: str) -> list[Session]:
        """Sessions of a user that have ended and are kept, in the order in which they were opened."""
        user = self._users.get(user_id)
        return [session for session in user.sessions.values() if not session.live] if user else []

    def excess(self, user_id: str, limits: Limits) -> Excess | None:
        """What of a user's is too much for another session, but for the rate."""
        user = self._users.get(user_id) if user_id else None
        if user is None:
            return None
        if user.live >= limits.user_sessions_max:
            told = f"user_sessions_max is {limits.user_sessions_max}, and so many of this user run or wait"
            return Excess(Refusal.USER_SESSIONS_FULL, told)
        if user.kept_bytes >= limits.user_journal_bytes:
            told = f"user_journal_bytes is {limits.user_journal_bytes}, and so much of this user's is kept"
            return Excess(Refusal.USER_JOURNAL_FULL, told)
        return None

    def spend(self, user_id: str, dollars: float, limits: Limits, now: float) -> float:
        """Counts what one of a user's sessions costs; what the user has spent in all, as far as it counts now."""
        if not user_id:
            return 0.0
        window_s = limits.policy.user_cost_window_s
        spending = self._user(user_id).spending
        spending.add(dollars, window_s, now)
        return spending.total(window_s, now)

    def overspent(self, user_id: str, limits: Limits, now: float) -> Excess | None:
        """Why a user that has spent too much can't have another session now."""
        policy = limits.policy
        user = self._users.get(user_id) if user_id else None
        most, window_s = policy.user_cost_dollars_max, policy.user_cost_window_s
        if user is None or policy.user_cost_mode is not Mode.ENFORCE:
            return None
        if user.spending.total(window_s, now) < most:
            return None
        told = f"user_cost_dollars_max is {most:g} in {window_s:g} s, and this user has spent so much"
        return Excess(Refusal.RATE_LIMITED, told, user.spending.below_s(most, window_s, now))

    def take(self, user_id: str, limits: Limits, now: float) -> Excess | None:
        """Counts a request, or says when the next one may come."""
        wait_s = self._rate.take(limits.sessions_per_minute_max, now)
        if wait_s:
            told = f"sessions_per_minute_max is {limits.sessions_per_minute_max}"
            return Excess(Refusal.RATE_LIMITED, told, wait_s)
        if not user_id:
            return None
        wait_s = self._user(user_id).rate.take(limits.user_sessions_per_minute_max, now)
        self._prune(limits)
        if wait_s:
            # It takes nothing away from the others.
            self._rate.give_back()
            told = f"user_sessions_per_minute_max is {limits.user_sessions_per_minute_max}, of one user"
            return Excess(Refusal.RATE_LIMITED, told, wait_s)
        return None

    def _user(self, user_id: str) -> User:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = User()
        self._users.move_to_end(user_id)
        return user

    def _prune(self, limits: Limits) -> None:
        while len(self._users) > limits.sessions_max:
            idle = next((each for each, user in self._users.items() if not user.sessions), None)
            if idle is None or idle == next(reversed(self._users)):
                return
            del self._users[idle]
