"""Who makes a call, by the credential that it carries, the certificate of its connection, or the way that it came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from inferd.core.policy import ResourceKind
from inferd.core.principal import ANY, LOCAL, Principal
from inferd.errors import UnauthenticatedError
from inferd.runtime.login import NOBODY, Login
from inferd.services.attempts import Attempts
from inferd.services.secure import LOOPBACK, UNIX, Secure

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.auth_settings import Auth
    from inferd.core.policy import Policy
    from inferd.runtime.certificates import Certificates, Certified
    from inferd.services.secure import Security

SCHEME = "bearer "  # RFC 6750; in whichever case, as RFC 9110 has it
TICKET = "it_"


class Logins:
    """Finds out who makes each call.

    Args:
        settings: Who needs a login.
        verify: Who a credential stands for.
        certificates: Who a certificate stands for.
        verify_ticket: Who a ticket stands for, on a shared socket.
        is_shared: Whether others than the kernel's user may use its sockets.
    """

    def __init__(
        self,
        settings: Auth,
        verify: Callable[[str], Login],
        certificates: Certificates,
        *,
        verify_ticket: Callable[[str], Login],
        is_shared: bool,
    ) -> None:
        self._secure = Secure(certificates)
        self._verify_ticket = verify_ticket
        self._is_shared = is_shared
        self._required = settings.required
        self._verify = verify
        self._attempts = Attempts(settings, time.monotonic)
        self._local = Login(principal=Principal(name=LOCAL, roles=frozenset(settings.local_roles), tenants=(ANY,)))
        self._has_local = bool(settings.local_roles)

    def read(self, authorization: str, peer: str, policy: Policy, request: Any, security: Security) -> Login:
        """Who makes a call: a credential says so before a certificate, and holds no longer than that.

        Args:
            authorization: What it carries as such; "" for nothing.
            peer: Where it came from, as gRPC writes it.
            policy: What it is about.
            request: Its message; of a stream, whatever that is.
            security: What gRPC says of its connection.

        Raises:
            UnauthenticatedError: That is not known, and has to be.
            LimitExceededError: Too many logins have failed on its connection.
        """
        certified = self._secure.certified(peer, security)
        login = self._found(authorization, peer, policy, request, certified)
        if login is None:
            asks_none = certified is None and self._secure.asks_none(peer, security)
            raise self._nobody(certified, on_socket=peer.startswith(UNIX), asks_none=asks_none)
        return login if certified is None else certified.bind(login)

    def _found(
        self, authorization: str, peer: str, policy: Policy, request: Any, certified: Certified | None
    ) -> Login | None:
        if authorization:
            return self._verified(authorization, peer)
        if certified is not None and certified.principal is not None:
            return Login(principal=certified.principal)
        on_socket = peer.startswith(UNIX)
        if self._has_local and not (self._is_shared if on_socket else self._required):
            return self._local
        return NOBODY if _is_open(policy.kind, peer, request) else None

    def _nobody(self, certified: Certified | None, *, on_socket: bool, asks_none: bool) -> UnauthenticatedError:
        if certified is not None:
            names = ", ".join(repr(name[:80]) for name in certified.certificate.names[:5]) or "none"
            return UnauthenticatedError(
                f"the certificate of this connection stands for nobody: tls.identities has none of its names ({names})"
                "; add one there, or give the client a key"
            )
        if on_socket and self._is_shared:
            return UnauthenticatedError(
                "several users may use this socket, and this call does not say whose it is: `inferd` and the Python "
                "client of this version do by themselves; others send a ticket of the socket beside it (its name and "
                ".id, see docs/security.md), or a key"
            )
        by_port = self._has_local and not on_socket
        hint = "; a client's certificate counts at an mtls: address only, and this is a tls: one" if asks_none else ""
        return UnauthenticatedError(
            f"this call needs a login{', as all over TCP' if by_port else ''}: have a key made on the kernel's host "
            "(inferd keys create NAME --role user --write FILE) and give it to the client "
            f"(INFERD_CREDENTIAL_FILE, --credential-file){hint}"
        )

    def _verified(self, authorization: str, peer: str) -> Login:
        """Who a credential stands for.

        Calls of a unix socket cannot be told apart by their connections: there a login that holds always does, so that
        nobody who may use the socket keeps others from it.
        """
        scheme, credential = authorization[: len(SCHEME)].lower(), authorization[len(SCHEME) :]
        if credential.startswith(TICKET) and peer.startswith(UNIX):
            return self._verify_ticket(credential)  # those of a kernel before this one are no guesses: none is counted
        if not peer.startswith(UNIX):
            self._attempts.check(peer)
        try:
            return self._verify(credential if scheme == SCHEME else "")
        except UnauthenticatedError:
            self._attempts.check(peer)
            self._attempts.failed(peer)
            raise


def _is_open(kind: ResourceKind, peer: str, request: Any) -> bool:
    """Whether a call is answered to whoever asks: does the kernel serve, and, on this host, what does it offer."""
    if kind is ResourceKind.HEALTH:
        return not getattr(request, "service", "")  # of the Open Inference Protocol none names anything
    return kind is ResourceKind.REFLECTION and peer.startswith((UNIX, *LOOPBACK))
