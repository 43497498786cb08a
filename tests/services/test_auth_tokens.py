"""Tokens of issuers: which are believed, and until when."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from connection import reason_of
from guarded import Guarded, bearer, bytes_of, failing, guarded

from inferd.auth_settings import Issuer
from inferd.errors import InvalidFieldError, UnauthenticatedError
from inferd.runtime.tokens import Tokens
from inferd_api.v1 import auth_service_pb2 as asp
from inferd_api.v1 import host_service_pb2 as hs

jwt = pytest.importorskip("jwt")
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa  # noqa: E402 - what it comes with
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: E402

pytestmark = pytest.mark.asyncio(loop_scope="module")

ISS, AUD = "https://login.example", "inferd"
ME = asp.WhoAmIRequest()
EDDSA, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()
ES256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
OTHER = rsa.generate_private_key(65537, 2048)
SIGNERS = {"ed": (EDDSA, "EdDSA"), "es": (ES256, "ES256")}


def jwk(kid: str, key: Any, **more: Any) -> dict[str, Any]:
    """A public key as it stands in a file."""
    algorithms = jwt.algorithms
    kind = algorithms.OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        kind = algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else algorithms.ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, **more}


def write_keys(path: Path, *keys: dict[str, Any]) -> Path:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    return new.replace(path)


def claims(**more: Any) -> dict[str, Any]:
    """What a good token says."""
    now = int(time.time())
    said = {"iss": ISS, "aud": AUD, "sub": "anna", "iat": now, "exp": now + 600}
    said |= {"roles": ["user"], "tenants": ["a", "b"]}
    return {name: value for name, value in {**said, **more}.items() if value is not None}


def token(signer: str = "ed", *, headers: dict[str, Any] | None = None, **more: Any) -> str:
    key, algorithm = SIGNERS[signer]
    made: str = jwt.encode(claims(**more), key, algorithm=algorithm, headers={"kid": signer, **(headers or {})})
    return made


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    """A token as no library makes it."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def confused() -> str:
    """A token that is signed with the public key as if that were a shared secret."""
    public = EDDSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = raw({"alg": "HS256", "kid": "ed"}, claims()).rpartition(".")[0]
    signature = base64.urlsafe_b64encode(hmac.digest(public, unsigned.encode(), "sha256"))
    return f"{unsigned}.{signature.rstrip(b'=').decode()}"


def embedded() -> str:
    """A token that brings its own key."""
    own = ed25519.Ed25519PrivateKey.generate()
    headers = {"kid": "own", "jwk": jwk("own", own), "jku": "https://evil.example/keys"}
    made: str = jwt.encode(claims(), own, algorithm="EdDSA", headers=headers)
    return made


