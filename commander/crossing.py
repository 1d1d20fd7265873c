"""One turn's passage between the thread of its agent and the thread of the link.

The agent's thread puts in what the agent says and asks; the link's thread takes it and brings the answers back.
Everything that waits is a `concurrent.futures.Future`, because those may be settled by any thread and awaited
by any: a coroutine wraps one, a sync agent blocks on it. Putting a token in costs well under a microsecond and
wakes the link only when it sleeps.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol, TypeVar, cast
from zlib import crc32

from commander import sealing
from commander.conversation import Request, ToolAnswer, UserAnswer, UserMessage
from commander.core.batch import Rotation
from commander.core.turn import Bounds, Outcome, Turn
from commander.doorbell import Doorbell
from commander.errors import AgentFailure, Stopped, ToolTooLarge
from commander.outputs import AgentEvent, Output, Used
from commander.rerun import Rerun, Withdrawn

T = TypeVar("T")

# What of a path stands in ids, which have up to 128 characters.
ID_PATH_CHARS_MAX = 33


@dataclass(frozen=True, slots=True)
class TeamBounds:
    """What the teams of one turn may come to, from settings."""

    # In all, members of members included.
    members: int = 100
    # Of one team; the rest wait for their turn.
    members_at_once: int = 16
    # What is kept of a member's answer for whoever started it.
    answer_chars: int = 1_000_000


@dataclass(frozen=True, slots=True)
class CrossingBounds:
    """What may cross, from settings: see `Bounds` for a turn's own."""

    turn: Bounds
    # The largest payload that goes whole, bytes; text and artifacts are cut, the rest can't be.
    payload_bytes_max: int
    messages_waiting_max: int
    team: TeamBounds = TeamBounds()


class Passage(Protocol):
    """What an agent says and asks through: the `Crossing` of its turn, or a member's part of it."""

    @property
    def turn(self) -> Turn: ...
    @property
    def request(self) -> Request: ...
    @property
    def path(self) -> str: ...
    @property
    def guard(self) -> AbstractContextManager[object]: ...
    @property
    def is_over(self) -> bool: ...
    def say(self, text: str) -> bool: ...
    def put(self, output: Output) -> bool: ...
    def room(self) -> Future[None]: ...
    def call(
        self,
        tool: str,
        arguments: Mapping[str, object],
        timeout_s: float | None,
        idempotency_key: str,
        *,
        to_agent: bool = False,
    ) -> tuple[str, Future[ToolAnswer]]: ...
    def ask(
        self,
        text: str,
        options: Sequence[str],
        schema: Mapping[str, object] | None,
        expires_in_s: float | None,
    ) -> tuple[str, Future[UserAnswer]]: ...
    def withdraw(self, *, call_id: str = "", question_id: str = "") -> None: ...
    def mint_artifact_id(self) -> str: ...
    def next_message(self) -> UserMessage | Future[None]: ...
    def take_messages(self) -> list[UserMessage]: ...
    def summarize(self, text: str) -> None: ...


