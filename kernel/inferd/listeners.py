"""Where a kernel may listen, as it is configured: what others than its host reach has TLS, and needs a login."""

from typing import NoReturn

from inferd.addresses import MUTUAL_TLS, UNIX, check_address, is_loopback, split_address, split_scheme
from inferd.config import DEFAULT_ADDRESS, Settings
from inferd.errors import InvalidFieldError
from inferd.places import own_socket, system_socket


def listen_places(settings: Settings) -> tuple[str, ...]:
    """`listen`, or its default: the usual socket of this user, or the loopback where there is no folder for one."""
    if settings.listen:
        return settings.listen
    own = system_socket() if settings.socket_group else own_socket()
    return (DEFAULT_ADDRESS,) if own is None else (f"{UNIX}{own}",)


def check_listeners(settings: Settings) -> None:
    """Refuse addresses that the rest of the settings does not allow.

    Raises:
        InvalidFieldError: One is none, lacks its files, or would let others than this host in without a login.
    """
    for address in listen_places(settings):
        scheme, bare = split_scheme(address)
        if scheme:
            _check_secure(settings, address, scheme, bare)
        else:
            check_address(bare)


def has_tls(settings: Settings) -> bool:
    """Whether a kernel listens anywhere with TLS."""
    return any(split_scheme(address)[0] for address in listen_places(settings))


def _check_secure(settings: Settings, address: str, scheme: str, bare: str) -> None:
    try:
        host, _ = split_address(bare)
    except InvalidFieldError as error:
        error.message = error.message.replace(f"listen {bare!r}", f"listen {address!r}", 1)  # as it was given
        raise
    if settings.tls.cert_file is None:
        _refuse(
            f"listen {address!r} needs a certificate: set tls.cert_file and tls.key_file (a small authority of your "
            "own: inferd certs init)",
            "tls.cert_file",
        )
    if scheme == MUTUAL_TLS and settings.tls.client_ca_file is None:
        _refuse(
            f"listen {address!r} asks clients for certificates: set tls.client_ca_file to who issues them",
            "tls.client_ca_file",
        )
    if not is_loopback(host) and not settings.auth.required:
        _refuse(
            f"listen {address!r} is not on the loopback, and auth.required is false: anyone could use it; "
            "leave that setting out",
            "auth.required",
        )


def _refuse(message: str, field: str) -> NoReturn:
    raise InvalidFieldError(message, field=field)
