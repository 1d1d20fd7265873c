"""What an agent holds of a language model: `turn.model("fast")`."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from commander.conversation import Blob, Message, ToolOffer, UserMessage
from commander.core.turn import Usage
from commander.errors import ModelFailed, Stopped
from commander.models.answer import Answer, Line
from commander.models.failures import FAILURES, Trouble
from commander.models.registry import Entry, Models
from commander.models.speaking import Speaking
from commander.models.words import Ask, Item, Reasoning, Reply, Said, Sign, Text, Tokens, ToolReturn, Turned
from commander.outputs import Output, Used

if TYPE_CHECKING:
    from commander.models.fit import Fit

# Until a server tells what it used: a piece is a token at least, and a token is rarely longer.
TOKEN_CHARS: Final = 8
Prompt = Item | Iterable[Item]
Emit = Callable[[Output], Awaitable[None]]


class TurnModels:
    """The models of one turn: what it has spent, and what it listens to. All belongs to the agents' loop."""

    def __init__(
        self, models: Models, left_s: Callable[[], float | None], spent: dict[str, int] | None = None
    ) -> None:
        self.models = models
        self.left_s = left_s
        # Output tokens by model, of the whole turn.
        self._spent: dict[str, int] = {} if spent is None else spent
        self._lines: set[Line] = set()
        self._is_over = False

    def model(self, name: str, emit: Emit | None) -> "Model":
        """ModelFailed for a name that there isn't. Without `emit`, whoever asks tells what was used."""
        return Model(self, self.models.entry(name), emit)

    def branch(self) -> "TurnModels":
        """The same for a member of a team, who hangs up by itself. What it spends, the turn has spent."""
        return TurnModels(self.models, self.left_s, self._spent)

    def hang_up(self) -> None:
        """The turn is over: every connection is closed. Idempotent."""
        self._is_over = True
        for line in list(self._lines):
            line.hang_up()

    def begin(self, line: Line) -> None:
        """Stopped once the turn is over."""
        if self._is_over:
            raise Stopped
        line.start()
        assert line.task is not None
        self._lines.add(line)
        line.task.add_done_callback(lambda _: self._lines.discard(line))

    def spend(self, entry: Entry, tokens: int) -> None:
        """ModelFailed's Trouble where all that goes on at once has said more than the budget."""
        spent = self._spent[entry.name] = self._spent.get(entry.name, 0) + tokens
        budget = entry.table.output_tokens_max
        if tokens > 0 and budget is not None and spent > budget:
            raise Trouble("model_budget_spent", f"this turn has used its {budget} output tokens")

    def settle(self, entry: Entry, counted: int, used: Usage) -> None:
        """What an answer has used in truth, in place of what was counted. A server that tells nothing is believed
        nothing."""
        if used.output_tokens:
            self._spent[entry.name] = self._spent.get(entry.name, 0) - counted + used.output_tokens
        self.models.metrics.model_used(entry.name, used)

    def left(self, entry: Entry) -> int | None:
        """Output tokens that this turn may still have of the model. None: no bound. Trouble: none."""
        budget = entry.table.output_tokens_max
        if budget is None:
            return None
        left = budget - self._spent.get(entry.name, 0)
        if left <= 0:
            raise Trouble("model_budget_spent", f"this turn has used its {budget} output tokens")
        return left


