"""Whoever sits in front of the demo: what they see, and what they type, or what the demo types for them.

Both stand in for their originals in `dispatcher.console`, which the command line uses itself: a view that
remembers what it has shown, and a keyboard that answers a question when nobody does.
"""

import asyncio
import re
import sys
import time
from collections import Counter
from typing import Final

from southwest.ai.agent.v1 import agent_pb2, chat_pb2

from dispatcher.console.keyboard import Keyboard
from dispatcher.console.view import View

# How much of an answer is to be seen before it is worth being stopped, and where in a sentence: early enough that
# the sentence is still under way when the stop arrives.
WORDS_BEFORE_STOP: Final = 40
WORDS_INTO_SENTENCE: Final = range(4, 8)
ANSWER: Final = "Tokyo"
ANSWER_IN_OWN_WORDS: Final = "Lisbon"


class Witness:
    """Shows a session through another view, and knows what was to be seen."""

    def __init__(self, view: View) -> None:
        self.session_id = ""
        self.kinds: Counter[str] = Counter()
        self.text = ""
        self.ending = chat_pb2.SessionEnded()
        self.ended_at = 0.0
        # Events that came after the ending: there must be none.
        self.late = 0
        self.question: agent_pb2.Question | None = None
        self.is_asked = asyncio.Event()
        self.is_mid_sentence = asyncio.Event()
        self.begins_anew = asyncio.Event()
        self._view = view

    def show(self, event: chat_pb2.SessionEvent) -> None:
        kind = event.WhichOneof("event") or "unknown"
        if self.ended_at:
            self.late += 1
        self.session_id = event.session_id
        self.kinds[kind] += 1
        if kind == "content":
            self._hear(event.content.text)
        elif kind == "question":
            self.question = event.question
            self.is_asked.set()
        elif kind == "answer":
            self.question = None
            self.is_asked.clear()
        elif kind == "reset":
            self.text = ""
            self.is_mid_sentence.clear()
            self.begins_anew.set()
        elif kind == "ended":
            self.ended_at = time.perf_counter()
            self.ending = event.ended
        self._view.show(event)

    def _hear(self, text: str) -> None:
        self.text += text
        unfinished = re.split(r"[.!?]\s", self.text)[-1].split()
        if len(self.text.split()) >= WORDS_BEFORE_STOP and len(unfinished) in WORDS_INTO_SENTENCE:
            self.is_mid_sentence.set()

    def notice(self, text: str) -> None:
        self._view.notice(text)

    def prompt(self, question: agent_pb2.Question | None, again: bool) -> None:
        self._view.prompt(question, again)

    def echoed(self) -> None:
        self._view.echoed()

    def disturb(self) -> None:
        self._view.disturb()

    def flush(self) -> None:
        self._view.flush()

    def close(self) -> None:
        self._view.close()


class PatientKeyboard(Keyboard):
    """A person's keyboard, which answers questions itself when they are not answered in time."""

    def __init__(self, witness: Witness, patience_s: float, *, is_person_there: bool) -> None:
        super().__init__(sys.stdin.fileno() if is_person_there else None)
        self._witness = witness
        self._patience_s = patience_s

    async def line(self) -> str | None:
        if not self.terminal:
            # Asked for only when there is a question.
            answer = self._answer()
            self._witness.notice(f"  (nobody sits here, so the demo answers: {answer})")
            return answer
        typed = asyncio.ensure_future(super().line())
        patience = asyncio.ensure_future(self._run_out_of_patience())
        try:
            await asyncio.wait((typed, patience), return_when=asyncio.FIRST_COMPLETED)
            if typed.done():
                return typed.result()
            answer = self._answer()
            # Where the person would have typed it, with the newline that their terminal would have shown.
            print(f"{answer}   (nobody typed, so the demo answers)", flush=True)
            return answer
        finally:
            typed.cancel()
            patience.cancel()
            await asyncio.gather(typed, patience, return_exceptions=True)

    async def _run_out_of_patience(self) -> None:
        """Returns when one question has been open for so long."""
        question = None
        while question is None or question is not self._witness.question:
            await self._witness.is_asked.wait()
            question = self._witness.question
            await asyncio.sleep(self._patience_s)

    def _answer(self) -> str:
        question = self._witness.question
        options = list(question.options) if question is not None else []
        if not options:
            return ANSWER_IN_OWN_WORDS
        return ANSWER if ANSWER in options else options[0]
