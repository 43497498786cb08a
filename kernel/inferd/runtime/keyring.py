"""The keys of a kernel: who a credential stands for, now."""

from __future__ import annotations

import asyncio
import hmac
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from inferd.core.key import Key, KeyState, Secret
from inferd.errors import InferdError, InvalidFieldError, KeyNotFoundError, LimitExceededError, UnauthenticatedError
from inferd.runtime.credential import FORM, ID, digest_of, new_credential, new_id
from inferd.runtime.kept_keys import write_key
from inferd.runtime.login import NOBODY, Login
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from inferd.auth_settings import Auth
    from inferd.core.principal import Principal

    Keep = Callable[[Sequence[Put | Drop]], Awaitable[None]]
    Permits = Callable[[Key], bool]

NO_DIGEST: Final = bytes(32)  # of an unknown key: it is compared with like any other

log = structlog.get_logger()


class Known(NamedTuple):
    """The login that a key came to last, so that the next call need not work it out."""

    key: Key
    digest: bytes
    login: Login

    def holds(self, keys: Mapping[str, Key], digest: bytes, now: float) -> bool:
        """Whether a credential of this digest comes to the same: the key has not changed, and nothing has ended."""
        return (
            hmac.compare_digest(self.digest, digest)
            and keys.get(self.key.key_id) is self.key
            and (self.login.expires is None or self.login.expires > now)
        )


UNKNOWN = Known(Key(key_id="", principal=NOBODY.principal, created=0.0), NO_DIGEST, NOBODY)
"""Is compared with where no login is known, so that this takes no less time."""


