"""What can't be sent fails its own session, in the agent's hands where it can; its neighbours never hear of it."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from commander_here import serving
from scripted_dispatcher import ScriptedDispatcher, ScriptedSession
from southwest.ai.agent.v1 import agent_pb2 as pb

from commander import AgentError, BlockingTurn, Turn, agent
from commander.agent import AnyAgent
from commander.core.turn import TOKENS_MAX
from commander.errors import MESSAGE_CHARS_MAX, NAME_CHARS_MAX, RETRY_AFTER_S_MAX, AgentFailure

HALF = "half a character: \ud800"
LONG = "x" * 1_200_000


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[ScriptedDispatcher]:
    with ScriptedDispatcher() as running:
        yield running


def done_of(dispatcher: ScriptedDispatcher, served: AnyAgent) -> pb.Done:
    with serving(dispatcher.address, served):
        session = ScriptedSession(dispatcher.accept(), "s", text="the question")
        session.done()
    return session.other[-1].done


FAILURES: list[Exception] = [
    ValueError(HALF),
    AgentError(HALF),
    AgentError("late", retry_after_s=math.inf),
    AgentError("never", retry_after_s=math.nan),
    AgentError("no number", retry_after_s="soon"),  # type: ignore[arg-type]
    AgentError("code", code=123),  # type: ignore[arg-type]
    AgentError("code", code=LONG),
    AgentError("code", code=HALF),
]


@pytest.mark.parametrize(
    "failure", FAILURES, ids=lambda failure: type(failure).__name__.encode("ascii", "replace").decode()
)
@pytest.mark.parametrize("is_sync", [False, True])
def test_whatever_an_agent_raises_ends_its_session(
    dispatcher: ScriptedDispatcher, failure: Exception, is_sync: bool
) -> None:
    @agent("sync")
    def raises_sync(turn: BlockingTurn) -> str:
        raise failure

    @agent("async")
    async def raises(turn: Turn) -> str:
        raise failure

    done = done_of(dispatcher, raises_sync if is_sync else raises)
    assert done.outcome == pb.OUTCOME_FAILED
    assert done.error.message
    assert len(done.error.message) <= MESSAGE_CHARS_MAX
    assert 0 < len(done.error.code) <= NAME_CHARS_MAX


def test_a_failure_is_made_fit() -> None:
    fit = AgentFailure.of("", "m" * 1_000, HALF, 1, 1e300)
    assert fit == AgentFailure(
        "agent_error", "m" * 499 + "…", HALF.replace("\ud800", "?"), True, RETRY_AFTER_S_MAX
    )
    assert AgentFailure.of("late", "later", "", False, 1.5).retry_after_s == 1.5
    assert AgentFailure.of("late", "later", "", False, -1).retry_after_s is None


SAID: dict[str, Any] = {
    "a step too long": lambda turn: turn.thought(LONG, "x"),
    "half a step": lambda turn: turn.thought(HALF, "x"),
    "a name too long": lambda turn: turn.artifact(LONG, b"x"),
    "half a name": lambda turn: turn.artifact(HALF, b"x"),
    "a type too long": lambda turn: turn.artifact("a", b"x", mime_type=LONG),
    "a model too long": lambda turn: turn.usage(input_tokens=1, model=LONG),
    "half a model": lambda turn: turn.usage(input_tokens=1, model=HALF),
    "half a text": lambda turn: HALF,
    "half a progress": lambda turn: turn.progress(HALF),
    "too many tokens": lambda turn: turn.usage(input_tokens=2**64),
}


@pytest.mark.parametrize("what", SAID)
def test_what_cannot_cross_fails_where_it_is_said(dispatcher: ScriptedDispatcher, what: str) -> None:
    caught: list[BaseException] = []

    @agent("unfit")
    async def unfit(turn: Turn) -> Any:
        try:
            yield SAID[what](turn)
        except (TypeError, ValueError) as error:
            caught.append(error)
        yield "and it goes on"

    done = done_of(dispatcher, unfit)
    assert done.outcome == pb.OUTCOME_COMPLETED
    assert len(caught) == 1, caught


def test_more_tokens_than_the_wire_can_count_are_counted_no_further(dispatcher: ScriptedDispatcher) -> None:
    @agent("greedy")
    async def greedy(turn: Turn) -> Any:
        yield turn.usage(input_tokens=TOKENS_MAX)
        yield turn.usage(input_tokens=TOKENS_MAX, output_tokens=2)
        yield "done"

    done = done_of(dispatcher, greedy)
    assert done.outcome == pb.OUTCOME_COMPLETED
    assert (done.usage.input_tokens, done.usage.output_tokens) == (TOKENS_MAX, 2)
