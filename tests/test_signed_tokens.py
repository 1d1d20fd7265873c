"""JWTs over real gRPC: who comes in with which, as whom, and who doesn't."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from asynchronous import asynchronous, eventually
from chat_viewer import asking, conversing, viewing
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dialling import bearing, dialled, status_of
from dispatcher_process import DispatcherProcess, running_dispatcher
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from issuer import AUDIENCE, ISSUER, TRUSTING, Issuer, asked, private_key, published, rsa_key, signed
from scripted_commander import linked, unique
from southwest.ai.agent.v1 import admin_pb2, admin_pb2_grpc, chat_pb2, chat_pb2_grpc

from dispatcher.auth import Access
from dispatcher.identity import Identity
from dispatcher.signed_tokens import TOKEN_CHARS_MAX, RefusedError, SignedTokens, identity_of
from dispatcher.signing_keys import KeyLimits, SigningKeys

OK = StatusCode.OK
UNAUTHENTICATED = StatusCode.UNAUTHENTICATED
DENIED = StatusCode.PERMISSION_DENIED

KEY = private_key()
STRANGER = private_key()
# One that the file of tokens knows.
STATIC = "secret-of-static"


@pytest.fixture(scope="module")
def dispatcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DispatcherProcess]:
    """A dispatcher that knows the issuer's keys from a file, and one token of its own."""
    folder = tmp_path_factory.mktemp("keys")
    tokens = folder / "tokens.toml"
    digest = hashlib.sha256(STATIC.encode()).hexdigest()
    tokens.write_text(f'[[tokens]]\nname = "static"\nrole = "admin"\nsha256 = "{digest}"\n')
    keys = folder / "keys.json"
    keys.write_bytes(Issuer(published(KEY), published(rsa_key(), "rsa")).content)
    with running_dispatcher("--tokens-file", str(tokens), "--jwt-jwks", str(keys), *TRUSTING) as process:
        yield process


async def administered(dispatcher: DispatcherProcess, token: str) -> StatusCode:
    async with dialled(dispatcher.address) as channel:
        request = admin_pb2.GetLimitsRequest()
        call = admin_pb2_grpc.AdminStub(channel).GetLimits(request, metadata=bearing(token))
        return (await status_of(call)).code


# --- tokens that are good, and all that isn't --------------------------------------------------------------


def _now() -> int:
    return int(time.time())


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _unsigned(algorithm: str) -> str:
    header, claims = {"alg": algorithm, "typ": "JWT", "kid": "k1"}, signed(KEY).split(".")[1]
    return f"{_encoded(header)}.{claims}."


def _with_the_public_key_as_a_secret(form: PublicFormat, encoding: Encoding) -> str:
    """What a verifier takes for signed that lets the token choose between secrets and keys."""
    header, claims = {"alg": "HS256", "typ": "JWT", "kid": "rsa"}, signed(KEY).split(".")[1]
    said = f"{_encoded(header)}.{claims}"
    secret = rsa_key().public_key().public_bytes(encoding, form)
    signature = hmac.digest(secret, said.encode(), "sha256")
    return f"{said}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _with_a_key_of_its_own() -> str:
    claims = jwt.decode(signed(KEY), options={"verify_signature": False})
    brought = {
        "kid": "k1",
        "jwk": published(STRANGER),
        "jku": "http://127.0.0.1:1/keys",
        "x5u": "http://127.0.0.1:1/",
    }
    return jwt.encode(claims, STRANGER, "ES256", headers=brought)


def _changed(token: str) -> str:
    """Another user's claims under the same signature."""
    header, claims, signature = token.split(".")
    told = json.loads(base64.urlsafe_b64decode(claims + "=="))
    return f"{header}.{_encoded({**told, 'sub': 'bob'})}.{signature}"


