"""Which keys of a JWK Set are taken, which token's they are, that no set breaks whoever reads it; and how a dispatcher
keeps them fresh, while they rotate, hang and go away."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from asynchronous import asynchronous, eventually
from certificates import certify, needs_openssl
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from dispatcher_process import running_dispatcher, serve_and_fail
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from issuer import AUDIENCE, TRUSTING, Issuer, asked, private_key, published, publishing, rsa_key, signed
from jwt.algorithms import ECAlgorithm
from scripted_commander import unique

from dispatcher.signing_keys import ALGORITHMS, KeyLimits, KeysError, KeySet, SigningKeys, parsed

OK = StatusCode.OK
UNAUTHENTICATED = StatusCode.UNAUTHENTICATED

KEY = private_key()
STRANGER = private_key()
LIMITS = KeyLimits(refresh_s=300, refetch_s=300, stale_s=300, timeout_s=60)


def of(*keys: object) -> KeySet:
    return parsed(json.dumps({"keys": keys}).encode())


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a_key_verifies_what_is_signed_by_its_other_half(algorithm: str) -> None:
    key = private_key(algorithm)
    public = of(published(key)).find("k1", algorithm)
    told = jwt.decode(signed(key, algorithm), public, algorithms=[algorithm], audience=AUDIENCE)
    assert told["sub"] == "alice"


def test_there_are_asymmetric_algorithms_alone() -> None:
    assert not [each for each in ALGORITHMS if each.startswith("HS") or each.lower() == "none"]
    assert len(ALGORITHMS) == 10


def test_the_other_edwards_curve_too() -> None:
    assert of(published(Ed448PrivateKey.generate())).find("k1", "EdDSA") is not None


def _without(key: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in key.items() if each != name}


EC = published(KEY)
SECRET = {"kty": "oct", "kid": "k1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"}
USELESS: dict[str, object] = {
    "a shared secret": SECRET,
    "one to encrypt with": {**EC, "use": "enc"},
    "one to sign with": {**EC, "key_ops": ["sign"]},
    "operations in words": {**EC, "key_ops": "verify"},
    "of no kind": _without(EC, "kty"),
    "of another kind": {**EC, "kty": "XYZ"},
    "of a list of kinds": {**EC, "kty": ["EC"]},
    "on no curve": _without(EC, "crv"),
    "on another curve": {**EC, "crv": "P-192"},
    "on bitcoin's curve": {**EC, "crv": "secp256k1"},
    "half a point": _without(EC, "y"),
    "a point beside the curve": {**EC, "y": EC["x"]},
    "a point by number": {**EC, "x": 7},
    "for another algorithm": {**EC, "alg": "ES384"},
    "for a shared secret's algorithm": {**EC, "alg": "HS256"},
    "with a number for an id": {**EC, "kid": 1},
    "RSA of a thousand bits": published(rsa_key(1_024)),
    "RSA without its modulus": _without(published(rsa_key()), "n"),
    "RSA of too many bits": {**published(rsa_key()), "n": "_" * 2_000},
    "no object": "key",
}


@pytest.mark.parametrize("what", USELESS)
def test_a_key_that_is_of_no_use_is_left_out(what: str) -> None:
    with pytest.raises(KeysError, match="should hold a public key for signatures"):
        of(USELESS[what])
    other = published(private_key(), "k2")
    keys = of(USELESS[what], other)
    assert keys.find("k2", "ES256") is not None
    assert not keys.knows("k1")


def test_of_a_private_key_only_the_public_half_is_taken() -> None:
    private = {**ECAlgorithm.to_jwk(KEY, as_dict=True), "kid": "k1"}
    assert "d" in private
    public = of(private).find("k1", "ES256")
    assert not hasattr(public, "private_numbers")
    assert jwt.decode(signed(KEY), public, algorithms=["ES256"], audience=AUDIENCE)


def test_which_key_a_token_means() -> None:
    one, other, rsa = published(KEY), published(private_key(), "k2"), published(rsa_key(), "k3", alg="PS256")
    keys = of(one, other, rsa)
    for key_id, algorithm, there in (
        ("k1", "ES256", True),
        ("k2", "ES256", True),
        ("k1", "ES384", False),
        ("k1", "PS256", False),
        ("k3", "PS256", True),
        ("k3", "RS256", False),
        ("k4", "ES256", False),
        # It names none: the only one of the algorithm, where there is but one.
        (None, "ES256", False),
        (None, "PS256", True),
        (None, "EdDSA", False),
    ):
        assert (keys.find(key_id, algorithm) is not None) is there, (key_id, algorithm)
    assert keys.find("k1", "ES256") != keys.find("k2", "ES256")
    assert [keys.knows(key_id) for key_id in ("k1", "k4", "")] == [True, False, False]
    unnamed = of(published(KEY, None))
    assert unnamed.find(None, "ES256") is not None
    assert unnamed.find("k1", "ES256") is None


def test_of_two_keys_with_one_id_the_first_is_meant() -> None:
    both = of(published(KEY), published(private_key()), published(rsa_key()))
    assert both.find("k1", "ES256") == of(published(KEY)).find("k1", "ES256")
    assert both.find("k1", "RS256") is not None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
# A good key with some of it replaced.
BROKEN = st.builds(
    lambda key, more: {**key, **more},
    st.sampled_from([EC, published(rsa_key()), published(private_key("EdDSA")), SECRET]),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "key_ops", "kid", "k"]),
        VALUES | st.sampled_from(["AQAB", "EC", "RSA", "OKP", "P-384", "Ed25519", "====", "ä", "\ud800"]),
        max_size=3,
    ),
)


@given(st.lists(BROKEN | VALUES, max_size=4) | VALUES)
def test_no_set_of_keys_breaks_whoever_reads_it(keys: object) -> None:
    try:
        read = parsed(json.dumps({"keys": keys}).encode())
    except KeysError:
        return
    assert isinstance(keys, list)
    named = [key["kid"] for key in keys if isinstance(key, dict) and isinstance(key.get("kid"), str)]
    for key_id in filter(read.knows, named):
        assert any(read.find(key_id, algorithm) for algorithm in ALGORITHMS)
    for algorithm in ("HS256", "none", ""):
        assert not [key_id for key_id in (None, *named) if read.find(key_id, algorithm)]


@given(st.binary(max_size=60))
def test_no_bytes_break_whoever_reads_them(content: bytes) -> None:
    with pytest.raises(KeysError):
        parsed(content)


@asynchronous
async def test_an_issuer_that_is_not_there_leaves_nothing_usable(tmp_path: Path) -> None:
    with publishing(Issuer(published(KEY))) as issuer:
        pass
    keys = SigningKeys(issuer.url, LIMITS)
    await keys.begin()
    assert keys.usable is None
    assert issuer.url in repr(keys)
    with pytest.raises(KeysError, match="can't be read"):
        await SigningKeys(str(tmp_path), LIMITS).begin()


EAGER = ("--jwt-refetch-s", "0.1")


def _trusting(issuer: Issuer, *flags: str, environ: Mapping[str, str] | None = None) -> Any:
    return running_dispatcher("--jwt-jwks", issuer.url, *TRUSTING, *flags, environ=environ)


@asynchronous
async def test_a_key_that_is_new_is_fetched_when_a_token_names_it() -> None:
    new = private_key("EdDSA")
    with publishing(Issuer(published(KEY))) as issuer, _trusting(issuer, *EAGER) as dispatcher:
        assert await asked(dispatcher, signed(KEY)) is OK
        issuer.keys = [published(new, "k2")]
        await eventually(lambda: asked(dispatcher, signed(new, "EdDSA", "k2")), lambda code: code is OK)
        # With its key the token is gone, though it was known.
        assert await asked(dispatcher, signed(KEY)) is UNAUTHENTICATED


@asynchronous
async def test_a_key_that_is_withdrawn_ends_tokens_that_were_verified_by_it() -> None:
    token = signed(KEY)
    with (
        publishing(Issuer(published(KEY))) as issuer,
        _trusting(issuer, "--jwt-refresh-s", "0.2") as dispatcher,
    ):
        assert await asked(dispatcher, token) is OK
        issuer.keys = [published(STRANGER, "k2")]
        await eventually(lambda: asked(dispatcher, token), lambda code: code is UNAUTHENTICATED)
        assert await asked(dispatcher, signed(STRANGER, key_id="k2")) is OK


@asynchronous
async def test_tokens_with_invented_keys_do_not_hammer_the_issuer() -> None:
    with (
        publishing(Issuer(published(KEY))) as issuer,
        _trusting(issuer, "--jwt-refetch-s", "3600") as dispatcher,
    ):
        for number in range(20):
            assert await asked(dispatcher, signed(STRANGER, key_id=f"invented-{number}")) is UNAUTHENTICATED
        assert await asked(dispatcher, signed(KEY)) is OK
        assert issuer.fetches == 1


@asynchronous
async def test_the_keys_of_before_serve_on_while_the_issuer_is_away_but_not_for_ever() -> None:
    token = signed(KEY)
    away = ("--jwt-refresh-s", "0.2", "--jwt-stale-s", "5")
    with publishing(Issuer(published(KEY))) as issuer, _trusting(issuer, *EAGER, *away) as dispatcher:
        assert await asked(dispatcher, token) is OK
        issuer.status = 503
        line = dispatcher.wait_for_log("; the keys of before serve on, until 5 s old")
        assert f" warning signing_keys: jwt_jwks: {issuer.url} answers with status 503;" in line
        assert await asked(dispatcher, signed(KEY, azp="another")) is OK
        await eventually(lambda: asked(dispatcher, token), lambda code: code is UNAUTHENTICATED)
        dispatcher.wait_for_log("signed tokens are refused until there are keys")
        issuer.status = 200
        await eventually(lambda: asked(dispatcher, token), lambda code: code is OK)
        dispatcher.wait_for_log("has its keys again")


@asynchronous
async def test_an_issuer_that_is_away_at_the_start_is_waited_for_by_tokens_alone() -> None:
    issuer = Issuer(published(KEY))
    issuer.status = 404
    with publishing(issuer), _trusting(issuer, *EAGER) as dispatcher:
        dispatcher.wait_for_log("answers with status 404; signed tokens are refused until there are keys")
        assert await asked(dispatcher, signed(KEY)) is UNAUTHENTICATED
        issuer.status = 200
        await eventually(lambda: asked(dispatcher, signed(KEY)), lambda code: code is OK)


@asynchronous
async def test_while_an_issuer_hangs_who_is_known_is_not_held_up() -> None:
    token = signed(KEY)
    with (
        publishing(Issuer(published(KEY))) as issuer,
        _trusting(issuer, *EAGER, "--jwt-fetch-timeout-s", "60") as dispatcher,
    ):
        assert await asked(dispatcher, token) is OK
        issuer.answers.clear()

        async def fetches() -> int:
            """One more asks for a key that is not there; once it isn't too soon for that, the keys are fetched."""
            strange = asyncio.ensure_future(asked(dispatcher, signed(STRANGER, key_id=unique("k"))))
            strangers.append(strange)
            await asyncio.wait([strange], timeout=0.1)
            return issuer.fetches

        strangers: list[asyncio.Future[StatusCode]] = []
        await eventually(fetches, lambda count: count == 2)
        assert await asked(dispatcher, token) is OK
        assert await asked(dispatcher, signed(KEY, azp="another")) is OK
        assert not all(each.done() for each in strangers)
        assert issuer.fetches == 2
        issuer.answers.set()
        assert {await each for each in strangers} == {UNAUTHENTICATED}


