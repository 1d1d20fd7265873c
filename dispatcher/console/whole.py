"""The answer alone, for scripts: nothing on standard output before it is whole and checked, then all of it.

What has been written can't be taken back when an attempt is lost and the answer begins anew, so nothing is. Called by
`chat` and `watch` for their flag `--answer`.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TextIO

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.escaping import safe_line, safe_text
from dispatcher.console.outcome import ConsoleError, Exit
from dispatcher.console.view import View, view_of


async def shown(arguments: argparse.Namespace, show: Callable[[View], Awaitable[Exit]]) -> Exit:
    """Shows a session as the flags say: the answer at last, or all as it comes."""
    if arguments.answer and arguments.json:
        raise ConsoleError("--answer prints the answer alone, --json all events: leave out one", Exit.USAGE)
    if not arguments.answer:
        return await show(view_of(sys.stdout, sys.stderr, os.environ, as_json=arguments.json))
    whole = WholeAnswer(sys.stderr)
    status = await show(whole)
    if status is Exit.COMPLETED:
        text = whole.text
        # A file gets what was said, a terminal what does not steer it.
        sys.stdout.write(safe_text(text) if sys.stdout.isatty() else text)
        sys.stdout.write("" if text.endswith("\n") else "\n")
    return status


class WholeAnswer:
    """Keeps the content of a session and shows none of it. Questions are told on `notices`, as somebody may answer."""

    def __init__(self, notices: TextIO) -> None:
        self._notices = notices
        self._content: list[tuple[int, str]] = []  # offset and text of each piece, in order

    @property
    def text(self) -> str:
        return "".join(text for _, text in self._content)

    def show(self, event: chat_pb2.SessionEvent) -> None:
        kind = event.WhichOneof("event")
        if kind == "content":
            self._content.append((event.cursor.offset, event.content.text))
        elif kind == "reset":
            kept = event.reset.discard_after.offset
            self._content = [piece for piece in self._content if piece[0] <= kept]
        elif kind == "gap":
            self._content.clear()
        elif kind == "question":
            options = "".join(
                f"\n  {number}. {safe_line(option)}"
                for number, option in enumerate(event.question.options, 1)
            )
            self.notice(f"? {safe_line(event.question.text)}{options}")

    def notice(self, text: str) -> None:
        print(safe_text(text), file=self._notices, flush=True)

    def prompt(self, question: agent_pb2.Question | None, again: bool) -> None:
        """The question has been told."""

    def echoed(self) -> None: ...

    def disturb(self) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...