class _Tally:
    """What one answer counts for, piece by piece: of the budget of the model that speaks, whichever that is."""

    def __init__(self, turn: TurnModels, speaking: Speaking) -> None:
        self._turn = turn
        self._speaking = speaking
        self._counted = 0
        self._chars = 0
        self._pieces = 0

    def hear(self, said: Said) -> None:
        """Trouble when the budget is spent, by all the answers that are under way."""
        entry = self._speaking.answered_by
        match said:
            case Text(text) | Reasoning(text):
                self._count(entry, len(text))
            case Sign():
                self._count(entry, 0)
            case Tokens():
                used = Usage(said.input, said.output, said.reasoning)
                self._turn.settle(entry, self._counted, used)
            case _:
                pass

    def _count(self, entry: Entry, chars: int) -> None:
        self._pieces += 1
        self._chars += chars
        count = max(self._pieces, self._chars // TOKEN_CHARS)
        more, self._counted = count - self._counted, count
        self._turn.spend(entry, more)


class Model:
    """A language model, for one turn. Any number of answers may be under way at once."""

    def __init__(self, turn: TurnModels, entry: Entry, emit: Emit | None) -> None:
        self._turn = turn
        self._entry = entry
        self._emit = emit

    def __repr__(self) -> str:
        return f"<Model {self.name} {self._entry.table.model}>"

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self._entry.name

    @property
    def rounds(self) -> int:
        """How often a loop of tools should ask it in one turn."""
        return self._entry.table.rounds

    def stream(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        schema: Mapping[str, object] | None = None,
        tools: Sequence[ToolOffer] = (),
        may_call: bool = True,
    ) -> Answer:
        """The answer as it comes: `async for output in turn.model().stream(turn.conversation): yield output`.

        `system` takes the place of the system prompt of the settings. With a `schema`, a JSON Schema, the text is JSON
        that fits it, or ModelFailed at its end. With `tools` the answer may end in `calls`: call them, and ask once
        more, with the answer's `reply` and a ToolReturn for each call after the messages; in the last round with
        `may_call=False`. ModelFailed for what the model does not take.
        """
        messages = tuple(_turned(prompt))
        fit = None if schema is None else _fit(schema)

        def ask_of(entry: Entry) -> Ask:
            _check_parts(entry, messages)
            told = entry.table.system if system is None else system
            return Ask(messages, told, tuple(tools), schema, self._turn.left(entry), may_call)

        try:
            ask_of(self._entry)
        except Trouble as trouble:
            raise _failed(self._entry, trouble.code, trouble.message) from None
        models = self._turn.models
        speaking = Speaking(models.route(self._entry), ask_of, self._turn.left_s, models.metrics)
        line = Line(speaking, _Tally(self._turn, speaking).hear)
        if fit is not None:
            line.check = lambda text: self._fitting(fit, text)
        return Answer(line, self._turn.begin)

    async def answer(
        self, prompt: Prompt, *, system: str | None = None, schema: Mapping[str, object] | None = None
    ) -> Any:
        """The whole answer: its text, or, with a `schema`, the value that fits it. Nothing of it is shown to anybody;
        usage is told."""
        async with self.stream(prompt, system=system, schema=schema) as answer:
            async for output in answer:
                if isinstance(output, Used) and self._emit is not None:
                    await self._emit(output)
        return answer.text if schema is None else answer.value

    def _fitting(self, fit: "Fit", text: str) -> Any:
        try:
            return fit.value(text)
        except ValueError as error:
            raise _failed(self._entry, "model_schema_mismatch", str(error), has_begun=True) from None


def _check_parts(entry: Entry, messages: Iterable[Turned]) -> None:
    """Trouble for what the model of this table does not read."""
    accepts = entry.table.accepts
    if accepts is None:
        return
    for message in messages:
        for part in message.parts if isinstance(message, Message) else ():
            if isinstance(part, Blob) and not any(_is_of(part.mime_type, each) for each in accepts):
                what = f"it takes text and {', '.join(accepts)}" if accepts else "it takes text alone"
                raise Trouble("model_input_refused", f"{what}, not {part.mime_type!r}")


def _fit(schema: Mapping[str, object]) -> "Fit":
    from commander.models.fit import fit_of  # noqa: PLC0415 - a tenth of a second that most turns need not wait for

    return fit_of(schema)


def _turned(prompt: Prompt) -> Iterable[Turned]:
    match prompt:
        case str():
            yield Message("user", (prompt,))
        case UserMessage(text):
            yield Message("user", (text,))
        case Message() | Reply() | ToolReturn():
            yield prompt
        case Iterable():
            for each in prompt:
                yield from _turned(each)
        case _:
            raise TypeError(
                f"a model is asked by a str or by messages, e.g. turn.conversation, not {type(prompt).__name__}"
            )


def _is_of(mime_type: str, kind: str) -> bool:
    return mime_type == kind or (kind.endswith("/*") and mime_type.startswith(kind[:-1]))


def _failed(entry: Entry, code: str, told: str, *, has_begun: bool = False) -> ModelFailed:
    advice = FAILURES[code].advice
    message = f"model {entry.name!r} ({entry.table.model}) failed: {told}; {advice}"
    return ModelFailed(message, code=code, model=entry.name, has_begun=has_begun)
