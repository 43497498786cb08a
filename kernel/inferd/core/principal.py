"""Who a caller is, however that became known: what rules are about."""

from __future__ import annotations

from dataclasses import dataclass

from inferd.core.ids import DEFAULT_TENANT, Tenant
from inferd.tenants import OF_HOSTS

ANY = "*"
"""Of tenants: each that there is."""
HOSTS = Tenant(OF_HOSTS)
"""The tenant of agents of hosts that have joined, and of invitations: nobody else's, and without tasks."""
HOST, INVITE = "host:", "invite"
"""What names of principals are of agents that joined by an invitation, and of invitations; of one that is for a host
of a certain name, ":" and that follow."""
HOST_ROLES = (frozenset({"agent"}), frozenset({"joiner"}))
"""Their roles, to whom all else is denied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """One who asks.

    Attributes:
        name: What rules and people call it.
        roles: What it is; rules give rights to roles.
        tenants: Those for which it may ask; the first one is meant where it names none.
    """

    name: str
    roles: frozenset[str] = frozenset()
    tenants: tuple[str, ...] = ()

    @property
    def tenant(self) -> Tenant:
        """Whose call it is where the caller names none."""
        return DEFAULT_TENANT if not self.tenants or self.tenants[0] == ANY else Tenant(self.tenants[0])

    @property
    def local(self) -> bool:
        """Whether it is whoever has this host's own user, for the kernel: no key and no token gives this name."""
        return self.name == LOCAL

    @property
    def is_of_hosts(self) -> bool:
        """Whether it is the agent of a host that has joined, or an invitation to."""
        named = self.name.startswith((HOST, f"{INVITE}:")) or self.name == INVITE
        return named and self.tenants == (HOSTS,) and self.roles in HOST_ROLES

    def has(self, tenant: str) -> bool:
        """Whether it has a tenant: that of hosts only they themselves have, and who has all, whoever names it."""
        return ANY in self.tenants or (self.is_of_hosts if tenant == HOSTS else tenant in self.tenants)


LOCAL = "local"
"""The name of whoever comes by a way that only this host's own user has, or that needs no login, and says no more."""
OWNER = Principal(name=LOCAL, roles=frozenset({"admin"}), tenants=(ANY,))
"""Whom nobody stops: the user of a kernel that needs no login."""
