"""Teams: the sub-agents of one turn, that run beside each other and end each by itself.

A member has a turn of its own over a branch of its turn's crossing. What it raises is told as an event of its path and
kept for whoever started it; nothing of it reaches its neighbours. No member outlives the block that it was started in.
"""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from commander.agent import Agent, AnyAgent, agent
from commander.branch import ANSWER_AS, AnswerAs, Branch, Ferry
from commander.conversation import Message, UserMessage, checked_messages
from commander.core.turn import Outcome
from commander.crossing import Crossing, Passage
from commander.errors import AgentError, AgentFailure, Stopped
from commander.metrics import Metrics
from commander.models.model import TurnModels
from commander.models.registry import Models
from commander.outputs import Began, Completed, Failed
from commander.runs import AsyncRun, BlockingRun, LoopTurns, told
from commander.turn import BlockingTurn, Turn

# A dispatcher takes paths of up to 256; an agent that delegates has others below its own.
NAME_CHARS_MAX: Final = 64
PATH_CHARS_MAX: Final = 96

# An agent, or a function that could be one.
AnyMember = AnyAgent | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class MemberResult:
    """What came of a member. `text` is its answer, as far as it went; `summary` what viewers were told of it; `error`
    what it raised, None when it ended well; `is_cut` says that the answer was longer than is kept."""

    path: str
    text: str
    summary: str = ""
    error: BaseException | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """What all turns of a commander run on."""

    loop: asyncio.AbstractEventLoop
    turns: LoopTurns
    metrics: Metrics
    models: Models


@dataclass(slots=True)
class Roll:
    """The members of one turn, those of members included: how many there were, and their paths."""

    count: int = 0
    paths: set[str] = field(default_factory=set)

    def enter(self, above: str, name: str, members_max: int) -> str:
        """The path of one more: its name, numbered where it is taken. AgentError for one too many."""
        if self.count >= members_max:
            raise AgentError(
                f"team: this turn has had {members_max} members, and team_members allows no more",
                code="team_too_large",
            )
        first = f"{above}/{name}" if above else name
        path, number = first, 1
        while path in self.paths:
            number += 1
            path = f"{first}-{number}"
        if len(path) > PATH_CHARS_MAX:
            raise ValueError(
                f"team: the path {path!r} has {len(path)} characters; at most {PATH_CHARS_MAX} are right: use shorter"
                " names, or fewer teams within teams"
            )
        self.count += 1
        self.paths.add(path)
        return path


class Teams:
    """The teams of one agent, and its turn: of the root, or of a member. What it has under way besides its own task."""

    def __init__(
        self, stage: Stage, crossing: Passage, root: Crossing, models: TurnModels, roll: Roll, label: str
    ) -> None:
        self.stage = stage
        self.crossing = crossing
        self.root = root
        self.models = models
        self.roll = roll
        # The name of the root agent, for metrics: those of members may be any.
        self.label = label
        self.is_over = False
        self._open: set[Team] = set()

    @classmethod
    def of_root(cls, stage: Stage, crossing: Crossing, served: AnyAgent) -> Self:
        models = TurnModels(stage.models, lambda: crossing.request.left_s)
        return cls(stage, crossing, crossing, models, Roll(), served.name)

    def of_member(self, branch: Branch, crossing: Passage) -> "Teams":
        return Teams(self.stage, crossing, branch.root, self.models.branch(), self.roll, self.label)

    def __repr__(self) -> str:
        return f"<Teams of {self.crossing!r}: {len(self._open)} open, {self.roll.count} members so far>"

    def turn(self) -> Turn:
        return Turn(self.crossing, self.models, self)

    def blocking_turn(self) -> BlockingTurn:
        return BlockingTurn(self.crossing, self.models, self, self.stage.loop)

    def team(self) -> "Team":
        return Team(self)

    def waited(self, seconds: float) -> None:
        self.stage.metrics.outbox_waited(self.label, seconds)

    def hang_up(self) -> None:
        """Its agent is to end or has ended: so does all that it has under way. In the loop; idempotent."""
        self.is_over = True
        self.models.hang_up()
        for team in tuple(self._open):
            team.cancel()

    def opened(self, team: "Team") -> None:
        self._open.add(team)

    def closed(self, team: "Team") -> None:
        self._open.discard(team)


