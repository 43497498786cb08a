"""What may be done by whom, and the calls that are under way because they may be.

A call is admitted once, before its use case; a change that takes away what it was admitted for ends it then and there,
however long it would have gone on.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from inferd.core.policy import Grant, Policy, ResourceKind, Rules, Verb
from inferd.core.principal import ANY
from inferd.errors import InferdError, PermissionDeniedError, UnauthenticatedError
from inferd.runtime.ask_grants import MayRun
from inferd.runtime.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from inferd.core.policy import Rule
    from inferd.core.principal import Principal
    from inferd.runtime.login import Login

READ_MODEL = Policy(Verb.READ, ResourceKind.MODEL)
Names = tuple[tuple[str, str], ...]
"""Models' own names, each with the one that was given for it: that, or an alias."""
AT_ONCE = 0.0  # on the clock of the loop: an instant that has passed


class Admission:
    """A call under way. One writer: its `Access`.

    Attributes:
        login: Who makes it, and for how long that holds.
        tenant: For which tenant.
        policy: What it was admitted for.
        names: Of the models that its request names.
        many: Whether its further messages may name others.
        block: Around all of it; ends it.
        grant: What the rules gave it.
        error: Why it ends before its time.
    """

    __slots__ = ("_access", "block", "error", "grant", "login", "many", "names", "policy", "tenant")

    def __init__(
        self, access: Access, login: Login, tenant: str, policy: Policy, *, many: bool, block: asyncio.Timeout
    ) -> None:
        self._access = access
        self.login = login
        self.tenant = tenant
        self.policy = policy
        self.names: Names = ()
        self.many = many
        self.grant: Grant = access.check(login.principal, tenant, policy)
        self.block = block
        self.error: InferdError | None = None

    async def __aenter__(self) -> Self:
        await self.block.__aenter__()
        self._access.begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._access.leave(self)
        try:
            await self.block.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise (self.error or expired()) from None

    @property
    def may_run(self) -> MayRun:
        """What it may run, for calls of functions, which ask models later."""
        own = self.login.principal
        return MayRun(grant=self.grant, name=own.name, roles=tuple(sorted(own.roles)), key_id=self.login.key_id)

    def check_models(self, models: Iterable[str]) -> None:
        """Refuse models that it may not name.

        Raises:
            PermissionDeniedError: It names one.
        """
        self.check_names((model, model) for model in models)

    def check_names(self, names: Iterable[tuple[str, str]]) -> None:
        """Refuse models that it may not name, by the names as they were given where it may not read them.

        Raises:
            PermissionDeniedError: It names one.
        """
        if self.grant.whole:
            return
        for model, given in names:
            if not self.grant.permits(model):
                known = model if self.reads(model) else given
                raise _denied(self.login.principal, self.tenant, self.policy, known)

    def check(self, policy: Policy, model: str | None = None) -> None:
        """Refuse what needs another right than the call itself, with a model or with none by name.

        Raises:
            PermissionDeniedError: It may not.
        """
        try:
            self._access.check(self.login.principal, self.tenant, policy, model)
        except PermissionDeniedError:
            if model is None or (given := dict(self.names).get(model, model)) == model or self.reads(model):
                raise
            raise _denied(self.login.principal, self.tenant, policy, given) from None

    def check_all_tenants(self, why: str) -> None:
        """Refuse one that may not do this for every tenant that there is; `why` it must follows in the message.

        Raises:
            PermissionDeniedError: It has only some tenants, or the rules give it this for some alone.
        """
        own, policy = self.login.principal, self.policy
        if not self._access.may_for_each(own, (ANY,), policy):
            verb, kind = policy.verb.name.lower(), policy.kind.name.lower()
            raise PermissionDeniedError(
                f"{own.name!r} may not {verb} {kind} for all tenants, and {why}; ask an administrator of all",
                metadata={"principal": own.name, "verb": verb, "kind": kind},
            )

    def sees(self, model: str) -> bool:
        """Whether it may be told of a model."""
        return self.grant.whole or self.grant.permits(model)

    def has(self, tenant: str) -> bool:
        """Whether whoever makes it may do the same for a tenant."""
        principal = self.login.principal
        return principal.has(tenant) and self._access.may(principal, tenant, self.policy)

    def reads(self, model: str) -> bool:
        """Whether whoever makes it may read a model, whatever the call is about."""
        return self._access.rules.grant(self.login.principal, self.tenant, READ_MODEL).permits(model)


