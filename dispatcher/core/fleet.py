"""The commanders, their links and their slots. Owns who is there and what is taken; decides nothing about
sessions.

A commander is `ready` or `draining` while it has a link, `detached` while it may still return, and gone after
that. A slot is taken in the same synchronous step that finds it free, so capacity 1 never runs 2.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from dispatcher.core.packets import Drain, Hello, OnRestart, Stop


class SlotState(Enum):
    BUSY = "busy"
    STOPPING = "stopping"  # its session is over here, its agent has yet to end
    STUCK = "stuck"  # its agent ignored the stop; not filled again while that lasts


class CommanderState(Enum):
    READY = "ready"
    DRAINING = "draining"
    DETACHED = "detached"


@dataclass(slots=True)
class Slot:
    """Room for one session's attempt. `stop` and `stopped_at` once it is to end."""

    session_id: str
    attempt: int
    state: SlotState = SlotState.BUSY
    stop: Stop | None = None
    stopped_at: float = 0.0
    stop_received: bool = False


@dataclass(slots=True)
class Link:
    """One ChatStream. `commander` is set by Hello; `session_id` is that of a minimal commander's session,
    minted at the start and used when the first packet isn't Hello."""

    link_id: str
    peer: str
    session_id: str
    opened_at: float
    heard_at: float
    commander: "Commander | None" = None
    minimal: bool = False
    # What a minimal commander calls its session, where it does.
    named: str = ""
    goodbye: bool = False
    # A minimal commander says no more, and is still there for what it is owed.
    half_closed: bool = False
    # The session of a minimal commander was ended, and not by what it said.
    broken_off: bool = False
    # Sessions with packets kept but not yet acknowledged.
    ack_due: set[str] = field(default_factory=set)
    # (session, attempt) pairs that were told once that they don't count here.
    fenced_told: set[tuple[str, int]] = field(default_factory=set)

    @property
    def commander_id(self) -> str:
        """Empty before Hello, and for a minimal commander."""
        return self.commander.commander_id if self.commander else ""

    @property
    def whose(self) -> str:
        """For people who read the log."""
        if self.commander:
            return f"commander {self.commander.commander_id} at {self.peer}"
        return f"{'a minimal commander' if self.minimal else 'a peer that has sent no hello'} at {self.peer}"

    def __repr__(self) -> str:
        whose = self.commander_id or ("minimal" if self.minimal else "new")
        return f"<Link {self.link_id} {whose} from {self.peer}>"


@dataclass(slots=True)
class Commander:
    """A worker process, as its last Hello described it."""

    commander_id: str
    instance: str
    link: Link | None
    hello: Hello
    state: CommanderState = CommanderState.READY
    slots: dict[tuple[str, int], Slot] = field(default_factory=dict)
    blocked_for_s: float = 0.0
    # Slots stuck in the process that this dispatcher knows nothing of, e.g. from before its restart.
    stuck_elsewhere: int = 0
    # Attempts it was ever given: among equally loaded ones the work goes round.
    taken: int = 0
    # It was told to drain, and a new link doesn't undo that.
    drain: Drain | None = None

    @property
    def free(self) -> int:
        return max(0, self.hello.slots - len(self.slots) - self.stuck_elsewhere)

    @property
    def is_free(self) -> bool:
        """It takes another session now."""
        return self.state is CommanderState.READY and self.free > 0

    @property
    def load(self) -> float:
        """Share of its slots that is taken, 0 to 1."""
        return 1.0 - self.free / self.hello.slots if self.hello.slots else 1.0

    @property
    def rank(self) -> tuple[float, int, str]:
        """Who comes first when several could take a session."""
        return (self.load, self.taken, self.commander_id)

    def count(self, state: SlotState) -> int:
        return sum(slot.state is state for slot in self.slots.values())

    def has_stuck(self, stuck: int) -> None:
        """The process says that so many of its slots are stuck."""
        self.stuck_elsewhere = max(0, stuck - self.count(SlotState.STUCK))

    def serves(self, agent: str, version: str, labels: Mapping[str, str]) -> bool:
        return all(self.hello.labels.get(key) == value for key, value in labels.items()) and any(
            offer.name == agent and version in ("", offer.version) for offer in self.hello.agents
        )

    def on_restart(self, agent: str, version: str) -> OnRestart:
        """What its agent does with a session whose earlier attempt was lost."""
        offers = (o for o in self.hello.agents if o.name == agent and version in ("", o.version))
        return next((offer.on_restart for offer in offers), "restart")

    def parks(self, agent: str, version: str) -> bool:
        """Whether its agent may be stopped while a person is asked, and run again with the answer."""
        offers = (o for o in self.hello.agents if o.name == agent and version in ("", o.version))
        return next((offer.parks for offer in offers), False)

    def __repr__(self) -> str:
        stuck = self.count(SlotState.STUCK) + self.stuck_elsewhere
        taken = f"{len(self.slots) + self.stuck_elsewhere}/{self.hello.slots}" + (
            f", {stuck} stuck" if stuck else ""
        )
        return f"<Commander {self.commander_id} {self.state.value} {taken}>"


