"""Who makes a call, by the credential that it carries or by the way that it came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from inferd.core.policy import ResourceKind
from inferd.core.principal import ANY, LOCAL, Principal
from inferd.errors import UnauthenticatedError
from inferd.runtime.login import NOBODY, Login
from inferd.services.attempts import Attempts

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.auth_settings import Auth
    from inferd.core.policy import Policy

SCHEME = "bearer "  # RFC 6750; in whichever case, as RFC 9110 has it
UNIX = "unix:"
LOOPBACK = ("ipv4:127.", "ipv6:[::1]:", "ipv6:%5B::1%5D:", "ipv6:[::ffff:127.", "ipv6:%5B::ffff:127.")
"""How gRPC writes that the other end is on this host."""


class Logins:
    """Finds out who makes each call.

    Args:
        settings: Who needs a login.
        verify: Who a credential stands for.
    """

    def __init__(self, settings: Auth, verify: Callable[[str], Login]) -> None:
        self._required = settings.required
        self._verify = verify
        self._attempts = Attempts(settings, time.monotonic)
        self._local = Login(principal=Principal(name=LOCAL, roles=frozenset(settings.local_roles), tenants=(ANY,)))
        self._has_local = bool(settings.local_roles)

    def read(self, authorization: str, peer: str, policy: Policy, request: Any) -> Login:
        """Who makes a call.

        Args:
            authorization: What it carries as such; "" for nothing.
            peer: Where it came from, as gRPC writes it.
            policy: What it is about.
            request: Its message; of a stream, whatever that is.

        Raises:
            UnauthenticatedError: That is not known, and has to be.
            LimitExceededError: Too many logins have failed on its connection.
        """
        if authorization:
            return self._verified(authorization, peer)
        if self._has_local and (not self._required or peer.startswith(UNIX)):
            return self._local
        if _is_open(policy.kind, peer, request):
            return NOBODY
        raise UnauthenticatedError(
            "this call needs a login; give the client a key (INFERD_CREDENTIAL_FILE, or --credential-file)"
        )

    def _verified(self, authorization: str, peer: str) -> Login:
        """Who a credential stands for.

        Calls of a unix socket cannot be told apart by their connections: there a login that holds always does, so that
        nobody who may use the socket keeps others from it.
        """
        if not peer.startswith(UNIX):
            self._attempts.check(peer)
        scheme, credential = authorization[: len(SCHEME)].lower(), authorization[len(SCHEME) :]
        try:
            return self._verify(credential if scheme == SCHEME else "")
        except UnauthenticatedError:
            self._attempts.check(peer)
            self._attempts.failed(peer)
            raise


def _is_open(kind: ResourceKind, peer: str, request: Any) -> bool:
    """Whether a call is answered to whoever asks: does the kernel serve, and, on this host, what does it offer."""
    if kind is ResourceKind.HEALTH:
        return not request.service
    return kind is ResourceKind.REFLECTION and peer.startswith((UNIX, *LOOPBACK))
