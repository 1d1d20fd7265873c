"""A page of the documentation, run word for word: its files are written, its commands are run, in its order.

A comment before a fenced block says what to do with it:

    file: NAME                              write it
    package: pyproject.toml                 install it, as far as its entry points go
    run: prints "TEXT"                      run it; it ends well, and prints this
    run: background until "TEXT" [as NAME]  run it on; go on when it has said this
    says: NAME "TEXT"                       no block: what runs under this name says this

Only the addresses differ: dispatchers take free ports, and the commands are told of the latest by variables.
"""

import os
import re
import subprocess
import sys
import threading
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 60.0
# Where the pages say that metrics are, and HTTP.
METRICS = "http://127.0.0.1:9464"
HTTP = "127.0.0.1:8080"
# Where they have a socket.
RUN = "/run/"


class Block(NamedTuple):
    """What a comment says is to be done, and the fenced block behind it, where there is one."""

    what: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(
        r"<!-- ((?:file|package|run): [^>]*?) -->\n```\w+\n(.*?)```|<!-- (says: [^>]*?) -->",
        page.read_text(),
        re.DOTALL,
    )
    return [Block(what or says, text) for what, text, says in found]


def unmarked(page: Path, language: str) -> int:
    """How many fenced blocks of this language nothing is done with."""
    text = page.read_text()
    marked = len(re.findall(rf"-->\n```{language}\n", text))
    return len(re.findall(rf"^```{language}$", text, re.MULTILINE)) - marked


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


class Reader:
    """Does in a folder what a page says. A context manager: what runs on is ended at its end."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.ran = 0
        self._page = page
        self._folder = folder
        self._metrics = METRICS
        self._http = HTTP
        self._running: dict[str, Background] = {}
        self._stack = ExitStack()
        self._environ = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # For what it installs.
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "DISPATCHER_GRPC_ADDRESS": "127.0.0.1:0",
            "DISPATCHER_METRICS_ADDRESS": "127.0.0.1:0",
            "PYTHONUNBUFFERED": "1",
            # Who reads the page has pytest alone.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self) -> None:
        for what, text in blocks(self._page):
            if name := re.fullmatch(r"file: (\S+)", what):
                (self._folder / name[1]).write_text(
                    text.replace(HTTP, self._http).replace(f"unix:{RUN}", f"unix:{self._folder}/")
                )
            elif what == "package: pyproject.toml":
                self._install(tomllib.loads(text)["project"])
            elif until := re.fullmatch(r'run: background until "(.*?)"(?: as (\S+))?', what):
                self._begin(text, until[1], until[2] or f"command {self.ran}")
            elif prints := re.fullmatch(r'run: prints "(.*)"', what):
                self._run(text, prints[1])
            elif says := re.fullmatch(r'says: (\S+) "(.*)"', what):
                self._running[says[1]].until(says[2])
            else:
                raise AssertionError(f"{self._page.name}: what is {what!r}?")

    def _begin(self, text: str, until: str, name: str) -> None:
        self.ran += 1
        text = text.replace(HTTP, "127.0.0.1:0")
        command = self._running[name] = Background(text, self._folder, self._environ)
        self._stack.callback(command.end)
        said = command.until(until)
        if ready := re.search(
            r"ready at ([^\s;]+)(?:; HTTP at http://([^\s;]+))?; metrics at (http://\S+)/metrics", said
        ):
            self._environ |= {"CHATSTREAM_DISPATCHER": ready[1], "COMMANDER_DISPATCHER": ready[1]}
            self._http, self._metrics = ready[2] or HTTP, ready[3]

    def _run(self, text: str, prints: str) -> None:
        self.ran += 1
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", text.replace(METRICS, self._metrics).replace(HTTP, self._http)],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"
        assert prints in done.stdout, f"{text}: {done.stdout}{done.stderr}"

    def _install(self, project: dict[str, Any]) -> None:
        """What an installer leaves of a package's entry points; its modules are in the folder already."""
        info = self._folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
            for group, entries in project["entry-points"].items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
