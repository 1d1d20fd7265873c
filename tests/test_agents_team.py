"""The team in the box: four specialists beside each other, what viewers see of them, and an answer of what was found;
in memory, and through a real dispatcher and a commander of its own process."""

import asyncio
import importlib
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from asynchronous import asynchronous
from chat_viewer import conversing
from commander_process import running_commander
from dispatcher_process import running_dispatcher
from model_server import ModelServer, Pause, Request, Status, Step, says
from page import ROOT

from commander import Agent, Message
from commander.agents.team import LEAD, SPECIALISTS, SUMMARY_CHARS_MAX, team
from commander.models.scripted import Piece
from commander.testing import (
    HANGS,
    AgentRun,
    Finished,
    ModelRequest,
    Reasoning,
    Tokens,
    fails,
    run_agent,
    running_agent,
)

NAMES = list(SPECIALISTS)


def who(system: str) -> str:
    """Whose system prompt it is; the lead's has no name."""
    return next((name for name, each in SPECIALISTS.items() if each.system == system), "")


def found(request: ModelRequest) -> list[Piece]:
    name = who(request.system)
    if not name:
        assert request.system == LEAD
        return ["All ", "of it.", Tokens(40, 4)]
    return [Reasoning("Hm."), f"{name} matters. ", "More of it.", Tokens(10, 1)]


def told(run: AgentRun, path: str) -> list[str]:
    """What viewers see of a specialist, but for its thoughts."""
    lines = []
    for event in run.events:
        if event.agent == path and event.kind == "progress":
            lines.append(event.fields["text"])
        elif event.agent == path and event.kind == "agent_event":
            ((kind, fields),) = event.fields.items()
            lines.append(
                f"{kind}: {fields.get('description') or fields.get('summary') or fields['error']['code']}"
            )
    return lines


@asynchronous
async def test_four_look_at_the_brief_and_one_answers() -> None:
    run = await run_agent(team, "Sell more tea", models={"fast": found})
    assert run.text == "All of it."
    for name in NAMES:
        assert told(run, name) == [
            f"started: {SPECIALISTS[name].description}",
            "reading the brief",
            "writing",
            "done",
            f"completed: {name} matters.",
        ]
        thoughts = [
            (event.fields["step_name"], event.fields["delta"])
            for event in run.events
            if event.agent == name and event.kind == "thought"
        ]
        assert thoughts == [("Thinking", "Hm."), (name, f"{name} matters. More of it.")]
    counted = [
        (event.fields["current"], event.fields["percent"])
        for event in run.events
        if event.kind == "progress" and not event.agent and "current" in event.fields
    ]
    assert counted == [(1, 25), (2, 50), (3, 75), (4, 100)]
    *asked, last = run.model_requests
    assert sorted(who(each.system) for each in asked) == sorted(NAMES)
    assert {each.text for each in asked} == {"Sell more tea"}
    brief, findings = last.messages
    assert isinstance(brief, Message)
    assert isinstance(findings, Message)
    assert brief.text == "Sell more tea"
    # In the order of the team, whoever was first.
    assert findings.text == "What the specialists found:\n\n" + "\n\n".join(
        f"## {name}\n\n{name} matters. More of it." for name in NAMES
    )
    assert (run.usage.input_tokens, run.usage.output_tokens) == (80, 8)


@asynchronous
async def test_they_are_asked_beside_each_other() -> None:
    async with running_agent(team, "Tea", models={"fast": [HANGS]}) as run:
        # None has an answer, and each was asked.
        await run.until_model_request(len(NAMES))
        run.stop()
        await run.over()
    assert [each.outcome for each in run.model_requests] == ["left"] * len(NAMES)


@asynchronous
async def test_one_that_fails_is_told_of_and_the_rest_are_used() -> None:
    def some(request: ModelRequest) -> list[Piece]:
        if who(request.system) == "profile":
            return ["Half a", fails("model_unreachable", "the line broke")]
        return found(request)

    run = await run_agent(team, "Tea", models={"fast": some})
    assert run.outcome == "completed"
    assert run.text == "All of it.\n\nWithout profile: model_unreachable."
    assert told(run, "profile")[-1] == "failed: model_unreachable"
    findings = run.model_requests[-1].text
    assert "## profile" not in findings
    assert "Half a" not in findings
    assert findings.endswith("Nothing was heard from profile.")
    assert findings.count("matters.") == 3


@asynchronous
async def test_where_nobody_finds_anything_the_session_fails_as_they_did() -> None:
    run = await run_agent(team, "Tea", models={"fast": [fails("model_key_refused", upstream_status=401)]})
    assert run.outcome == "failed"
    assert run.failure is not None
    assert (run.failure.code, run.failure.origin, run.failure.upstream_status) == (
        "model_key_refused",
        "model",
        401,
    )
    assert [told(run, name)[-1] for name in NAMES] == ["failed: model_key_refused"] * 4
    assert len(run.model_requests) == 4


