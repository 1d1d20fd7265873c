"""The agent `replay`: plays a recording with its timing, for tests and for load. See `recording` for the format.

The request's metadata may have
  recording  its name, without .jsonl; default "greeting"
  speed      how much faster than recorded, 0.01 to 1000; 0: as fast as it goes; default 1
  repeat     how often, 1 to 1,000,000; default 1

Recordings lie in the folder that the variable CHATSTREAM_RECORDINGS names, otherwise in the one that is shipped;
nothing outside that folder is ever opened. What a slow reader has delayed is caught up with, so that a load stays
what was recorded.

    dispatcher chat "Hello" --agent demo --json | python -m commander.agents.replay record > hello.jsonl
    python -m commander.agents.replay check hello.jsonl
"""

import argparse
import asyncio
import difflib
import functools
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from commander.agent import agent
from commander.agents import metadata
from commander.agents.recorder import recorded
from commander.agents.recording import Line, RecordingError, parse
from commander.errors import AgentError, QuestionUnanswered, ToolFailed
from commander.outputs import Output
from commander.turn import Turn

FOLDER_VARIABLE = "CHATSTREAM_RECORDINGS"
SHIPPED = Path(__file__).with_name("recordings")
DEFAULT = "greeting"
FILE_BYTES_MAX = 67_108_864
SPEED_MAX = 1_000.0
REPEAT_MAX = 1_000_000
# Calls that may go on in the background; the next then waits for the oldest.
CALLS_MAX = 64
KEPT_RECORDINGS = 16

_EXIT_USAGE = 2


@agent(
    "replay",
    description="Plays a recording with its timing; no language model. Metadata: recording, speed, repeat",
)
async def replay(turn: Turn) -> AsyncIterator[Output | str]:
    """Says what was recorded; calls and questions are made anew, and their answers are of no account."""
    speed = metadata.number(turn.metadata, "speed", 1, 0, SPEED_MAX)
    repeat = int(metadata.number(turn.metadata, "repeat", 1, 1, REPEAT_MAX))
    lines = await asyncio.to_thread(_wanted, turn.metadata.get("recording", DEFAULT))
    calls: list[asyncio.Task[None]] = []
    due_at = time.monotonic()
    try:
        for _ in range(repeat):
            for line in lines:
                if speed and line.after_s:
                    due_at += line.after_s / speed
                    await asyncio.sleep(due_at - time.monotonic())
                output = _output(turn, line)
                if output is not None:
                    yield output
                elif line.kind == "tool_call" and not line.value["wait"]:
                    if len(calls) == CALLS_MAX:
                        await calls.pop(0)
                    calls.append(asyncio.create_task(_call(turn, line.value)))
                    await asyncio.sleep(0)  # so that it goes out before what comes after it
                else:
                    await _call(turn, line.value) if line.kind == "tool_call" else await _ask(
                        turn, line.value
                    )
                    # They took the time they took; the recording goes on from here.
                    due_at = time.monotonic()
        await asyncio.gather(*calls)
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def folder() -> Path:
    """Where recordings lie."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else SHIPPED


def load(name: str, of: Path) -> list[Line]:
    """The recording of that name in the folder `of`. RecordingError, which names what there is."""
    if not of.is_dir():
        raise RecordingError(f"{FOLDER_VARIABLE} names {of}, which is no folder")
    files = {path.stem: path for path in sorted(of.glob("*.jsonl"))}
    path = files.get(name.removesuffix(".jsonl"))
    # What is not listed is not opened; what is listed may still be a link that leads out.
    if path is None or not path.resolve().is_relative_to(of.resolve()):
        near = difflib.get_close_matches(name, files, n=3) or list(files)[:10]
        raise RecordingError(f"there is no recording {name[:60]!r}; there are {', '.join(near) or 'none'}")
    try:
        state = path.stat()
        if state.st_size > FILE_BYTES_MAX:
            raise RecordingError(
                f"{path.name}: it has {state.st_size:,} bytes; at most {FILE_BYTES_MAX:,} may be"
            )
        return _parsed(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise RecordingError(f"{path.name}: it can't be read: {error.strerror}") from None


@functools.lru_cache(maxsize=KEPT_RECORDINGS)
def _parsed(path: Path, _changed_at_ns: int, _size_bytes: int) -> list[Line]:
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        return parse(lines, path.name)


def _wanted(name: str) -> list[Line]:
    try:
        return load(name, folder())
    except RecordingError as error:
        raise AgentError(f"metadata recording: {error}", code="invalid_recording") from None


def _output(turn: Turn, line: Line) -> Output | str | None:
    """What a line says; None when it asks something instead. An error is raised."""
    value = line.value
    match line.kind:
        case "content":
            return str(value)
        case "thought":
            return turn.thought(*value)
        case "progress":
            return turn.progress(**value)
        case "artifact":
            return turn.artifact(value["name"], value["content"], mime_type=value["mime_type"])
        case "embedding":
            return turn.embedding(**value)
        case "usage":
            return turn.usage(**value)
        case "error":
            raise AgentError(
                value["message"],
                code=value["code"],
                retryable=value["retryable"],
                retry_after_s=value["retry_after_s"],
            )
        case _:
            return None


async def _call(turn: Turn, call: Mapping[str, Any]) -> None:
    try:
        await turn.call_tool_with(call["name"], call["arguments"])
    except ToolFailed:
        return  # as its viewers have seen; the recording goes on as it was recorded


async def _ask(turn: Turn, question: Mapping[str, Any]) -> None:
    try:
        await turn.ask(
            question["text"],
            question["options"],
            schema=question["schema"],
            expires_in_s=question["expires_in_s"],
        )
    except QuestionUnanswered:
        return  # as above


# -- the command line ----------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Makes or checks a recording; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m commander.agents.replay", description="Makes and checks recordings."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "record", help="make a recording, on standard output, of the events on standard input"
    )
    check = commands.add_parser("check", help="say whether files are recordings")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "record":
            lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
            for line in recorded(_events(lines)):
                print(json.dumps(line, ensure_ascii=False))
        else:
            for file in arguments.files:
                recording = load(file.name, file.parent)
                seconds = sum(line.after_s for line in recording)
                print(f"{file}: {len(recording)} lines, {seconds:g} s")
    except RecordingError as error:
        print(f"replay: {error}", file=sys.stderr)
        return _EXIT_USAGE
    return 0


def _events(lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RecordingError(f"line {number}: it is no JSON: {error}") from None
            yield event


if __name__ == "__main__":
    sys.exit(main())
