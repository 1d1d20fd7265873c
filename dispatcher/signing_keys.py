"""An issuer's public keys, with which signed tokens are verified: read from a file or an https address, and kept fresh.

Reading takes place in a thread of its own, for names and files may hang, and bounded in time and size. While it fails,
the keys of before serve on for a while. Knows nothing of tokens; `signed_tokens.py` asks, `serve.py` has it kept.
"""

import asyncio
import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWTError

SET_BYTES_MAX: Final = 262_144
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2_048
RSA_BITS_MAX: Final = 8_192
# After a failure the next try is made so much later, unless somebody wants it sooner.
RETRY_S: Final = 10.0

# Asymmetric ones alone: with a shared secret, whoever can verify a token could make one.
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVES: Final = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
ALGORITHMS: Final = frozenset(_RSA).union(*_OF_CURVES.values())
# What a public key consists of. Of a private one nothing else is taken, so it can't become a secret here.
_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y")

log = logging.getLogger(__name__)


class KeysError(Exception):
    """Keys that can't be had now, or not be used. The message names the place and what would be right."""


class Key(NamedTuple):
    """`key_id` is None where the issuer gives it none."""

    key_id: str | None
    algorithms: tuple[str, ...]
    public: Any


class KeySet:
    """What was read at once. Compared by identity: tokens that it has verified are verified while it is there."""

    def __init__(self, keys: list[Key]) -> None:
        self._keys = keys

    def knows(self, key_id: str) -> bool:
        return any(key.key_id == key_id for key in self._keys)

    def find(self, key_id: str | None, algorithm: str) -> Any:
        """The key of a token that names it so. One that names none means the only one that there can be."""
        fitting = [
            key.public for key in self._keys if algorithm in key.algorithms and key_id in (None, key.key_id)
        ]
        return fitting[0] if len(fitting) == 1 or (fitting and key_id is not None) else None


def parsed(content: bytes) -> KeySet:
    """A JWK Set, RFC 7517, without those of its keys that no token can be verified with. Raises KeysError, which goes
    on from the place: "… should be"."""
    if len(content) > SET_BYTES_MAX:
        raise KeysError(f"should have at most {SET_BYTES_MAX} bytes")
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        raise KeysError("should be JSON") from None
    entries = told.get("keys") if isinstance(told, dict) else None
    if not isinstance(entries, list):
        raise KeysError('should be a JWK Set: {"keys": […]}')
    if len(entries) > KEYS_MAX:
        raise KeysError(f"should hold at most {KEYS_MAX} keys, and holds {len(entries)}")
    keys = [key for entry in entries if (key := _key(entry)) is not None]
    if not keys:
        raise KeysError(
            f"should hold a public key for signatures: RSA of {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, P-256, P-384, "
            "P-521, Ed25519 or Ed448"
        )
    return KeySet(keys)


def _key(entry: Any) -> Key | None:
    if not isinstance(entry, dict):
        return None
    fitting = _RSA if entry.get("kty") == "RSA" else _of_curve(entry)
    algorithms = tuple(each for each in fitting if entry.get("alg") in (None, each))
    is_for_signatures = entry.get("use") in (None, "sig") and _is_to_verify(entry.get("key_ops"))
    key_id = entry.get("kid")
    if not algorithms or not is_for_signatures or not isinstance(key_id, str | None):
        return None
    try:
        public = PyJWK({name: entry[name] for name in _PUBLIC if name in entry}, algorithms[0]).key
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, LookupError, ArithmeticError):
        return None
    if isinstance(public, RSAPublicKey) and not RSA_BITS_MIN <= public.key_size <= RSA_BITS_MAX:
        return None
    return Key(key_id, algorithms, public)


def _of_curve(entry: dict[str, Any]) -> tuple[str, ...]:
    kind, curve = entry.get("kty"), entry.get("crv")
    return _OF_CURVES.get((kind, curve), ()) if isinstance(kind, str) and isinstance(curve, str) else ()


def _is_to_verify(key_ops: object) -> bool:
    return key_ops is None or (isinstance(key_ops, list) and "verify" in key_ops)


class KeyLimits(NamedTuple):
    """`refresh_s`: how old keys get before they are read again; `refetch_s`: how soon they are read again for a key
    that is not there; `stale_s`: how old they may be where that fails; `timeout_s`: how long a reading may take."""

    refresh_s: float
    refetch_s: float
    stale_s: float
    timeout_s: float