def bad_tokens() -> dict[str, str]:
    """Tokens that must not be believed, by what is wrong with them."""
    now, good = int(time.time()), token()
    head, body, signature = good.split(".")
    signed = base64.urlsafe_b64decode(signature + "==")
    return {
        "no algorithm": raw({"alg": "none", "kid": "ed"}, claims()),
        "no algorithm, in another case": raw({"alg": "nOnE", "kid": "ed"}, claims(), b"x"),
        "no signature": f"{head}.{body}.",
        "a shared secret": confused(),
        "another key's algorithm": raw({"alg": "ES256", "kid": "ed"}, claims(), signed),
        "its own key": embedded(),
        "an unknown key": token(headers={"kid": "none"}),
        "another key's id": token("es", headers={"kid": "ed"}),
        "a path as the key's id": token(headers={"kid": "../../dev/null"}),
        "a number as the key's id": raw({"alg": "EdDSA", "kid": 1}, claims()),
        "no key's id": raw({"alg": "EdDSA"}, claims(), signed),
        "what is critical": token(headers={"crit": ["exp"], "exp": now}),
        "other claims": f"{head}.{raw({}, claims(sub='root')).split('.')[1]}.{signature}",
        "a changed signature": f"{head}.{body}.{'A' * len(signature)}",
        "four parts": good + ".x",
        "no JSON": f"{head}.bm90IGpzb24.{signature}",
        "a list": raw([], []),
        "depth": "W" * 4000 + f".{body}.{signature}",
        "length": token(pad="x" * 8192),
        "an end that is over": token(iat=now - 600, exp=now - 1),
        "no end": token(exp=None),
        "an end that no number holds": token(exp=10**400),
        "an end that is a text": raw({"alg": "EdDSA", "kid": "ed"}, claims(exp="9"), signed),
        "no issue": token(iat=None),
        "an issue in the future": token(iat=now + 120, exp=now + 600),
        "a life too long": token(iat=now, exp=now + 901),
        "a life too long, begun before": token(iat=now - 900, exp=now + 60),
        "not yet": token(nbf=now + 120),
        "another issuer": token(iss="https://evil.example"),
        "an issuer like it": token(iss=ISS + "/"),
        "no issuer": token(iss=None),
        "another audience": token(aud="others"),
        "other audiences": token(aud=["others", "inferd2"]),
        "no audience": token(aud=None),
        "no subject": token(sub=None),
        "a subject with a colon": token(sub="corp:anna"),
        "roles that are a text": token(roles="admin"),
        "no tenant": token(tenants=None),
        "a tenant that the issuer may not give": token(tenants=["other"]),
        "all tenants": token(tenants=["*"]),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A kernel that trusts an issuer with two keys, and has others in its file that it cannot use."""
    folder = tmp_path_factory.mktemp("kernel")
    write_all_keys(folder)
    async with guarded(folder, auth={"issuers": {"corp": issuer(folder)}, "failed_logins": 1000}) as made:
        yield made


def write_all_keys(folder: Path) -> None:
    write_keys(
        folder / "jwks.json",
        jwk("ed", EDDSA, use="sig", alg="EdDSA"),
        jwk("es", ES256),
        jwk("rsa", OTHER),
        jwk("p384", P384),
        jwk("ed448", ED448),
        jwk("encryption", EDDSA, use="enc"),
    )


def issuer(folder: Path, **more: Any) -> dict[str, Any]:
    """A trusted issuer, as it is configured."""
    said = {"issuer": ISS, "audience": AUD, "jwks_file": folder / "jwks.json", "roles": ["user"], "tenants": ["a", "b"]}
    return {**said, **more}


@pytest.mark.parametrize("signer", SIGNERS)
async def test_a_token_says_who_calls(kernel: Guarded, signer: str) -> None:
    """A token of a trusted key is its subject's, under its issuer's name, with what the issuer may give of it."""
    made = bearer(token(signer, roles=["user", "admin"], tenants=["b", "other", "a"], aud=["others", AUD]))
    for metadata in (made, made):  # the second time it is remembered
        said = await kernel.auth.WhoAmI(ME, metadata=metadata)
        assert (said.principal.name, list(said.principal.roles)) == ("corp:anna", ["user"])
        assert (said.tenant, list(said.principal.tenants)) == ("b", ["b", "a"])


async def test_what_is_wrong_with_a_token_is_not_told(kernel: Guarded) -> None:
    """Every kind of bad token is UNAUTHENTICATED, with the same bytes."""
    told = {}
    for wrong, bad in bad_tokens().items():
        told[wrong] = bytes_of(await failing(kernel.auth.WhoAmI(ME, metadata=bearer(bad))))
    assert {name: code for name, (code, *_) in told.items() if code is not grpc.StatusCode.UNAUTHENTICATED} == {}
    assert len(set(told.values())) == 1


async def test_keys_of_other_kinds_sign_nothing(kernel: Guarded) -> None:
    """A token by a key of the file that is of no kind that is allowed, or for something else, is not believed."""
    for kid, key, algorithm in (
        ("rsa", OTHER, "RS256"),
        ("p384", P384, "ES384"),
        ("ed448", ED448, "EdDSA"),
        ("encryption", EDDSA, "EdDSA"),
    ):
        made = jwt.encode(claims(), key, algorithm=algorithm, headers={"kid": kid})
        error = await failing(kernel.auth.WhoAmI(ME, metadata=bearer(made)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, kid


async def test_a_stream_ends_with_its_token(kernel: Guarded) -> None:
    """A call under way ends as UNAUTHENTICATED at the end of the token that it came with, and not before."""
    end = int(time.time()) + 2
    call = kernel.tcp.hosts.WatchHost(hs.WatchHostRequest(), metadata=bearer(token(exp=end)))
    assert await call.read()
    assert reason_of(await failing(call))[0] == "UNAUTHENTICATED"
    assert time.time() >= end


async def test_keys_that_change_are_read_anew(tmp_path: Path) -> None:
    """A key that goes from the file ends its calls, one that stays does not, and a new one is known."""
    write_all_keys(tmp_path)
    async with guarded(tmp_path, auth={"issuers": {"corp": issuer(tmp_path)}}) as kernel:
        old, kept = (
            kernel.tcp.hosts.WatchHost(hs.WatchHostRequest(), metadata=bearer(token(signer))) for signer in ("ed", "es")
        )
        assert await old.read()
        assert await kept.read()
        write_keys(tmp_path / "jwks.json", jwk("es", ES256), jwk("new", EDDSA))
        assert reason_of(await failing(old))[0] == "UNAUTHENTICATED"
        assert await kept.read()
        gone = await failing(kernel.auth.WhoAmI(ME, metadata=bearer(token())))
        assert gone.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await kernel.auth.WhoAmI(ME, metadata=bearer(token(headers={"kid": "new"})))
        kept.cancel()


@pytest.mark.parametrize(
    "written", ["", "[]", '{"keys": 1}', '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "?"}]}']
)
async def test_a_file_that_has_no_keys_starts_no_kernel(tmp_path: Path, written: str) -> None:
    """A file of keys that is none is told by name, and field."""
    (tmp_path / "jwks.json").write_text(written)
    tokens = Tokens({"corp": Issuer(**issuer(tmp_path))})
    with pytest.raises(InvalidFieldError, match=r"jwks\.json"):
        await tokens.read()


async def test_private_keys_and_keys_twice_are_refused(tmp_path: Path) -> None:
    """A file with a private key, or two keys of one id, is refused."""
    private = {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(EDDSA)), "kid": "ed"}
    for keys in ([private], [jwk("ed", EDDSA), jwk("ed", ES256)], [{**jwk("ed", EDDSA), "kid": ""}]):
        write_keys(tmp_path / "jwks.json", *keys)
        with pytest.raises(InvalidFieldError, match=r"private|kid"):
            await Tokens({"corp": Issuer(**issuer(tmp_path))}).read()


async def test_the_skew_of_a_clock_is_bounded(tmp_path: Path) -> None:
    """An issuer's clock may be ahead by so much and no more, and lengthens no token's life."""
    write_all_keys(tmp_path)
    now = [0.0]
    tokens = Tokens({"corp": Issuer(**issuer(tmp_path, clock_skew_s=30))}, wall=lambda: now[0])
    await tokens.read()
    begin = int(time.time())
    made = token(iat=begin, nbf=begin, exp=begin + 900)
    for ahead_s, holds in ((-31, False), (-30, True), (0, True), (899, True), (900, False)):
        now[0] = begin + ahead_s
        if holds:
            assert tokens.verify(made).expires == begin + 900
        else:
            with pytest.raises(UnauthenticatedError):
                tokens.verify(made)