GOOD: dict[str, Callable[[], str]] = {
    "as it should be": lambda: signed(KEY),
    "by RSA": lambda: signed(rsa_key(), "RS256", "rsa"),
    "by RSA-PSS": lambda: signed(rsa_key(), "PS512", "rsa"),
    "expired within the leeway": lambda: signed(KEY, exp=_now() - 1),
    "one of several audiences": lambda: signed(KEY, aud=["other", AUDIENCE]),
    "without a key's id, where one fits": lambda: signed(KEY, key_id=None),
    "an application, said so": lambda: signed(KEY, role="application"),
}
BAD: dict[str, tuple[Callable[[], str], str]] = {
    "expired": (lambda: signed(KEY, exp=_now() - 60), "it has expired"),
    "without an end": (lambda: signed(KEY, exp=None), "it lacks exp, aud, or iss"),
    "an end that is no time": (lambda: signed(KEY, exp="soon"), "it is malformed"),
    "not valid yet": (lambda: signed(KEY, nbf=_now() + 60), "it is not valid yet"),
    "of the future": (lambda: signed(KEY, iat=_now() + 60), "it is not valid yet"),
    "for another audience": (lambda: signed(KEY, aud="bank"), "its audience is not jwt_audience"),
    "for no audience": (lambda: signed(KEY, aud=None), "it lacks exp, aud, or iss"),
    "by another issuer": (lambda: signed(KEY, iss="https://evil.example"), "its issuer is not jwt_issuer"),
    "by no issuer": (lambda: signed(KEY, iss=None), "it lacks exp, aud, or iss"),
    "by nobody, alg none": (lambda: _unsigned("none"), "it is not signed with one of"),
    "by nobody, alg NONE": (lambda: _unsigned("NONE"), "it is not signed with one of"),
    "by nobody, alg ES256": (lambda: _unsigned("ES256"), "its signature is not that of the key"),
    "the public key as a secret, PEM": (
        lambda: _with_the_public_key_as_a_secret(PublicFormat.SubjectPublicKeyInfo, Encoding.PEM),
        "it is not signed with one of",
    ),
    "the public key as a secret, DER": (
        lambda: _with_the_public_key_as_a_secret(PublicFormat.SubjectPublicKeyInfo, Encoding.DER),
        "it is not signed with one of",
    ),
    "by a stranger": (lambda: signed(STRANGER), "its signature is not that of the key"),
    "by a stranger with a key that it brings along": (
        _with_a_key_of_its_own,
        "its signature is not that of the key",
    ),
    "by a stranger with a key of its own": (
        lambda: signed(STRANGER, key_id="mine"),
        "it is signed with a key or an algorithm that the issuer does not publish",
    ),
    "by the key of another algorithm": (
        lambda: signed(KEY, key_id="rsa"),
        "it is signed with a key or an algorithm that the issuer does not publish",
    ),
    "with claims changed": (lambda: _changed(signed(KEY)), "its signature is not that of the key"),
    "for nobody": (lambda: signed(KEY, sub=None), "its sub is no user's id"),
    "for the empty user": (lambda: signed(KEY, sub=""), "its sub is no user's id"),
    "for a user with too long an id": (lambda: signed(KEY, sub="x" * 257), "its sub is no user's id"),
    "for half a character": (lambda: signed(KEY, sub="\ud800"), "its sub is no user's id"),
    "of a role that there isn't": (lambda: signed(KEY, role="king"), "its role is not one of"),
    "of several roles": (lambda: signed(KEY, role=["admin"]), "its role is not one of"),
    "of no role": (lambda: signed(KEY, role=""), "its role is not one of"),
    "with no name for its client": (lambda: signed(KEY, azp=7), "its azp or client_id is no name"),
    "with thoughts in words": (
        lambda: signed(KEY, thoughts="yes"),
        "its thoughts are neither true nor false",
    ),
    "two dots": (lambda: "..", "it is no JWT"),
    "three words": (lambda: "no.such.token", "it is no JWT"),
}


@pytest.mark.parametrize("how", GOOD)
def test_a_token_that_is_good_lets_in(dispatcher: DispatcherProcess, how: str) -> None:
    @asynchronous
    async def scene() -> None:
        token = GOOD[how]()
        for _ in range(2):  # the second time it is known
            assert await asked(dispatcher, token) is OK

    scene()


