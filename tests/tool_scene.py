"""What the tests of the tool runner share: requests, checks of outcomes, functions that wait to be let go."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

import uvloop

from dispatcher.tools import PythonTool, RunnerLimits, ToolOutcome, ToolRequest, ToolRunner
from dispatcher.tools.contract import MESSAGE_CHARS_MAX, FailureCode

T = TypeVar("T")
Drive = Callable[[Coroutine[Any, Any, T]], T]

# The loops that the dispatcher may run on.
LOOPS = ["asyncio", "uvloop"]
PATIENCE_S = 60.0
CODES = get_args(FailureCode)


def driver(loop: str) -> Drive[Any]:
    """Runs a coroutine to its end, in bounded time, on a loop of that kind."""
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE_S))

    return run


def ask(tool_name: str, arguments: object = None, **changes: Any) -> ToolRequest:
    """A request; arguments that are no str are made JSON."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    made: dict[str, Any] = {
        "session_id": "s-1",
        "attempt": 2,
        "call_id": "call-1",
        "tool_name": tool_name,
        "arguments_json": text,
        "idempotency_key": "s-1:call-1",
        "timeout_s": None,
        "user_id": "ada",
        "agent": "team/insight",
    }
    return ToolRequest(**made | changes)


def runner_of(*functions: Callable[..., object], **limits: Any) -> ToolRunner:
    return ToolRunner([PythonTool(each) for each in functions], RunnerLimits(**limits))


def code_of(outcome: ToolOutcome) -> str:
    """The outcome's code, after a check that both of its halves say the same."""
    said = json.loads(outcome.result_json)
    outcome.result_json.encode("utf-8")
    if outcome.error is not None:
        assert outcome.error.code in CODES
        assert said == {"error": {"code": outcome.error.code, "message": outcome.error.message}}
        assert len(outcome.error.message) <= MESSAGE_CHARS_MAX
    return outcome.code


def message_of(outcome: ToolOutcome) -> str:
    assert outcome.error is not None, outcome
    return outcome.error.message


@dataclass
class Gate:
    """A function in a thread or on the loop that says when it has begun and ends when it is told to."""

    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    opened: threading.Event = field(default_factory=threading.Event)

    def pass_in_thread(self, name: str = "") -> str:
        self.begun.release()
        assert self.opened.wait(PATIENCE_S)
        return name

    async def wait_begun(self, times: int = 1) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(self.begun.acquire, timeout=PATIENCE_S)


async def until(true: Callable[[], bool]) -> None:
    """For what a thread does and nobody can await."""
    while not true():  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.002)
