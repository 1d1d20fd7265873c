"""What a process has open, and who holds the other end of each of its connections, through a proxy too."""

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tcp_proxy import TcpProxy

# Of a connection whose other end nobody has open any more.
NOBODY = "nobody"


class Open(NamedTuple):
    """A file, or a connection with the ports of both its ends."""

    name: str
    here: int = 0
    there: int = 0

    @property
    def is_connection(self) -> bool:
        return self.there != 0


class Held(NamedTuple):
    """A connection of a process, and who holds its other end. `lost` are the ways on which its proxy lets nothing
    through any more."""

    connection: Open
    holder: str
    lost: str = ""

    def __str__(self) -> str:
        return f"{self.connection.name}, held by {self.holder}{f', {self.lost} lost' if self.lost else ''}"


def open_files(pid: int) -> list[Open]:
    """What a process has open; connections by their state and the ports of both ends."""
    tcp: dict[str, Open] = {}
    lines = [Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
    for line in itertools.chain(*lines):
        _, *ends, state = line.split()[:4]
        inode = line.split()[9]
        here, there = (int(end.rpartition(":")[2], 16) for end in ends)
        tcp[f"socket:[{inode}]"] = Open(f"tcp {here} to {there}, state {state}", here, there)
    files = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            name = str(file.readlink())
            files.append(tcp.get(name, Open(name)))
    return sorted(files)


def held_connections(pid: int, peers: Mapping[str, int], proxies: list[TcpProxy]) -> list[Held]:
    """The connections of a process. `peers` are other processes by name, who may have dialled it, or a proxy to it."""
    by_ports = {
        (end.here, end.there): name
        for name, peer in peers.items()
        for end in open_files(peer)
        if end.is_connection
    }
    # A proxy reaches its target by one port, for who came to it by two others.
    carried = {leaves_by: (came, lost) for proxy in proxies for came, leaves_by, lost in proxy.carried}
    held = []
    for connection in filter(lambda file: file.is_connection, open_files(pid)):
        came, lost = carried.get(connection.there, ((connection.there, connection.here), ""))
        held.append(Held(connection, by_ports.get(came, NOBODY), lost))
    return held
