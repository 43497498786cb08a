"""Where Prometheus reads the metrics of a kernel: on the loopback, by default at one port, so that it finds them.

Where others than this host can read them there is TLS, with the certificate of the kernel, and a key is asked for.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from inferd.addresses import TLS, is_loopback, loopback_port, split_address
from inferd.config import Settings
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.core.principal import ANY
from inferd.errors import InvalidFieldError, PermissionDeniedError, present, words_of
from inferd.runtime.beside import running_beside
from inferd.runtime.exposition import ExpositionLimits, Guard, exposed
from inferd.runtime.front.authority import Authority
from inferd.runtime.stamps import stamp_of
from inferd.runtime.telemetry.figures import Registry
from inferd.tls_settings import Tls

USUAL_ADDRESS = "127.0.0.1:7412"
ANY_PORT = "127.0.0.1:0"
LOOK_S = 5.0  # between two looks at the certificate
READ_HOST = Policy(Verb.READ, ResourceKind.HOST)

log = structlog.get_logger()


def check_metrics(settings: Settings) -> None:
    """Refuse to tell figures where others than this host could read them, unless there is TLS and a login is needed.

    Raises:
        InvalidFieldError: So it would be, or `metrics_listen` is no address.
    """
    if not (address := settings.metrics_listen):
        return
    try:
        host, port = split_address(address.removeprefix(TLS))
    except InvalidFieldError:
        raise _refusal(f"{address!r} is not host:port of the loopback, or tls:host:port") from None
    if not address.startswith(TLS):
        if not is_loopback(host):
            raise _refusal(
                f"{address!r} is not on the loopback, where nobody is asked who he is; set it to {TLS}{host}:{port}"
                f" with a certificate in tls.cert_file, or to {USUAL_ADDRESS}"
            )
    elif settings.tls.cert_file is None:
        raise _refusal(f"{address!r} needs a certificate: set tls.cert_file and tls.key_file", "tls.cert_file")


@asynccontextmanager
async def exposing(
    settings: Settings, registry: Registry, authority: Authority | None = None, *, followed: bool = False
) -> AsyncIterator[str]:
    """Let Prometheus read until the block ends, if it is to; where, "" for nowhere.

    At the usual port the first kernel of a host is read, at others those that are started beside it. That no port can
    be had is no reason to serve nobody, unless it was named; nor then where this kernel `followed` another one, which
    it did not end with. With TLS nobody is let in where there is no `authority` to ask, as while a kernel stands by.

    Raises:
        InvalidFieldError: The certificate cannot be used.
        OSError: The address that was named cannot be had.
    """
    async with AsyncExitStack() as stack:
        if settings.metrics_listen is not None:
            yield await _named(stack, settings, registry, authority, followed=followed)
            return
        address, why = "", ""
        for usual in (USUAL_ADDRESS, ANY_PORT):
            try:
                address = await _expose(stack, usual, settings, registry)
            except OSError as error:
                why = words_of(error)
            else:
                break
        if not address:
            log.warning("Prometheus can read no metrics", why=why)
        elif why:
            log.info("the usual port of the metrics is taken", usual=USUAL_ADDRESS, metrics=address, why=why)
        yield address


async def _named(
    stack: AsyncExitStack, settings: Settings, registry: Registry, authority: Authority | None, *, followed: bool
) -> str:
    if not (named := settings.metrics_listen):
        return ""
    try:
        return await _expose(stack, named, settings, registry, authority)
    except (OSError, InvalidFieldError) as error:
        if not followed:
            raise
        why = error.message if isinstance(error, InvalidFieldError) else words_of(error)
        log.warning("this kernel leads, and Prometheus can read no metrics of it", metrics=named, why=why)
        return ""


async def _expose(
    stack: AsyncExitStack, address: str, settings: Settings, registry: Registry, authority: Authority | None = None
) -> str:
    """Let Prometheus read at an address as long as the stack; it, its port filled in."""
    limits = ExpositionLimits(
        connections=settings.limits.metrics_connections, timeout_s=settings.limits.metrics_timeout_s
    )
    if not address.startswith(TLS):
        chosen = await stack.enter_async_context(exposed(registry.page, *loopback_port(address), limits))
        return f"{address.rpartition(':')[0]}:{chosen}"
    guard = await _guard(stack, settings.tls, authority)
    chosen = await stack.enter_async_context(
        exposed(registry.page, *split_address(address.removeprefix(TLS)), limits, guard)
    )
    return f"{address.rpartition(':')[0]}:{chosen}"


async def _guard(stack: AsyncExitStack, tls: Tls, authority: Authority | None) -> Guard:
    """Asks who comes; its certificate is read anew when its files change, as long as the stack."""
    newest = _Newest((present(tls.cert_file), present(tls.key_file)))
    try:
        await newest.read()
    except OSError as error:
        why = f"tls.cert_file and tls.key_file cannot be used for the metrics: {words_of(error)}"
        raise InvalidFieldError(why, field="tls.cert_file") from None

    def admit(credential: str) -> None:
        if authority is None:
            raise PermissionDeniedError("this kernel stands by, and only who leads knows whose keys hold: ask that one")
        principal = authority.verify(credential).principal
        if not authority.access.may_for_each(principal, (ANY,), READ_HOST):
            raise PermissionDeniedError(
                f"{principal.name!r} may not read the metrics, which are of all tenants: have a key made with "
                "inferd keys create NAME --role viewer --for-tenant '*' --write FILE"
            )

    await stack.enter_async_context(running_beside({"certificate of the metrics": newest.follow()}))
    return Guard(context=lambda: newest.context, admit=admit)


class _Newest:
    """The certificate as its files have it; one that cannot be used changes nothing. One writer: the event loop."""

    def __init__(self, files: tuple[Path, Path]) -> None:
        self._files = files
        self._seen: list[tuple[int, ...]] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def read(self) -> bool:
        """Use what the files have, if they have changed; whether they have.

        Raises:
            OSError: It cannot be used.
        """
        stamps = await asyncio.to_thread(lambda: [*map(stamp_of, self._files)])
        if stamps == self._seen:
            return False
        self._seen = stamps
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # one that fails keeps a certificate without its key
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        await asyncio.to_thread(context.load_cert_chain, *self._files)
        self.context = context
        return True

    async def follow(self) -> None:
        """Use what they have from when they change, until this is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.read()
            except OSError as error:
                log.warning(
                    "the new certificate cannot be used for the metrics: the old one stays", why=words_of(error)
                )


def _refusal(why: str, field: str = "metrics_listen") -> InvalidFieldError:
    return InvalidFieldError(f"metrics_listen {why}", field=field)
