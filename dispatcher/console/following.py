"""Following a session to its end, over however many streams that takes.

A stream that breaks is replaced by one that begins after the last event received, so that nothing is lost and
nothing shown twice. A dispatcher that goes away says when to come back and behind which event. Owns the
retries; what is shown and what is counted belongs to others.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol, cast

import grpc
import grpc.aio
from southwest.ai.agent.v1 import chat_pb2

from dispatcher.console.account import Account
from dispatcher.console.connection import Connection, missing_session, reason_of
from dispatcher.console.outcome import ConsoleError, Exit
from dispatcher.record import cursor_text

RETRIES = 8  # in a row, without an event between them: about half a minute with the pauses below
PAUSE_FIRST_S = 0.25
PAUSE_LONGEST_S = 8.0
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class EventStream(Protocol):
    """The part of a call that following needs."""

    async def read(self) -> object: ...


async def read_batch(stream: EventStream) -> chat_pb2.SessionEvents | None:
    """The next message of a stream; None at its end.

    Cancelling the caller cancels the RPC: only who gives the stream up may do so.
    """
    message = await stream.read()
    return None if message is grpc.aio.EOF else cast("chat_pb2.SessionEvents", message)


def pause_s(tries: int) -> float:
    """How long to wait before try number `tries`, from 1. Full jitter: many viewers do not come at once."""
    return random.uniform(0, min(PAUSE_LONGEST_S, PAUSE_FIRST_S * 2**tries))  # noqa: S311 - not for secrecy


def _may_come_back(error: grpc.aio.AioRpcError) -> bool:
    """Whether another stream may bring the rest: the stream was lost, or closed because we read too slowly."""
    slow = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and (error.details() or "").startswith("slow")
    return slow or error.code() in _BROKEN


async def follow(
    connection: Connection,
    stream: EventStream,
    reopen: Callable[[chat_pb2.Cursor | None], EventStream],
    account: Account,
    take: Callable[[chat_pb2.SessionEvents], bool],
    notice: Callable[[str], None],
    session_id: str,
    *,
    heard: bool,
) -> None:
    """Hands every message to `take` until that says that the session is over.

    Says when a stream breaks or the dispatcher goes away, each try to come back, and when it is back. `heard`: the
    dispatcher has answered before; where it never has, it is not worth a second try. Raises ConsoleError when the
    retries are used up, or the dispatcher refuses.
    """
    tries = 0
    known = heard  # whether there is such a session, or ever was
    broken = False
    goaway: chat_pb2.GoAway | None = None
    while True:
        before = account.cursor
        try:
            while (batch := await read_batch(stream)) is not None:
                if broken:
                    notice("the stream is back")
                heard, broken, goaway = True, False, None
                if take(batch):
                    return
                known = known or not account.gone
                goaway = _goaway(batch, session_id, account)
            if account.gone:
                raise _gone(session_id, account, known=known)
            why = "it was closed before the session's end"
        except grpc.aio.AioRpcError as error:
            if heard and error.code() is grpc.StatusCode.NOT_FOUND:
                raise _gone(session_id, account, known=known) from None
            if not heard or not _may_come_back(error):
                raise connection.trouble(error, missing_session(session_id)) from None
            why = reason_of(error) or error.code().name
        tries = tries + 1 if account.cursor == before else 1
        if tries > RETRIES:
            raise ConsoleError(
                f"the stream of session {session_id} is lost ({why}) and {RETRIES} tries did not bring it "
                f"back: `dispatcher watch {session_id}` shows it when the dispatcher is back",
                Exit.UNREACHABLE,
            )
        wait_s = pause_s(tries)
        if goaway is None:
            notice(f"the stream broke ({why}): coming back, try {tries} of {RETRIES}")
        elif broken:
            notice(f"it is not back yet ({why}): coming back, try {tries} of {RETRIES}")
        else:
            wait_s += goaway.retry_after_ms / 1000
            notice(f"{_farewell(goaway)}, try {tries} of {RETRIES}")
        broken = True
        await asyncio.sleep(wait_s)
        stream = reopen(account.cursor)


def _goaway(batch: chat_pb2.SessionEvents, session_id: str, account: Account) -> chat_pb2.GoAway | None:
    """What the dispatcher says of this session before it leaves. It may have skipped what is not for this viewer."""
    for goaway in batch.goaways:
        if goaway.session_id == session_id:
            account.skip(goaway.cursor)
            return goaway
    return None


def _farewell(goaway: chat_pb2.GoAway) -> str:
    reason = goaway.reason or "the dispatcher goes away"
    after = f", behind {cursor_text(goaway.cursor)}" if goaway.cursor.offset else ""
    wait = f"in {goaway.retry_after_ms / 1000:g} s" if goaway.retry_after_ms else "soon"
    return f"{reason}, and the session goes on: coming back {wait}{after}"


def _gone(session_id: str, account: Account, *, known: bool) -> ConsoleError:
    if not known:
        return ConsoleError(missing_session(session_id), Exit.REFUSED)
    why = {
        "other_epoch": "the dispatcher was started again without what it had kept",
        "forgotten": "the dispatcher keeps it no longer",
    }.get(account.gone, "the dispatcher was started again, or keeps it no longer")
    return ConsoleError(f"session {session_id} is gone: {why}; ask again with `dispatcher chat`", Exit.FAILED)
