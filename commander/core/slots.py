"""The slots of a commander: which turn holds which, and how each is given back.

    event                     RUNNING            STOPPING              STUCK               ENDED
    the agent ended           ENDED              gone, APPLIED         gone, APPLIED       -
    Stop                      STOPPING           RECEIVED              RECEIVED, ABANDONED gone, APPLIED
    attempt lost, drain over  STOPPING           STOPPING              STUCK               gone
    grace over                -                  STUCK, ABANDONED      -                   -
    Done acknowledged         -                  -                     -                   gone
    the commander gives it up STOPPING           -                     -                   -

Entering STOPPING fences the turn, cancels its agent and, for a Stop, answers RECEIVED: all in one step, so
nothing the agent says afterwards leaves. RUNNING, STOPPING and STUCK hold a slot, because an agent may still
run; ENDED holds none and is kept only until all it said has arrived. A stuck slot is never filled again
while its agent lives, and a commander with nothing but stuck slots gives up.

A turn that the commander gives up is not fenced: what it said counts, and its Done. Whenever its agent ends, it goes
on as ENDED.

One step in, a list of effects out; the caller performs them in order. All of it belongs to the link's thread.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from commander.core.turn import Bounds, Credit, Done, Numbered, Outcome, Packet, Turn, Usage


class State(Enum):
    """Where a turn stands; the value is its name in logs."""

    RUNNING = "running"
    STOPPING = "stopping"
    STUCK = "stuck"
    ENDED = "ended"


class StopStep(Enum):
    """What a commander says of a stop."""

    RECEIVED = "received"
    APPLIED = "applied"
    ABANDONED = "abandoned"


class Refusal(Enum):
    """Why a Start is not taken; the value is `Refused.code`."""

    NO_SLOT = "no_slot"
    NO_SUCH_AGENT = "no_such_agent"
    DRAINING = "draining"
    STOPPED = "stopped"


# ---- What comes in besides plain arguments ----


@dataclass(frozen=True, slots=True)
class Start:
    """A turn to run. `request` is opaque: what the agent is asked."""

    session_id: str
    attempt: int
    agent: str
    agent_version: str
    credit: Credit
    request: object


@dataclass(frozen=True, slots=True)
class Resumed:
    """The verdict that a turn goes on."""

    session_id: str
    attempt: int
    next_sequence: int
    credit: Credit


@dataclass(frozen=True, slots=True)
class Lost:
    """The verdict that a turn does not count any more."""

    session_id: str
    attempt: int
    why: str


Verdict = Resumed | Lost

# ---- What goes out on the link, before all content ----


@dataclass(frozen=True, slots=True)
class StopAck:
    """How far a stop has come."""

    session_id: str
    attempt: int
    stop_id: str
    step: StopStep
    last_sequence: int = 0
    usage: Usage = field(default_factory=Usage)
    # The number of the last message of the user that the agent has taken.
    messages_read: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A Start that can't be taken."""

    session_id: str
    attempt: int
    code: Refusal
    why: str


# ---- Effects ----


@dataclass(frozen=True, slots=True)
class Begin:
    """Run the agent of this name and version for this turn."""

    turn: Turn
    agent: str
    agent_version: str
    request: object


