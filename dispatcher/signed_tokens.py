"""Signed tokens, JWTs: whose they are, once an issuer's key has verified them. Asked by `auth.py`.

What a token says of its bearer: `sub` is the user, whom an application's has to name; `role` is application where it
is left out; `azp` or `client_id` is the name; `thoughts`, true or false, or that word in `scope`, is the permission.
What is wrong with a token is told in the log, never what is in it.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, get_args

import jwt

from dispatcher.identity import Identity, Role, is_id
from dispatcher.refusals import Refusals
from dispatcher.signing_keys import ALGORITHMS, KeySet, SigningKeys

# More than this is in no token that fits into the headers of a request.
TOKEN_CHARS_MAX: Final = 8_192
# Tokens whose verification is remembered, the latest.
VERIFIED_MAX: Final = 10_000
# The name of those whose token names no client.
_NAMELESS: Final = "jwt"

# In the words of the log; the library's would quote the token.
_WRONG: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidAudienceError, "its audience is not jwt_audience"),
    (jwt.InvalidIssuerError, "its issuer is not jwt_issuer"),
    (jwt.InvalidSignatureError, "its signature is not that of the key it names"),
    (jwt.MissingRequiredClaimError, "it lacks exp, aud, or iss where jwt_issuer is set"),
)


class RefusedError(Exception):
    """A token that lets nobody in. The message says why, in words of ours alone."""


class _Verified(NamedTuple):
    identity: Identity
    expires_at: int
    keys: KeySet


class SignedTokens:
    """Those that `keys` verify, made for `audience`, by `issuer` unless that is empty. `leeway_s`: how far the issuer's
    clock may be off."""

    def __init__(self, keys: SigningKeys, audience: str, issuer: str, leeway_s: float) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer or None
        self._leeway_s = leeway_s
        # By the token's hash, the last used at the end: verifying one takes a tenth of a millisecond of everybody's.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._refusals = Refusals("signed tokens")

    async def identify(self, token: str) -> Identity | None:
        """Who bears it; None: nobody that may come in."""
        try:
            return await self._identify(token)
        except RefusedError as refused:
            self._refusals.tell(str(refused))
            return None

    async def _identify(self, token: str) -> Identity:
        if len(token) > TOKEN_CHARS_MAX:
            raise RefusedError(f"it has more than {TOKEN_CHARS_MAX} characters")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._verified.get(digest)
        if known is not None and known.keys is self._keys.usable and self._is_valid(known.expires_at):
            self._verified.move_to_end(digest)
            return known.identity
        keys, key, algorithm = await self._key_of(token)
        claims = self._claims(token, key, algorithm)
        identity = identity_of(claims)
        self._verified[digest] = _Verified(identity, int(claims["exp"]), keys)
        self._verified.move_to_end(digest)
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return identity

    def _is_valid(self, expires_at: int) -> bool:
        return expires_at > time.time() - self._leeway_s

    async def _key_of(self, token: str) -> tuple[KeySet, Any, str]:
        """The key that it names, which may be a new one of the issuer's, and the algorithm."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise RefusedError("it is no JWT") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise RefusedError("it is not signed with one of " + ", ".join(sorted(ALGORITHMS)))
        keys = self._keys.usable
        if keys is None or (key_id is not None and not keys.knows(key_id)):
            await self._keys.read_anew()
            keys = self._keys.usable
        if keys is None:
            raise RefusedError("there are no keys to verify it with")
        key = keys.find(key_id, algorithm)
        if key is None:
            raise RefusedError("it is signed with a key or an algorithm that the issuer does not publish")
        return keys, key, algorithm

    def _claims(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": ["exp"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            why = next((words for kind, words in _WRONG if isinstance(error, kind)), "it is malformed")
            raise RefusedError(why) from None


def identity_of(claims: Mapping[str, Any]) -> Identity:
    """Who a verified token says its bearer is. Raises RefusedError."""
    role = claims.get("role", "application")
    if role not in get_args(Role):
        raise RefusedError(f"its role is not one of {', '.join(get_args(Role))}")
    name = claims.get("azp", claims.get("client_id", _NAMELESS))
    if not is_id(name):
        raise RefusedError("its azp or client_id is no name")
    # Only an application is a user: admins may see everything, and commanders nothing.
    if role != "application":
        return Identity(role, name, "", _thoughts(role, claims))
    user_id = claims.get("sub")
    if not is_id(user_id):
        raise RefusedError("its sub is no user's id, and the role application needs one")
    return Identity(role, name, user_id, _thoughts(role, claims))


def _thoughts(role: Role, claims: Mapping[str, Any]) -> bool:
    told = claims.get("thoughts")
    if told is not None:
        if not isinstance(told, bool):
            raise RefusedError("its thoughts are neither true nor false")
        return told
    scope = claims.get("scope")
    words = scope.split() if isinstance(scope, str) else scope
    return role == "admin" or (isinstance(words, list) and "thoughts" in words)