class Crossing:
    """See the module. The doorbell is rung from the agent's thread when there is something to send."""

    def __init__(
        self,
        turn: Turn,
        request: Request,
        rotation: Rotation,
        doorbell: Doorbell,
        bounds: CrossingBounds,
    ) -> None:
        self.turn = turn
        self.request = request
        self.bounds = bounds
        # Of the sub-agent that speaks: this is the root's.
        self.path = ""
        # Whoever says or asks something holds it where several threads may: a sync agent's own, and the loop with the
        # members of its teams. All of an async agent is in the loop, which needs none and is spared it.
        self.guard: AbstractContextManager[object] = nullcontext()
        self._rotation = rotation
        self._doorbell = doorbell
        # With the number of the signal that each came as.
        self._messages: deque[tuple[int, UserMessage]] = deque()
        # Messages are taken one by one, and none once it is over: an author's threads may take beside each other, and
        # what Done says of them is the last word.
        self._taking = Lock()
        # Who waits for room, and for a message. Appended by the agent's thread, taken by the link's.
        self._want_room: deque[Future[None]] = deque()
        self._want_message: deque[Future[None]] = deque()
        # By the path of who mints and what: each agent's own are the same whatever its neighbours do.
        self._ids: dict[tuple[str, str], int] = {}
        # Viewers and tools know ids of attempts before, and not all of those can be told: a question or a half artifact
        # is no part of what was published. One that begins anew calls under the same ids, so that the same call has the
        # same idempotency key; but what was asked before is not to be taken for what it asks.
        ids = "" if request.attempt <= 1 else f"{request.attempt}."
        self._ids_of = {"call": "" if request.published is None else ids, "question": ids, "artifact": ids}
        self._over = False
        self._is_blocking = False
        self._rerun = None if request.rerun is None else Rerun(request.rerun)
        # What is said now was said by an attempt before.
        self._is_silent = self._rerun is not None and self._rerun.is_silent
        if request.rerun is not None:
            # Signals that nobody keeps: they were taken, and are given again.
            self._messages.extend((0, message) for message in request.rerun.messages)

    def __repr__(self) -> str:
        return f"<Crossing {self.turn!r} messages={len(self._messages)}>"

    @property
    def is_blocking(self) -> bool:
        """The agent is a sync one, in a thread of its own."""
        return self._is_blocking

    @is_blocking.setter
    def is_blocking(self, is_blocking: bool) -> None:
        self._is_blocking = is_blocking
        self.guard = Lock() if is_blocking else nullcontext()

    # -- the agent's thread ----------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Nothing that the agent says or asks counts any more."""
        return self._over or self.turn.fenced

    def say(self, text: str) -> bool:
        """Content of the root agent. True while there is room for more; Stopped once the turn is over."""
        turn = self.turn
        if turn.fenced or self._over:
            raise Stopped
        if not text or self._is_silent:
            return True
        room = turn.offer_text(text)
        if not turn.queued:
            self._rotation.mark(turn)
            self._doorbell.ring()
        return room

    def put(self, output: Output, path: str = "") -> bool:
        """Anything else that may be yielded. True while there is room for more."""
        self._check_open()
        item = sealing.item(output, self.bounds.turn.packet_bytes_max, self.bounds.payload_bytes_max, path)
        if isinstance(output, Used):
            self.turn.count_usage(output.usage)
        # Tokens are spent each time.
        if item is None or (self._is_silent and not isinstance(output, Used)):
            return True
        return self._marked(self.turn.offer(item))

    def room(self) -> Future[None]:
        """Settled when there is room again, or by the end of the turn."""
        future = _waiting_in(self._want_room)
        # The link may have made room before it could see that somebody wants it.
        if self.turn.has_room or self.is_over:
            _settle_all(self._want_room)
        return future

    def call(
        self,
        tool: str,
        arguments: Mapping[str, object],
        timeout_s: float | None,
        idempotency_key: str,
        path: str = "",
        *,
        to_agent: bool = False,
    ) -> tuple[str, Future[ToolAnswer]]:
        """Asks for a tool, or for an agent: the call's id, and what its answer settles. InvalidArguments before
        anything goes."""
        self._check_open()
        call_id = self._mint("call", path)
        request = sealing.tool_call(
            call_id, tool, arguments, timeout_s, idempotency_key, path, to_agent=to_agent
        )
        if request.size_bytes > self.bounds.payload_bytes_max:
            raise ToolTooLarge(
                tool,
                f"its arguments are {request.size_bytes} bytes; at most {self.bounds.payload_bytes_max} can cross",
            )
        answer: Future[ToolAnswer] = Future()
        known = None if self._rerun is None else self._rerun.result(tool, sealing.asked_with(request))
        if known is not None:
            if isinstance(known, Withdrawn):
                self._wait_in_vain(call_id, answer)
            else:
                answer.set_result(known)
            return call_id, answer
        self._marked(self.turn.open_call(call_id, answer, request), urgent=True)
        self._release_if_over()
        return call_id, answer

    def ask(
        self,
        text: str,
        options: Sequence[str],
        schema: Mapping[str, object] | None,
        expires_in_s: float | None,
        path: str = "",
    ) -> tuple[str, Future[UserAnswer]]:
        """Asks the user: the question's id, and what the answer settles."""
        self._check_open()
        question_id = self._mint("question", path)
        question = sealing.question(
            question_id, text, options, schema, expires_in_s, self.bounds.payload_bytes_max, path
        )
        answer: Future[UserAnswer] = Future()
        known = None if self._rerun is None else self._rerun.answer(text, tuple(options))
        if known is not None:
            self._is_silent = self._rerun is not None and self._rerun.is_silent
            if self._may_take():
                _settle_all(self._want_message)
            if isinstance(known, Withdrawn):
                self._wait_in_vain(question_id, answer)
            else:
                answer.set_result(known)
            return question_id, answer
        self._marked(self.turn.open_question(question_id, answer, question), urgent=True)
        self._release_if_over()
        return question_id, answer

    def withdraw(self, *, call_id: str = "", question_id: str = "") -> None:
        """Nobody waits for one of these any more. While it is open and the turn goes on, the dispatcher hears of it."""
        if self.turn.abandon(call_id or question_id) and not self.is_over:
            self._marked(self.turn.withdraw(sealing.withdrawal(call_id, question_id)), urgent=True)

    def tell_of(self, event: AgentEvent, path: str) -> None:
        """What became of the sub-agent of this path. It waits for no room: there are as many as members, three each."""
        if not self.is_over and not self._is_silent:
            self._marked(self.turn.offer(sealing.agent_event(event, path)))

    def summarize(self, text: str) -> None:
        """Of the root agent nothing is told but what it says."""

    def mint_artifact_id(self, path: str = "") -> str:
        return self._mint("artifact", path)

    def next_message(self) -> UserMessage | Future[None]:
        """The oldest message of the user, or what is settled when one may have come. Stopped once it is over."""
        message = self._take_message()
        if message is not None:
            return message
        self._check_open()
        future = _waiting_in(self._want_message)
        if self._may_take() or self.is_over:
            _settle_all(self._want_message)
        return future

    def take_messages(self) -> list[UserMessage]:
        """All messages that wait, without waiting for one; none once it is over."""
        return list(iter(self._take_message, None))

    def finish(self, outcome: Outcome, error: AgentFailure | None = None) -> None:
        """The agent has ended by itself."""
        unfinished = None if self._rerun is None else self._rerun.unfinished()
        if unfinished is not None and outcome is Outcome.COMPLETED:
            outcome, error = Outcome.FAILED, unfinished
        self.shut()
        self.turn.finish(outcome, error, 0 if error is None else sealing.failure_bytes(error))
        self._marked(room=True, urgent=True)
        self.release()

    # -- the link's thread -----------------------------------------------------------------------------------

    def tell_room(self) -> bool:
        """After something was taken: whoever waits for room goes on when there is enough. Whether anybody did."""
        if not self._want_room:
            return False
        if self.turn.is_half_empty or self.is_over:
            _settle_all(self._want_room)
        return True

    def tell_result(self, call_id: str, answer: ToolAnswer) -> bool:
        """What a tool answered. False when nobody waits for it any more."""
        return settle(cast("Future[ToolAnswer] | None", self.turn.close_call(call_id)), answer)

    def tell_answer(self, question_id: str, answer: UserAnswer) -> bool:
        """What the user answered. False when nobody waits for it any more."""
        return settle(cast("Future[UserAnswer] | None", self.turn.close_question(question_id)), answer)

    def tell_message(self, message: UserMessage, sequence: int) -> bool:
        """What the user says in between, and the number of its signal. False when there is no place for it.

        A dispatcher that knows of unread messages refuses what is too much, so only a stranger comes that far. An
        owed signal can be neither refused nor left out, and none may be lost in silence: the turn is to `fail`, so
        that the user is told and all that was not read is given back.
        """
        if len(self._messages) >= self.bounds.messages_waiting_max:
            return False
        self._messages.append((sequence, message))
        _settle_all(self._want_message)
        return True

    def too_many_messages(self) -> AgentFailure:
        """Why a turn fails for which there came one more."""
        return AgentFailure(
            "too_many_messages",
            f"messages: {self.bounds.messages_waiting_max} wait for the agent, which does not read them, and the"
            " commander's messages_waiting_max allows no more",
        )

    def rouse(self) -> None:
        """The turn has something to send that the agent has not offered."""
        self._marked(room=True, urgent=True)

    # -- either thread ---------------------------------------------------------------------------------------

    def shut(self) -> None:
        """Nothing more is taken of what the agent says, and it takes nothing more."""
        with self._taking:
            self._over = True

    def release(self) -> None:
        """The turn is over: whoever still waits for anything is told so."""
        self._over = True
        for waiter in self.turn.waiters():
            fail(cast("Future[object]", waiter), Stopped())
        _settle_all(self._want_room)
        _settle_all(self._want_message)

    # -- inside ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.turn.fenced or self._over:
            raise Stopped

    def _release_if_over(self) -> None:
        # The end may have come after `_check_open`, and before there was somebody to tell.
        if self.is_over:
            self.release()

    def _wait_in_vain(self, waiting_id: str, answer: Future[Any]) -> None:
        self.turn.wait_in_vain(waiting_id, answer)
        self._release_if_over()

    def _take_message(self) -> UserMessage | None:
        with self._taking:
            if self.is_over or not self._may_take():
                return None
            sequence, message = self._messages.popleft()
            self.turn.read(sequence)
            return message

    def _may_take(self) -> bool:
        """There is a message. What is new waits until a turn that runs again has come to where it was."""
        return bool(self._messages) and not (self._is_silent and self._messages[0][0])

    def _mint(self, kind: str, path: str) -> str:
        number = self._ids[path, kind] = self._ids.get((path, kind), 0) + 1
        of = f"{_short(path)}:{kind}" if path else kind
        return f"{of}-{self.request.id_prefix}{self._ids_of[kind]}{number}"

    def _marked(self, room: bool, *, urgent: bool = False) -> bool:
        if not self.turn.queued:
            self._rotation.mark(self.turn)
            self._doorbell.ring()
        if urgent:
            self._rotation.hurry(self.turn)
            self._doorbell.ring(urgent=True)
        return room


def _short(path: str) -> str:
    """Of a path, so much that ids made of it are short enough, and still each path's own."""
    return path if len(path) <= ID_PATH_CHARS_MAX else f"{path[:24]}~{crc32(path.encode()):08x}"


def settle(future: Future[T] | None, value: T) -> bool:
    """Whoever waits for it has it. False when nobody does any more."""
    if future is None:
        return False
    try:
        future.set_result(value)
    except InvalidStateError:  # whoever waited has given up in this very moment
        return False
    return True


def fail(future: Future[Any], error: BaseException) -> None:
    """Whoever waits for it hears this, where it is not settled yet."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def _waiting_in(futures: deque[Future[None]]) -> Future[None]:
    """One more who waits. Whoever gives up leaves no trace: agents may look for a moment, again and again."""
    future: Future[None] = Future()

    def leave(_: object) -> None:
        with suppress(ValueError):  # it was taken, and settled
            futures.remove(future)

    futures.append(future)
    future.add_done_callback(leave)
    return future


def _settle_all(futures: deque[Future[None]]) -> None:
    while futures:
        try:
            future = futures.popleft()
        except IndexError:  # the other thread took the last one
            return
        settle(future, None)
