"""Network namespaces: a dispatcher's machine, a commander's machine and a router between, on one real one.

A process started, or a socket made, `inside` one belongs to it for good. `part` makes the router forget both sides:
what is sent is lost without a word. `netem` loses and delays what crosses, where the kernel can.
"""

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tcp_proxy import Dial

T = TypeVar("T")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
# The router's, towards each machine.
_PORTS = ("port-dispatch", "port-command")


def why_not() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` (iproute2)"
    name = f"chatstream-{secrets.token_hex(3)}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "add", "name", "one", "type", "veth", "peer", "name", "other")
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}`: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return ""


class Namespaces:
    """Three of them, joined: `dispatcher` – router – `commander`."""

    def __init__(self) -> None:
        mark = secrets.token_hex(3)
        self.dispatcher = f"chatstream-{mark}-dispatcher"
        self.commander = f"chatstream-{mark}-commander"
        self._router = f"chatstream-{mark}-router"
        self.dispatcher_host = "10.77.1.2"

    def make(self) -> None:
        for name in (self.dispatcher, self.commander, self._router):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        self._join(self.dispatcher, _PORTS[0], "10.77.1")
        self._join(self.commander, _PORTS[1], "10.77.2")
        self.join()

    def remove(self) -> None:
        """What is in them goes with them."""
        for name in (self.dispatcher, self.commander, self._router):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def part(self) -> None:
        """The two machines lose sight of each other, and nobody is told."""
        self._forward("0")

    def join(self) -> None:
        self._forward("1")

    def netem(self, *what: str) -> None:
        """What crosses is treated so from now on, both ways. CalledProcessError where the kernel can't."""
        for port in _PORTS:
            _run(
                "ip", "netns", "exec", self._router, "tc", "qdisc", "add", "dev", port, "root", "netem", *what
            )

    def inside(self, name: str, action: Callable[[], T]) -> T:
        """Does it in a thread that has gone into the namespace. What it opens and starts stays there."""
        done: list[T] = []
        failed: list[BaseException] = []

        def go() -> None:
            try:
                _enter(name)
                done.append(action())
            except BaseException as error:  # noqa: BLE001 - raised again, where it was wanted
                failed.append(error)

        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return done[0]

    def dialling(self, target: str) -> Dial:
        """How to reach HOST:PORT on the dispatcher's machine, from there."""
        host, port = target.rsplit(":", 1)

        async def dial() -> socket.socket:
            made = await asyncio.to_thread(self.inside, self.dispatcher, socket.socket)
            made.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(made, (host, int(port)))
            except BaseException:
                made.close()
                raise
            return made

        return dial

    def _join(self, name: str, port: str, net: str) -> None:
        _run(
            "ip",
            "-n",
            self._router,
            "link",
            "add",
            "name",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            name,
        )
        for namespace, device, address in (
            (self._router, port, f"{net}.1/24"),
            (name, "eth0", f"{net}.2/24"),
        ):
            _run("ip", "-n", namespace, "address", "add", address, "dev", device)
            _run("ip", "-n", namespace, "link", "set", device, "up")
        _run("ip", "-n", name, "route", "add", "default", "via", f"{net}.1")

    def _forward(self, value: str) -> None:
        path = Path("/proc/sys/net/ipv4/ip_forward")
        self.inside(self._router, lambda: path.write_text(value))


def _enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(handle, _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(handle)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Made, and removed whatever happens."""
    made = Namespaces()
    try:
        made.make()
        yield made
    finally:
        made.remove()
