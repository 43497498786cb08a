"""The certificates of a kernel, and whom those of its clients stand for, as long as they hold.

Files are looked at four times a second, and read anew when one has changed. What is broken changes nothing: the old
files hold on, the log says why, and so does what is told of the host.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from inferd.core.policy import matches
from inferd.core.principal import Principal
from inferd.errors import InferdError, InvalidFieldError, UnauthenticatedError, words_of
from inferd.runtime.stamps import stamp_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from inferd.runtime.login import Login
    from inferd.runtime.tls_files import Certificate, Material
    from inferd.tls_settings import Identity, Tls

LOOK_S: Final = 0.25  # between two looks at the files
REMEMBERED: Final = 4096  # certificates of clients
DAY_S: Final = 86_400.0
PREFIX: Final = "cert:"
NAME_FORM = re.compile(r"[A-Za-z0-9._:@/#-]{1,123}")
"""A name that rules can say, behind the prefix."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A connection whose client has shown a certificate that holds.

    Attributes:
        certificate: It.
        principal: Whom it stands for; None for nobody.
    """

    certificate: Certificate
    principal: Principal | None

    def bind(self, login: Login) -> Login:
        """A login that ends with the certificate, if not before."""
        ends = self.certificate.expires if login.expires is None else min(self.certificate.expires, login.expires)
        return replace(login, expires=ends, certificate=self.certificate)


class Certificates:
    """Knows the certificates. One writer: the loop of the kernel; gRPC's threads read `material`.

    Args:
        tls: The files, and whom certificates stand for.
        used: Whether the kernel listens anywhere with TLS.
        wall: Unix time.

    Attributes:
        used: Its argument.
        changed: Told when files were read anew.
        material: What the files hold; None before `read`, and where TLS is not used.
    """

    def __init__(self, tls: Tls, *, used: bool, wall: Callable[[], float] = time.time) -> None:
        self.used = used
        self.material: Material | None = None
        self.changed: Callable[[], None] = _nobody
        self._tls = tls
        self._wall = wall
        self._stamps: tuple[object, ...] = ()
        self._failed: tuple[object, ...] = ()
        self._broken = ""
        self._told: tuple[str, ...] = ()
        self._known: OrderedDict[bytes, Certified] = OrderedDict()

    @property
    def gives(self) -> bool:
        """Whether certificates of clients can stand for anybody."""
        return bool(self._tls.identities)

    @property
    def identities(self) -> tuple[Identity, ...]:
        """Whom certificates of clients can stand for."""
        return self._tls.identities

    async def read(self) -> None:
        """Read all files, before a connection comes.

        Raises:
            InvalidFieldError: They cannot be used, or what reads them is not installed.
        """
        if self.used:
            self._stamps = await asyncio.to_thread(self._look)
            self.material = await asyncio.to_thread(self._read)
            self._tell()

    def _read(self) -> Material:
        try:
            from inferd.runtime.tls_files import read_material  # noqa: PLC0415 - who has no TLS does not need the library
        except ImportError:
            message = 'certificates of TLS are read with cryptography: pip install "inferd[auth]"'
            raise InvalidFieldError(message, field="tls.cert_file") from None
        try:
            return read_material(self._tls, self._wall())
        except InferdError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the library makes of files that it does not understand
            message = f"the files of tls cannot be read: {type(error).__name__}: {words_of(error)}"
            raise InvalidFieldError(message, field="tls.cert_file") from None

    def _look(self) -> tuple[object, ...]:
        files = (self._tls.cert_file, self._tls.key_file, self._tls.client_ca_file, self._tls.crl_file)
        return tuple(stamp_of(path) for path in files if path is not None)

    def certified(self, pem: bytes, chain: bytes) -> Certified:
        """Whom the certificate of a client stands for, which gRPC has checked against the authorities.

        Args:
            pem: It.
            chain: What the client has shown with it, or nothing.

        Raises:
            UnauthenticatedError: It holds no longer.
        """
        found = self._known.get(pem)
        if found is None:
            found = self._known[pem] = self._certify(pem, chain)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if found.certificate.expires <= self._wall():
            raise UnauthenticatedError("the certificate of this connection has expired; connect with one that holds")
        return found

    def _certify(self, pem: bytes, chain: bytes) -> Certified:
        from inferd.runtime.tls_files import read_certificate  # noqa: PLC0415 - as above

        try:
            certificate = read_certificate(pem, chain)
        except ValueError:
            raise UnauthenticatedError("the certificate of this connection cannot be read") from None
        if self.material is None or not certificate.holds(self.material):
            raise gone()
        return Certified(certificate=certificate, principal=_principal(certificate.names, self._tls.identities))

    def holds(self, login: Login) -> bool:
        """Whether the certificate of a login holds; so for one that came without."""
        return login.certificate is None or (self.material is not None and login.certificate.holds(self.material))

    def warnings(self) -> tuple[str, ...]:
        """What somebody has to look at; no paths in it."""
        material, now = self.material, self._wall()
        if material is None:
            return ()
        found = [self._broken] if self._broken else []
        left_s, end = material.expires - now, _day(material.expires)
        if left_s <= 0:
            found.append(f"the certificate of tls.cert_file ended at {end}; put a new one there")
        elif left_s < self._tls.expiry_told_s:
            days = f"{left_s / DAY_S:.0f} days" if left_s >= 2 * DAY_S else f"{left_s / 3600:.0f} hours"
            found.append(f"the certificate of tls.cert_file ends in {days}, {end}; put a new one there")
        if material.next_lists is not None and material.next_lists <= now:
            found.append(f"a list of tls.crl_file is out of date since {_day(material.next_lists)}; fetch it anew")
        return tuple(found)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the block, files that change are read anew, and `changed` is told: also while a kernel stands by.

        Raises:
            InvalidFieldError: As `read`.
        """
        await self.read()
        attending = asyncio.create_task(self._attend(), name="certificates")
        try:
            yield
        finally:
            attending.cancel()
            with suppress(asyncio.CancelledError):
                await attending

    @contextmanager
    def telling(self, changed: Callable[[], None]) -> Iterator[None]:
        """As long as the block, this is told when files were read anew."""
        self.changed = changed
        try:
            yield
        finally:
            self.changed = _nobody

    async def _attend(self) -> None:
        while self.used:
            await asyncio.sleep(LOOK_S)
            stamps = await asyncio.to_thread(self._look)
            if stamps != self._stamps:
                await self._read_anew(stamps)
            self._tell()

    async def _read_anew(self, stamps: tuple[object, ...]) -> None:
        """Files are replaced one by one: what does not fit together is told when it still does not at the next look."""
        try:
            self.material = await asyncio.to_thread(self._read)
        except InferdError as error:
            if stamps == self._failed:
                self._stamps, self._broken = (
                    stamps,
                    f"the files of tls ({error.field}) are broken; those before hold on",
                )
                log.warning("certificates cannot be read anew; those before hold on", why=error.message)
            self._failed = stamps
        else:
            self._stamps, self._failed, self._broken = stamps, (), ""
            self._known.clear()
            self.changed()
            log.info("read the certificates anew", ends=_day(self.material.expires))

    def _tell(self) -> None:
        """Log what is new of the warnings; one that counts days comes each day."""
        for text in (warnings := self.warnings()):
            if text not in self._told and text != self._broken:
                log.warning(text)
        self._told = warnings


def _nobody() -> None:
    """Nobody is to be told."""


def gone() -> UnauthenticatedError:
    """A certificate holds no longer."""
    return UnauthenticatedError(
        "the certificate of this connection was revoked, or its authority is trusted no longer; use one that holds"
    )


def _principal(names: Iterable[str], identities: Iterable[Identity]) -> Principal | None:
    sayable = [name for name in names if NAME_FORM.fullmatch(name)]
    for identity in identities:
        for name in sayable:
            if matches(identity.name, name):
                return Principal(name=PREFIX + name, roles=frozenset(identity.roles), tenants=identity.tenants)
    return None


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
