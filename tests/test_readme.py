"""The README's five minutes, run word for word: its files are written, its commands are run, in its order.

Only the addresses differ: the dispatcher takes free ports, and the commands are told by variables.
"""

import os
import re
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 60.0


class Block(NamedTuple):
    """A fenced block that a comment before it says what to do with."""

    what: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(
        r"<!-- ((?:file|run): [^>]*?) -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    return [Block(*each) for each in found]


class Background:
    """A command that goes on while others run; its output is read as it comes."""

    def __init__(self, command: str, folder: Path, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command.strip()}"],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said = ""
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := self._process.stdout.read(1):
            with self._more:
                self._said += piece
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def until(self, text: str) -> str:
        """What it has said once it has said `text` and ended the line or word."""
        with self._more:
            came = self._more.wait_for(lambda: text in self._said or self._process.poll() is not None, WAIT_S)
            assert came, f"{text!r} did not come within {WAIT_S} s; said: {self._said}"
            assert text in self._said, f"it ended; said: {self._said}"
            self._more.wait_for(lambda: "\n" in self._said[self._said.index(text) :], 5)
            return self._said

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def environ() -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DISPATCHER_GRPC_ADDRESS": "127.0.0.1:0",
        "DISPATCHER_METRICS_ADDRESS": "127.0.0.1:0",
        "PYTHONUNBUFFERED": "1",
    }


def test_the_five_minutes(tmp_path: Path, environ: dict[str, str]) -> None:
    metrics = ""
    ran = 0
    with ExitStack() as background:
        for what, text in blocks():
            if name := re.fullmatch(r"file: (\S+)", what):
                (tmp_path / name[1]).write_text(text)
                continue
            ran += 1
            if until := re.fullmatch(r'run: background until "(.*)"', what):
                command = Background(text, tmp_path, environ)
                background.callback(command.end)
                said = command.until(until[1])
                if ready := re.search(r"ready at (\S+?);? .*(http://\S+)/metrics", said):
                    environ |= {"CHATSTREAM_DISPATCHER": ready[1], "COMMANDER_DISPATCHER": ready[1]}
                    metrics = ready[2]
                continue
            prints = re.fullmatch(r'run: prints "(.*)"', what)
            assert prints, f"README.md: what is {what!r}?"
            done = subprocess.run(
                ["/bin/sh", "-e", "-c", text.replace("http://127.0.0.1:9464", metrics)],
                cwd=tmp_path,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
            )
            assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"
            assert prints[1] in done.stdout, f"{text}: {done.stdout}{done.stderr}"
    assert ran >= 6


def test_make_help_lists_what_the_readme_promises() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in (
        "setup",
        "demo",
        "proto",
        "check-proto",
        "format",
        "lint",
        "types",
        "test",
        "slow",
        "bench",
        "check",
    ):
        assert re.search(rf"^  {target} ", listed, re.MULTILINE), target


def test_the_generated_parts_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.generate_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
