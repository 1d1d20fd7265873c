"""Which keys of a JWK Set are taken, which token's they are, and that no set breaks whoever reads it."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from asynchronous import asynchronous
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from issuer import AUDIENCE, Issuer, private_key, published, publishing, rsa_key, signed
from jwt.algorithms import ECAlgorithm

from dispatcher.signing_keys import ALGORITHMS, KeyLimits, KeysError, KeySet, SigningKeys, parsed

KEY = private_key()
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
