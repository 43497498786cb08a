"""Tokens of issuers that are trusted (RFC 7519): signed, short-lived, for this kernel.

What a token says of how it is to be checked is not believed: the algorithm is that of the key, and the key is one of
the issuer's file (RFC 8725). Tokens that were checked are remembered by their digest until they end.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import re
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import structlog

from inferd.core.principal import ANY, Principal
from inferd.errors import InferdError, InvalidFieldError, UnauthenticatedError
from inferd.runtime.login import Login
from inferd.runtime.signers import Signer, read_signers
from inferd.runtime.stamps import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.auth_settings import Issuer

MOST_LIFE_S: Final = 900.0  # of a token, from its issue to its end
MOST_BYTES: Final = 8192
REMEMBERED: Final = 10_000
LOOK_S: Final = 0.5  # between two looks at the files of keys
SUBJECT_FORM = re.compile(r"[A-Za-z0-9._@-]{1,64}")
NAME_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger()


class _RefusedError(Exception):
    """A token does not hold; why is nobody's business but the reader's of this code."""


class Tokens:
    """Knows whose tokens are trusted. One writer: the loop of the kernel.

    Args:
        issuers: Those that are, by the names that stand before the names of their principals.
        wall: Unix time.
    """

    def __init__(self, issuers: Mapping[str, Issuer], *, wall: Callable[[], float] = time.time) -> None:
        self._issuers = {issuer.issuer: (name, issuer) for name, issuer in issuers.items()}
        self._wall = wall
        self._signers: dict[Path, dict[str, Signer]] = {}
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._known: OrderedDict[bytes, Login] = OrderedDict()

    async def read(self) -> None:
        """Read the keys of all issuers, before any token is checked.

        Raises:
            InvalidFieldError: They cannot be, or what checks tokens is not installed.
        """
        try:
            import jwt  # noqa: F401, PLC0415 - who has no issuers does not need the library
        except ImportError:
            message = 'tokens of auth.issuers are checked with PyJWT: pip install "inferd[auth]"'
            raise InvalidFieldError(message, field="auth.issuers") from None
        for path in self._paths():
            self._seen[path] = await asyncio.to_thread(stamp_of, path)
            self._signers[path] = await asyncio.to_thread(read_signers, path)

    def _paths(self) -> set[Path]:
        return {issuer.jwks_file for _, issuer in self._issuers.values()}

    async def attend(self, changed: Callable[[], None]) -> None:
        """Read files of keys anew when they change, without end where there are any; `changed` is told of it.

        Args:
            changed: Ends what goes on by keys that are gone.
        """
        while paths := self._paths():
            await asyncio.sleep(LOOK_S)
            for path in paths:
                stamp = await asyncio.to_thread(stamp_of, path)
                if stamp != self._seen[path]:
                    self._seen[path] = stamp
                    await self._read_anew(path)
                    changed()

    async def _read_anew(self, path: Path) -> None:
        try:
            self._signers[path] = await asyncio.to_thread(read_signers, path)
        except InferdError as error:
            log.warning("keys of an issuer cannot be read anew; those before hold on", why=error.message)
        else:
            self._known.clear()
            log.info("read the keys of an issuer anew", path=str(path), keys=len(self._signers[path]))

    def holds(self, login: Login) -> bool:
        """Whether the key by which a login was signed is still known; so for one that was not signed."""
        return not login.signer or any(
            login.signer == signer.name for signers in self._signers.values() for signer in signers.values()
        )

    def verify(self, token: str) -> Login:
        """Who a token stands for.

        Raises:
            UnauthenticatedError: Nobody.
        """
        digest = hashlib.sha256(token.encode()).digest()
        login = self._known.get(digest)
        if login is None or login.expires is None or login.expires <= self._wall():
            try:
                login = self._known[digest] = self._check(token)
            except _RefusedError:
                raise UnauthenticatedError(
                    "this login is not known, or holds no longer; ask an administrator for a key"
                ) from None
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return login

    def _check(self, token: str) -> Login:
        parts = token.split(".")
        if len(token) > MOST_BYTES or len(parts) != 3:  # noqa: PLR2004 - RFC 7515, 3.1
            raise _RefusedError
        header, claims = _read(parts[0]), _read(parts[1])
        name, issuer = self._issuers.get(_text(claims, "iss"), (None, None))
        if name is None or issuer is None or "crit" in header:
            raise _RefusedError
        signer = self._signers[issuer.jwks_file].get(_text(header, "kid"))
        if signer is None or _text(header, "alg") != signer.algorithm:
            raise _RefusedError
        _check_signature(token, signer)
        expires = self._check_times(claims, issuer.clock_skew_s)
        audience = claims.get("aud")
        if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _RefusedError
        return Login(principal=_principal(name, issuer, claims), expires=expires, signer=signer.name)

    def _check_times(self, claims: dict[str, Any], skew_s: float) -> float:
        """When a token ends: no clock's skew lengthens its life."""
        now, issued, expires = self._wall(), _number(claims, "iat"), _number(claims, "exp")
        if not issued - skew_s <= now < expires or not 0 < expires - issued <= MOST_LIFE_S:
            raise _RefusedError
        if "nbf" in claims and _number(claims, "nbf") - skew_s > now:
            raise _RefusedError
        return expires


def _principal(name: str, issuer: Issuer, claims: dict[str, Any]) -> Principal:
    """Who a token is of: with those of its roles and tenants that its issuer may give."""
    subject = _text(claims, "sub")
    if not SUBJECT_FORM.fullmatch(subject):
        raise _RefusedError
    roles, tenants = _names(claims, issuer.roles_claim), _names(claims, issuer.tenants_claim)
    has = tuple(tenant for tenant in tenants if tenant in issuer.tenants or ANY in issuer.tenants)
    if not has:
        raise _RefusedError
    return Principal(name=f"{name}:{subject}", roles=frozenset(roles) & frozenset(issuer.roles), tenants=has)


def _names(claims: dict[str, Any], claim: str) -> list[str]:
    said = claims.get(claim, [])
    if not isinstance(said, list) or not all(isinstance(each, str) and NAME_FORM.fullmatch(each) for each in said):
        raise _RefusedError
    return said


def _check_signature(token: str, signer: Signer) -> None:
    from jwt.api_jws import PyJWS  # noqa: PLC0415 - as above
    from jwt.exceptions import PyJWTError  # noqa: PLC0415 - as above

    try:
        PyJWS(algorithms=[signer.algorithm]).decode(token, key=signer.key, algorithms=[signer.algorithm])
    except (PyJWTError, ValueError, TypeError):
        raise _RefusedError from None


def _read(part: str) -> dict[str, Any]:
    try:
        read = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise _RefusedError from None
    if not isinstance(read, dict):
        raise _RefusedError
    return read


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise _RefusedError
    return value


def _number(said: dict[str, Any], name: str) -> float:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RefusedError
    try:
        number = float(value)
    except OverflowError:
        raise _RefusedError from None
    if not math.isfinite(number):
        raise _RefusedError
    return number