@asynchronous
async def test_an_issuer_that_hangs_is_given_up_and_asked_again() -> None:
    with (
        publishing(Issuer(published(KEY))) as issuer,
        _trusting(issuer, "--jwt-refresh-s", "0.2", "--jwt-fetch-timeout-s", "0.2") as dispatcher,
    ):
        # A machine that has much to do may not be there in time at first.
        await eventually(lambda: asked(dispatcher, signed(KEY)), lambda code: code is OK)
        issuer.answers.clear()
        dispatcher.wait_for_log("has not answered within 0.2 s; the keys of before serve on")
        assert await asked(dispatcher, signed(KEY)) is OK
        issuer.answers.set()
        dispatcher.wait_for_log("has its keys again")


@asynchronous
async def test_an_issuer_that_drips_is_given_up_and_takes_one_thread_alone() -> None:
    with (
        publishing(Issuer(published(KEY))) as issuer,
        _trusting(issuer, "--jwt-refresh-s", "0.1", "--jwt-fetch-timeout-s", "0.3") as dispatcher,
    ):
        await eventually(lambda: asked(dispatcher, signed(KEY)), lambda code: code is OK)
        issuer.drips = True
        issuer.answers.clear()
        dispatcher.wait_for_log("has not answered within 0.3 s; the keys of before serve on")
        fetches = issuer.fetches
        dispatcher.wait_for_log("has not answered since the last time; the keys of before serve on")
        assert await asked(dispatcher, signed(KEY)) is OK
        assert issuer.fetches == fetches
        issuer.answers.set()
        dispatcher.wait_for_log("has its keys again")


