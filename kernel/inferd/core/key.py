"""Keys by which callers are known, as values. Of a credential only a keyed digest is known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferd.core.lifecycle import Table
    from inferd.core.principal import Principal


class KeyState(Enum):
    """Where a key stands; numbers of `inferd.v1.KeyState`."""

    ACTIVE = 1
    EXPIRED = 2
    REVOKED = 3
    USED = 4


class KeyChange(Enum):
    """What can happen to a key."""

    EXPIRE = 1
    REVOKE = 2
    USE_UP = 3  # of an invitation: as many hosts have joined by it as may


KEY_TABLE: Table[KeyState, KeyChange] = {
    KeyState.ACTIVE: {
        KeyChange.EXPIRE: KeyState.EXPIRED,
        KeyChange.REVOKE: KeyState.REVOKED,
        KeyChange.USE_UP: KeyState.USED,
    },
    KeyState.EXPIRED: {},
    KeyState.REVOKED: {},
    KeyState.USED: {},
}


@dataclass(frozen=True, slots=True)
class Secret:
    """One of the secrets of a key: what is kept of it.

    Attributes:
        number: Rises with each new one.
        digest: Of the credential.
        until: When it ends, in Unix time; None for when the key does.
    """

    number: int
    digest: bytes = field(repr=False)
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key; times are Unix times.

    Attributes:
        key_id: Its id.
        principal: Who has it, with its roles and tenants.
        created: When it was made.
        expires: When it ends; None for never.
        revoked: When it was taken back, or used up; None as long as it was not.
        secrets: The present one, and the one before as long as that may hold.
        uses: How many hosts may still join by it, of an invitation; None for others.
    """

    key_id: str
    principal: Principal
    created: float
    expires: float | None = None
    revoked: float | None = None
    secrets: tuple[Secret, ...] = ()
    uses: int | None = None

    def state(self, now: float) -> KeyState:
        """Where it stands at a time."""
        if self.revoked is not None:
            return KeyState.USED if self.uses == 0 else KeyState.REVOKED
        return KeyState.EXPIRED if self.expires is not None and self.expires <= now else KeyState.ACTIVE

    def revoke(self, now: float) -> Key:
        """It, taken back; one that has ended stays as it is."""
        if not KEY_TABLE[self.state(now)]:
            return self
        return replace(self, revoked=now)

    def spend(self, now: float) -> Key:
        """It, used once more; one that was used up has ended."""
        left = (self.uses or 1) - 1
        return replace(self, uses=left) if left else replace(self, uses=0, revoked=now)

    def ended(self, now: float) -> float | None:
        """When it ended; None as long as it has not."""
        state = self.state(now)
        return None if state is KeyState.ACTIVE else self.expires if state is KeyState.EXPIRED else self.revoked

    def overlap(self, now: float) -> float | None:
        """Until when the secret before the present one holds; None when it does not."""
        ends = [secret.until for secret in self.secrets[1:] if secret.until is not None and secret.until > now]
        return max(ends, default=None) if self.state(now) is KeyState.ACTIVE else None
