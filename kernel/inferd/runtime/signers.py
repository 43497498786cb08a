"""The public keys of an issuer, from a file of JSON Web Keys (RFC 7517): Ed25519 and P-256, by their ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MOST_BYTES = 1 << 20
MOST_KEYS = 100
ALGORITHMS: Mapping[tuple[str, str], str] = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256"}
"""The one algorithm of each kind of key, by `kty` and `crv`: what a token says of it is compared with that."""
PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})


@dataclass(frozen=True, slots=True)
class Signer:
    """A public key.

    Attributes:
        name: Says which it is: equal for the same bytes only.
        algorithm: What it signs by.
        key: It, as the library has it.
    """

    name: str
    algorithm: str
    key: Any = field(repr=False, compare=False)


def read_signers(path: Path) -> dict[str, Signer]:
    """The keys of a file, by id; those of other kinds are left out.

    Raises:
        InvalidFieldError: The file cannot be read, is none of keys, or has one twice, or a private one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        written = json.loads(data) if len(data) <= MOST_BYTES else None
    except (OSError, ValueError) as error:
        raise _wrong(path, f"cannot be read: {type(error).__name__}") from None
    keys = written.get("keys") if isinstance(written, dict) else None
    if not isinstance(keys, list) or len(keys) > MOST_KEYS or not all(isinstance(each, dict) for each in keys):
        raise _wrong(path, f"is no JSON object with a list of at most {MOST_KEYS} `keys`")
    found: dict[str, Signer] = {}
    for each in keys:
        if PRIVATE & each.keys():
            raise _wrong(path, "has a private or a secret key; write the public ones alone, and give up that one")
        algorithm = ALGORITHMS.get((str(each.get("kty")), str(each.get("crv"))))
        usual = each.get("use", "sig") == "sig" and each.get("alg", algorithm) == algorithm
        if algorithm is None or not usual:
            continue
        kid = each.get("kid")
        if not isinstance(kid, str) or not kid or kid in found:
            raise _wrong(path, "has a key without a `kid` of its own")
        found[kid] = _signer(path, kid, algorithm, each)
    return found


def _signer(path: Path, kid: str, algorithm: str, written: dict[str, Any]) -> Signer:
    from jwt import PyJWK  # noqa: PLC0415 - who has no issuers does not need the library
    from jwt.exceptions import PyJWTError  # noqa: PLC0415 - as above

    try:
        key = PyJWK(written, algorithm=algorithm).key
    except (PyJWTError, ValueError, TypeError) as error:
        raise _wrong(path, f"has a key that is none, {kid[:80]!r}: {type(error).__name__}") from None
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()
    return Signer(f"{path}#{kid}#{digest}", algorithm, key)


def _wrong(path: Path, why: str) -> InvalidFieldError:
    return InvalidFieldError(f"the file {path} of auth.issuers {why}", field="auth.issuers")
