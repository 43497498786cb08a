"""Who a caller is, however that became known: what rules are about."""

from __future__ import annotations

from dataclasses import dataclass

from inferd.core.ids import DEFAULT_TENANT, Tenant

ANY = "*"
"""Of tenants: each that there is."""


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

    def has(self, tenant: str) -> bool:
        """Whether it may ask for a tenant."""
        return tenant in self.tenants or ANY in self.tenants


LOCAL = "local"
"""The name of whoever comes by a way that only this host's own user has, or that needs no login, and says no more."""
OWNER = Principal(name=LOCAL, roles=frozenset({"admin"}), tenants=(ANY,))
"""Whom nobody stops: the user of a kernel that needs no login."""