@dataclass(frozen=True, slots=True)
class Send:
    """Put this on the link, before all content."""

    signal: StopAck | Refused | Numbered


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the agent, now. The turn is fenced already."""

    turn: Turn
    why: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The agent ignored its cancellation for this many seconds; its slot is stuck."""

    turn: Turn
    stopping_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """The turn is over and forgotten. `stopping_s` is how long its agent took to obey, when it was stopped."""

    turn: Turn
    agent: str
    how: str
    stopping_s: float | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No slot is left that could ever be filled again."""


Effect = Begin | Send | Cancel | Abandon | Release | GiveUp


@dataclass(slots=True)
class Held:
    """What is known of one turn."""

    turn: Turn
    agent: str
    state: State = State.RUNNING
    # How it ends, in a word; known for certain only at its end.
    how: str = "completed"
    # Stops asked for, in order, so that each is answered.
    stop_ids: list[str] = field(default_factory=list)
    stopped_at: float = 0.0
    deadline: float = 0.0


# More stops than this of one turn are answered like the first, and not remembered.
STOPS_REMEMBERED_MAX = 16
# A stop may overtake the Start it is about by as many other stops.
UNSTARTED_REMEMBERED_MAX = 1_024


class Slots:
    """See the module. `agents` are pairs of name and version."""

    def __init__(
        self,
        agents: Sequence[tuple[str, str]],
        slots: int,
        bounds: Bounds,
        *,
        stop_grace_s: float,
        unlinked_keep_s: float,
    ) -> None:
        self.slots = slots
        self._agents = tuple(agents)
        self._bounds = bounds
        self._stop_grace_s = stop_grace_s
        self._unlinked_keep_s = unlinked_keep_s
        self._held: dict[tuple[str, int], Held] = {}
        self._count = dict.fromkeys(State, 0)
        # Stopped before they were started, oldest first.
        self._unstarted: dict[tuple[str, int], None] = {}
        self._unlinked_at: float | None = None
        self._drain_deadline: float | None = None

    def __repr__(self) -> str:
        counts = " ".join(f"{state.value}={count}" for state, count in self._count.items())
        return f"<Slots {self.slots}: {counts}{' draining' if self.is_draining else ''}>"

    # -- what there is ---------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Agents that run, those being stopped included and stuck ones not."""
        return self._count[State.RUNNING] + self._count[State.STOPPING]

    @property
    def stuck(self) -> int:
        return self._count[State.STUCK]

    @property
    def undelivered(self) -> int:
        """Turns whose agent has ended and whose words are not all acknowledged."""
        return self._count[State.ENDED]

    @property
    def is_draining(self) -> bool:
        return self._drain_deadline is not None

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing is owed, but for stuck agents."""
        return self.running == 0 and self.undelivered == 0

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(held.turn for held in self._held.values())

    @property
    def resumable(self) -> tuple[Turn, ...]:
        """The turns to name in a Hello: those whose words still count."""
        return tuple(held.turn for held in self._held.values() if not held.turn.fenced)

    def limit_packets(self, packet_bytes_max: int) -> None:
        """No packet of a turn begun from now on shall be larger, in bytes."""
        self._bounds = replace(self._bounds, packet_bytes_max=packet_bytes_max)

    def find(self, session_id: str, attempt: int) -> Turn | None:
        """A turn whose words still count. Attempt 0 is the newest."""
        held = self._find(session_id, attempt)
        return None if held is None or held.turn.fenced else held.turn

    # -- what happens ----------------------------------------------------------------------------------------

    def start(self, start: Start, now: float) -> list[Effect]:
        """A slot is taken or the Start refused. A repeat of one that runs changes nothing. One that was stopped already
        is refused: its stop may have overtaken it, or been told by a dispatcher that died before it had kept why, and
        whoever starts it waits for an answer."""
        key = (start.session_id, start.attempt)
        held = self._held.get(key)
        if held is not None and not held.turn.fenced:
            return []
        if held is not None or key in self._unstarted:
            return [_refuse(start, Refusal.STOPPED, f"attempt {start.attempt} of it was stopped here")]
        if self.is_draining:
            return [_refuse(start, Refusal.DRAINING, "this commander takes no more sessions")]
        agent = self._agent(start.agent, start.agent_version)
        if agent is None:
            return [_refuse(start, Refusal.NO_SUCH_AGENT, self._unknown_agent(start))]
        if self.running + self.stuck >= self.slots:
            why = f"all {self.slots} slots are taken, {self.stuck} of them by agents that ignored their stop"
            return [_refuse(start, Refusal.NO_SLOT, why)]
        effects: list[Effect] = []
        for older in [held for (session_id, _), held in self._held.items() if session_id == start.session_id]:
            effects += self._cancel(older, f"attempt {start.attempt} of it runs now", now)
        turn = Turn(start.session_id, start.attempt, self._bounds, start.credit)
        self._held[key] = Held(turn, start.agent or agent[0])
        self._count[State.RUNNING] += 1
        return [*effects, Begin(turn, *agent, start.request)]

    def stop(
        self, session_id: str, attempt: int, stop_id: str, reason: str, grace_s: float | None, now: float
    ) -> list[Effect]:
        """A Stop. Idempotent by `stop_id`; one of a turn that is not here has been obeyed."""
        held = self._find(session_id, attempt)
        if held is None:
            self._unstarted[session_id, attempt] = None
            if len(self._unstarted) > UNSTARTED_REMEMBERED_MAX:
                del self._unstarted[next(iter(self._unstarted))]
            return [Send(StopAck(session_id, attempt, stop_id, StopStep.APPLIED))]
        if stop_id not in held.stop_ids and len(held.stop_ids) < STOPS_REMEMBERED_MAX:
            held.stop_ids.append(stop_id)
        received = Send(_stop_ack(held, stop_id, StopStep.RECEIVED))
        if held.state is State.ENDED:
            held.turn.fence()
            held.how = "stopped"
            return [received, *self._release(held, now)]
        if held.state is State.STUCK:
            return [received, Send(_stop_ack(held, stop_id, StopStep.ABANDONED))]
        # The cancellation goes first: it only has to be handed to the other thread.
        return [*self._cancel(held, reason, now, grace_s), received]

    def ended(self, turn: Turn, outcome: Outcome | None, now: float) -> list[Effect]:
        """The agent has really ended: by itself with this outcome, or None because it was stopped."""
        held = self._held.get((turn.session_id, turn.attempt))
        if held is None or held.turn is not turn or held.state is State.ENDED:
            return []
        if turn.fenced:
            return self._release(held, now)
        if held.state is State.RUNNING:
            held.how = "completed" if outcome is Outcome.COMPLETED else "failed"
        self._move(held, State.ENDED)
        return self.delivered(turn, now)

    def fail(self, turn: Turn, why: str, error: object, error_bytes: int, now: float) -> list[Effect]:
        """The commander gives the turn up: its Done tells `error`, which is opaque here, and its agent is cancelled."""
        held = self._held.get((turn.session_id, turn.attempt))
        if held is None or held.turn is not turn or held.state is not State.RUNNING:
            return []
        if not turn.fail(error, error_bytes):
            return []
        held.how = "failed"
        return [self._stopping(held, why, now, self._stop_grace_s)]

    def delivered(self, turn: Turn, now: float) -> list[Effect]:
        """Something was acknowledged: the turn goes when that was the last of it."""
        held = self._held.get((turn.session_id, turn.attempt))
        if held is None or held.turn is not turn or held.state is not State.ENDED or not turn.is_delivered:
            return []
        return self._release(held, now)

    def unlinked(self, now: float) -> None:
        """The link is gone; the turns go on, for a while."""
        if self._unlinked_at is None:
            self._unlinked_at = now

    def linked(self, verdicts: Iterable[Verdict], asked: Iterable[Turn], now: float) -> list[Effect]:
        """A new link, and what becomes of each turn that the Hello named. No verdict means that it is lost."""
        self._unlinked_at = None
        by_key = {(verdict.session_id, verdict.attempt): verdict for verdict in verdicts}
        effects: list[Effect] = []
        for turn in asked:
            held = self._held.get((turn.session_id, turn.attempt))
            if held is None or turn.fenced:
                continue
            match by_key.get((turn.session_id, turn.attempt)):
                case Resumed(next_sequence=next_sequence, credit=credit):
                    effects += self._resume(held, next_sequence, credit, now)
                case Lost(why=why):
                    effects += self._cancel(held, why, now)
                case None:
                    effects += self._cancel(held, "the dispatcher gave no verdict on it", now)
        return effects

    def drain(self, deadline_s: float, now: float) -> None:
        """Take no more. What still runs after `deadline_s` is cancelled; the sooner of several deadlines holds."""
        deadline = now + deadline_s
        if self._drain_deadline is None or deadline < self._drain_deadline:
            self._drain_deadline = deadline

    def expire(self, now: float) -> list[Effect]:
        """Everything whose time has come."""
        effects: list[Effect] = []
        if self._unlinked_at is not None and now >= self._unlinked_at + self._unlinked_keep_s:
            effects += self._cancel_all(f"no dispatcher for {self._unlinked_keep_s:g} s", now)
        if self._drain_deadline is not None and now >= self._drain_deadline:
            effects += self._cancel_all("the time to drain is over", now)
        for held in list(self._held.values()):
            if held.state is State.STOPPING and now >= held.deadline:
                self._move(held, State.STUCK)
                effects += [Send(_stop_ack(held, stop_id, StopStep.ABANDONED)) for stop_id in held.stop_ids]
                effects.append(Abandon(held.turn, now - held.stopped_at))
                if self.stuck >= self.slots:
                    effects.append(GiveUp())
        return effects

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        deadlines = [held.deadline for held in self._held.values() if held.state is State.STOPPING]
        if self._has_cancellable():
            if self._unlinked_at is not None:
                deadlines.append(self._unlinked_at + self._unlinked_keep_s)
            if self._drain_deadline is not None:
                deadlines.append(self._drain_deadline)
        return min(deadlines, default=None)

    # -- inside ----------------------------------------------------------------------------------------------

    def _find(self, session_id: str, attempt: int) -> Held | None:
        if attempt:
            return self._held.get((session_id, attempt))
        newest = max((number for name, number in self._held if name == session_id), default=None)
        return None if newest is None else self._held[session_id, newest]

    def _agent(self, name: str, version: str) -> tuple[str, str] | None:
        named = [agent for agent in self._agents if name in ("", agent[0]) and version in ("", agent[1])]
        return named[0] if len(named) == 1 or (named and name) else None

    def _unknown_agent(self, start: Start) -> str:
        wanted = f"{start.agent!r}" + (f" version {start.agent_version!r}" if start.agent_version else "")
        served = ", ".join(sorted(f"{name} {version}".strip() for name, version in self._agents))
        return f"no agent {wanted} here; there are: {served}"

    def _move(self, held: Held, state: State) -> None:
        self._count[held.state] -= 1
        self._count[state] += 1
        held.state = state

    def _cancel(self, held: Held, why: str, now: float, grace_s: float | None = None) -> list[Effect]:
        grace_s = self._stop_grace_s if grace_s is None else grace_s
        held.turn.fence()
        if held.state is State.ENDED:
            held.how = "lost"
            return self._release(held, now)
        if held.state is State.STOPPING:
            held.deadline = min(held.deadline, now + grace_s)
            return []
        if held.state is State.STUCK:
            return []
        held.how = "stopped" if held.stop_ids else "lost"
        return [self._stopping(held, why, now, grace_s)]

    def _stopping(self, held: Held, why: str, now: float, grace_s: float) -> Effect:
        held.stopped_at, held.deadline = now, now + grace_s
        self._move(held, State.STOPPING)
        return Cancel(held.turn, why)

    def _cancel_all(self, why: str, now: float) -> list[Effect]:
        cancellable = [held for held in self._held.values() if held.state in (State.RUNNING, State.ENDED)]
        return [effect for held in cancellable for effect in self._cancel(held, why, now)]

    def _has_cancellable(self) -> bool:
        return self._count[State.RUNNING] + self._count[State.ENDED] > 0

    def _release(self, held: Held, now: float) -> list[Effect]:
        del self._held[held.turn.session_id, held.turn.attempt]
        self._count[held.state] -= 1
        effects: list[Effect] = [
            Send(_stop_ack(held, stop_id, StopStep.APPLIED)) for stop_id in held.stop_ids
        ]
        stopping_s = now - held.stopped_at if held.state is not State.ENDED else None
        return [*effects, Release(held.turn, held.agent, held.how, stopping_s)]

    def _resume(self, held: Held, next_sequence: int, credit: Credit, now: float) -> list[Effect]:
        if held.turn.resume(next_sequence, credit):
            return self.delivered(held.turn, now)
        # What the dispatcher wants next is gone, or never was. A Done whose number it can't take for the next
        # good one ends the session there, so that nobody waits for what can't come.
        sequence = max(held.turn.last_sequence + 1, next_sequence)
        why = f"the dispatcher wants packet {next_sequence}; there is none of that number to send"
        done = Done(Outcome.FAILED, 0, 0, held.turn.usage, why)
        return [Send(Numbered(held.turn, Packet(sequence, done, 0))), *self._cancel(held, why, now)]


def _stop_ack(held: Held, stop_id: str, step: StopStep) -> StopAck:
    turn = held.turn
    return StopAck(
        turn.session_id, turn.attempt, stop_id, step, turn.last_sequence, turn.usage, turn.last_read
    )


def _refuse(start: Start, code: Refusal, why: str) -> Send:
    return Send(Refused(start.session_id, start.attempt, code, why))
