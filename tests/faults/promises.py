"""What must hold when all is over, whatever the network and the processes went through."""

import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from southwest.ai.agent.v1 import chat_pb2, chat_pb2_grpc

from faults.script import Script
from faults.viewers import Watcher


def text_is_kept(watcher: Watcher, script: Script) -> None:
    """The viewer has, byte for byte, what the agent meant, and the ending vouches for it."""
    ending = watcher.seen.events[-1].ended
    assert ending.ending == chat_pb2.SESSION_ENDING_COMPLETED, (watcher, ending)
    text = watcher.seen.text
    assert text == script.text, (watcher, text, script.text)
    assert ending.content_chars == len(text), watcher
    assert ending.content_crc32 == zlib.crc32(text.encode()), watcher


async def ended_once(chat: "chat_pb2_grpc.ChatAsyncStub", watcher: Watcher) -> None:
    """Who reads the session again from the first event reads the same, with one ending, the last."""
    again = Watcher(chat, watcher.session_id)
    await again.run()
    assert again.seen.events == watcher.seen.events, (watcher, again)
    assert again.seen.kinds.count("ended") == 1, again
    assert again.seen.kinds[-1] == "ended", again


def tools_ran_once(runs: Path, scripts: dict[str, Script]) -> None:
    """Each call of a session at most once in each attempt; and what the text tells of has run."""
    told = runs.read_text().splitlines() if runs.exists() else []
    lines = [line for line in told if line.split()[0] in scripts]
    repeated = [line for line, times in Counter(lines).items() if times > 1]
    assert not repeated, f"ran twice: {repeated}"
    ran = Counter(line.split()[0] for line in lines)
    for session_id, script in scripts.items():
        assert ran[session_id] >= script.calls, f"{session_id}: {ran[session_id]} runs, {script.calls} calls"


def counted_once(before: dict[str, float], after: dict[str, float], sessions: int) -> None:
    """The dispatcher's own count: as many endings as sessions, no more and no less."""
    for name in ("dispatcher_sessions_opened_total", "dispatcher_sessions_ended_total"):
        assert _sum(after, name) - _sum(before, name) == sessions, name


def _sum(samples: dict[str, float], name: str) -> float:
    return sum(value for key, value in samples.items() if key.partition("{")[0] == name)


def attempts(watchers: Iterable[Watcher]) -> set[int]:
    """In which attempts the sessions ended."""
    return {watcher.seen.events[-1].attempt for watcher in watchers}
