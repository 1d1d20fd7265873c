"""A real `python -m dispatcher serve` on ports of its own: where it is, what it says, how it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from asynchronous import PATIENCE_S
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent
_READY = re.compile(r"dispatcher: ready at (\S+?)(?:; HTTP at (\S+?))?(?:; metrics at (\S+))?$")


class _Lines:
    """What a stream of the process has said, line by line, as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self.closed = False
        self._news = threading.Condition()
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.closed = True
            self._news.notify_all()

    def wait_for(self, right: Callable[[str], bool], patience_s: float) -> str | None:
        """The first line that is right; None when the stream closes without one."""
        deadline = time.monotonic() + patience_s
        with self._news:
            seen = 0
            while True:
                for line in self.lines[seen:]:
                    if right(line):
                        return line
                seen = len(self.lines)
                if self.closed:
                    return None
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError("\n".join(self.lines))

    def close(self) -> None:
        self._thread.join()
        self._stream.close()


class DispatcherProcess:
    """A running dispatcher. `address` is gRPC's HOST:PORT; `url` is that of HTTP, empty when off, as `metrics_url`."""

    def __init__(
        self, flags: tuple[str, ...], environ: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self._process = subprocess.Popen(
            serve_command(*flags),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(**environ or {}),
            cwd=cwd or ROOT,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out = _Lines(self._process.stdout)
        self._err = _Lines(self._process.stderr)
        self.pid = self._process.pid
        ready = self._out.wait_for(lambda line: _READY.search(line) is not None, PATIENCE_S)
        if ready is None:
            code = self.close()
            raise AssertionError(f"it did not start, exit code {code}: " + "\n".join(self._err.lines))
        found = _READY.search(ready)
        assert found is not None
        self.address = found[1]
        self.url = found[2] or ""
        self.metrics_url = found[3] or ""

    @property
    def log(self) -> list[str]:
        """What it has said on standard error so far."""
        return list(self._err.lines)

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait_for_log(self, text: str, patience_s: float = PATIENCE_S) -> str:
        """Until a line of the log holds `text`; blocks the thread."""
        line = self._err.wait_for(lambda said: text in said, patience_s)
        assert line is not None, f"no {text!r} in:\n" + "\n".join(self.log)
        return line

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Until it has ended; blocks the thread. Returns its exit code."""
        return self._process.wait(patience_s)

    def scrape(self) -> dict[str, float]:
        """The metrics, by name and labels as Prometheus writes them: `name{label="value"}`; blocks the thread."""
        return scrape(self.metrics_url)

    def close(self) -> int:
        """Ends it, at once if need be. Returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        code = self._process.wait(PATIENCE_S)
        self._out.close()
        self._err.close()
        return code


@contextlib.contextmanager
def running_dispatcher(
    *flags: str, environ: Mapping[str, str] | None = None, cwd: Path | None = None, tracebacks: bool = False
) -> Iterator[DispatcherProcess]:
    """A dispatcher until the block ends. It must not have logged a traceback unless one is expected, and when
    it was not ended by the test it must end well."""
    process = DispatcherProcess(flags, environ, cwd)
    code: int | None = None
    try:
        yield process
        code = process.exit_code
    finally:
        end = process.close()
    assert tracebacks or not [line for line in process.log if "Traceback" in line], "\n".join(process.log)
    assert code is not None or end == 0, f"exit code {end}:\n" + "\n".join(process.log)


def serve_command(*flags: str) -> list[str]:
    """The command line. A flag that is given again wins over the one here."""
    command = [sys.executable, "-m", "dispatcher", "serve", "--drain-deadline-s", "0"]
    for flag in ("--grpc-address", "--metrics-address"):
        if flag not in flags:
            command += [flag, "127.0.0.1:0"]
    return [*command, *flags]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of a dispatcher."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DISPATCHER_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def serve_and_fail(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a dispatcher that is expected to end by itself."""
    return subprocess.run(
        serve_command(*flags),
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(**environ),
        cwd=ROOT,
        timeout=PATIENCE_S,
    )


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:  # noqa: S310 - its own address
        text = response.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples
