"""What decides who may do what in a kernel: its keys and its rules, from the configuration and the store."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from inferd.audit_settings import told_settings
from inferd.core.policy import ALL_KINDS, ALL_VERBS, Policy, ResourceKind, Rule, Verb
from inferd.core.principal import ANY, LOCAL, Principal
from inferd.core.roles import BUILT_IN
from inferd.errors import InvalidFieldError, UnauthenticatedError
from inferd.runtime.certificates import gone
from inferd.runtime.front.access import Access
from inferd.runtime.front.auth import Auth
from inferd.runtime.kept_keys import kept_keys, kept_rules
from inferd.runtime.keyring import Keyring
from inferd.runtime.pepper import read_pepper
from inferd.runtime.tokens import Tokens
from inferd.runtime.trail_opening import KIN, opened_trail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from inferd import auth_settings as settings
    from inferd.config import Settings
    from inferd.runtime.ask_grants import MayRun
    from inferd.runtime.certificates import Certificates
    from inferd.runtime.driver import Driver
    from inferd.runtime.keeper import Keeper
    from inferd.runtime.login import Login

CONFIGURATION = b"inferd audit 1 configuration"
"""What the key that hashes the configuration for the audit trail is derived for from the pepper."""
MAKE_KEYS, RUN_TASK = Policy(Verb.CREATE, ResourceKind.KEY), Policy(Verb.RUN, ResourceKind.TASK)
KEY_BEGINS, UNIX, MUTUAL_TLS = "ik_", "unix:", "mtls:"


@dataclass(frozen=True, slots=True)
class Authority:
    """What decides.

    Attributes:
        keyring: Who callers are.
        tokens: The same of tokens.
        certificates: The same of certificates.
        access: What they may do.
        auth: What may be done with both.
    """

    keyring: Keyring
    tokens: Tokens
    certificates: Certificates
    access: Access
    auth: Auth

    @classmethod
    async def of(cls, settings: Settings, driver: Driver, certificates: Certificates) -> Self:
        """The authority of a kernel by its settings, and its audit trail, which is the driver's. As `made`."""
        folder = settings.state_dir
        authority = await cls.made(settings.auth, driver.keeper, certificates, pepper_path=folder / "pepper")
        started = told_settings(settings, authority.keyring.derive(CONFIGURATION))
        kin = authority.keyring.derive(KIN)
        await opened_trail(settings.audit, driver, folder, started=started, kin=kin)
        return authority

    @classmethod
    async def made(
        cls, chosen: settings.Auth, keeper: Keeper | None, certificates: Certificates, *, pepper_path: Path
    ) -> Self:
        """The authority of a kernel, with what the one before it has kept.

        Args:
            chosen: What is configured.
            keeper: Of the kernel; None where nothing is kept.
            certificates: Of the kernel, read.
            pepper_path: Where the pepper lies if the configuration names no other place.

        Raises:
            InvalidFieldError: The pepper is none, or others may read it; or the keys of an issuer cannot be read.
            StoreUnavailableError: What was kept cannot be read.
        """
        pepper = await asyncio.to_thread(read_pepper, chosen.pepper_file or pepper_path)
        keep = None if keeper is None else keeper.keep_records
        keyring, access = Keyring(pepper, chosen, keep=keep), Access(read_rules(chosen))
        tokens = Tokens(chosen.issuers)
        if chosen.issuers:
            await tokens.read()
        auth = Auth(keyring, access, keep=keep, rules_limit=chosen.kept_rules)
        if keeper is not None:
            keyring.adopt(await keeper.read(kept_keys))
            auth.adopt_rules(await keeper.read(kept_rules))
        return cls(keyring, tokens, certificates, access, auth)

    def holds(self, asker: MayRun, tenant: str, model: str) -> bool:
        """Whether whoever made a call may still run a model: its key holds, and the rules allow it now."""
        if not asker.name:  # the call is of a kernel before this one
            return True
        principal = Principal(name=asker.name, roles=frozenset(asker.roles), tenants=(tenant,))
        known = not asker.key_id or self.keyring.has(asker.key_id)
        return known and self.access.rules.grant(principal, tenant, RUN_TASK).permits(model)

    def check_entry(self, chosen: settings.Auth, listen: Collection[str]) -> None:
        """Refuse a kernel that nobody could use, nor make a key for.

        Args:
            chosen: What is configured.
            listen: The addresses of the kernel.

        Raises:
            InvalidFieldError: It is one.
        """
        open_way = not chosen.required or any(address.startswith(UNIX) for address in listen)
        by_certificate = self.certificates.gives and any(address.startswith(MUTUAL_TLS) for address in listen)
        if (chosen.local_roles and open_way) or chosen.issuers or by_certificate or self.keyring.has_any:
            return
        raise InvalidFieldError(
            "auth lets nobody in: no key has been made, no issuer is trusted, no certificate stands for anybody, and "
            "no way needs no login; listen on a socket, too (unix:/path), where auth.local_roles hold, and make a key "
            "there: inferd keys create",
            field="auth.required" if chosen.local_roles else "auth.local_roles",
        )

    def has_key_makers(self, chosen: settings.Auth, listen: Collection[str]) -> bool:
        """Whether anybody may make keys: who needs no login, who has a key that holds, a token or a certificate.

        Args:
            chosen: What is configured.
            listen: The addresses of the kernel.
        """
        open_way = not chosen.required or any(address.startswith(UNIX) for address in listen)
        named = [
            *([(chosen.local_roles, (ANY,))] if open_way else []),
            *((each.roles, each.tenants) for each in chosen.issuers.values()),
            *((each.roles, each.tenants) for each in chosen.users.values()),
            *((each.roles, each.tenants) for each in self.certificates.identities),
        ]
        who = [Principal(name=LOCAL, roles=frozenset(roles), tenants=tenants) for roles, tenants in named]
        return any(self.access.may(each, each.tenant, MAKE_KEYS) for each in (*self.keyring.holders(), *who))

    def verify(self, credential: str) -> Login:
        """Who a credential stands for, a key or a token.

        Raises:
            UnauthenticatedError: Nobody, or nobody any more.
        """
        return (self.keyring if credential.startswith(KEY_BEGINS) else self.tokens).verify(credential)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As long as the block, what changes by itself is seen: last uses, keys of issuers, and certificates."""
        attending = asyncio.create_task(self.tokens.attend(self._end_unsigned), name="keys of issuers")
        try:
            with self.certificates.telling(self._end_uncertified):
                async with self.keyring.running():
                    yield
        finally:
            attending.cancel()
            with suppress(asyncio.CancelledError):
                await attending

    def _end_unsigned(self) -> None:
        def error() -> UnauthenticatedError:
            return UnauthenticatedError("the key that signed the login of this call is gone; log in anew")

        self.access.end(lambda login: not self.tokens.holds(login), error)

    def _end_uncertified(self) -> None:
        self.access.end(lambda login: not self.certificates.holds(login), gone)


def read_rules(chosen: settings.Auth) -> tuple[Rule, ...]:
    """The rules of the built-in roles, and those of the configuration."""
    return (*BUILT_IN, *map(_read, chosen.rules))


def _read(setting: settings.RuleSetting) -> Rule:
    return Rule(
        who=setting.who,
        allow=setting.effect == "allow",
        verbs=frozenset(Verb[name.upper()] for name in setting.verbs) or ALL_VERBS,
        kinds=frozenset(ResourceKind[name.upper()] for name in setting.kinds) or ALL_KINDS,
        models=setting.models,
        tenants=setting.tenants,
    )
