"""An MCP server of bad manners, without an SDK, over stdio. Each of its tools does one wrong thing.

What it is asked for and does is noted in the file that `--state` names, with the time.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = Path(sys.argv[sys.argv.index("--state") + 1] if "--state" in sys.argv else os.devnull)
# Of its list of tools.
LISTING = int(sys.argv[sys.argv.index("--listing") + 1]) if "--listing" in sys.argv else 0
# Longer than the tests take a message to be.
LONG = b"x" * 200_000
waiting: list[int] = []
TOOLS: dict[str, Callable[[int], None]] = {}
LOCK = threading.Lock()


def tool(act: Callable[[int], None]) -> None:
    """Offers it by its name; it is called with the number of its call."""
    TOOLS[act.__name__] = act


def note(text: str) -> None:
    with STATE.open("a") as file:
        file.write(f"{time.monotonic():.3f} {text}\n")


def write(text: bytes) -> None:
    with LOCK:
        while text:
            text = text[os.write(1, text) :]


def send(**message: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def answer(number: int, text: str = "ok") -> None:
    send(id=number, result={"content": [{"type": "text", "text": text}]})


def for_ever(act: Callable[[], object]) -> None:
    def repeat() -> None:
        while True:
            act()

    threading.Thread(target=repeat, daemon=True).start()


@tool
def fine(number: int) -> None:
    answer(number)


@tool
def waits(number: int) -> None:
    """Is answered by nobody, but its number is known to others."""
    waiting.append(number)


@tool
def last(number: int) -> None:
    """Answers too long, its number last."""
    write(b'{"result":{"content":[{"type":"text","text":"%s"}]},"jsonrpc":"2.0","id":%d}\n' % (LONG, number))


@tool
def other(number: int) -> None:
    """Answers too long, with the number of another call in what it says."""
    told = {"structuredContent": {"id": waiting[-1], "text": LONG.decode()}, "content": []}
    write(json.dumps({"result": told, "jsonrpc": "2.0", "id": number}).encode() + b"\n")


@tool
def nameless(_: int) -> None:
    """Answers too long, and to whom can't be seen."""
    write(b'{"result":{"text":"%s"},"jsonrpc":"2.0"}\n' % LONG)


@tool
def dies(_: int) -> None:
    """Is killed, and leaves a child that holds its streams."""
    subprocess.Popen(["/bin/sleep", "600"])
    os.kill(os.getpid(), signal.SIGKILL)


@tool
def blank(number: int) -> None:
    """Writes nothing, in lines without end."""
    answer(number)
    for_ever(lambda: write(b"\n" * 65_536))


@tool
def shouts(number: int) -> None:
    """Writes to its standard error as fast as it is read."""
    answer(number)

    def shout() -> None:
        os.write(2, b"x" * 65_535 + b"\n")
        note("shouted")

    for_ever(shout)


@tool
def pesters(number: int) -> None:
    """Asks without end, and reads no answer."""
    answer(number)
    while True:
        send(id="the same", method="ping")


@tool
def changes(number: int) -> None:
    """Says without end that its tools have changed."""
    answer(number)

    def change() -> None:
        send(method="notifications/tools/list_changed")
        time.sleep(0.02)

    for_ever(change)


def take(message: dict[str, Any]) -> None:
    number, method = message.get("id"), message.get("method")
    note(str(method))
    if number is None:
        return
    if method == "initialize":
        told = {"protocolVersion": "2025-06-18", "serverInfo": {"name": "raw", "version": "1"}}
        send(id=number, result={**told, "capabilities": {"tools": {"listChanged": True}}})
    elif method == "tools/list":
        tools = [
            {"name": each, "description": "x" * (LISTING // len(TOOLS)), "inputSchema": {"type": "object"}}
            for each in TOOLS
        ]
        send(id=number, result={"tools": tools})
    elif method == "tools/call":
        TOOLS[message["params"]["name"]](number)
    else:
        send(id=number, error={"code": -32601, "message": "no such method"})


for line in sys.stdin.buffer:
    take(json.loads(line))