class Team:
    """`async with turn.team() as team:` – leaving the block waits for all members; leaving it by an exception or a stop
    cancels them first."""

    def __init__(self, teams: Teams) -> None:
        self._teams = teams
        self._bounds = teams.root.bounds.team
        self._places = asyncio.Semaphore(self._bounds.members_at_once)
        self._members: list[Member] = []
        self._is_open = False

    def __repr__(self) -> str:
        running = sum(not member.is_over for member in self._members)
        return f"<Team of {self._teams.crossing.path or 'the root'}: {running} of {len(self._members)} run>"

    async def __aenter__(self) -> Self:
        if asyncio.get_running_loop() is not self._teams.stage.loop:
            raise RuntimeError(
                "team: its members run in the agents' loop, so it is opened there, and not in another one"
            )
        self._is_open = True
        self._teams.opened(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._is_open = False
        try:
            if error is None:
                await self._all_over()
        finally:
            self.cancel()
            try:
                await self._all_ended()
            finally:
                self._teams.closed(self)

    @property
    def members(self) -> "tuple[Member, ...]":
        """In the order in which they were started."""
        return tuple(self._members)

    @property
    def results(self) -> Mapping[str, MemberResult]:
        """Of those that have ended, by their names, in the order in which they were started."""
        return MappingProxyType({each.name: each.result for each in self._members if each.result is not None})

    def start(
        self,
        name: str,
        member: AnyMember,
        *,
        text: str | None = None,
        messages: Sequence[Message] | None = None,
        answer_as: AnswerAs = "content",
    ) -> "Member":
        """Starts a sub-agent: an agent, or a function of a Turn that could be one.

        It is asked `text`, after `messages` where those are given; with neither, what this turn was
        asked. What it says as content goes to viewers ("content"), to those who see thoughts ("thought"), or to whoever
        starts it and nobody else ("kept"). A name that is taken is numbered: see the member's `name`.

        ValueError and TypeError for what can't be; AgentError (team_too_large) for one too many; Stopped once the agent
        that starts it has ended, or is to end.
        """
        if not self._is_open:
            raise RuntimeError(
                "team: members are started within its block: async with turn.team() as team: …"
            )
        if self._teams.is_over or self._teams.crossing.is_over:
            raise Stopped
        _check_name(name)
        if answer_as not in ANSWER_AS:
            raise ValueError(
                f"team: answer_as should be one of {', '.join(map(repr, ANSWER_AS))}, not {answer_as!r}"
            )
        runs, teams = _agent(name, member), self._teams
        request = teams.crossing.request
        asked = replace(request, messages=_asked(request.messages, text, messages), published=None)
        path = teams.roll.enter(teams.crossing.path, name, self._bounds.members)
        made = Member(runs, Branch(teams.root, asked, path, answer_as), teams, self._places)
        self._members.append(made)
        return made

    def cancel(self) -> None:
        """Ends the members that still run. In the loop; idempotent."""
        for member in self._members:
            member.cancel()

    async def _all_over(self) -> None:
        for member in self._members:
            await member.ended()

    async def _all_ended(self) -> None:
        """Of members that were told to end. None is left behind: whoever is told once more tells them once more."""
        told_again: asyncio.CancelledError | None = None
        for member in self._members:
            while not member.is_over:
                try:
                    await member.ended()
                except asyncio.CancelledError as error:
                    told_again = error
                    for each in self._members:
                        each.insist()
        if told_again is not None:
            raise told_again


class Member(Awaitable[MemberResult]):
    """One member of a team. `await member` is its result, whatever came of it; it raises nothing."""

    def __init__(self, runs: AnyAgent, branch: Branch, teams: Teams, places: asyncio.Semaphore) -> None:
        # None while it runs.
        self.result: MemberResult | None = None
        self._agent = runs
        self._branch = branch
        self._teams = teams
        self._places = places
        self._run: AsyncRun | None = None
        # Ends what it has under way besides.
        self._hang_up: Callable[[], None] | None = None
        self._is_cancelled = False
        self._began = False
        # For its place among those that run.
        self._waits = False
        # What it raised, and as what that is told; None when it ended well.
        self._failure: AgentFailure | None = None
        self._error: BaseException | None = None
        self._task = asyncio.create_task(self._live(), name=f"{branch.path} of {branch.request.session_id}")
        self._task.add_done_callback(lambda _: self._finish())
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        ended = self.result is not None and ("failed" if self.result.error else "completed")
        return f"<Member {self.path}: {ended or ('running' if self._began else 'waiting')}>"

    def __await__(self) -> Generator[Any, None, MemberResult]:
        return self._ended_with_result().__await__()

    @property
    def path(self) -> str:
        """Under which viewers see it: "insight", or "team/insight" within a member called team."""
        return self._branch.path

    @property
    def name(self) -> str:
        """As it was started, with a number where that name was taken."""
        return self.path.rpartition("/")[2]

    @property
    def is_over(self) -> bool:
        return self.result is not None

    def tell(self, text: str) -> None:
        """Says something to it, as a user would: its `turn.messages()` has it. AgentError when too many wait."""
        self._branch.tell_message(UserMessage(text))

    def cancel(self) -> None:
        """Ends it, if it runs: its result has an error with the code member_cancelled. Idempotent."""
        if self._is_cancelled or self.is_over:
            return
        self._is_cancelled = True
        self._branch.release()
        if self._hang_up is not None:
            self._hang_up()
        if self._run is not None:
            self._run.cancel()
        elif self._waits:
            self._task.cancel()

    def insist(self) -> None:
        """It was told to end, and has not: once more."""
        if self._run is not None and not self.is_over:
            self._task.cancel()

    async def ended(self) -> None:
        """Until it has, whatever becomes of whoever waits."""
        await asyncio.wait((self._over,))

    async def _ended_with_result(self) -> MemberResult:
        await self.ended()
        assert self.result is not None
        return self.result

    # -- its task --------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        if not await self._has_place():
            return
        try:
            # It may have been given its place and cancelled in one step.
            if not self._is_cancelled:
                self._began = True
                self._branch.tell_of(Began(self._agent.description))
                await (self._live_thread() if self._agent.kind.is_blocking else self._live_here())
        except Exception as error:  # noqa: BLE001 - ends this member alone
            self._error, self._failure = error, told(error)
        finally:
            self._places.release()

    async def _has_place(self) -> bool:
        """Waits for it. False when it is cancelled before that."""
        if self._is_cancelled:
            return False
        self._waits = True
        try:
            await self._places.acquire()
        except asyncio.CancelledError:
            return False
        finally:
            self._waits = False
        return True

    async def _live_here(self) -> None:
        teams = self._teams.of_member(self._branch, self._branch)
        run = AsyncRun(
            self._agent, teams.turn(), self._branch, teams.stage.turns, teams.hang_up, teams.waited
        )
        run.task = asyncio.current_task()
        self._run, self._hang_up = run, teams.hang_up
        await run.live()
        self._came_to(run)

    async def _live_thread(self) -> None:
        loop = self._teams.stage.loop
        ferry = Ferry(self._branch, loop)
        teams = self._teams.of_member(self._branch, ferry)
        run = BlockingRun(self._agent, teams.blocking_turn(), ferry, teams.waited)
        ended: Future[None] = Future()
        context = contextvars.copy_context()

        def live() -> None:
            try:
                context.run(run.live)
            finally:
                ended.set_result(None)

        try:
            threading.Thread(target=live, name=self._task.get_name(), daemon=True).start()
        except RuntimeError as error:
            raise AgentError(
                f"the commander is out of threads: {error}", code="no_thread", retryable=True
            ) from None
        self._hang_up = teams.hang_up
        over = asyncio.wrap_future(ended)
        while not over.done():
            try:
                await asyncio.wait((over,))
            except asyncio.CancelledError:
                # Not by its team: somebody cancels whatever runs. The thread goes on until it hears of it.
                self.cancel()
        teams.hang_up()
        self._came_to(run)

    def _came_to(self, run: AsyncRun | BlockingRun) -> None:
        if run.outcome is None:
            # It was stopped, and obeyed.
            self._is_cancelled = True
        elif run.outcome is Outcome.FAILED:
            self._error, self._failure = run.error, run.failure

    def _finish(self) -> None:
        branch = self._branch
        branch.release()
        if self._is_cancelled or not self._began:
            self._error = AgentError("it was cancelled before it had ended", code="member_cancelled")
            self._failure = AgentFailure("member_cancelled", str(self._error))
        if self._began:
            failed = self._failure
            branch.tell_of(Completed(branch.summary) if failed is None else Failed(failed))
        summary = "" if self._error is not None else branch.summary
        self.result = MemberResult(branch.path, branch.answer, summary, self._error, branch.is_cut)
        self._over.set_result(None)


def _agent(name: str, member: object) -> AnyAgent:
    if isinstance(member, Agent):
        return member
    if not callable(member):
        right = "an agent, or a function of a turn"
        if hasattr(member, "__aiter__") or hasattr(member, "send"):
            right += " itself, not what it returns: team.start(name, function)"
        raise TypeError(f"team: member {name!r} should be {right}, not {type(member).__name__}")
    return agent(name)(member)


def _asked(
    before: tuple[Message, ...], text: str | None, messages: Sequence[Message] | None
) -> tuple[Message, ...]:
    told = () if messages is None else checked_messages("team", messages)
    if text is None:
        return before if messages is None else told
    if not isinstance(text, str):
        raise TypeError(f"team: text should be a str, not {type(text).__name__}")
    return (*told, Message("user", (text,)))


def _check_name(name: object) -> None:
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= NAME_CHARS_MAX
        or not name.isprintable()
        or " " in name
        or "/" in name
    ):
        raise ValueError(
            f"team: a member's name should be 1 to {NAME_CHARS_MAX} printable characters without blanks and slashes,"
            f" e.g. 'insight', not {name!r}"
        )