PLACES: dict[str, tuple[Callable[[Issuer], None], str]] = {
    "elsewhere": (
        lambda issuer: _points_to(issuer, "http://127.0.0.1:1/"),
        "answers with status 302; give the address",
    ),
    "endless": (lambda issuer: issuer.keys.append({"x": "x" * 300_000}), "should have at most 262144 bytes"),
    "empty": (lambda issuer: issuer.keys.clear(), "should hold a public key for signatures"),
}


def _points_to(issuer: Issuer, url: str) -> None:
    issuer.status, issuer.headers = 302, {"Location": url}


@pytest.mark.parametrize("what", PLACES)
def test_what_is_no_key_set_is_said_and_lets_nobody_in(what: str) -> None:
    @asynchronous
    async def scene() -> None:
        issuer = Issuer(published(KEY))
        spoil, words = PLACES[what]
        spoil(issuer)
        with publishing(issuer), _trusting(issuer) as dispatcher:
            dispatcher.wait_for_log(words)
            assert await asked(dispatcher, signed(KEY)) is UNAUTHENTICATED

    scene()


@needs_openssl
@asynchronous
async def test_an_https_issuer_has_to_show_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    tls = certify(tmp_path, "issuer")
    with publishing(Issuer(published(KEY)), tls) as issuer:
        with _trusting(issuer, *EAGER) as dispatcher:
            dispatcher.wait_for_log("CERTIFICATE_VERIFY_FAILED")
            assert await asked(dispatcher, signed(KEY)) is UNAUTHENTICATED
        assert issuer.fetches == 0
        with _trusting(issuer, *EAGER, environ={"SSL_CERT_FILE": str(tls[0])}) as dispatcher:
            assert await asked(dispatcher, signed(KEY)) is OK


