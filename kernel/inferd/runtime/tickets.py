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
from typing import TYPE_CHECKING, Final

from inferd.core.ids import DEFAULT_TENANT
from inferd.core.principal import ANY, LOCAL, Principal
from inferd.errors import UnauthenticatedError
from inferd.runtime.login import NOBODY, Login

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.auth_settings import Auth

BEGINS: Final = "it_"
SECRET_BYTES: Final = 32
NAME_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Of a user's name that can be that of a tenant; others go by their number."""
TAKEN: Final = (DEFAULT_TENANT, LOCAL, *NOBODY.principal.tenants)


class Tickets:
    """The tickets that hold. One writer: the loop of the kernel.

    Args:
        settings: Roles and tenants of users, and the bounds.
        now: Seconds that never fall.
    """

    def __init__(self, settings: Auth, *, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._key = secrets.token_bytes(SECRET_BYTES)
        self._held: dict[bytes, tuple[int, float, Login]] = {}  # by digest, in the order in which they end
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
        login = Login(principal=principal_of(uid, name, self._settings))
        self._held[digest] = (uid, self._now() + self.holds_s, login)
        self._of.setdefault(uid, deque()).append(digest)
        return ticket

    def verify(self, ticket: str) -> Login:
        """Who a ticket stands for: it is found by its digest, which tells nothing of another one.

        Raises:
            UnauthenticatedError: Nobody, or nobody any more.
        """
        _, ends, login = self._held.get(self._digest(ticket), (0, 0.0, NOBODY))
        if login is NOBODY or ends <= self._now():
            raise UnauthenticatedError("this ticket holds no longer; take a new one from the socket that gives them")
        return login

    def _digest(self, ticket: str) -> bytes:
        return hmac.digest(self._key, ticket.encode(), "sha256")

    def _forget(self) -> None:
        now = self._now()
        for digest, (_, ends, _) in tuple(
            islice(self._held.items(), 2)
        ):  # each new one takes two that have ended along
            if ends <= now:
                self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        uid, _, _ = self._held.pop(digest)
        left = self._of[uid]
        left.remove(digest)
        if not left:
            del self._of[uid]


def principal_of(uid: int, name: str, settings: Auth) -> Principal:
    """Who a user of this host is to the kernel: its own user and root are `local`, as on a socket of theirs alone."""
    if uid in (0, os.geteuid()):
        return Principal(name=LOCAL, roles=frozenset(settings.local_roles), tenants=(ANY,))
    plain = bool(NAME_FORM.fullmatch(name))
    number = str(uid)
    chosen = settings.users.get(name) or settings.users.get(number)
    roles = settings.user_roles if chosen is None else chosen.roles
    own = name if plain and name not in TAKEN and not name.startswith("uid-") else f"uid-{number}"
    tenants = chosen.tenants if chosen is not None and chosen.tenants else (own,)
    return Principal(name=f"user:{name}" if plain else f"uid:{number}", roles=frozenset(roles), tenants=tenants)


def name_of(uid: int) -> str:
    """The name of a user; "" where it has none. It may take long, where names are a directory's."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
