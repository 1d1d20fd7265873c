"""Whose turn on the page it is, when a root agent and its sub-agents speak at the same time.

Whoever has the open line goes on token by token. What the others say meanwhile waits until that line ends, or
until one of them has said so much that the line is broken for it: nothing is lost, each speaker's words stay
in order, and no line mixes two speakers.
"""

from dataclasses import dataclass, field

from dispatcher.console.terminal import Page, Tone

HOLD_CHARS = 200  # about two lines: what a speaker may say before somebody else's open line is broken for it


@dataclass
class _Waiting:
    """What one speaker has said while another had the line."""

    pieces: list[tuple[str, str, Tone]] = field(default_factory=list)
    chars: int = 0


class Speakers:
    """Writes to the page for all speakers. A speaker is the path of an agent, empty for the root."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._holder = ""  # who wrote last, and so has the line if one is open
        self._prefix = ""  # what the open line began with
        self._waiting: dict[str, _Waiting] = {}

    def speak(self, speaker: str, prefix: str, text: str, tone: Tone) -> None:
        """Text that goes on where this speaker's last text of the same prefix ended."""
        if not text:
            return
        if self._line_of in (None, speaker):
            self._catch_up(speaker)
            self._put(speaker, prefix, text, tone)
            self._give_way()
            return
        waiting = self._waiting.setdefault(speaker, _Waiting())
        waiting.pieces.append((prefix, text, tone))
        waiting.chars += len(text)
        if waiting.chars > HOLD_CHARS:
            self._catch_up(speaker)
            self._give_way()

    def mark(self, speaker: str, line: str, tone: Tone) -> None:
        """A whole line, after everything this speaker has said so far."""
        self._catch_up(speaker)
        self._page.line(line, tone)
        self._give_way()

    def pause(self, speaker: str) -> None:
        """Writes out what this speaker has said so far, and ends its line."""
        self._catch_up(speaker)
        if self._line_of == speaker:
            self._page.end_line()
        self._give_way()

    def writes(self, speaker: str) -> bool:
        """Whether the open line is this speaker's."""
        return self._line_of == speaker

    def end(self) -> None:
        """Writes out everything; nobody has a line open any more."""
        for speaker in list(self._waiting):
            self._catch_up(speaker)
        self._page.end_line()

    @property
    def _line_of(self) -> str | None:
        return self._holder if self._page.open else None

    def _catch_up(self, speaker: str) -> None:
        waiting = self._waiting.pop(speaker, None)
        if waiting is not None:
            self._page.end_line()
            for prefix, text, tone in waiting.pieces:
                self._put(speaker, prefix, text, tone)

    def _give_way(self) -> None:
        """Lets those speak who wait, for as long as no line is open."""
        while self._waiting and not self._page.open:
            self._catch_up(next(iter(self._waiting)))

    def _put(self, speaker: str, prefix: str, text: str, tone: Tone) -> None:
        if self._page.open and prefix != self._prefix:
            self._page.end_line()
        *ended, last = text.split("\n")
        for piece in ended:
            self._begin(prefix, tone)
            self._page.append(piece, tone)
            self._page.newline()
        if last:
            self._begin(prefix, tone)
            self._page.append(last, tone)
        self._prefix = prefix
        self._holder = speaker

    def _begin(self, prefix: str, tone: Tone) -> None:
        if not self._page.open:
            self._page.append(prefix, tone)
