"""What the demo agent says, and in which pieces it says it. Pure: wishes and results in, sentences out.

A sentence brings its own white space in front when it wants another than the usual blank.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from commander.agents.wishes import COUNT_MAX, Count, Hello, Search, Story, Sum, Time, Wish
from commander.errors import (
    InvalidArguments,
    ToolCancelled,
    ToolDenied,
    ToolFailed,
    ToolNotFound,
    ToolOutcomeUnknown,
    ToolTimeout,
    ToolTooLarge,
)

WHO = "I am a demonstration made of rules, not a language model."
MATCHES_MAX = 5
SHOWN_CHARS_MAX = 400
# After a sentence a speaker draws breath, after a clause half of one.
BREATH_TOKENS = 6
BREATH_MAX_S = 0.25
COUNT_NUMBERS = 10

ANOTHER_PLACE = "another place"
PLACES = ("UTC", "Tokyo", "Lisbon", "New York", ANOTHER_PLACE)


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call that a wish comes to, and what it is about, for people."""

    tool: str
    arguments: dict[str, str]
    about: str


def tokens(text: str) -> list[str]:
    """The text in the pieces in which it is said: words, each with the white space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def pause_s(token: str, pace_s: float) -> float:
    """How long to wait after a token when an ordinary one takes `pace_s`."""
    if token.endswith((".", "!", "?", ":")):
        return max(pace_s, min(BREATH_TOKENS * pace_s, BREATH_MAX_S))
    if token.endswith((",", ";")):
        return max(pace_s, min(BREATH_TOKENS * pace_s / 2, BREATH_MAX_S))
    return pace_s


def steps_of(wish: Wish) -> list[Step]:
    """The tool calls that fulfil a wish; none for one that needs no tool."""
    match wish:
        case Sum(expression):
            return [Step("calculate", {"expression": expression}, expression)]
        case Time(places):
            return [Step("clock", {"time_zone": place}, place) for place in places]
        case Search(words):
            return [Step("search_files", {"words": words}, words)]
        case _:
            return []


# -- thoughts ------------------------------------------------------------------------------------------------


def plan(wishes: Sequence[Wish]) -> str:
    """What is to be done, aloud."""
    if not wishes:
        return f"{WHO} None of my rules fits these words, so I ask what is meant."
    parts = [_intention(wish) for wish in wishes]
    steps = sum(len(steps_of(wish)) for wish in wishes)
    at_once = f" These are {steps} tool calls, and I make them all at once." if steps > 1 else ""
    return f"{WHO} My rules read this as: {_listed(parts)}.{at_once}"


def _intention(wish: Wish) -> str:
    match wish:
        case Sum(expression):
            return f"calculate {expression}" if expression else "calculate something, but not what"
        case Time(places):
            return f"tell the time in {_listed(places)}" if places else "tell the time, but not where"
        case Search(words):
            return f"search the texts for “{words}”" if words else "search the texts, but not for what"
        case Count(first, last):
            return f"count from {first:,} to {last:,}"
        case Story(chapters):
            return f"tell a story of {chapters} chapters"
        case Hello():
            return "say who I am"


# -- answers -------------------------------------------------------------------------------------------------


def answered(step: Step, result: object) -> str:
    """A tool's result, told. A result of another shape than our own tools have is told as it is."""
    told = result if isinstance(result, dict) else {}
    match step.tool, told:
        case "calculate", {"result": int() | float() | str() as value}:
            return f"{step.about} = {_shown(str(value))}."
        case "clock", {
            "time": str() as time,
            "weekday": str() as day,
            "date": str() as date,
            "utc_offset": str() as offset,
        }:
            return f"In {step.about} it is {time[:5]} on {day}, {date} (UTC{offset})."
        case "search_files", {"matches": list() as matches}:
            return _found(step.about, matches, told)
    return f"About {step.about} the tool {step.tool} says: {_shown(json.dumps(result, ensure_ascii=False))}."


def _found(words: str, matches: list[object], told: dict[str, object]) -> str:
    searched = told.get("files_searched", 0)
    if not matches:
        return f"I searched {searched} texts, and none has “{words}”."
    lines = [f"\nThe texts have this about “{words}”:"]
    shown = matches[:MATCHES_MAX]
    for match in shown:
        match match:
            case {"file": file, "line_number": number, "line": line}:
                lines.append(f"\n- {file}, line {number}: {_shown(str(line))}")
            case _:
                lines.append(f"\n- {_shown(str(match))}")
    more = told.get("more_matches", 0)
    left = len(matches) - len(shown) + (more if isinstance(more, int) else 0)
    if left:
        lines.append(f"\n- and {left} more {'line' if left == 1 else 'lines'}")
    return "".join(lines) + "\n"


