"""What a client shows of itself, and whom it trusts: a token and certificates, read from files and looked at.

gRPC says of a file that it can't use only that no connection comes about: what is wrong with it is said here,
with the flag that named it. A pipe can be read but once, and so is only read. Called by `connection`.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from dispatcher.console.outcome import ConsoleError, Exit

TOKEN_BYTES = 8_192  # more would not fit into the metadata a dispatcher takes


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate chain with its key, both PEM. `file` names it to the user."""

    file: Path
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


def read_token(path: Path) -> str:
    """Raises ConsoleError; never quotes what the file holds."""
    raw = _read(path, "--token-file").strip()
    if not raw or len(raw) > TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in raw):
        raise ConsoleError(
            f"--token-file: {path} holds no token: it is one word of at most {TOKEN_BYTES} ASCII characters",
            Exit.USAGE,
        )
    return raw.decode("ascii")


def read_authorities(path: Path) -> bytes:
    """Raises ConsoleError."""
    content = _read(path, "--tls-ca")
    if path.is_fifo():
        return content
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, ValueError):
        raise ConsoleError(f"--tls-ca: {path} should hold certificates in PEM", Exit.USAGE) from None
    return content


def read_certificate(certificate: Path | None, key: Path | None, *, tls: bool) -> ClientCertificate | None:
    """None where none is to be shown. Raises ConsoleError."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, other = ("--tls-key", "--tls-certificate") if key else ("--tls-certificate", "--tls-key")
        raise ConsoleError(f"{given} needs {other}: give both or neither", Exit.USAGE)
    if not tls:
        raise ConsoleError(
            "--tls-certificate has no effect without TLS: add --tls, or --tls-ca FILE for a private authority",
            Exit.USAGE,
        )
    shown = ClientCertificate(certificate, _read(certificate, "--tls-certificate"), _read(key, "--tls-key"))
    if certificate.is_fifo() or key.is_fifo():
        return shown
    try:
        # With a password that is never right, an encrypted key is an error and no question at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        mismatch = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        raise ConsoleError(
            f"--tls-certificate, --tls-key: {key} is not the key of {certificate}"
            if mismatch
            else f"--tls-certificate, --tls-key: {certificate} should be a certificate chain and {key} its key, "
            "both in PEM, the key not encrypted",
            Exit.USAGE,
        ) from None
    return shown


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConsoleError(f"{flag}: can't read {path}: {error.strerror}", Exit.USAGE) from None
