"""An issuer of signed tokens: keys, a real HTTP server that publishes them on a port of its own, and tokens; and who
comes in with one."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from dialling import bearing, dialled, status_of
from dispatcher_process import DispatcherProcess
from grpc import StatusCode
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from southwest.ai.agent.v1 import chat_pb2, chat_pb2_grpc

AUDIENCE = "chat"
ISSUER = "https://login.example"

PrivateKey = Any
# How to make a key for each algorithm; RSA's takes a while, so all of them share one.
_CURVES: dict[str, ec.EllipticCurve] = {
    "ES256": ec.SECP256R1(),
    "ES384": ec.SECP384R1(),
    "ES512": ec.SECP521R1(),
}


@cache
def rsa_key(bits: int = 2_048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, bits)


def private_key(algorithm: str = "ES256") -> PrivateKey:
    """A new one, unless it is RSA."""
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else rsa_key()


def published(key: PrivateKey, key_id: str | None = "k1", **more: Any) -> dict[str, Any]:
    """The public half, as a JWK."""
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        told = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        told = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        told = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**told, **({} if key_id is None else {"kid": key_id}), **more}


def signed(key: PrivateKey, algorithm: str = "ES256", key_id: str | None = "k1", **claims: Any) -> str:
    """A token for here, for an hour, whose claims are these; one that is None is left out."""
    usual = {"aud": AUDIENCE, "iss": ISSUER, "sub": "alice", "exp": int(time.time()) + 3600}
    told = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(told, key, algorithm, headers={} if key_id is None else {"kid": key_id})


class Issuer:
    """Publishes `keys` at `url`, while `status` is 200, and counts who fetched them."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.status = 200
        self.fetches = 0
        # Cleared: it says nothing until it is set; or drips, twenty bytes a second.
        self.answers = threading.Event()
        self.drips = False
        self.answers.set()
        self.headers: dict[str, str] = {}
        self.url = ""

    @property
    def content(self) -> bytes:
        return json.dumps({"keys": self.keys}).encode()


@contextlib.contextmanager
def publishing(issuer: Issuer, tls: tuple[Path, Path] | None = None) -> Iterator[Issuer]:
    """Until the block ends. `tls`: the certificate and its key."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.fetches += 1
            if not issuer.drips:
                issuer.answers.wait()
            content = issuer.content
            with contextlib.suppress(OSError):
                self.send_response(issuer.status)
                for name, value in issuer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    issuer.answers.wait(0.05)

        def log_message(self, *_: object) -> None:
            """Not on the test's standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()


# What a dispatcher is told of it, besides where its keys are.
TRUSTING = ("--jwt-audience", AUDIENCE, "--jwt-issuer", ISSUER, "--jwt-leeway-s", "5", "--log-level", "debug")


async def asked(dispatcher: DispatcherProcess, token: str) -> StatusCode:
    """How ListAgents ends for who bears it."""
    async with dialled(dispatcher.address) as channel:
        request = chat_pb2.ListAgentsRequest()
        call = chat_pb2_grpc.ChatStub(channel).ListAgents(request, metadata=bearing(token))
        return (await status_of(call)).code
