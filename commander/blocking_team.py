"""What a sync agent holds of a team: the same team, whose members its thread waits for.

The members run where they always do, async ones in the agents' loop and sync ones in a thread each, so that a stop ends
them at once, whatever the thread of the agent is at.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from commander.branch import AnswerAs
from commander.conversation import Message
from commander.models.blocking import there
from commander.team import AnyMember, Member, MemberResult, Team


class BlockingTeam:
    """As `Team`: `with turn.team() as team:`."""

    def __init__(self, team: Team, loop: asyncio.AbstractEventLoop) -> None:
        self._team = team
        self._loop = loop
        self._members: list[BlockingMember] = []

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._team).removeprefix('<')}"

    def __enter__(self) -> Self:
        there(self._team.__aenter__(), self._loop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        there(self._team.__aexit__(kind, error, where), self._loop)

    @property
    def members(self) -> "tuple[BlockingMember, ...]":
        """In the order in which they were started."""
        return tuple(self._members)

    @property
    def results(self) -> Mapping[str, MemberResult]:
        """Of those that have ended, by their names, in the order in which they were started."""
        return self._team.results

    def start(
        self,
        name: str,
        member: AnyMember,
        *,
        text: str | None = None,
        messages: Sequence[Message] | None = None,
        answer_as: AnswerAs = "content",
    ) -> "BlockingMember":
        """Starts a sub-agent, async or sync. See `Team.start`."""

        async def start() -> Member:
            return self._team.start(name, member, text=text, messages=messages, answer_as=answer_as)

        started = BlockingMember(there(start(), self._loop), self._loop)
        self._members.append(started)
        return started


class BlockingMember:
    """As `Member`; `wait()` is its result."""

    def __init__(self, member: Member, loop: asyncio.AbstractEventLoop) -> None:
        self._member = member
        self._loop = loop

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._member).removeprefix('<')}"

    @property
    def path(self) -> str:
        return self._member.path

    @property
    def name(self) -> str:
        return self._member.name

    @property
    def is_over(self) -> bool:
        return self._member.is_over

    @property
    def result(self) -> MemberResult | None:
        """None while it runs."""
        return self._member.result

    def wait(self) -> MemberResult:
        """Its result, whatever came of it; blocks until then."""

        async def wait() -> MemberResult:
            return await self._member

        return there(wait(), self._loop)

    def tell(self, text: str) -> None:
        """Says something to it, as a user would. AgentError when too many wait."""

        async def tell() -> None:
            self._member.tell(text)

        there(tell(), self._loop)

    def cancel(self) -> None:
        """Ends it, if it runs. Idempotent."""

        async def cancel() -> None:
            self._member.cancel()

        there(cancel(), self._loop)
