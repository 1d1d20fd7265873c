"""One answer of a model, as an agent takes it: what can be yielded as it is, and what is known once it is whole.

The model is listened to in a task of its own, which is what a stop cancels: the provider's connection is closed
wherever the agent stands, whatever it does about its own cancellation, and also when it just forgets the answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from commander.core.turn import Usage
from commander.errors import Stopped
from commander.models.repair import Repair
from commander.models.speaking import Speaking
from commander.models.words import Finished, Reasoning, Reply, Said, Sign, Text, Tokens, ToolCall
from commander.outputs import Output, Thought, Used

# Said and not yet taken: then the model has to wait.
WAITING_MAX: Final = 64
# The step under which viewers see what a model thinks.
STEP: Final = "Thinking"


class Line:
    """The task that listens, and what it has heard. Everything belongs to one loop."""

    def __init__(self, speaking: Speaking, on_said: Callable[[Said], None]) -> None:
        self.text = ""
        self.calls: list[ToolCall] = []
        self.finished: Finished | None = None
        self.usage = Usage()
        self.task: asyncio.Task[None] | None = None
        # Once the answer is whole, in a thread: the value of its text, or raises what is wrong with it.
        self.check: Callable[[str], Any] | None = None
        self.value: Any = None
        self.speaking = speaking
        self._on_said = on_said
        self._repair = Repair()
        self._said: deque[Output | str] = deque()
        self._failure: BaseException | None = None
        self._is_over = False
        self._more = asyncio.Event()
        self._room = asyncio.Event()

    def start(self) -> None:
        name = f"model {self.speaking.answered_by.name}"
        self.task = asyncio.get_running_loop().create_task(self._live(), name=name)

    def hang_up(self) -> None:
        """Nobody wants the rest. In the loop's thread; idempotent."""
        if self.task is not None:
            self.task.cancel()

    async def take(self) -> Output | str:
        """The next thing to yield. StopAsyncIteration at the end; what went wrong is raised in its place."""
        while not self._said:
            if self._is_over:
                failure, self._failure = self._failure, None
                raise failure or StopAsyncIteration
            self._more.clear()
            try:
                await self._more.wait()
            except asyncio.CancelledError:
                self.hang_up()
                raise
        self._room.set()
        return self._said.popleft()

    def take_waiting(self) -> list[Output | str]:
        """What can be taken without waiting for it."""
        taken = list(self._said)
        self._said.clear()
        self._room.set()
        return taken

    async def _live(self) -> None:
        try:
            await self.speaking.say(self._hear)
            if self.check is not None and not self.calls:
                self.value = await asyncio.to_thread(self.check, self.text)
        except asyncio.CancelledError:
            self._failure = Stopped()
            raise
        except Exception as error:  # noqa: BLE001 - raised where the agent takes the answer
            self._failure = error
        finally:
            self._is_over = True
            self._more.set()

    async def _hear(self, said: Said) -> None:
        said = self._repair.said(said)
        self._on_said(said)
        match said:
            case Text(text):
                await self._put_text(text)
            case Reasoning(text):
                if text:
                    await self._put(Thought(STEP, text))
            case Sign():
                pass
            case ToolCall():
                self.calls.append(said)
            case Tokens():
                entry = self.speaking.answered_by
                name = entry.table.model.partition(":")[2]
                used = Usage(said.input, said.output, said.reasoning, name)
                self.usage += used
                await self._put(Used(used))
            case Finished():
                await self._put_text(self._repair.rest())
                self.finished = said

    async def _put_text(self, text: str) -> None:
        if text:
            self.text += text
            await self._put(text)

    async def _put(self, output: Output | str) -> None:
        while len(self._said) >= WAITING_MAX:
            self._room.clear()
            await self._room.wait()
        self._said.append(output)
        self._more.set()


class Answer:
    """An async iterator of what can be yielded as it is: text as `str`, reasoning as thoughts, usage. The
    request is made when the first is taken.

    When it has ended: `text`, all of it; `calls`, the tools that the model wants; `reply`, what to put into the
    messages of the next round; `finish_reason`, "stop", "length" or "tool_calls"; `usage`; `model`, the name of the one
    that answered.
    """

    def __init__(self, line: Line, begin: Callable[[Line], None]) -> None:
        self._line = line
        self._begin = begin

    def __repr__(self) -> str:
        state = "whole" if self._line.finished else "not begun" if self._line.task is None else "under way"
        return f"<Answer of {self.model}: {state}>"

    def __del__(self) -> None:
        task = self._line.task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            # Forgotten, perhaps in another thread.
            task.get_loop().call_soon_threadsafe(task.cancel)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output | str:
        if self._line.task is None:
            self._begin(self._line)
        return await self._line.take()

    async def take(self) -> list[Output | str]:
        """All that has come, at least one. StopAsyncIteration at the end."""
        return [await anext(self), *self._line.take_waiting()]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """The rest is not wanted: returns when the connection is closed."""
        self._line.hang_up()
        if self._line.task is not None:
            await asyncio.wait((self._line.task,))

    @property
    def text(self) -> str:
        return self._line.text

    @property
    def value(self) -> Any:
        """What the text is, by the schema that was asked for; None without one, and while it is not whole."""
        return self._line.value

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(self._line.calls)

    @property
    def reply(self) -> Reply:
        finished = self._line.finished
        return Reply(self.text, self.calls, finished.native if finished else None)

    @property
    def finish_reason(self) -> str:
        """Empty while it is not whole."""
        return self._line.finished.reason if self._line.finished else ""

    @property
    def usage(self) -> Usage:
        return self._line.usage

    @property
    def model(self) -> str:
        return self._line.speaking.answered_by.name
