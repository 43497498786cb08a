"""Who may do what: rules, and what they come to for one principal and one tenant.

A rule allows or denies verbs on kinds of resources to a role or a principal, for models and tenants by pattern. What
no rule allows is denied, and a rule that denies wins over all that allow. What the rules come to is worked out once for
each principal and tenant, so that a call costs a look-up.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from inferd.core.principal import ANY
from inferd.model_names import AT, numbered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from inferd.core.principal import Principal

ROLE, PRINCIPAL = "role:", "principal:"
"""What `Rule.who` begins with, unless it is "*"."""
MOST_RIGHTS = 10_000  # principals and tenants for which is remembered what the rules come to


class Verb(IntEnum):
    """What a call does; numbers of `inferd.v1.Verb`."""

    READ = 1
    CREATE = 2
    UPDATE = 3
    DELETE = 4
    RUN = 5


class ResourceKind(IntEnum):
    """What a call is about; numbers of `inferd.v1.ResourceKind`."""

    TASK = 1
    LEASE = 2
    MODEL = 3
    HOST = 4
    UPLOAD = 5
    IDENTITY = 6
    KEY = 7
    RULE = 8
    HEALTH = 9
    REFLECTION = 10
    BLOB = 11
    STORE = 12
    QUOTA = 13
    AUDIT = 70
    AGENT = 90
    FUNCTION = 100
    DATASET = 104
    INDEX = 160
    FEDERATION = 170


@dataclass(frozen=True, slots=True)
class Policy:
    """What a call asks the rules for."""

    verb: Verb
    kind: ResourceKind


ALL_VERBS, ALL_KINDS = frozenset(Verb), frozenset(ResourceKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Allows or denies something.

    Attributes:
        who: "role:NAME", "principal:NAME" or "*" for all.
        allow: Whether it allows or denies.
        verbs: What.
        kinds: To what.
        models: Pattern of the models, "*" for any part of a name. It holds for calls that name a model.
        tenants: Pattern of the tenants.
        rule_id: Of a rule that was made by a call; "" for those of the configuration and of built-in roles.
    """

    who: str
    allow: bool = True
    verbs: frozenset[Verb] = ALL_VERBS
    kinds: frozenset[ResourceKind] = ALL_KINDS
    models: str = ANY
    tenants: str = ANY
    rule_id: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one may do with one verb on one kind: patterns of models that are allowed, and that are denied."""

    allows: tuple[str, ...] = ()
    denies: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it permits all."""
        return ANY in self.allows and not self.denies

    def covers(self, other: Grant) -> bool:
        """Whether it permits all that another one does; patterns are compared as they are written."""
        if not other.allows or ANY in other.denies:
            return True
        allows = ANY in self.allows or set(other.allows) <= set(self.allows)
        return allows and set(self.denies) <= set(other.denies)

    def permits(self, model: str | None = None) -> bool:
        """Whether it permits a call about a model, or about none by name: then what holds for all models counts."""
        if model is None:
            return bool(self.allows) and ANY not in self.denies
        return any(matches_model(each, model) for each in self.allows) and not any(
            matches_model(each, model) for each in self.denies
        )


NOTHING = Grant()
Rights = dict[tuple[int, int], Grant]
"""What one principal may do for one tenant, by verb and kind."""


class Rules:
    """All rules of a kernel, and what they come to.

    Args:
        rules: In any order.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._rights: OrderedDict[tuple[str, frozenset[str], str], Rights] = OrderedDict()

    @property
    def roles(self) -> Mapping[str, tuple[Rule, ...]]:
        """The roles that rules name, and those rules."""
        names = sorted({rule.who.removeprefix(ROLE) for rule in self.rules if rule.who.startswith(ROLE)})
        return {name: tuple(rule for rule in self.rules if rule.who == ROLE + name) for name in names}

    def grant(self, principal: Principal, tenant: str, policy: Policy) -> Grant:
        """What a principal may do, for a tenant, of what a policy names."""
        return self._rights_of(principal, tenant).get((policy.verb, policy.kind), NOTHING)

    def against(self, principal: Principal, tenant: str, policy: Policy, model: str | None = None) -> Rule | None:
        """The first rule that denies a principal, for a tenant, what a policy names; None where just none allows it."""
        denying = (rule for rule in self.about(principal) if not rule.allow and matches(rule.tenants, tenant))
        return next(
            (
                rule
                for rule in denying
                if policy.verb in rule.verbs
                and policy.kind in rule.kinds
                and (rule.models == ANY if model is None else matches_model(rule.models, model))
            ),
            None,
        )

    def apart(self, tenants: Iterable[str]) -> list[str]:
        """Tenants; for all that there are, each pattern of rules stands for those that it is about."""
        named = set(tenants)
        return sorted(named | {rule.tenants for rule in self.rules} if ANY in named else named)

    def gained(self, by: Principal, over: Principal) -> tuple[Verb, ResourceKind, str] | None:
        """What one may do for one of its tenants that another may not do for that, or for fewer models."""
        for tenant in self.apart(by.tenants):
            own = self._rights_of(over, tenant)
            for (verb, kind), grant in self._rights_of(by, tenant).items():
                if not own.get((verb, kind), NOTHING).covers(grant):
                    return Verb(verb), ResourceKind(kind), tenant
        return None

    def about(self, principal: Principal) -> tuple[Rule, ...]:
        """The rules by which a principal may do something, or may not."""
        who = _names(principal)
        return tuple(rule for rule in self.rules if rule.who in who)

    def _rights_of(self, principal: Principal, tenant: str) -> Rights:
        key = (principal.name, principal.roles, tenant)
        if (rights := self._rights.get(key)) is None:
            rights = self._rights[key] = self._work_out(principal, tenant)
            if len(self._rights) > MOST_RIGHTS:
                self._rights.popitem(last=False)
        return rights

    def _work_out(self, principal: Principal, tenant: str) -> Rights:
        found: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
        for rule in self.about(principal):
            if matches(rule.tenants, tenant):
                for place in ((verb, kind) for verb in rule.verbs for kind in rule.kinds):
                    found.setdefault(place, ([], []))[0 if rule.allow else 1].append(rule.models)
        return {place: Grant(tuple(allows), tuple(denies)) for place, (allows, denies) in found.items()}


def _names(principal: Principal) -> set[str]:
    """What rules call a principal."""
    return {ANY, PRINCIPAL + principal.name, *(ROLE + role for role in principal.roles)}


def matches_model(pattern: str, model: str) -> bool:
    """Whether a pattern is about a model: what is about "chat" is about its versions, "chat@3" and "chat:3", too."""
    while not matches(pattern, model):
        if (base := _base_of(model)) is None:
            return False
        model = base
    return True


def _base_of(model: str) -> str | None:
    """The model of which a name means a version; None where it means none."""
    if AT in model:
        return model.rpartition(AT)[0]
    parted = numbered(model)
    return None if parted is None else parted[0]


def matches(pattern: str, text: str) -> bool:
    """Whether a text is as a pattern says, in which "*" is any text. Its time is bounded by the product of both."""
    if pattern == ANY:
        return True
    at = text_at = 0
    star, text_star = -1, 0
    while text_at < len(text):
        if at < len(pattern) and pattern[at] == ANY:
            star, text_star = at, text_at
            at += 1
        elif at < len(pattern) and pattern[at] == text[text_at]:
            at += 1
            text_at += 1
        elif star >= 0:
            text_star += 1
            at, text_at = star + 1, text_star
        else:
            return False
    return all(letter == ANY for letter in pattern[at:])