def failed(step: Step, failure: ToolFailed) -> str:
    """Why there is no result, for the user."""
    why = failure.message if failure.message.endswith((".", "!", "?")) else f"{failure.message}."
    doing = _DOING.get(step.tool, "do that with {}").format(step.about)
    match failure:
        case InvalidArguments():
            return f"I can't {doing}: {why}"
        case ToolNotFound():
            return (
                f"I can't {doing}: this dispatcher has no tool {step.tool}. It has when it is started with"
                " --tools dispatcher.tools.demo:TOOLS."
            )
        case ToolDenied():
            return f"I may not {doing}: {why}"
        case ToolTimeout():
            return f"I tried to {doing}, and the tool took too long."
        case ToolTooLarge():
            return f"I can't {doing}, it is too much: {why}"
        case ToolCancelled() | ToolOutcomeUnknown():
            return f"I tried to {doing}, and nobody knows what came of it: {why}"
        case _:
            return f"I tried to {doing}, and the tool failed: {why}"


_DOING = {
    "calculate": "calculate {}",
    "clock": "tell the time in {}",
    "search_files": "search the texts for “{}”",
}


def unanswered(why: str) -> str:
    """What becomes of a question without an answer."""
    if why == "expired":
        return "Nobody has answered, so I leave that one open."
    if why == "declined":
        return "You would rather not say, so I leave that one open."
    return f"There was no answer ({why.replace('_', ' ')}), so I leave that one open."


def left_out(steps: int, most: int) -> str:
    """That not everything was done."""
    return f"That is {steps + most} things at once; I do the first {most}; please ask again for the rest."


def count(wish: Count) -> Iterator[str]:
    """The numbers, some at a time."""
    sign = 1 if wish.last >= wish.first else -1
    numbers = range(wish.first, wish.last + sign, sign)
    for at in range(0, min(len(numbers), COUNT_MAX), COUNT_NUMBERS):
        some = numbers[at : min(at + COUNT_NUMBERS, COUNT_MAX)]
        yield " ".join(str(number) for number in some)
    if len(numbers) > COUNT_MAX:
        yield f"… and there I stop: {COUNT_MAX:,} numbers are enough."


def greeting() -> list[str]:
    """Who it is, and what it can do."""
    return [
        f"Hello. {WHO}",
        "Ask me to calculate something (17 * 23 + 4), for the time anywhere (in Tokyo and Lisbon),",
        "or what the texts say about a word (credit).",
        "The dispatcher runs these tools for me.",
        "Ask for a long story, or to count to 1000, and you have something to stop.",
    ]


def resumed(message: str) -> str:
    """That a message which came in between is taken up now."""
    return f"\n\nYou say “{_shown(message)}”."


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# -- a story, to have something long to say ------------------------------------------------------------------

_WALKERS = ("a courier", "a lamplighter", "a ferryman", "a clockmaker", "a beekeeper")
_LOADS = ("a letter without a name", "a bell that would not ring", "a map of one street", "half a song")
_ROADS = ("over the hill", "along the harbour wall", "through the empty market", "down the long stairs")
_HOSTS = (
    "an old signalman",
    "two sisters",
    "a man who sold windows",
    "a child with a kite",
    "a retired pilot",
)
_TURNS = (
    "Nobody there had asked for it, and everybody wanted to know what it was.",
    "They gave bread and good advice, and of the two the bread was fresher.",
    "The door was open, the kettle was warm, and the house was empty.",
    "It had begun to rain, so they all agreed that it could wait until the morning.",
    "Somebody laughed, somebody else wrote it down, and it was told differently ever after.",
    "The clock on the wall was wrong, but it was wrong with great conviction.",
    "There was a dog, which believed that it was in charge, and perhaps it was.",
)


def story(wish: Story) -> Iterator[str]:
    """The story's sentences. No two chapters in a row are alike; there is no end until there is one."""
    for number in range(1, wish.chapters + 1):
        walker, load = _pick(_WALKERS, number), _pick(_LOADS, number)
        yield f"{'' if number == 1 else chr(10) * 2}Chapter {number}."
        yield f"That evening {walker} carried {load} {_pick(_ROADS, number)}, because a promise is a promise."
        yield f"At the other end lived {_pick(_HOSTS, number * 2)}, who had been waiting for something else."
        yield _pick(_TURNS, number)
        # An offset from 1 to 6, so never the same of the seven twice.
        yield _pick(_TURNS, number + 1 + number % 6)
        yield "So the road went on, and whoever had come this far went on with it."
    yield "\n\nAnd there it ends, because somebody has to be the one who stops."


def _pick(choices: Sequence[str], number: int) -> str:
    return choices[number % len(choices)]
