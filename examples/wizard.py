"""A wizard: several questions, with options, with a form that a JSON Schema describes, two at once, and one that may
be left open: when nobody answers in time, the wizard goes on without.

    dispatcher serve
    commander run examples/wizard.py
    dispatcher chat --agent wizard "A table, please"
"""

import asyncio
from collections.abc import AsyncIterator

from commander import Output, QuestionUnanswered, Turn, agent

PARTY = {
    "type": "object",
    "properties": {
        "adults": {"type": "integer", "minimum": 1, "maximum": 12},
        "children": {"type": "integer", "minimum": 0, "maximum": 12},
    },
    "required": ["adults"],
    "additionalProperties": False,
}


@agent("wizard", description="Books a table, question by question")
async def wizard(turn: Turn) -> AsyncIterator[Output | str]:
    try:
        yield turn.progress("who comes", current=0, total=3)
        party = await turn.ask('Who comes? For example {"adults": 2}', schema=PARTY)
        yield turn.progress("when and where", current=1, total=3)
        # Neither needs the other's answer, so both are open at once.
        day, place = await asyncio.gather(
            turn.ask("Which day?", ["Friday", "Saturday", "Sunday"]),
            turn.ask("Inside or outside?", ["inside", "outside"]),
        )
        yield turn.progress("confirming", current=2, total=3)
        heads = party["adults"] + party.get("children", 0)
        if await turn.ask(f"A table for {heads} on {day}, {place}. Shall I book it?", ["yes", "no"]) == "no":
            yield "Then I leave it."
            return
    except QuestionUnanswered as unanswered:
        # These answers are needed: the user is told, and may begin anew.
        yield f"Nothing is booked: the question was {unanswered.why}."
        return
    wish = await optional(turn, "Anything that we should know?")
    yield turn.progress("booked", current=3, total=3)
    yield f"Booked for {heads} on {day}, {place}{f', noted: {wish}' if wish else ''}."


async def optional(turn: Turn, question: str) -> str:
    """The answer, or nothing when there is none within a minute."""
    try:
        return str(await turn.ask(question, schema={"type": "string"}, expires_in_s=60))
    except QuestionUnanswered:
        return ""
