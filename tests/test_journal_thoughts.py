"""Thoughts in the log: a line for each step, when it is over."""

import asyncio
import logging

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from dispatcher_process import running_dispatcher
from scripted_commander import linked, unique

from dispatcher.core.mark import Mark
from dispatcher.core.packets import SessionEvent
from dispatcher.journal.memory import MemoryJournal
from dispatcher.journal.thoughts import STEP_CHARS_MAX, ThoughtLog

Told = tuple[str, str, str, str]  # kind, agent, text, step


def logged(caplog: pytest.LogCaptureFixture, *told: Told) -> list[str]:
    """What is logged of these events of one session."""
    journal = ThoughtLog(MemoryJournal("epoch"))
    with caplog.at_level(logging.DEBUG, logger="dispatcher.journal.thoughts"):
        for offset, (kind, agent, text, step) in enumerate(told, start=1):
            journal.append("s1", [SessionEvent(offset, kind, 1, agent, text, step)], Mark)
    assert all((vars(record)["session"], vars(record)["attempt"]) == ("s1", 1) for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_a_step_is_one_line_however_many_pieces_it_came_in(caplog: pytest.LogCaptureFixture) -> None:
    pieces = [("thought", "", piece, "Plan") for piece in ("The user ", "wants ", "a forecast.")]
    assert logged(caplog, *pieces, ("content", "", "Sunny.", "")) == [
        "thought: Plan: The user wants a forecast."
    ]


def test_a_step_is_over_when_another_begins(caplog: pytest.LogCaptureFixture) -> None:
    told = logged(caplog, ("thought", "", "one", "A"), ("thought", "", "two", "B"), ("ended", "", "", ""))
    assert told == ["thought: A: one", "thought: B: two"]


def test_sub_agents_do_not_break_each_others_lines(caplog: pytest.LogCaptureFixture) -> None:
    told = logged(
        caplog,
        ("thought", "a", "one ", ""),
        ("thought", "b", "two ", ""),
        ("thought", "a", "more", ""),
        ("content", "b", "said", ""),
        ("ended", "", "", ""),
    )
    assert told == ["thought: b: two ", "thought: a: one more"]


def test_a_step_without_end_is_logged_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    half = "x" * (STEP_CHARS_MAX // 2 + 1)
    told = logged(caplog, *[("thought", "", half, "A")] * 3, ("ended", "", "", ""))
    assert told == [f"thought: A: {half}"] * 3


@asynchronous
async def test_thoughts_are_logged_at_debug_and_what_is_denied_is_not() -> None:
    agent = unique("agent")
    with running_dispatcher("--log-level", "debug", "--deny", "pass ?word") as dispatcher:
        async with linked(dispatcher.address, agent) as link, conversing(dispatcher.address) as talk:
            seen = await talk.ask(agent)
            turn = await link.started()
            await turn.think("Plan", "it is harmless")
            await turn.say("and so is this")
            await turn.think("Plan", "my pass")
            await turn.think("Plan", "word is 1234")
            await seen.ended()
        line = await asyncio.to_thread(dispatcher.wait_for_log, "ended: policy_blocked")
        assert turn.session_id in line
        thoughts = [line for line in dispatcher.log if "thought: " in line]
        assert [turn.session_id in line for line in thoughts] == [True, True]
        assert "Plan: it is harmless" in thoughts[0]
        assert "Plan: my " in thoughts[1]
        assert not [line for line in dispatcher.log if "1234" in line]