class SigningKeys:
    """The keys at `place`, a path or an address. `begin` once, then `keep` as a task for as long as anybody asks."""

    def __init__(self, place: str, limits: KeyLimits) -> None:
        self._place = place
        self._limits = limits
        self._read = reader(place, limits.timeout_s)
        self._content: bytes | None = None
        self._keys: KeySet | None = None
        # When the keys were read, and when a reading last began.
        self._fresh_at = self._begun_at = -math.inf
        # At most one, so that a place that hangs takes no more.
        self._thread: threading.Thread | None = None
        self._is_reading = False
        self._wanted = asyncio.Event()
        # Set, and replaced, at the end of each reading.
        self._was_read = asyncio.Event()
        self._complaint = ""

    def __repr__(self) -> str:
        return f"<SigningKeys of {self._place}>"

    @property
    def usable(self) -> KeySet | None:
        """The keys; None while there are none, or too old ones."""
        return self._keys if time.monotonic() - self._fresh_at < self._limits.stale_s else None

    async def begin(self) -> None:
        """Reads them first. Raises KeysError for a file; an address may answer later."""
        failure = await self._read_once()
        if failure is not None and "://" not in self._place:
            raise failure
        self._tell(failure)

    async def keep(self) -> None:
        """Reads them again and again, as they age and as somebody wants it. Ends by cancellation alone."""
        while True:
            aged_s = RETRY_S if self._complaint else self._limits.refresh_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(aged_s, self._limits.refresh_s)):
                    await self._wanted.wait()
            try:
                self._tell(await self._read_once())
            except Exception:
                log.exception("jwt_jwks: what %s holds could not be read", self._place)

    async def read_anew(self) -> None:
        """Waits for the end of a reading that has begun or begins now; returns at once where it is too soon for one, so
        that nobody can make us hammer the issuer."""
        if not self._is_reading:
            if time.monotonic() - self._begun_at < self._limits.refetch_s:
                return
            self._wanted.set()
        await self._was_read.wait()

    async def _read_once(self) -> KeysError | None:
        """What was wrong: then the keys are those of before."""
        self._begun_at, self._is_reading = time.monotonic(), True
        self._wanted.clear()
        try:
            content = await self._in_a_thread()
            if content != self._content:
                self._keys, self._content = parsed(content), content
            self._fresh_at = time.monotonic()
        except KeysError as error:
            return KeysError(f"jwt_jwks: {self._place} {error}")
        finally:
            was_read, self._was_read = self._was_read, asyncio.Event()
            self._is_reading = False
            was_read.set()
        return None

    def _tell(self, failure: KeysError | None) -> None:
        """Once of each cause, once more when the keys have become too old, and when it is over."""
        complaint = ""
        if failure is not None and self.usable is not None:
            complaint = f"{failure}; the keys of before serve on, until {self._limits.stale_s:g} s old"
        elif failure is not None:
            complaint = f"{failure}; signed tokens are refused until there are keys"
        elif self._complaint:
            log.info("jwt_jwks: %s has its keys again", self._place)
        if complaint and complaint != self._complaint:
            log.warning("%s", complaint)
        self._complaint = complaint

    async def _in_a_thread(self) -> bytes:
        """What is read there. Not a thread of the loop, which would be waited for at the end. Raises KeysError."""
        if self._thread is not None and self._thread.is_alive():
            raise KeysError("has not answered since the last time")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes | KeysError] = loop.create_future()

        def tell(told: bytes | KeysError) -> None:
            if not answer.done():
                answer.set_result(told)

        def work() -> None:
            try:
                told: bytes | KeysError = self._read()
            except KeysError as error:
                told = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                loop.call_soon_threadsafe(tell, told)

        self._thread = threading.Thread(target=work, name="signing-keys", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                told = await answer
        except TimeoutError:
            raise KeysError(f"has not answered within {self._limits.timeout_s:g} s") from None
        if isinstance(told, KeysError):
            raise told
        return told


def reader(place: str, timeout_s: float) -> Callable[[], bytes]:
    """What reads the place. It blocks, and raises KeysError."""
    return (lambda: _fetched(place, timeout_s)) if "://" in place else (lambda: _file(Path(place)))


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SET_BYTES_MAX + 1)
    except OSError as error:
        raise KeysError(f"can't be read: {error.strerror}") from None


def _fetched(url: str, timeout_s: float) -> bytes:
    """One GET. No proxy, and no redirect: what is answered is believed because of whose address this is."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=timeout_s)) as connection:
            connection.request("GET", target, headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                also = "; give the address that it points to" if 300 <= response.status < 400 else ""
                raise KeysError(f"answers with status {response.status}{also}")
            return response.read(SET_BYTES_MAX + 1)
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise KeysError(f"can't be fetched: {why}") from None
