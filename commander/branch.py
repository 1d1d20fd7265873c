"""A member's part of its turn's crossing: the same outbox, links and bounds, under a path of its own.

What it says and asks goes where the root agent's goes, so that credit, budgets and a slow viewer count for all of them
together. It ends by itself: `release` tells whoever waits in it, and the rest of the turn goes on.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Final, Literal, TypeVar

from commander.conversation import Request, ToolAnswer, UserAnswer, UserMessage
from commander.core.turn import Turn
from commander.crossing import Crossing, fail, settle
from commander.errors import AgentError, Stopped
from commander.outputs import AgentEvent, Content, Output, Thought

T = TypeVar("T")

# Where a member's answer goes, besides to whoever started it.
AnswerAs = Literal["content", "thought", "kept"]
ANSWER_AS: Final[tuple[AnswerAs, ...]] = ("content", "thought", "kept")


class Branch:
    """See the module. All of it belongs to the agents' loop."""

    def __init__(self, root: Crossing, request: Request, path: str, answer_as: AnswerAs) -> None:
        self.request = request
        self.path = path
        self.answer_as = answer_as
        # What is told of it when it has completed.
        self.summary = ""
        # What it said was longer than is kept of it.
        self.is_cut = False
        self._root = root
        self._answer: list[str] = []
        self._answer_chars = 0
        self._over = False
        self._messages: deque[UserMessage] = deque()
        # One for each who waits: one that gives up is not to take the others along.
        self._want_message: set[Future[None]] = set()
        # Whatever is waited for in it.
        self._waiting: set[Future[Any]] = set()

    def __repr__(self) -> str:
        return f"<Branch {self.path} of {self._root!r}{' over' if self._over else ''}>"

    @property
    def root(self) -> Crossing:
        return self._root

    @property
    def turn(self) -> Turn:
        return self._root.turn

    @property
    def guard(self) -> AbstractContextManager[object]:
        """Held within: its own callers need none."""
        return nullcontext()

    @property
    def is_over(self) -> bool:
        return self._over or self._root.is_over

    @property
    def answer(self) -> str:
        """What it has said as content, as far as it is kept."""
        return "".join(self._answer)

    # -- what it says and asks -------------------------------------------------------------------------------

    def say(self, text: str) -> bool:
        self._check_open()
        self._keep(text)
        if self.answer_as == "kept":
            return True
        step = self.path.rpartition("/")[2]
        return self._put(Content(text) if self.answer_as == "content" else Thought(step, text))

    def put(self, output: Output) -> bool:
        self._check_open()
        return self.say(output.text) if isinstance(output, Content) else self._put(output)

    def room(self) -> Future[None]:
        return self._awaited(self._root.room())

    def call(
        self,
        tool: str,
        arguments: Mapping[str, object],
        timeout_s: float | None,
        idempotency_key: str,
        *,
        to_agent: bool = False,
    ) -> tuple[str, Future[ToolAnswer]]:
        self._check_open()
        with self._root.guard:
            call_id, answer = self._root.call(
                tool, arguments, timeout_s, idempotency_key, self.path, to_agent=to_agent
            )
        return call_id, self._awaited(answer)

    def ask(
        self,
        text: str,
        options: Sequence[str],
        schema: Mapping[str, object] | None,
        expires_in_s: float | None,
    ) -> tuple[str, Future[UserAnswer]]:
        self._check_open()
        with self._root.guard:
            question_id, answer = self._root.ask(text, options, schema, expires_in_s, self.path)
        return question_id, self._awaited(answer)

    def withdraw(self, *, call_id: str = "", question_id: str = "") -> None:
        """Also when this member is over: the turn goes on."""
        with self._root.guard:
            self._root.withdraw(call_id=call_id, question_id=question_id)

    def mint_artifact_id(self) -> str:
        with self._root.guard:
            return self._root.mint_artifact_id(self.path)

    def next_message(self) -> UserMessage | Future[None]:
        if self._messages:
            return self._messages.popleft()
        self._check_open()
        future: Future[None] = Future()
        self._want_message.add(future)
        future.add_done_callback(self._want_message.discard)
        return self._awaited(future)

    def take_messages(self) -> list[UserMessage]:
        taken = list(self._messages)
        self._messages.clear()
        return taken

    def summarize(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a summary must be a str, not {type(text).__name__}")
        self.summary = text

    # -- whoever started it ----------------------------------------------------------------------------------

    def tell_message(self, message: UserMessage) -> None:
        """AgentError when it reads none, and no more may wait."""
        most = self._root.bounds.messages_waiting_max
        if len(self._messages) >= most:
            raise AgentError(
                f"{most} messages wait for {self.path!r}, which does not read them, and messages_waiting_max allows no"
                " more",
                code="too_many_messages",
            )
        self._messages.append(message)
        for waiting in tuple(self._want_message):
            settle(waiting, None)

    def tell_of(self, event: AgentEvent) -> None:
        with self._root.guard:
            self._root.tell_of(event, self.path)

    def release(self) -> None:
        """It is over: whoever still waits for anything in it is told so. Idempotent."""
        self._over = True
        for waiting in tuple(self._waiting):
            fail(waiting, Stopped())

    # -- inside ----------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.is_over:
            raise Stopped

    def _put(self, output: Output) -> bool:
        with self._root.guard:
            return self._root.put(output, self.path)

    def _keep(self, text: str) -> None:
        most = self._root.bounds.team.answer_chars
        left = most - self._answer_chars
        if len(text) > left:
            if self.answer_as == "kept":
                raise AgentError(
                    f"the answer of {self.path!r} has more than {most:,} characters; team_answer_chars allows no more",
                    code="answer_too_long",
                )
            self.is_cut = True
            text = text[:left]
        if text:
            self._answer.append(text)
            self._answer_chars += len(text)

    def _awaited(self, future: Future[T]) -> Future[T]:
        if self.is_over:
            fail(future, Stopped())
        elif not future.done():
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        return future


class Ferry:
    """A branch as a thread sees it: each thing that it says or asks is said and asked in the agents' loop."""

    def __init__(self, branch: Branch, loop: asyncio.AbstractEventLoop) -> None:
        self._branch = branch
        self._loop = loop

    def __repr__(self) -> str:
        return f"<Ferry to {self._branch!r}>"

    @property
    def turn(self) -> Turn:
        return self._branch.turn

    @property
    def request(self) -> Request:
        return self._branch.request

    @property
    def path(self) -> str:
        return self._branch.path

    @property
    def guard(self) -> AbstractContextManager[object]:
        return self._branch.guard

    @property
    def is_over(self) -> bool:
        return self._branch.is_over

    def say(self, text: str) -> bool:
        return self._there(lambda: self._branch.say(text))

    def put(self, output: Output) -> bool:
        return self._there(lambda: self._branch.put(output))

    def room(self) -> Future[None]:
        return self._there(self._branch.room)

    def call(
        self,
        tool: str,
        arguments: Mapping[str, object],
        timeout_s: float | None,
        idempotency_key: str,
        *,
        to_agent: bool = False,
    ) -> tuple[str, Future[ToolAnswer]]:
        return self._there(
            lambda: self._branch.call(tool, arguments, timeout_s, idempotency_key, to_agent=to_agent)
        )

    def ask(
        self,
        text: str,
        options: Sequence[str],
        schema: Mapping[str, object] | None,
        expires_in_s: float | None,
    ) -> tuple[str, Future[UserAnswer]]:
        return self._there(lambda: self._branch.ask(text, options, schema, expires_in_s))

    def withdraw(self, *, call_id: str = "", question_id: str = "") -> None:
        with suppress(Stopped):  # the loop is gone, and the turn with it
            self._there(lambda: self._branch.withdraw(call_id=call_id, question_id=question_id))

    def mint_artifact_id(self) -> str:
        return self._there(self._branch.mint_artifact_id)

    def next_message(self) -> UserMessage | Future[None]:
        return self._there(self._branch.next_message)

    def take_messages(self) -> list[UserMessage]:
        return self._there(self._branch.take_messages)

    def summarize(self, text: str) -> None:
        self._branch.summarize(text)

    def _there(self, do: Callable[[], T]) -> T:
        """Does it in the loop, while this thread waits. Stopped when there is no loop any more."""
        done: Future[T] = Future()

        def settle() -> None:
            try:
                done.set_result(do())
            except BaseException as error:  # noqa: BLE001 - goes to the thread that waits
                done.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(settle)
            return done.result()
        except (CancelledError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not self._loop.is_closed():
                raise
            raise Stopped from None
