"""Runs of the core as texts: what happens, and what is done about it, line by line.

`TRANSCRIPTS=write pytest tests/test_transcripts.py` writes what is done anew; read the difference before you
keep it. `transcript.py` has the grammar.
"""

import os
from pathlib import Path
from typing import get_args

import pytest
from events_text import TranscriptError
from transcript import play

from dispatcher.core import events

FOLDER = Path(__file__).parent / "transcripts"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    played = play(path.read_text(encoding="utf-8"))
    if os.environ.get("TRANSCRIPTS") == "write":
        path.write_text(played.after, encoding="utf-8")
        return
    assert played.after == played.before, f"{path.name}: the core does something else"


def test_every_event_and_every_effect_occurs_in_a_transcript() -> None:
    seen = set()
    for path in TRANSCRIPTS:
        seen |= play(path.read_text(encoding="utf-8")).seen
    assert set(get_args(events.Event)) - seen == set()
    assert set(get_args(events.Effect)) - seen == set()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "> 0.00 link l1\n",
        "Why.\n\n> 0.00 dance l1\n",
        "Why.\n\n> 0.00 link l1 slots=2\n",
        "Why.\n\n> 0.00 link\n",
        "Why.\n\n> 0.00 show nobody\n",
        "Why.\n\n> 0.00 link l1\n> 0.00 packets l1 a/b/c content\n",
    ],
)
def test_a_transcript_that_is_not_understood_says_so(text: str) -> None:
    with pytest.raises(TranscriptError):
        play(text)
