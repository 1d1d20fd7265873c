"""The team: four specialists on one brief, beside each other, and one answer made of what they found.

Each specialist is a system prompt over a language model. What it writes is told as a thought of its path, because an
answer in which four speak at once is none; what everybody sees is when it starts, how far it is, and what it found in a
line. One that fails is told of, and the answer is made of the rest.

What an application may attach to its request:

| metadata      | what it says                                                        | default         |
| ------------- | ------------------------------------------------------------------- | --------------- |
| `model`       | which of the commander's models, by its name, for everybody         | the default one |
| `specialists` | who is to look at the brief: names, with commas between             | all four        |
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from commander.agent import AnyAgent, agent
from commander.conversation import Message
from commander.errors import AgentError
from commander.models import Item
from commander.outputs import Output
from commander.team import Member, MemberResult
from commander.turn import Turn

# Of what a specialist found, in the event that tells of its end.
SUMMARY_CHARS_MAX: Final = 200
# Of each specialist's findings, to the model that joins them.
FINDING_CHARS_MAX: Final = 50_000

Said = AsyncIterator[Output | str]


@dataclass(frozen=True, slots=True)
class Specialist:
    """Who looks at the brief, and how."""

    description: str
    system: str


_ALL_ALIKE: Final = (
    " You are one of several specialists on the same brief, and see nothing of the others: keep to your own question."
    " Begin with one sentence that says what matters most; then at most eight short points. Say what you assume where"
    " the brief is silent, and invent no facts."
)
SPECIALISTS: Final[Mapping[str, Specialist]] = {
    "insight": Specialist(
        "What lies behind the brief",
        "You find insights. What is really asked for, and why now? Which need, tension or change lies behind it, what"
        " is known about that, and what would have to be found out?" + _ALL_ALIKE,
    ),
    "profile": Specialist(
        "Who it is for",
        "You describe people. Whom does this concern? What do they want, know, fear and do already, in which words do"
        " they speak of it, and how do the groups among them differ?" + _ALL_ALIKE,
    ),
    "content": Specialist(
        "What to say, and how",
        "You write. Which message, in which order, tone and form, answers the brief? Give words that could be used as"
        " they are." + _ALL_ALIKE,
    ),
    "optimisation": Specialist(
        "What would make it work better",
        "You improve. What will keep this from working, what should be tried and measured first, by which numbers would"
        " one know, and what could be left out?" + _ALL_ALIKE,
    ),
}
LEAD: Final = (
    "You lead a team. Specialists have looked at the user's brief, each from one side; their findings follow it."
    " Answer the brief with one text of your own, in the user's language: join what they found, settle where they"
    " contradict each other, and leave out what does not help. Do not speak of the specialists."
)


@agent(
    "team",
    description="Four specialists on one brief: insight, profile, content, optimisation. Metadata: model, specialists",
    accepts=("text/plain", "application/json", "image/*", "application/pdf"),
)
async def team(turn: Turn) -> Said:
    """Lets the specialists look at the conversation, and answers it from what they found."""
    name = turn.metadata.get("model", "")
    # One that there isn't is one mistake, not four.
    lead = turn.model(name)
    chosen = _chosen(turn.metadata)
    async with turn.team() as crew:
        members = [
            crew.start(each, _specialist(each, SPECIALISTS[each], name), answer_as="thought")
            for each in chosen
        ]
        async for progress in _followed(turn, members):
            yield progress
    results = crew.results
    found = {each: result.text for each, result in results.items() if not result.error}
    failed = {each: result for each, result in results.items() if result.error}
    if not found:
        raise _nobody(failed)
    yield turn.progress("joining what they found")
    async for output in lead.stream(
        [*turn.conversation, _findings(found, failed), *turn.take_messages()], system=LEAD
    ):
        yield output
    if failed:
        yield f"\n\nWithout {_and(list(failed))}: {'; '.join(_why(each) for each in failed.values())}."


def _specialist(name: str, who: Specialist, model: str) -> AnyAgent:
    async def looks(turn: Turn) -> Said:
        yield turn.progress("reading the brief", percent=0)
        answer = turn.model(model).stream(turn.conversation, system=who.system)
        is_writing = False
        async for output in answer:
            if isinstance(output, str) and not is_writing:
                is_writing = True
                yield turn.progress("writing", percent=50)
            yield output
        if not answer.text.strip():
            raise AgentError("the model has found nothing to say", code="empty_answer")
        yield turn.progress(
            "cut: the model may say no more" if answer.finish_reason == "length" else "done", percent=100
        )
        turn.summarize(_first_sentence(answer.text))

    return agent(name, description=who.description)(looks)


async def _followed(turn: Turn, members: Sequence[Member]) -> Said:
    """How many have ended, each time that one has."""
    for count, ended in enumerate(asyncio.as_completed(members), 1):
        result = await ended
        how = "failed" if result.error else "is done"
        yield turn.progress(
            f"{result.path} {how}", current=count, total=len(members), percent=100 * count / len(members)
        )


def _findings(found: Mapping[str, str], failed: Mapping[str, MemberResult]) -> Item:
    parts = [f"## {name}\n\n{_cut(text)}" for name, text in found.items()]
    if failed:
        parts.append(f"Nothing was heard from {_and(list(failed))}.")
    return Message("user", ("What the specialists found:\n\n" + "\n\n".join(parts),))


def _nobody(failed: Mapping[str, MemberResult]) -> BaseException:
    """What the session fails with: what the first specialist did, which keeps its code and origin."""
    first = next(iter(failed.values())).error
    if isinstance(first, AgentError):
        return first
    return AgentError(f"no specialist came to an end; the first failed with {first}", code="team_failed")


def _why(result: MemberResult) -> str:
    error = result.error
    return error.code if isinstance(error, AgentError) else type(error).__name__


def _chosen(metadata: Mapping[str, str]) -> list[str]:
    """AgentError names the key, what was wrong and what would be right."""
    told = metadata.get("specialists")
    if told is None:
        return list(SPECIALISTS)
    wanted = {name.strip() for name in told.split(",") if name.strip()}
    unknown = sorted(wanted - SPECIALISTS.keys())
    if unknown or not wanted:
        wrong = f"there is no {unknown[0][:80]!r}" if unknown else "names nobody"
        raise AgentError(
            f"metadata specialists: {wrong}; there are {', '.join(SPECIALISTS)}", code="invalid_metadata"
        )
    return [name for name in SPECIALISTS if name in wanted]


def _first_sentence(text: str) -> str:
    line = next((line.strip(" #*-") for line in text.splitlines() if line.strip(" #*-")), "")
    places = [place for place in (line.find(end) for end in (". ", "! ", "? ")) if place >= 0]
    sentence = line[: min(places) + 1] if places else line
    return sentence if len(sentence) <= SUMMARY_CHARS_MAX else f"{sentence[: SUMMARY_CHARS_MAX - 1]}…"


def _cut(text: str) -> str:
    if len(text) <= FINDING_CHARS_MAX:
        return text
    return f"{text[:FINDING_CHARS_MAX]}… (cut: {len(text):,} characters in all)"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
