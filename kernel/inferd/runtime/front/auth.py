"""What may be done with keys, roles and rules."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.core.policy import Policy, ResourceKind, Rule, Rules, Verb
from inferd.core.principal import ANY, Principal
from inferd.core.roles import BUILT_IN
from inferd.errors import (
    InvalidFieldError,
    LimitExceededError,
    PermissionDeniedError,
    RuleNotFoundError,
    UnauthenticatedError,
)
from inferd.runtime.kept_keys import write_rule
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from inferd.core.key import Key
    from inferd.core.principal import Principal
    from inferd.runtime.front.access import Access
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.keyring import Keep, Keyring
    from inferd.runtime.login import Login

CREATE_KEY, READ_KEY, UPDATE_KEY, DELETE_KEY = (
    Policy(verb, ResourceKind.KEY) for verb in (Verb.CREATE, Verb.READ, Verb.UPDATE, Verb.DELETE)
)
CREATE_RULE = Policy(Verb.CREATE, ResourceKind.RULE)
READ_RULE = Policy(Verb.READ, ResourceKind.RULE)
DELETE_RULE = Policy(Verb.DELETE, ResourceKind.RULE)


class Auth:
    """Makes keys and rules, and ends what goes on by those that hold no longer.

    Args:
        keyring: The keys.
        access: The rules, and what goes on by them.
        keep: Has the store keep records; None for a kernel without one.
        rules_limit: Most rules that calls make (`auth.kept_rules`).
    """

    def __init__(self, keyring: Keyring, access: Access, *, keep: Keep | None, rules_limit: int) -> None:
        self._keyring = keyring
        self._access = access
        self._keep = keep
        self._rules_limit = rules_limit
        self._changing = asyncio.Lock()

    # Keys.

    def now(self) -> float:
        """The time by which keys end, in Unix time."""
        return self._access.now()

    async def create_key(self, caller: Caller, principal: Principal, expires: float | None) -> tuple[Key, str]:
        """A new key, and its credential.

        Raises:
            PermissionDeniedError: It would have more than the caller has.
            InferdError: As `Keyring.create`.
        """
        self._check_gift(caller, principal)
        for tenant in self._access.rules.apart(principal.tenants):
            self._access.check(caller.principal, tenant, CREATE_KEY)
        return await self._keyring.create(principal, expires)

    def keys(self, caller: Caller) -> list[Key]:
        """The keys whose tenants are all among those for which the caller may read keys, by id."""
        return self._keyring.all(self._permits(caller, READ_KEY))

    def last_use(self, key: Key) -> float | None:
        """When a call last came with a key, in Unix time; None for never."""
        return self._keyring.last_use(key)

    async def rotate_key(self, caller: Caller, key_id: str, overlap_s: float) -> tuple[Key, str]:
        """A key with a new credential; calls under way with the one before go on as long as that holds.

        Raises:
            PermissionDeniedError: The key has more than the caller.
            InferdError: As `Keyring.rotate`.
        """
        permits = self._permits(caller, UPDATE_KEY)
        self._check_gift(caller, self._keyring.find(key_id, permits).principal)
        key, credential = await self._keyring.rotate(key_id, permits, overlap_s)
        before = key.secrets[1]
        self._access.end(lambda login: _is_of(login, key) and login.secret < before.number, _replaced)
        if before.until is not None:
            self._access.shorten(lambda login: _is_of(login, key) and login.secret == before.number, before.until)
        return key, credential

    async def revoke_key(self, caller: Caller, key_id: str) -> Key:
        """A key that holds no longer, nor do calls that go on with it.

        Raises:
            InferdError: As `Keyring.revoke`.
        """
        return await self._keyring.revoke(key_id, self._permits(caller, DELETE_KEY), self._end_calls)

    async def end_key(self, key_id: str) -> None:
        """Another key has taken the place of this one: it holds no longer, nor do calls that go on with it.

        Raises:
            InferdError: As `Keyring.revoke`.
        """
        await self._keyring.revoke(key_id, lambda _: True, self._end_calls)

    def _permits(self, caller: Caller, policy: Policy) -> Callable[[Key], bool]:
        """Whether a caller may do something with a key: for each tenant of that, not only for the call's."""
        return lambda key: self._access.may_for_each(caller.principal, key.principal.tenants, policy)

    def _end_calls(self, key: Key) -> None:
        self._access.end(lambda login: _is_of(login, key), _revoked)

    def _check_gift(self, caller: Caller, principal: Principal) -> None:
        """Refuse that one gives what it does not have."""
        own = caller.principal
        if missing := [tenant for tenant in principal.tenants if not own.has(tenant)]:
            raise PermissionDeniedError(
                f"{own.name!r} may not make keys for tenant {missing[0]!r}, which it does not have",
                metadata={"principal": own.name, "tenant": missing[0]},
            )
        if self._access.may_for_each(own, (ANY,), CREATE_RULE):
            return  # what it does not have it could give itself
        known = self._access.rules.roles if self._access.may_for_each(own, principal.tenants, CREATE_RULE) else ()
        if more := sorted(principal.roles - own.roles - set(known)):
            raise PermissionDeniedError(
                f"{own.name!r} may not give role {more[0]!r}, which it does not have itself",
                metadata={"principal": own.name, "role": more[0]},
            )
        if (gained := self._access.rules.gained(principal, own)) is not None:
            verb, kind, tenant = gained[0].name.lower(), gained[1].name.lower(), gained[2]
            raise PermissionDeniedError(
                f"{own.name!r} may not make a key for {principal.name!r} with roles {sorted(principal.roles)}: for"
                f" tenant {tenant!r} it could {verb} {kind} as its maker may not; ask who may make rules",
                metadata={"principal": own.name, "verb": verb, "kind": kind, "tenant": tenant},
            )

    # Rules.

    def roles(self, caller: Caller) -> Mapping[str, tuple[Rule, ...]]:
        """The roles that rules name which the caller may be told, and those rules."""
        return Rules(self.rules(caller)).roles

    def rules(self, caller: Caller) -> tuple[Rule, ...]:
        """The rules, first those that no call can change; to who may not read them for all tenants these alone.

        The built-in ones, those about itself, and those about one of the tenants alone for which it may read rules.
        """
        own, known = caller.principal, self._access.rules
        if self._access.may_for_each(own, (ANY,), READ_RULE):
            return known.rules
        told = {*BUILT_IN, *known.about(own)}
        tenants = {tenant for tenant in own.tenants if tenant != ANY and self._access.may(own, tenant, READ_RULE)}
        return tuple(rule for rule in known.rules if rule in told or rule.tenants in tenants)

    async def create_rule(self, own: Principal, rule: Rule) -> Rule:
        """A new rule, which holds at once, also for calls under way.

        Raises:
            InvalidFieldError: It would take from who makes it, `own`, the right to take it back.
            LimitExceededError: There are as many as may be.
            StoreUnavailableError: It cannot be kept.
        """
        async with self._changing:
            made = self._access.made
            if len(made) >= self._rules_limit:
                raise LimitExceededError(
                    f"calls have made {len(made)} rules and auth.kept_rules is {self._rules_limit}; delete some",
                    metadata={
                        "bound": "auth.kept_rules",
                        "value": str(len(made)),
                        "limit": str(self._rules_limit),
                    },
                )
            rule = replace(rule, rule_id=secrets.token_hex(8))
            after = Rules((*self._access.rules.rules, rule))
            if not all(after.grant(own, tenant, DELETE_RULE).permits() for tenant in after.apart((ANY,))):
                raise InvalidFieldError(
                    f"with this rule {own.name!r} could delete no rule any more, this one neither; "
                    "name in `who`, `verbs` and `kinds` what it is about",
                    field="rule",
                )
            if self._keep is not None:
                await self._keep([Put(NO_TENANT, Kind.RULE, rule.rule_id, write_rule(rule))])
            self._access.set_rules((*made, rule))
            return rule

    async def delete_rule(self, rule_id: str) -> None:
        """A rule that a call made holds no longer.

        Raises:
            RuleNotFoundError: There is no such rule, or it is one of the configuration.
            StoreUnavailableError: That cannot be kept; the rule stays.
        """
        async with self._changing:
            left = [rule for rule in self._access.made if rule.rule_id != rule_id]
            if len(left) == len(self._access.made):
                raise RuleNotFoundError(f"no rule {rule_id[:80]!r}", metadata={"rule_id": rule_id[:80]})
            if self._keep is not None:
                await self._keep([Drop(NO_TENANT, Kind.RULE, rule_id)])
            self._access.set_rules(left)

    def adopt_rules(self, kept: Iterable[Rule]) -> None:
        """The rules that calls made before this kernel was started."""
        self._access.set_rules(kept)


def _is_of(login: Login, key: Key) -> bool:
    return login.key_id == key.key_id


def _revoked() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the key of this call was revoked; log in with one that holds", metadata={"cause": "revoked"}
    )


def _replaced() -> UnauthenticatedError:
    return UnauthenticatedError("the credential of this call was replaced; log in with the present one")