@pytest.mark.parametrize("how", BAD)
def test_a_token_that_is_not_good_lets_nobody_in(dispatcher: DispatcherProcess, how: str) -> None:
    @asynchronous
    async def scene() -> None:
        token = BAD[how][0]()
        for _ in range(2):
            assert await asked(dispatcher, token) is UNAUTHENTICATED
        assert await administered(dispatcher, token) is UNAUTHENTICATED

    scene()


async def _here(folder: Path, leeway_s: float = 5) -> SignedTokens:
    """As in a dispatcher that has just started."""
    path = folder / "keys.json"
    path.write_bytes(Issuer(published(KEY), published(rsa_key(), "rsa")).content)
    keys = SigningKeys(str(path), KeyLimits(refresh_s=300, refetch_s=300, stale_s=300, timeout_s=60))
    await keys.begin()
    return SignedTokens(keys, AUDIENCE, ISSUER, leeway_s)


@pytest.mark.parametrize("how", BAD)
def test_the_log_says_what_was_wrong_and_nothing_of_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    make, why = BAD[how]

    @asynchronous
    async def scene() -> None:
        token = make()
        with caplog.at_level("DEBUG"):
            assert await (await _here(tmp_path)).identify(token) is None
        assert f"refused 1 signed tokens; the last: {why}" in caplog.text
        assert not [part for part in token.split(".") if len(part) > 8 and part in caplog.text]

    scene()


@asynchronous
async def test_one_line_tells_of_many_refusals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = await _here(tmp_path)
    for _ in range(100):
        assert await tokens.identify("no.such.token") is None
    assert caplog.text.count("\n") == 1


@asynchronous
async def test_a_token_of_absurd_length_is_not_even_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = await _here(tmp_path)
    usual = len(signed(KEY, padding=""))
    # Each three bytes of claims are four characters of a token.
    fits = signed(KEY, padding="x" * ((TOKEN_CHARS_MAX - usual) * 3 // 4 - 4))
    assert await tokens.identify(fits) == Identity("application", "jwt", "alice")
    assert await tokens.identify(signed(KEY, padding="x" * TOKEN_CHARS_MAX)) is None
    assert f"it has more than {TOKEN_CHARS_MAX} characters" in caplog.text


@asynchronous
async def test_a_token_that_is_known_expires_all_the_same(tmp_path: Path) -> None:
    tokens = await _here(tmp_path, leeway_s=0)
    token = signed(KEY, exp=_now() + 2)
    assert await tokens.identify(token) is not None
    await eventually(lambda: tokens.identify(token), lambda who: who is None)


@asynchronous
async def test_what_the_tokens_file_knows_still_lets_in(dispatcher: DispatcherProcess) -> None:
    assert await administered(dispatcher, STATIC) is OK
    assert await administered(dispatcher, STATIC[:-1]) is UNAUTHENTICATED
    assert await asked(dispatcher, "") is UNAUTHENTICATED


# --- as whom -----------------------------------------------------------------------------------------------


@asynchronous
async def test_roles_of_signed_tokens(dispatcher: DispatcherProcess) -> None:
    assert await administered(dispatcher, signed(KEY, role="admin", sub=None)) is OK
    assert await asked(dispatcher, signed(KEY, role="admin", sub="root")) is OK
    assert await administered(dispatcher, signed(KEY)) is DENIED
    assert await asked(dispatcher, signed(KEY, role="commander")) is DENIED
    agent = unique("agent")
    async with linked(dispatcher.address, agent, token=signed(KEY, role="commander", sub=None)):
        assert await asked(dispatcher, signed(KEY)) is OK


@asynchronous
async def test_a_signed_token_is_its_user_and_nobody_else(dispatcher: DispatcherProcess) -> None:
    agent = unique("agent")
    alice = signed(KEY, azp="notebook", scope="openid thoughts")
    async with (
        linked(dispatcher.address, agent, token=signed(KEY, role="commander")) as link,
        conversing(dispatcher.address, token=alice) as talk,
        conversing(dispatcher.address, token=signed(KEY, sub="bob")) as other,
        dialled(dispatcher.address) as channel,
    ):
        seen = await talk.ask(agent, include_thoughts=True)
        turn = await link.started()
        assert (await seen.until("opened")).opened.user_id == "alice"
        stop = chat_pb2.ClientPacket(session_id=turn.session_id, stop=chat_pb2.StopAsked())
        await other.send(stop)
        assert (await other.receipt()).error.code == "unknown_session"
        assert (await other.request("x", ask=asking(agent, user_id="alice"))).error.code == "invalid_request"
        await turn.think("plan", "hmm")
        await seen.until("thought")
        # Another token of the same user's, which may not have thoughts.
        request = chat_pb2.SubscribeRequest(session_id=turn.session_id, include_thoughts=True)
        call = chat_pb2_grpc.ChatStub(channel).Subscribe(request, metadata=bearing(signed(KEY, azp="phone")))
        async with viewing(call, turn.session_id) as (_, again):
            await turn.say("Hello")
            await again.until_text("Hello")
            await talk.request("1", stop=chat_pb2.StopAsked())
            assert (await turn.stopped()).actor == "application:notebook"
            await again.ended()
            assert "thought" not in again.kinds


# --- laws --------------------------------------------------------------------------------------------------

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=4)
    | st.lists(st.text(max_size=4), max_size=2)
)
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["application", "admin", "commander"]) | VALUES,
        "sub": st.text(min_size=1, max_size=4) | VALUES,
        "azp": st.text(min_size=1, max_size=4) | VALUES,
        "client_id": VALUES,
        "scope": st.sampled_from(["thoughts", "a thoughts b", "thoughtsful", "my.thoughts", ["thoughts"]])
        | VALUES,
        "thoughts": VALUES,
    },
)


