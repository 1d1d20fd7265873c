"""What runs calls in the simulation: tools that answer, agents that are asked, and what has to be allowed first; and
whether what runs may."""

import json
from random import Random

from southwest.ai.agent.v1 import agent_pb2

from dispatcher.core import events as e
from dispatcher.core.packets import Answer, Ended, Question, SessionEvent, ToolOutcome
from dispatcher.core.policy import Budgets
from simulation.asking import DESK, DESK_AGENT, PAY


def runs_here(effect: e.RunTool) -> bool:
    """It is a tool that does its deed now."""
    asks = effect.call.tool_name == PAY and not effect.is_approved
    return not (effect.call.to_agent or asks or effect.call.tool_name == DESK)


def come_to(effect: e.RunTool, rng: Random) -> e.Event:
    """What a call has come to, as the core hears of it."""
    call, who = effect.call, (effect.session_id, effect.attempt, effect.call.call_id)
    if runs_here(effect):
        return e.ToolFinished(*who, ToolOutcome(call.arguments_json), call.arguments_json)
    if call.to_agent or call.tool_name == DESK:
        agent = call.tool_name if call.to_agent else DESK_AGENT
        budgets = rng.choice((None, None, None, Budgets(total_time_s=5.0)))
        return e.DelegationRequested(e.Delegated(*who), e.SessionRequested("", agent, b"", budgets=budgets))
    question_id, wait_s = approval_of(effect.attempt, call.call_id), rng.choice((None, None, 3.0))
    wire = agent_pb2.Question(question_id=question_id, text="May it run?", approves_call_id=call.call_id)
    return e.ApprovalRequested(*who, Question(question_id, wait_s, wire.SerializeToString()))


def approval_of(attempt: int, call_id: str) -> str:
    """The id of the question whether it may run."""
    return f"approve-{attempt}.{call_id}"


def allowed(answer: Answer, arguments_json: str) -> str | None:
    """With which arguments a call may run, once somebody has answered; None: it may not."""
    if answer.value_json is None:
        return None
    match json.loads(answer.value_json):
        case "approve":
            return arguments_json
        case {"approve": dict(others)}:
            return json.dumps(others)
    return None


def check_may_run(effect: e.RunTool, kept: list[SessionEvent]) -> None:
    """By what viewers can read when it begins: its session has not ended, and who had to allow it has."""
    assert not isinstance(kept[-1].body, Ended), f"{effect} after the ending"
    if effect.call.tool_name != PAY:
        assert not effect.is_approved, f"nobody was asked: {effect}"
        return
    question_id = approval_of(effect.attempt, effect.call.call_id)
    answers = [
        event.body
        for event in kept
        if isinstance(event.body, Answer) and event.body.question_id == question_id and not event.agent
    ]
    assert answers, f"nobody has allowed it: {effect}"
    asked = next(
        event.body
        for event in kept
        if event.kind == "tool_call"
        and event.attempt == effect.attempt
        and event.body.call_id == effect.call.call_id  # type: ignore[attr-defined]
    )
    may = allowed(answers[-1], asked.arguments_json)  # type: ignore[attr-defined]
    assert may == effect.call.arguments_json, f"{answers[-1]} allows {may}, and it is {effect}"
