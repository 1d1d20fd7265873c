"""Real proxies in front of a dispatcher, with the very files of `deploy/`: nginx and HAProxy, on free ports.

A proxy is handed sockets that listen already: nobody else can take its ports, and whoever connects before it is up
waits for it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from asynchronous import PATIENCE_S
from dispatcher_process import ROOT, DispatcherProcess

KINDS = ("nginx", "haproxy")
# Debian has them where only root's PATH leads.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])

# What Debian's nginx.conf has, as far as it could matter, for a process in a folder of its own, root or not.
_NGINX = """
user root;
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr info;
events { worker_connections 768; }
http {
    sendfile on;
    tcp_nopush on;
    gzip on;
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}
"""


class Proxy(NamedTuple):
    """Where it is reached: by HTTP, and by gRPC as HOST:PORT."""

    url: str
    grpc: str


def why_not(kind: str) -> str:
    """Why there can be none here; empty when there can."""
    return "" if shutil.which(kind, path=_PATH) else f"there is no `{kind}` (Debian's package of this name)"


@contextlib.contextmanager
def running_proxy(
    kind: str, folder: Path, dispatcher: DispatcherProcess, changes: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """`changes`: what is to stand instead of what stands in the file of `deploy/`."""
    folder = Path(tempfile.mkdtemp(dir=folder, prefix=kind))
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as grpc:
        proxy = Proxy(f"http://{_name(http)}", _name(grpc))
        listening = _nginx(folder, http, grpc) if kind == "nginx" else _haproxy(http, grpc)
        behind = {
            "127.0.0.1:8080": dispatcher.url.removeprefix("http://"),
            "127.0.0.1:50051": dispatcher.address,
        }
        name = "nginx.conf" if kind == "nginx" else "haproxy.cfg"
        _write(folder / "site.conf", ROOT / "deploy" / name, {**(changes or {}), **listening, **behind})
        process = _start(kind, folder, (http.fileno(), grpc.fileno()))
    try:
        yield proxy
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def _nginx(folder: Path, http: socket.socket, grpc: socket.socket) -> Mapping[str, str]:
    (folder / "nginx.conf").write_text(_NGINX)
    return {"listen 80;": f"listen {_name(http)};", "listen 50052 ": f"listen {_name(grpc)} "}


def _haproxy(http: socket.socket, grpc: socket.socket) -> Mapping[str, str]:
    return {"bind :80\n": f"bind fd@{http.fileno()}\n", "bind :50052 ": f"bind fd@{grpc.fileno()} "}


def _write(to: Path, example: Path, changes: Mapping[str, str]) -> None:
    text = example.read_text()
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in {example}"
        text = text.replace(old, new)
    to.write_text(text)


def _start(kind: str, folder: Path, listeners: tuple[int, int]) -> subprocess.Popen[bytes]:
    program = shutil.which(kind, path=_PATH)
    assert program is not None
    flags = (
        ["-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
        if kind == "nginx"
        else ["-db", "-f", "site.conf"]
    )
    # By this nginx finds the sockets that it is handed.
    handed = {"NGINX": "".join(f"{number};" for number in listeners)} if kind == "nginx" else {}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [program, *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=listeners,
            env={**os.environ, **handed},
            cwd=folder,
        )
