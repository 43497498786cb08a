"""Tickets: what whoever has come by a shared socket says who it is with, for a while.

gRPC does not tell which user is at the other end of a socket. A second socket does: the system says who connects to it,
and is given a ticket that stands for that user. Tickets are in memory alone, and of each only a keyed digest.
"""

from __future__ import annotations

import hmac
import os
import pwd
import re
import secrets
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.core.ids import DEFAULT_TENANT
from inferd.core.principal import ANY, HOSTS, LOCAL, Principal
from inferd.errors import UnauthenticatedError
from inferd.runtime.login import NOBODY, Login

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from inferd.auth_settings import Auth
    from inferd.tls_settings import Identity

    Keyed = Callable[[str, Collection[str]], bool]

BEGINS: Final = "it_"
SECRET_BYTES: Final = 32
NAME_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Of a user's name that can be that of a tenant; others go by their number."""
TAKEN: Final = (DEFAULT_TENANT, LOCAL, HOSTS, *NOBODY.principal.tenants)


class _Held(NamedTuple):
    """A ticket: of whom, until when, whom it stands for, and whom instead once its name is a tenant of a key."""

    uid: int
    name: str
    ends: float
    login: Login
    apart: Login | None


class Tickets:
    """The tickets that hold. One writer: the loop of the kernel.

    Args:
        settings: Roles and tenants of users, and the bounds.
        identities: Whom certificates stand for: no user is in a tenant of theirs by its name.
        now: Seconds that never fall.
    """

    def __init__(
        self, settings: Auth, *, identities: Collection[Identity] = (), now: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._identities = identities
        self._now = now
        self._key = secrets.token_bytes(SECRET_BYTES)
        self._held: dict[bytes, _Held] = {}  # by digest, in the order in which they end
        self._of: dict[int, deque[bytes]] = {}  # by user, oldest first

    @property
    def holds_s(self) -> float:
        """How long a ticket holds for new calls, in seconds; a call under way goes on."""
        return self._settings.ticket_s

    def issue(self, uid: int, name: str) -> str:
        """A ticket for a user. Where there are too many, the oldest one ends of the user that has most.

        Args:
            uid: Of the user.
            name: Of the user; "" where it has none.
        """
        self._forget()
        if len(self._held) >= self._settings.tickets:
            self._drop(max(self._of.values(), key=len)[0])
        ticket = BEGINS + secrets.token_hex(SECRET_BYTES)
        digest = self._digest(ticket)
        principal, apart = (
            principal_of(uid, name, self._settings, identities=self._identities, apart=each) for each in (False, True)
        )
        login = Login(principal=principal, uid=uid)
        other = None if apart == principal else Login(principal=apart, uid=uid)
        self._held[digest] = _Held(uid, name, self._now() + self.holds_s, login, other)
        self._of.setdefault(uid, deque()).append(digest)
        return ticket

    def verify(self, ticket: str, keyed: Keyed) -> Login:
        """Who a ticket stands for: it is found by its digest, which tells nothing of another one.

        Args:
            ticket: It.
            keyed: Whether a key has a tenant whose principal is another one than these. It is asked each time: a key
                may be made while the ticket holds.

        Raises:
            UnauthenticatedError: Nobody, or nobody any more.
        """
        held = self._held.get(self._digest(ticket))
        if held is None or held.ends <= self._now():
            raise UnauthenticatedError("this ticket holds no longer; take a new one from the socket that gives them")
        if held.apart is not None and keyed(held.name, (held.name, held.login.principal.name)):
            return held.apart
        return held.login

    def _digest(self, ticket: str) -> bytes:
        return hmac.digest(self._key, ticket.encode(), "sha256")

    def _forget(self) -> None:
        now = self._now()
        for digest, held in tuple(islice(self._held.items(), 2)):  # each new one takes two that have ended along
            if held.ends <= now:
                self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        uid = self._held.pop(digest).uid
        left = self._of[uid]
        left.remove(digest)
        if not left:
            del self._of[uid]


def principal_of(
    uid: int, name: str, settings: Auth, *, identities: Collection[Identity] = (), apart: bool = False
) -> Principal:
    """Who a user of this host is to the kernel: its own user and root are `local`, as on a socket of theirs alone.

    A user has the tenant of its name unless that is one that others have: then the one of its number.

    Args:
        uid: Of the user.
        name: Of the user; "" where it has none. One of digits alone is no number of a user.
        settings: Roles and tenants of users, and those of issuers.
        identities: Whom certificates stand for.
        apart: Whether others are known to have the tenant of its name.
    """
    if uid in (0, os.geteuid()):
        return Principal(name=LOCAL, roles=frozenset(settings.local_roles), tenants=(ANY,))
    plain = bool(NAME_FORM.fullmatch(name))
    number = str(uid)
    ours = (number,) if name.isdecimal() else (name, number)
    chosen = next((settings.users[each] for each in ours if each in settings.users), None)
    roles = settings.user_roles if chosen is None else chosen.roles
    others = [user.tenants for each, user in settings.users.items() if each not in ours]
    others += [each.tenants for each in settings.issuers.values()] + [each.tenants for each in identities]
    taken = apart or name in TAKEN or name.startswith("uid-") or any(name in tenants for tenants in others)
    own = name if plain and not taken else f"uid-{number}"
    tenants = chosen.tenants if chosen is not None and chosen.tenants else (own,)
    return Principal(name=f"user:{name}" if plain else f"uid:{number}", roles=frozenset(roles), tenants=tenants)


def name_of(uid: int) -> str:
    """The name of a user; "" where it has none. It may take long, where names are a directory's."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