class Fleet:
    """All commanders and links."""

    def __init__(self) -> None:
        self.commanders: dict[str, Commander] = {}
        self.links: dict[str, Link] = {}

    def __repr__(self) -> str:
        return f"<Fleet {list(self.commanders.values())}>"

    def link_opened(self, link_id: str, peer: str, session_id: str, now: float) -> Link:
        link = Link(link_id, peer, session_id, now, now)
        self.links[link_id] = link
        return link

    def link_lost(self, link_id: str) -> Link | None:
        """Forgets the link. Its commander, when this was its current link, is detached."""
        link = self.links.pop(link_id, None)
        if link is not None and link.commander is not None and link.commander.link is link:
            link.commander.link = None
            link.commander.state = CommanderState.DETACHED
        return link

    def greet(self, link: Link, hello: Hello) -> Commander:
        """Registers a commander on its link, or moves a returning one to its new link.

        All its stuck slots count as unknown ones until those that are known are settled: rather twice than not
        at all. The caller settles them, and says `has_stuck` once more.
        """
        commander = self.commanders.get(hello.commander_id)
        if commander is None or commander.instance != hello.instance:
            commander = Commander(hello.commander_id, hello.instance, link, hello)
            self.commanders[hello.commander_id] = commander
        commander.hello = hello
        commander.link = link
        is_ready = commander.drain is None and not hello.draining
        commander.state = CommanderState.READY if is_ready else CommanderState.DRAINING
        commander.stuck_elsewhere = hello.stuck
        link.commander = commander
        return commander

    def remove(self, commander: Commander) -> None:
        if self.commanders.get(commander.commander_id) is commander:
            del self.commanders[commander.commander_id]

    def serving(self, agent: str, version: str, labels: Mapping[str, str]) -> Iterator[Commander]:
        """Those that serve it, free or not, detached ones included: they may return."""
        return (c for c in self.commanders.values() if c.serves(agent, version, labels))

    def choose(
        self, agent: str, version: str, labels: Mapping[str, str], affinity: str, not_on: Collection[str]
    ) -> Commander | None:
        """A ready commander with a free slot: the one of `affinity` where it has one, else the least loaded.

        `affinity` is a commander id or empty; `not_on` are ids that refused this session.
        """
        best: Commander | None = None
        for commander in self.serving(agent, version, labels):
            if not commander.is_free or commander.commander_id in not_on:
                continue
            if commander.commander_id == affinity:
                return commander
            if best is None or commander.rank < best.rank:
                best = commander
        return best

    def agents(self) -> list[str]:
        """Names of all agents there are, sorted."""
        return sorted({offer.name for c in self.commanders.values() for offer in c.hello.agents})