@given(CLAIMS)
def test_whatever_a_token_claims_its_bearer_is_somebody_with_bounds_or_nobody(claims: dict[str, Any]) -> None:
    try:
        who = identity_of(claims)
    except RefusedError:
        return
    assert who.role == claims.get("role", "application")
    assert who.name.encode()
    assert who.actor
    assert (who.user_id != "") is (who.role == "application")
    if who.role == "application":
        assert who.user_id == claims["sub"]
        assert not who.may_see(who.actor, "")
        assert not who.may_see(who.actor, who.user_id + "x")
    if who.thoughts and claims.get("thoughts") is None:
        words = claims.get("scope") or []
        assert who.role == "admin" or "thoughts" in (words.split() if isinstance(words, str) else words)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> SignedTokens:
    return asyncio.run(_here(tmp_path_factory.mktemp("keys")))


HOUR = signed(KEY)
# All that may stand in a token, and what some decoders take for it.
ALPHABET = st.sampled_from("ABCDwxyz0189-_+/=. \n\x00é\ud800")


@given(st.integers(0, len(HOUR) - 1), ALPHABET | st.just(""))
def test_no_change_of_a_character_leaves_a_token_good(tokens: SignedTokens, at: int, other: str) -> None:
    changed = HOUR[:at] + other + HOUR[at + 1 :]
    assert (asyncio.run(tokens.identify(changed)) is not None) is (changed == HOUR)


@given(st.text(ALPHABET, max_size=60))
def test_whatever_is_borne_is_refused_in_peace(tokens: SignedTokens, bearer: str) -> None:
    assert asyncio.run(tokens.identify(bearer)) is None
    assert asyncio.run(Access((), tokens).identify(bearer)) is None


def test_what_a_token_claims_in_full() -> None:
    claims = {"role": "admin", "sub": "root", "azp": "console", "thoughts": False}
    assert identity_of(claims) == Identity("admin", "console", "", thoughts=False)
    assert identity_of({"role": "admin"}) == Identity("admin", "jwt", "", thoughts=True)
    assert identity_of({"sub": "a", "client_id": "app"}) == Identity("application", "app", "a")
    assert identity_of({"sub": "a", "thoughts": False, "scope": "thoughts"}) == Identity(
        "application", "jwt", "a"
    )
