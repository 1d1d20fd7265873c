"""What a sync agent holds of a language model: the same model, whose answers its thread waits for.

The model is listened to in the agents' loop, as for an async agent, so that a stop closes its connection there at once,
whatever the thread is at.
"""

import asyncio
import concurrent.futures
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from commander.conversation import ToolOffer
from commander.core.turn import Usage
from commander.errors import Stopped
from commander.models.answer import Answer
from commander.models.model import Model, Prompt
from commander.models.words import Reply, ToolCall
from commander.outputs import Output, Used

T = TypeVar("T")


class BlockingModel:
    """As `Model`, without `await`."""

    def __init__(self, model: Model, loop: asyncio.AbstractEventLoop, emit: Callable[[Output], None]) -> None:
        self._model = model
        self._loop = loop
        self._emit = emit

    def __repr__(self) -> str:
        return f"<BlockingModel of {self._model!r}>"

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self._model.name

    @property
    def rounds(self) -> int:
        """How often a loop of tools should ask it in one turn."""
        return self._model.rounds

    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: Mapping[str, object] | None = None,
        tools: Sequence[ToolOffer] = (),
    ) -> "BlockingAnswer":
        """The answer as it comes: `for output in turn.model().stream(turn.conversation): yield output`. See `Model`."""
        answer = self._model.stream(prompt, system=system, schema=schema, tools=tools)
        return BlockingAnswer(answer, self._loop)

    def answer(
        self, prompt: Prompt, *, system: str | None = None, schema: Mapping[str, object] | None = None
    ) -> Any:
        """The whole answer: its text, or, with a `schema`, the value that fits it. Nothing of it is shown to anybody;
        usage is told."""
        with self.stream(prompt, system=system, schema=schema) as answer:
            for output in answer:
                if isinstance(output, Used):
                    self._emit(output)
        return answer.text if schema is None else answer.value


class BlockingAnswer:
    """As `Answer`: an iterator, and what is known when it has ended."""

    def __init__(self, answer: Answer, loop: asyncio.AbstractEventLoop) -> None:
        self._answer = answer
        self._loop = loop
        # Taken from the loop together, the next one last.
        self._taken: list[Output | str] = []

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._answer).removeprefix('<')}"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Output | str:
        if not self._taken:
            self._taken = there(self._take(), self._loop)[::-1]
        if not self._taken:
            raise StopIteration
        return self._taken.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The rest is not wanted: returns when the connection is closed."""
        there(self._answer.aclose(), self._loop)

    @property
    def text(self) -> str:
        return self._answer.text

    @property
    def value(self) -> Any:
        """What the text is, by the schema that was asked for; None without one, and while it is not whole."""
        return self._answer.value

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self._answer.calls

    @property
    def reply(self) -> Reply:
        return self._answer.reply

    @property
    def finish_reason(self) -> str:
        """Empty while it is not whole."""
        return self._answer.finish_reason

    @property
    def usage(self) -> Usage:
        return self._answer.usage

    @property
    def model(self) -> str:
        return self._answer.model

    async def _take(self) -> list[Output | str]:
        try:
            return await self._answer.take()
        except StopAsyncIteration:
            return []


def there(doing: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Waits for what is done in the agents' loop. Stopped when the turn is over."""
    try:
        return asyncio.run_coroutine_threadsafe(doing, loop).result()
    except concurrent.futures.CancelledError:
        raise Stopped from None
    except RuntimeError:
        doing.close()
        if loop.is_closed():
            raise Stopped from None
        raise
