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

    def permits(self, model: str | None = None) -> bool:
        """Whether it permits a call about a model, or about none by name: then what holds for all models counts."""
        if model is None:
            return bool(self.allows) and ANY not in self.denies
        return any(matches(each, model) for each in self.allows) and not any(
            matches(each, model) for each in self.denies
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
        key = (principal.name, principal.roles, tenant)
        if (rights := self._rights.get(key)) is None:
            rights = self._rights[key] = self._work_out(principal, tenant)
            if len(self._rights) > MOST_RIGHTS:
                self._rights.popitem(last=False)
        return rights.get((policy.verb, policy.kind), NOTHING)

    def gained(self, by: Principal, over: Principal) -> Rule | None:
        """A rule that gives one something over another: it allows that one alone, or denies the other alone."""
        only_by, only_over = _names(by) - _names(over), _names(over) - _names(by)
        return next((rule for rule in self.rules if rule.who in (only_by if rule.allow else only_over)), None)

    def _work_out(self, principal: Principal, tenant: str) -> Rights:
        who = _names(principal)
        found: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
        for rule in self.rules:
            if rule.who in who and matches(rule.tenants, tenant):
                for place in ((verb, kind) for verb in rule.verbs for kind in rule.kinds):
                    found.setdefault(place, ([], []))[0 if rule.allow else 1].append(rule.models)
        return {place: Grant(tuple(allows), tuple(denies)) for place, (allows, denies) in found.items()}


def _names(principal: Principal) -> set[str]:
    """What rules call a principal."""
    return {ANY, PRINCIPAL + principal.name, *(ROLE + role for role in principal.roles)}


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