FILES = {
    "nothing": (b"", "should be JSON"),
    "no set": (b"[]", 'should be a JWK Set: {"keys": […]}'),
    "no keys": (b'{"keys": []}', "should hold a public key for signatures"),
    "too many": (json.dumps({"keys": [{}] * 101}).encode(), "should hold at most 100 keys, and holds 101"),
    "a deep hole": (b"[" * 100_000, "should be JSON"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_holds_no_keys_is_said_to_be_so(tmp_path: Path, what: str) -> None:
    content, words = FILES[what]
    path = tmp_path / "keys.json"
    path.write_bytes(content)

    @asynchronous
    async def begin() -> None:
        with pytest.raises(KeysError) as told:
            await SigningKeys(str(path), LIMITS).begin()
        assert str(told.value).startswith(f"jwt_jwks: {path} {words}")
        assert "\n" not in str(told.value)

    begin()


def test_it_does_not_start_with_a_file_that_holds_no_keys(tmp_path: Path) -> None:
    content, words = FILES["a deep hole"]
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    ended = serve_and_fail("--jwt-jwks", str(path), "--jwt-audience", AUDIENCE)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"dispatcher: jwt_jwks: {path} {words}")
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout


def test_it_does_not_start_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ended = serve_and_fail("--jwt-jwks", str(path), "--jwt-audience", AUDIENCE)
    assert ended.returncode == 2
    assert ended.stderr == f"dispatcher: jwt_jwks: {path} can't be read: No such file or directory\n"


@asynchronous
async def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(Issuer(published(KEY)).content)
    with running_dispatcher("--jwt-jwks", str(path), *TRUSTING, *EAGER) as dispatcher:
        assert await asked(dispatcher, signed(KEY)) is OK
        path.write_bytes(Issuer(published(STRANGER, "k2")).content)
        await eventually(lambda: asked(dispatcher, signed(STRANGER, key_id="k2")), lambda code: code is OK)
