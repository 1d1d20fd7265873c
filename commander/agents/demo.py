"""The agent `demo`: works without a model and without a key, and says so.

It reads the user's words by rules (`wishes`), plans aloud, asks back where the words leave something open, lets
the dispatcher run tools, all of them at once, and says what came of it word by word (`sayings`). What the user
adds meanwhile is taken up between two sentences; "enough", "faster" and "slower" between two words.

The request's metadata may have
  pace_ms          milliseconds a word, 0 to 1000; default 15
  answer_within_s  seconds to wait for the answer to a question, 0.1 to 3600; default 120
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import chain

from commander.agent import agent
from commander.agents import metadata, sayings
from commander.agents.wishes import (
    TEXT_CHARS_MAX,
    Count,
    Hello,
    Remark,
    Search,
    Story,
    Sum,
    Time,
    Wish,
    places_in,
    read,
    read_remark,
    search_words,
)
from commander.errors import QuestionUnanswered, ToolFailed
from commander.outputs import Output
from commander.turn import Turn

PACE_MS = 15.0
PACE_MS_MAX = 1_000.0
ANSWER_WITHIN_S = 120.0
# Tool calls of one request; the dispatcher runs about as many of a session at once.
STEPS_MAX = 16
# An answer that interrupts an answer that interrupts …; what the user adds then waits its turn.
INTERRUPTED_MAX = 4

_SEARCH_IT = "search the texts for it"
_CALCULATE = "calculate something"
_TELL_TIME = "tell the time"
_TELL_STORY = "tell a long story"
_NOTHING = "nothing"
_MEANINGS = (_SEARCH_IT, _CALCULATE, _TELL_TIME, _TELL_STORY, _NOTHING)


@agent(
    "demo",
    description="A demonstration, no language model: rules that calculate, tell the time anywhere, search texts,"
    " ask back, and tell stories long enough to be stopped",
)
async def demo(turn: Turn) -> AsyncIterator[Output | str]:
    """Plans, asks back, calls tools, answers word by word."""
    speech = Speech(turn)
    yield turn.usage()  # no model, so no tokens: said, rather than left open
    # What is being said, and on top of it what interrupted it: each an iterator of sentences.
    answers: list[Iterator[str]] = [iter(await answer(turn, speech, turn.text, is_first=True))]
    while answers and not speech.is_over:
        sentence = next(answers[-1], None)
        if sentence is None:
            answers.pop()
            continue
        async for output in speech.say(sentence, listen=len(answers) <= INTERRUPTED_MAX):
            yield output
        while speech.heard:
            message = speech.heard.popleft()
            further = await answer(turn, speech, message, is_first=False)
            answers.append(chain([sayings.resumed(message)], further, ["\n\n"] if answers else []))
    if speech.is_over:
        yield "\n\nAll right, I leave it at that."


class Speech:
    """Thinks and says sentences token by token, at a pace, asks, and hears what the user says meanwhile."""

    def __init__(self, turn: Turn) -> None:
        self.heard: deque[str] = deque()
        self.is_over = False
        self._turn = turn
        self._pace_s = metadata.number(turn.metadata, "pace_ms", PACE_MS, 0, PACE_MS_MAX) / 1000
        self._answer_within_s = metadata.number(turn.metadata, "answer_within_s", ANSWER_WITHIN_S, 0.1, 3_600)
        self._last_said = ""

    async def think(self, text: str) -> None:
        """The plan, aloud; quicker than speech, as thoughts are."""
        for token in sayings.tokens(text):
            await self._turn.emit(self._turn.thought("Planning", token))
            await asyncio.sleep(self._pace_s / 2)

    async def ask(self, question: str, options: Sequence[str] = ()) -> str:
        """The answer as text, whatever JSON it came as. Raises QuestionUnanswered."""
        value = await self._turn.ask(question, options, expires_in_s=self._answer_within_s)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    async def say(self, sentence: str, *, listen: bool) -> AsyncIterator[Output | str]:
        """The sentence's tokens as content, and a thought for each remark of the user about it."""
        for token in sayings.tokens(self._joined(sentence)):
            yield token
            await asyncio.sleep(sayings.pause_s(token, self._pace_s))
            if listen and not self.heard:
                for message in self._turn.take_messages():
                    thought = self._hear(message.text)
                    if thought:
                        yield self._turn.thought("Listening", thought)
            if self.is_over:
                return

    def _joined(self, sentence: str) -> str:
        """The sentence with a blank before it, unless there is white space already or nothing to part from."""
        if self._last_said.endswith("\n") and sentence.startswith("\n\n"):
            # Two line breaks part paragraphs; a third says nothing.
            sentence = sentence[1:]
        is_apart = self._last_said[-1:].isspace() or sentence[:1].isspace() or not self._last_said
        self._last_said = sentence or self._last_said
        return sentence if is_apart else f" {sentence}"

    def _hear(self, message: str) -> str:
        """Takes up a remark about the speech itself, with what there is to think of it; keeps all else."""
        match read_remark(message):
            case Remark.ENOUGH:
                self.is_over = True
                return "That was enough for the user."
            case Remark.FASTER:
                self._pace_s /= 3
                return "Faster, then."
            case Remark.SLOWER:
                self._pace_s = min(max(self._pace_s, 0.001) * 3, PACE_MS_MAX / 1000)
                return "Slower, then."
            case None:
                self.heard.append(message)
                return ""