class Access:
    """Admits calls by rules, and ends those that the rules allow no longer. One writer: the loop of the kernel.

    Args:
        rules: Of the built-in roles and the configuration.
        wall: Unix time, by which logins expire.

    Attributes:
        rules: All rules.
        now: Its argument `wall`.
    """

    def __init__(self, rules: Iterable[Rule], *, wall: Callable[[], float] = time.time) -> None:
        self._fixed = tuple(rules)
        self._made: dict[str, Rule] = {}
        self.now = wall
        self._open: set[Admission] = set()
        self._left = Signal()
        self.rules = Rules(self._fixed)

    def check(self, principal: Principal, tenant: str, policy: Policy, model: str | None = None) -> Grant:
        """What the rules give a principal, for a tenant, of what a policy names.

        Raises:
            PermissionDeniedError: It is not enough for a call about the model, or about none by name.
        """
        grant = self.rules.grant(principal, tenant, policy)
        if not grant.permits(model):
            raise _denied(principal, tenant, policy, model)
        return grant

    def may(self, principal: Principal, tenant: str, policy: Policy) -> bool:
        """Whether the rules give a principal, for a tenant, what a policy names, about no model by name."""
        return self.rules.grant(principal, tenant, policy).permits()

    def may_for_each(self, principal: Principal, tenants: Iterable[str], policy: Policy) -> bool:
        """Whether it has these tenants, and the rules give it for each of them what a policy names."""
        tenants = tuple(tenants)
        return all(map(principal.has, tenants)) and all(
            self.may(principal, tenant, policy) for tenant in self.rules.apart(tenants)
        )

    def admitted(self, login: Login, tenant: str, policy: Policy, *, many: bool) -> Admission:
        """A call under way as long as the block; whatever that waits for, it ends when the call may go on no longer.

        Args:
            login: Who makes it.
            tenant: For which tenant.
            policy: What it needs.
            many: Whether further messages of it may name models.

        Raises:
            PermissionDeniedError: The rules do not allow it, or not any more.
            UnauthenticatedError: The login has expired or was revoked meanwhile.
        """
        block = asyncio.timeout_at(self._on_loop(login.expires))
        return Admission(self, login, tenant, policy, many=many, block=block)

    def begin(self, admission: Admission) -> None:
        """Its block has begun."""
        self._open.add(admission)

    def leave(self, admission: Admission) -> None:
        """Its block has ended."""
        self._open.discard(admission)
        self._left.notify()

    async def empty(self, most_s: float) -> None:
        """Wait until no call is under way, for so long at most: one that is cut off may have something to put away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                while self._open:
                    await self._left.wait(self._left.version)

    def set_rules(self, made: Iterable[Rule]) -> None:
        """The rules that were made by calls are these; calls that none of all rules allows any more end."""
        self._made = {rule.rule_id: rule for rule in made}
        self.rules = Rules((*self._fixed, *self._made.values()))
        for admission in tuple(self._open):
            try:
                self._check_again(admission)
            except PermissionDeniedError as error:
                _end(admission, error)

    def _check_again(self, admission: Admission) -> None:
        principal, tenant, policy = admission.login.principal, admission.tenant, admission.policy
        grant, before = self.check(principal, tenant, policy), admission.grant
        admission.grant = grant
        if grant.whole:
            return
        admission.check_names(admission.names)
        if admission.many and grant != before:  # what its messages have named is not kept
            raise _denied(principal, tenant, policy, None)

    def _on_loop(self, moment: float | None) -> float | None:
        """When something ends on the clock of the loop that ends at a Unix time; None for never."""
        return None if moment is None else asyncio.get_running_loop().time() + moment - self.now()

    @property
    def made(self) -> tuple[Rule, ...]:
        """The rules that were made by calls."""
        return tuple(self._made.values())

    def shorten(self, ends: Callable[[Login], bool], moment: float) -> None:
        """The logins for which something holds end at a Unix time, and their calls with them, if not before."""
        until = self._on_loop(moment)
        for admission in tuple(self._open):
            block = admission.block
            if ends(admission.login) and until is not None and not block.expired():
                before = block.when()
                block.reschedule(until if before is None else min(before, until))

    def end(self, ends: Callable[[Login], bool], error: Callable[[], InferdError]) -> None:
        """End the calls of the logins for which something holds, with an error for each."""
        for admission in tuple(self._open):
            if ends(admission.login):
                _end(admission, error())


def _end(admission: Admission, error: InferdError) -> None:
    if not admission.block.expired():
        admission.error = error
        admission.block.reschedule(AT_ONCE)


def expired() -> UnauthenticatedError:
    """A login has come to its end."""
    return UnauthenticatedError("the login of this call has expired; log in with one that holds")


def _denied(principal: Principal, tenant: str, policy: Policy, model: str | None) -> PermissionDeniedError:
    verb, kind = policy.verb.name.lower(), policy.kind.name.lower()
    of = "" if model is None else f" with model {model!r}"
    facts = {"principal": principal.name, "verb": verb, "kind": kind, "tenant": tenant}
    return PermissionDeniedError(
        f"{principal.name!r} may not {verb} {kind}{of} for tenant {tenant!r}: no rule allows it, or one denies it; "
        "ask an administrator",
        metadata=facts if model is None else {**facts, "model": model},
    )