class Keyring:
    """Knows all keys, and keeps them. One writer: the loop of the kernel.

    Args:
        pepper: Without which no digest can be made.
        settings: The bounds.
        keep: Has the store keep records, before it returns; None for a kernel without one.
        wall: Unix time.
    """

    def __init__(
        self, pepper: bytes, settings: Auth, *, keep: Keep | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self._pepper = pepper
        self._settings = settings
        self._keep = keep
        self._wall = wall
        self._keys: dict[str, Key] = {}
        self._names: dict[str, set[str]] = {}  # of principals, by tenant
        self._used: dict[str, float] = {}
        self._known: dict[str, Known] = {}  # by the id of their key
        self._unkept: set[str] = set()  # whose last use is not kept yet
        self._changing = asyncio.Lock()

    def derive(self, purpose: bytes) -> bytes:
        """A key for another purpose: without the pepper nobody can make it, nor the pepper from it."""
        return hmac.digest(self._pepper, purpose, "sha256")

    def adopt(self, keys: Iterable[tuple[Key, float | None]]) -> None:
        """Take up keys that were kept, each with its last use."""
        for key, used in keys:
            self._add(key)
            if used is not None:
                self._used[key.key_id] = used

    def _add(self, key: Key) -> None:
        self._keys[key.key_id] = key
        self._name(key)

    def _name(self, key: Key) -> None:
        for tenant in key.principal.tenants:
            self._names.setdefault(tenant, set()).add(key.principal.name)

    def verify(self, credential: str) -> Login:
        """Who a credential stands for. What it takes does not tell what is wrong with it.

        Raises:
            UnauthenticatedError: Nobody, or nobody any more; how a key of a host or an invitation has ended is told.
        """
        now, digest = self._wall(), digest_of(self._pepper, credential)
        known = self._known.get(credential[ID], UNKNOWN)
        if known.holds(self._keys, digest, now):
            self._used[known.key.key_id] = now
            self._unkept.add(known.key.key_id)
            return known.login
        form = FORM.fullmatch(credential)
        key = None if form is None else self._keys.get(form[1])
        for secret in (Secret(0, NO_DIGEST),) if key is None else key.secrets:
            same = hmac.compare_digest(secret.digest, digest)
            if same and key is not None and key.state(now) is not KeyState.ACTIVE and key.principal.is_of_hosts:
                raise _ended(key, now)  # who has all of its credential
            if same and key is not None and key.state(now) is KeyState.ACTIVE:
                if secret.until is not None and secret.until <= now:
                    break
                self._used[key.key_id] = now
                self._unkept.add(key.key_id)
                login = self._login(key, secret)
                self._known[key.key_id] = Known(key, secret.digest, login)
                return login
        raise UnauthenticatedError("this login is not known, or holds no longer; ask an administrator for a key")

    def _login(self, key: Key, secret: Secret) -> Login:
        ends = [end for end in (key.expires, secret.until) if end is not None]
        return Login(principal=key.principal, expires=min(ends, default=None), key_id=key.key_id, secret=secret.number)

    def has(self, key_id: str) -> bool:
        """Whether there is a key of this id that holds."""
        key = self._keys.get(key_id)
        return key is not None and key.state(self._wall()) is KeyState.ACTIVE

    def find(self, key_id: str, permits: Permits) -> Key:
        """The key of this id, if the call that asks for it `permits` that.

        Raises:
            KeyNotFoundError: There is none.
        """
        key = self._keys.get(key_id)
        if key is None or not permits(key):
            raise KeyNotFoundError(f"no key {key_id[:80]!r}", metadata={"key_id": key_id[:80]})
        return key

    def all(self, permits: Permits) -> list[Key]:
        """The keys that the call `permits`, by id; of those that have ended the ones that are retained."""
        self._forget()
        return [key for _, key in sorted(self._keys.items()) if permits(key)]

    def is_of_others(self, tenant: str, names: Collection[str]) -> bool:
        """Whether a key that is known, also one that has ended, gives this tenant to a principal of another name."""
        return any(name not in names for name in self._names.get(tenant, ()))

    @property
    def has_any(self) -> bool:
        """Whether a key holds."""
        return any(self.holders())

    def holding(self) -> Iterator[Key]:
        """The keys that hold."""
        now = self._wall()
        return (key for key in self._keys.values() if key.state(now) is KeyState.ACTIVE)

    def holders(self) -> Iterator[Principal]:
        """Who has one of them."""
        return (key.principal for key in self.holding())

    def last_use(self, key: Key) -> float | None:
        """When a call last came with a key; None for never."""
        return self._used.get(key.key_id)

    @property
    def keyring_id(self) -> str:
        """Names whatever knows the same credentials: 16 hexadecimal digits, of the pepper."""
        return self.derive(b"inferd keyring id")[:8].hex()

    async def create(
        self, principal: Principal, expires: float | None, *, uses: int | None = None, credential: str = ""
    ) -> tuple[Key, str]:
        """A new key, and its credential, which nobody can tell again; of an invitation, for so many hosts.

        Raises:
            InvalidFieldError: A key had the `credential` before that its holder has drawn.
            LimitExceededError: There are as many as may be.
            StoreUnavailableError: It cannot be kept.
        """
        async with self._changing:
            self._check_room(principal)
            credential = credential or new_credential(new_id())
            if (key_id := credential[ID]) in self._keys:
                raise InvalidFieldError("secret was of a key before; draw another one", field="secret")
            secret = Secret(1, digest_of(self._pepper, credential))
            key = Key(
                key_id=key_id,
                principal=principal,
                created=self._wall(),
                expires=expires,
                secrets=(secret,),
                uses=uses,
            )
            await self._keep_key(key)
            self._add(key)
            return key, credential

    async def rotate(self, key_id: str, permits: Permits, overlap_s: float) -> tuple[Key, str]:
        """A key with a new credential; the one before holds for a while, too, and none before that.

        Raises:
            KeyNotFoundError: There is no such key, or it has ended.
            StoreUnavailableError: It cannot be kept; nothing has changed.
        """
        async with self._changing:
            key, now = self.find(key_id, permits), self._wall()
            if key.state(now) is not KeyState.ACTIVE:
                raise KeyNotFoundError(f"no key {key_id!r} that holds", metadata={"key_id": key_id})
            credential, before = new_credential(key_id), key.secrets[0]
            secret = Secret(before.number + 1, digest_of(self._pepper, credential))
            key = replace(key, secrets=(secret, replace(before, until=now + overlap_s)))
            await self._keep_key(key)
            self._keys[key_id] = key
            return key, credential

    async def revoke(self, key_id: str, permits: Permits, told: Callable[[Key], None]) -> Key:
        """A key that holds no longer, at once; one that has ended stays as it is. It is `told` before it is kept.

        Raises:
            KeyNotFoundError: There is no such key.
            StoreUnavailableError: It cannot be kept; it is revoked until this kernel ends.
        """
        async with self._changing:
            key, now = self.find(key_id, permits), self._wall()
            revoked = self._keys[key_id] = key.revoke(now)
            if revoked is not key:
                told(revoked)
            await self._keep_key(revoked)
            return revoked

    def is_invitation(self, key_id: str) -> bool:
        """Whether a key was made for hosts to join by, so many times; also one that was used up."""
        key = self._keys.get(key_id)
        return key is not None and key.uses is not None

    async def spend(self, key_id: str) -> None:
        """An invitation is used once more; one that was used up holds no longer.

        Raises:
            UnauthenticatedError: It holds no longer.
            StoreUnavailableError: That cannot be kept; nothing has changed.
        """
        async with self._changing:
            key, now = self._keys.get(key_id), self._wall()
            if key is None or key.state(now) is not KeyState.ACTIVE:
                raise UnauthenticatedError(
                    "this invitation has expired, or was used up; make another one: inferd hosts invite"
                )
            spent = key.spend(now)
            await self._keep_key(spent)
            self._keys[key_id] = spent

    def of(self, name: str) -> list[Key]:
        """The keys of a principal that hold."""
        now = self._wall()
        return [key for key in self._keys.values() if key.principal.name == name and key.state(now) is KeyState.ACTIVE]

    async def _keep_key(self, key: Key) -> None:
        if self._keep is not None:
            value = write_key(key, self._used.get(key.key_id))
            await self._keep([Put(NO_TENANT, Kind.KEY, key.key_id, value)])
            self._unkept.discard(key.key_id)

    def _check_room(self, principal: Principal) -> None:
        """See that there may be one more key. Those of hosts are counted apart, and of them the ended ones give way.

        Raises:
            LimitExceededError: There are as many as may be.
        """
        self._forget()
        of_hosts, settings = principal.is_of_hosts, self._settings
        name, limit = ("auth.host_keys", settings.host_keys) if of_hosts else ("auth.keys", settings.keys)
        alike = [key for key in self._keys.values() if key.principal.is_of_hosts is of_hosts]
        if of_hosts and len(alike) >= limit:
            now = self._wall()
            ended = sorted((end, key.key_id) for key in alike if (end := key.ended(now)) is not None)
            self._drop([key_id for _, key_id in ended[: len(alike) + 1 - limit]])
            alike = [key for key in alike if key.key_id in self._keys]
        if len(alike) >= limit:
            raise LimitExceededError(
                f"there are {len(alike)} keys{' of hosts and invitations' if of_hosts else ''} and {name} is {limit};"
                " revoke some, or raise it",
                metadata={"bound": name, "value": str(len(alike)), "limit": str(limit)},
            )

    def _forget(self) -> None:
        """Drop what has ended for longer than it is retained; what the store has of it goes with the next start."""
        now, settings = self._wall(), self._settings
        gone = []
        for key_id, key in self._keys.items():
            retained_s = settings.host_retention_s if key.principal.is_of_hosts else settings.retention_s
            if (ended := key.ended(now)) is not None and ended + retained_s <= now:
                gone.append(key_id)
        self._drop(gone)

    def _drop(self, key_ids: Collection[str]) -> None:
        for key_id in key_ids:
            del self._keys[key_id]
            self._used.pop(key_id, None)
            self._known.pop(key_id, None)
            self._unkept.add(key_id)
        if key_ids:
            self._names.clear()
            for key in self._keys.values():
                self._name(key)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the block, last uses are kept in batches; and once more when it ends."""
        attending = asyncio.create_task(self._attend(), name="last uses of keys")
        try:
            yield
        finally:
            attending.cancel()
            with suppress(asyncio.CancelledError):
                await attending
            await self.flush()

    async def _attend(self) -> None:
        while True:
            await asyncio.sleep(self._settings.last_use_s)
            await self.flush()

    async def flush(self) -> None:
        """Keep the last use of all keys that were used since; what fails is tried again with the next ones."""
        async with self._changing:
            self._forget()
            unkept, self._unkept = self._unkept, set()
            if not unkept or self._keep is None:
                return
            writes: list[Put | Drop] = []
            for key_id in sorted(unkept):
                if (key := self._keys.get(key_id)) is None:
                    writes.append(Drop(NO_TENANT, Kind.KEY, key_id))
                else:
                    writes.append(Put(NO_TENANT, Kind.KEY, key_id, write_key(key, self._used.get(key_id))))
            try:
                await self._keep(writes)
            except InferdError as error:
                self._unkept |= unkept
                log.warning("the last uses of keys are not kept yet", why=error.message)


def _ended(key: Key, now: float) -> UnauthenticatedError:
    """How the key of a host, or an invitation, has ended: its agent is to know whether to try again."""
    when = datetime.fromtimestamp(key.ended(now) or now, UTC).isoformat(timespec="seconds")
    how = {KeyState.EXPIRED: "expired", KeyState.USED: "used up"}.get(key.state(now), "revoked")
    name = key.principal.name.partition(":")[2]
    if key.uses is None:
        what, advice = f"the key of host {name!r}", "make an invitation"
    else:
        what, advice = "this invitation", "make another one"
    said = f"{what} {'has' if how == 'expired' else 'was'} {how}, at {when}"
    only = f" --host {name}" if name else ""
    return UnauthenticatedError(f"{said}; {advice}: inferd hosts invite{only}", metadata={"cause": how})