async def answer(turn: Turn, speech: Speech, text: str, *, is_first: bool) -> Iterable[str]:
    """The sentences that answer a text, once everything is asked and done that they need."""
    wishes = read(text)
    await speech.think(sayings.plan(wishes))
    settled: list[Wish | str] = []
    unsettled: list[Wish | None] = [*wishes] or [None]
    for wish in unsettled:
        try:
            settled += await _settled(speech, text, wish)
        except QuestionUnanswered as reason:
            settled.append(sayings.unanswered(reason.why))
    told = await _worked(turn, [wish for wish in settled if not isinstance(wish, str)])
    notes = []
    if len(text) > TEXT_CHARS_MAX:
        notes.append(f"(I read the first {TEXT_CHARS_MAX:,} characters of {len(text):,}.)")
    has_introduced_itself = any(message.role == "assistant" for message in turn.conversation)
    if is_first and not has_introduced_itself and Hello() not in settled:
        # Apart, whatever was said last: it may have been a list.
        notes.append(f"\n\n({sayings.WHO})")
    return chain(*(_sentences(each, told) for each in settled), told.spare, notes)


async def _settled(speech: Speech, text: str, wish: Wish | None) -> list[Wish | str]:
    """The wish with nothing left open, after asking where need be; a str is what to say instead.

    Raises QuestionUnanswered.
    """
    match wish:
        case None:
            return await _meant(speech, text)
        case Sum(""):
            asked = await speech.ask("What shall I calculate?")
            sums = [each for each in read(asked) if isinstance(each, Sum) and each.expression]
            # What I can't read the tool may; it says what is wrong with it better than I do.
            return [*sums] or [Sum(asked)]
        case Time(()):
            place = await speech.ask("The time where?", sayings.PLACES)
            if place == sayings.ANOTHER_PLACE:
                place = await speech.ask("Which city or time zone?")
            places = places_in(place)
            return [Time(places)] if places else [f"“{place[:60]}” does not look like a place to me."]
        case Search(""):
            asked = await speech.ask("Which words shall I search the texts for?")
            return [Search(search_words(asked) or asked)]
        case _:
            return [wish]


async def _meant(speech: Speech, text: str) -> list[Wish | str]:
    """What an unread text is meant to be. Raises QuestionUnanswered."""
    words = search_words(text)
    # Without a word to search for there is nothing to search.
    options = _MEANINGS if words else _MEANINGS[1:]
    said = f"“{' '.join(text.split())[:80]}” says nothing to me." if text.strip() else "You sent no words."
    choice = (await speech.ask(f"{said} What is meant?", options)).strip()
    if choice == _SEARCH_IT and words:
        return [Search(words)]
    if choice == _CALCULATE:
        return await _settled(speech, choice, Sum(""))
    if choice == _TELL_TIME:
        return await _settled(speech, choice, Time(()))
    if choice == _NOTHING:
        return ["Then I leave it at that."]
    # The story reads as one, and so may words of the user's own, where an application lets them.
    settled = [each for wish in read(choice) for each in await _settled(speech, choice, wish)]
    return settled or ["I did not understand that either, so I leave it at that."]


class Told:
    """What tools have answered, as sentences by wish; `spare` is what else there is to say of it."""

    def __init__(self) -> None:
        self.by_wish: dict[Wish, list[str]] = {}
        self.spare: list[str] = []


async def _worked(turn: Turn, wishes: Sequence[Wish]) -> Told:
    """Calls every tool the wishes need, all at once, and tells the progress."""
    todo = [(wish, step) for wish in dict.fromkeys(wishes) for step in sayings.steps_of(wish)]
    told = Told()
    if len(todo) > STEPS_MAX:
        told.spare.append(sayings.left_out(len(todo) - STEPS_MAX, STEPS_MAX))
        del todo[STEPS_MAX:]
    done = 0

    async def work(step: sayings.Step) -> str:
        nonlocal done
        try:
            sentence = sayings.answered(step, await turn.call_tool_with(step.tool, step.arguments))
        except ToolFailed as failure:
            sentence = sayings.failed(step, failure)
        done += 1
        if len(todo) > 1:
            await turn.emit(turn.progress(step.about, current=done, total=len(todo)))
        return sentence

    sentences = await asyncio.gather(*(work(step) for _, step in todo))
    for (wish, _), sentence in zip(todo, sentences, strict=True):
        told.by_wish.setdefault(wish, []).append(sentence)
    return told


def _sentences(settled: Wish | str, told: Told) -> Iterable[str]:
    match settled:
        case str():
            return [settled]
        case Count():
            return sayings.count(settled)
        case Story():
            return sayings.story(settled)
        case Hello():
            return sayings.greeting()
        case _:
            return told.by_wish.get(settled, [])
