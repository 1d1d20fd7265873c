"""`make demo` as a real program: in a pipe, on a terminal, interrupted, and when something in it breaks."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asynchronous import asynchronous, eventually, soon
from console_server import Terminal, environment
from dispatcher_process import ROOT
from web_viewer import browsing

# The demo waits no longer for anything in it.
PATIENCE_S = 60.0
CODES = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]")


class Demo:
    """A demo in a pipe; `out` is what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.out = ""
        self.process = process
        self._printed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"process (\d+),", self.out)]

    async def prints(self, text: str) -> None:
        async with self._printed:
            waiting = self._printed.wait_for(lambda: text in self.out or self._reader.done())
            await soon(waiting, PATIENCE_S)
        assert text in self.out, self.out

    async def ends(self) -> tuple[int, str]:
        """Exit code and what it had to complain about; everything that it has started is gone."""
        assert self.process.stderr is not None
        err, code, _ = await soon(
            asyncio.gather(self.process.stderr.read(), self.process.wait(), self._reader), PATIENCE_S
        )
        assert self.pids
        assert not [pid for pid in self.pids if is_there(pid)]
        return code, err.decode()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            while chunk := await self.process.stdout.read(65_536):
                async with self._printed:
                    self.out += chunk.decode()
                    self._printed.notify_all()
        finally:
            async with self._printed:
                self._printed.notify_all()


@contextlib.asynccontextmanager
async def demo(*words: str) -> AsyncIterator[Demo]:
    # As make starts it: with a PATH that a new terminal does not have.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "scripts.demo", *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(), "PATH": path},
        cwd=ROOT,
    )  # fmt: skip
    try:
        yield Demo(process)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynchronous
async def test_in_a_pipe_it_shows_everything_by_itself() -> None:
    async with demo() as shown:
        code, err = await shown.ends()
    out = shown.out
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    lines = [
        "1. Three processes start.",
        "demo-one, is linked",
        "demo-two, is linked",
        'dispatcher chat "What is 17 * 23 + 4, and what time is it in Tokyo and Lisbon?" --metadata pace_ms=2 --disp',
        "Planning │ I am a demonstration made of rules, not a language model.",
        '→ calculate {"expression": "17 * 23 + 4"}',
        "17 * 23 + 4 = 395. In Tokyo it is ",
        "? The time where?",
        "(nobody sits here, so the demo answers: Tokyo)",
        '= "Tokyo"',
        "In Tokyo it is ",
        'dispatcher chat "Tell me a long story" --metadata pace_ms=2 --dispatcher 127.0.0.1:',
        "Chapter 1.",
        "the demo has heard enough by operator",
        "The sentence ends at: … ",
        "nothing came after the ending",
        "5. The story again.",
        "Chapter 1.",
        "(kill -9 ",
        "! ==== all above is void",
        "takes over: attempt 2, as the one before was lost",
        "Chapter 1.",
        "+ enough",
        "What was said from there on is the answer",
        ", is linked",
        'dispatcher_sessions_ended_total{ending="completed"} 3',
        'dispatcher_sessions_ended_total{ending="stopped"} 1',
        'dispatcher_stop_step_seconds_count{step="applied"} 1',
        "commander run demo",
        "All 3 processes have ended.",
    ]
    at = 0
    for line in lines:
        assert line in out[at:], f"{line!r} is missing in its place:\n{out}"
        at = out.index(line, at)
    assert len(shown.pids) == 4
    assert "Chapter 3." not in out


@asynchronous
async def test_what_it_keeps_is_there_to_be_used_until_it_is_interrupted() -> None:
    async with demo("--keep") as shown:
        await shown.prints("The processes stay until you press Ctrl-C.")
        address = re.findall(r"listens on ([^\s;]+)", shown.out)[0]
        await shown.prints(f"dispatcher commanders --dispatcher {address}\n")
        url = re.findall(r"page is at (http://\S+)/", shown.out)[0]
        async with browsing(url) as client:
            assert "<html" in (await client.get("/")).text
        (line,) = (each for each in shown.out.splitlines() if "dispatcher commanders" in each)
        listing = await asyncio.create_subprocess_shell(
            line, stdout=asyncio.subprocess.PIPE, env={**environment(), "PATH": os.defpath}, cwd=ROOT
        )
        table, _ = await soon(listing.communicate())
        assert b"demo-one" in table
        assert b"demo-two" in table
        shown.process.send_signal(signal.SIGINT)
        assert await shown.ends() == (0, "")


@pytest.mark.parametrize(
    ("number", "at", "code"),
    [
        (signal.SIGINT, "is linked", 130),
        (signal.SIGTERM, "Chapter 1.", 143),
        # Ctrl-C belongs to the chat, and so stops the story; the demo then takes its leave.
        (signal.SIGINT, "Chapter 1.", 130),
    ],
)
def test_interrupted_it_leaves_nothing_behind(number: signal.Signals, at: str, code: int) -> None:
    @asynchronous
    async def scene() -> None:
        async with demo() as shown:
            await shown.prints(at)
            shown.process.send_signal(number)
            assert await shown.ends() == (code, "")

    scene()


@asynchronous
async def test_a_process_that_falls_is_told_with_its_last_words() -> None:
    async with demo() as shown:
        await shown.prints("demo-one, is linked")
        os.kill(shown.pids[1], signal.SIGKILL)
        code, err = await shown.ends()
    assert code == 1
    assert err.lstrip().startswith("The demo failed: ")
    assert re.search(r"demo-one \(process \d+\) said last:\n(    \| .*\n)*    \| .*linked to", err)
    assert "Traceback" not in err


@asynchronous
async def test_on_a_terminal_a_person_answers_and_stops() -> None:
    async with on_a_terminal() as person:
        await person.sees("Type an answer, or wait")
        await person.sees("number or text")
        person.type("new york\n")
        await person.sees("In New York it is ")
        await person.sees("Chapter 1.")
        person.type("\x03")
        assert await soon(person.exit_status(), PATIENCE_S) == 130
    screen = CODES.sub("", person.screen)
    assert "\x1b[1m" in person.screen  # colours, here
    assert '= "New York"' in screen
    assert "stopped: session " in screen
    assert "You stopped it: that is what Ctrl-C does in a chat." in screen
    assert "so the demo answers" not in screen
    pids = [int(pid) for pid in re.findall(r"process (\d+),", screen)]
    assert len(pids) == 3

    async def left() -> list[int]:
        return [pid for pid in pids if is_there(pid)]

    await eventually(left, lambda there: not there)


@contextlib.asynccontextmanager
async def on_a_terminal() -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 100))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ON_A_TERMINAL,
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment(), cwd=ROOT,
    )  # fmt: skip
    os.close(slave)
    person = Terminal(process, master)
    try:
        yield person
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        os.close(master)


# A new session has no controlling terminal yet; with one, Ctrl-C becomes a SIGINT as it does for a person.
_ON_A_TERMINAL = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("scripts.demo", run_name="__main__")
"""
