"""TLS as gRPC has it: the ports, and what it says of the connection of a call.

gRPC for Python cannot be told the least version of TLS; `inferd serve` has it offer no ciphers of the one before 1.3,
see `inferd.cli.entry`. That no call comes by that one is seen here once more, where gRPC tells the version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from inferd.addresses import MUTUAL_TLS, TLS
from inferd.errors import UnauthenticatedError, present

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from inferd.addresses import AddPort
    from inferd.runtime.certificates import Certificates, Certified
    from inferd.runtime.tls_files import Material

    Security = Callable[[], Mapping[str, Iterable[bytes]]]

VERSIONS = (b"TLSv1.3", b"")  # gRPC before 1.85 does not tell
PLAIN = (b"insecure", b"")
UNIX = "unix:"
LOOPBACK = ("ipv4:127.", "ipv6:[::1]:", "ipv6:%5B::1%5D:", "ipv6:[::ffff:127.", "ipv6:%5B::ffff:127.")
"""How gRPC writes that the other end is on this host."""


def secure_ports(server: grpc.aio.Server, certificates: Certificates) -> Mapping[str, AddPort]:
    """How a server listens with TLS, by what stands before addresses.

    Args:
        server: Of gRPC.
        certificates: Of the kernel, read.
    """
    if certificates.material is None:
        return {}

    def add_port(*, mutual: bool) -> AddPort:
        return lambda target: server.add_secure_port(target, _credentials(certificates, mutual=mutual))

    return {TLS: add_port(mutual=False), MUTUAL_TLS: add_port(mutual=True)}


def _credentials(certificates: Certificates, *, mutual: bool) -> grpc.ServerCredentials:
    first = told = present(certificates.material)

    def fetch() -> Any:
        """The certificates for a handshake that begins, where they are others; a thread of gRPC asks."""
        nonlocal told
        material = present(certificates.material)
        if material is told:
            return None
        told = material
        return _configuration(material, mutual=mutual)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(first, mutual=mutual), fetch, require_client_authentication=mutual
    )


def _configuration(material: Material, *, mutual: bool) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], root_certificates=material.clients if mutual else None
    )


def is_here(peer: str) -> bool:
    """Whether the other end of a connection is on this host."""
    return peer.startswith((UNIX, *LOOPBACK))


class Secure:
    """Sees that calls come by a way that nobody listens to, and with which certificate.

    Args:
        certificates: Of the kernel.
    """

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    def certified(self, peer: str, security: Security) -> Certified | None:
        """The certificate of a connection; None for one without.

        Args:
            peer: Where the call came from, as gRPC writes it.
            security: What gRPC says of its connection; it takes a while to be told.

        Raises:
            UnauthenticatedError: The connection is not as it has to be, or its certificate holds no longer.
        """
        if peer.startswith(UNIX):
            return None
        said = security() if self._certificates.used else {}
        if _first(said, "transport_security_type") in PLAIN:
            if peer.startswith(LOOPBACK):
                return None
            raise UnauthenticatedError("this call comes from another host without TLS; use an address with TLS")
        if _first(said, "ssl_tls_version") not in VERSIONS:
            raise UnauthenticatedError("this connection has a version of TLS before 1.3; a kernel takes none of those")
        pem = _first(said, "x509_pem_cert")
        return self._certificates.certified(pem, _first(said, "x509_pem_cert_chain")) if pem else None

    def asks_none(self, peer: str, security: Security) -> bool:
        """Whether a connection without a certificate is one with TLS: its port does not ask for any. As `certified`."""
        if peer.startswith(UNIX) or not self._certificates.used:
            return False
        return _first(security(), "transport_security_type") not in PLAIN


def _first(said: Mapping[str, Iterable[bytes]], name: str) -> bytes:
    return next(iter(said.get(name, ())), b"")
