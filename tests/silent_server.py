"""A TCP server that says nothing, or at first only what a proxy says: it records when each of its clients left."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Self

PATIENCE_S = 60.0
_PIECE = 65_536


class SilentServer:
    """Listens until it is closed. `heard` is what the clients said, `left_at` when each closed its connection, on
    time.monotonic. With `greets`, whoever asks for a tunnel as proxies give them is told that it has one."""

    def __init__(self, *, greets: bool = False) -> None:
        self.heard: list[bytes] = []
        self.left_at: list[float] = []
        self._greets = greets
        self._news = threading.Condition()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def wait_heard(self, what: Callable[[bytes], bool]) -> None:
        """Until somebody has said such a piece."""
        self._wait(lambda: any(map(what, self.heard)))

    def wait_left(self, clients: int = 1) -> float:
        """When so many of them had left."""
        self._wait(lambda: len(self.left_at) >= clients)
        return self.left_at[clients - 1]

    def _wait(self, is_so: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(is_so, PATIENCE_S), f"it never came to be so: {len(self.heard)} pieces"

    def _live(self) -> None:
        threads: list[threading.Thread] = []
        clients: list[socket.socket] = []
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                break
            clients.append(client)
            threads.append(threading.Thread(target=self._listen, args=(client,), daemon=True))
            threads[-1].start()
        for client in clients:
            _shut(client)
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()

    def _listen(self, client: socket.socket) -> None:
        piece = b"-"
        while piece:
            try:
                piece = client.recv(_PIECE)
            except OSError:
                piece = b""
            if self._greets and piece.startswith(b"CONNECT "):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self._news:
                if piece:
                    self.heard.append(piece)
                else:
                    self.left_at.append(time.monotonic())
                self._news.notify_all()


def _shut(client: socket.socket) -> None:
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def is_hello(piece: bytes) -> bool:
    """The first piece of TLS: a record of a handshake."""
    return piece.startswith(b"\x16\x03")
