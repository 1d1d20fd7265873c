"""Four specialists on one brief, beside each other; an editor who makes one text of what they found; and a
publication that somebody has to approve. Two tools come from an MCP server, the program office.py.

    python examples/stand_in.py
    dispatcher serve --config examples/studio/dispatcher.toml
    commander run examples/studio/agents.py --config examples/studio/commander.toml
    dispatcher chat --agent studio "A tea shop opens on Saturday"

`approve` or `deny too long` answers the question at the end. For real models change commander.toml.
"""

import json
from collections.abc import AsyncIterator
from functools import partial

from commander import AgentError, Output, ToolFailed, Turn, agent

SPECIALISTS = {
    "audience": "You know customers. Say in two sentences who would come, and why.",
    "wording": "You write headlines. Suggest three, of at most six words each.",
    "critic": "You look for what can go wrong. Say in two sentences what must not be promised.",
}
ANALYST = "You read sales figures. Say in two sentences what they mean for the brief."
EDITOR = "You are the editor. Make one announcement, of at most 80 words, of what the specialists found."


@agent("studio", description="Four specialists write an announcement; it is published once you approve it")
async def studio(turn: Turn) -> AsyncIterator[Output | str]:
    async with turn.team() as team:
        team.start("analyst", analyst, answer_as="thought")
        for name, system in SPECIALISTS.items():
            team.start(name, partial(specialist, system=system), answer_as="thought")
    # One that failed has failed alone, and viewers were told of it.
    found = [f"## {name}\n\n{result.text}" for name, result in team.results.items() if not result.error]
    if not found:
        raise AgentError("None of the specialists could answer.", code="nobody_answered")
    editing = turn.model("deep").stream([*turn.conversation, "\n\n".join(found)], system=EDITOR)
    async for output in editing:
        yield output
    try:
        # The dispatcher asks whoever watches before it runs: its settings say so, and no code here.
        published = await turn.call_tool("office_publish", text=editing.text)
    except ToolFailed as failure:
        yield f"\n\nNot published: {failure.message}."
    else:
        yield f"\n\nPublished as number {published['number']}."


async def specialist(turn: Turn, *, system: str) -> AsyncIterator[Output | str]:
    """Looks at the brief by a system prompt of its own."""
    async for output in turn.model("fast").stream(turn.conversation, system=system):
        yield output


async def analyst(turn: Turn) -> AsyncIterator[Output | str]:
    """Looks at the sales of the last months."""
    yield turn.progress("reading the figures", percent=0)
    sales = await turn.call_tool("office_sales", months=3)
    yield turn.progress("thinking", percent=50)
    brief = f"{turn.text}\n\nThe sales: {json.dumps(sales)}"
    async for output in turn.model("fast").stream(brief, system=ANALYST):
        yield output
    turn.summarize("has read the sales of three months")