@asynchronous
async def test_an_empty_finding_is_none_and_a_cut_one_is_told_as_such() -> None:
    def some(request: ModelRequest) -> list[Piece]:
        match who(request.system):
            case "insight":
                return [" \n"]
            case "content":
                return ["- *Long", "x" * 500, Finished("length")]
            case _:
                return found(request)

    run = await run_agent(team, "Tea", models={"fast": some})
    assert run.text.endswith("Without insight: empty_answer.")
    assert told(run, "content")[-2] == "cut: the model may say no more"
    summary = told(run, "content")[-1].removeprefix("completed: ")
    assert (len(summary), summary[:5], summary[-1]) == (SUMMARY_CHARS_MAX, "Long" + "x", "…")


@asynchronous
async def test_an_application_chooses_the_model_and_the_specialists() -> None:
    chosen = {"specialists": "content, insight", "model": "deep"}
    run = await run_agent(team, "Tea", metadata=chosen, models={"fast": ["never"], "deep": found})
    assert run.text == "All of it."
    assert [(each.model, who(each.system)) for each in run.model_requests] == [
        ("deep", "insight"),
        ("deep", "content"),
        ("deep", ""),
    ]


@pytest.mark.parametrize(
    ("metadata", "right"),
    [
        (
            {"specialists": "insigth"},
            "metadata specialists: there is no 'insigth'; there are insight, profile,",
        ),
        ({"specialists": ","}, "metadata specialists: names nobody; there are insight"),
        ({"model": "fats"}, "there is no language model 'fats'; did you mean fast?"),
    ],
)
@asynchronous
async def test_wrong_metadata_is_one_mistake(metadata: dict[str, str], right: str) -> None:
    run = await run_agent(team, metadata=metadata, models={"fast": found})
    assert run.failure is not None
    assert right in run.failure.message
    assert not run.events


@asynchronous
async def test_what_the_user_adds_meanwhile_is_heeded_in_the_answer() -> None:
    async with running_agent(team, "Tea", models={"fast": found}) as run:
        run.say("In German")
        await run.over()
    assert run.model_requests[-1].text == "In German"
    assert len(run.model_requests[-1].messages) == 3


# ---- a real dispatcher, a commander of its own process, a server of models ----


@pytest.fixture
def server() -> Iterator[ModelServer]:
    def script(request: Request) -> list[Step]:
        name = who(request.messages[0]["content"])
        brief = request.messages[1]["content"]
        if brief == "Wait":
            return [Pause()]
        if brief == "Fail" and name == "profile":
            return [Status(402, "no credit left")]
        return says(f"{name} matters.") if name else says("All of it.")

    with ModelServer(script) as running:
        yield running


@asynchronous
async def test_through_a_real_dispatcher(server: ModelServer, tmp_path: Path) -> None:
    with running_dispatcher() as dispatcher:
        target = ["commander.agents.team:team", "--dispatcher", dispatcher.address]
        model = ["--model", "openai-chat:m", "--base-url", server.base_url]
        with running_commander(tmp_path, *target, *model) as commander:
            await asyncio.to_thread(commander.wait_for, "linked")
            async with conversing(dispatcher.address) as conversation:
                seen = await conversation.ask("team", "Fail", "1")
                assert (await seen.ended()).name == "completed"
                assert seen.text == "All of it.\n\nWithout profile: model_quota_exhausted."
                events = seen.of("agent_event")
                summaries = {
                    event.agent: event.agent_event.completed.summary
                    for event in events
                    if event.agent_event.HasField("completed")
                }
                assert summaries == {name: f"{name} matters." for name in NAMES if name != "profile"}
                (failed,) = [event for event in events if event.agent_event.HasField("failed")]
                assert (failed.agent, failed.agent_event.failed.error.upstream_status) == ("profile", 402)
                assert {event.agent for event in seen.of("progress")} == {"", *NAMES}
                waits = await conversation.ask("team", "Wait", "2")
                # Five for the first: of the four one was refused, and the lead.
                await asyncio.to_thread(server.wait_for, 9)
                began_at = time.monotonic()
                await conversation.request("2", stop={"reason": "Enough"})
                await waits.ended()
                left = [await asyncio.to_thread(server.wait_left, number) for number in (6, 7, 8, 9)]
                assert max(left) - began_at < 1
                await conversation.half_close()


@pytest.mark.parametrize(
    ("name", "target"),
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "chatstream.agents"
    ].items(),
)
def test_every_agent_in_the_box_is_where_the_metadata_says(name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, Agent)
    assert found.name == name
