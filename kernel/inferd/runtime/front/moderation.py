"""What may be done with rules of moderation and with flags, and who is asked what they are about."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from inferd.core.audit import Decision
from inferd.core.moderation import ModerationAction as Action
from inferd.core.moderation import ModerationSpaces as Spaces
from inferd.core.policy import matches
from inferd.core.principal import ANY
from inferd.errors import InferdError, LimitExceededError, RuleNotFoundError
from inferd.moderation.checks import check_rule, check_rules
from inferd.moderation.rules import Classifier, On, Rule
from inferd.moderation.screen import Ruling
from inferd.runtime.front.flags import Flags
from inferd.runtime.front.verdicts import Verdicts
from inferd.runtime.kept_moderation import kept_rules, write_rule
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.ids import TaskId
    from inferd.moderation_settings import Moderation as Chosen
    from inferd.moderation_settings import RuleSetting
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.tasks import Tasks
    from inferd.runtime.moderation import Question

log = structlog.get_logger()


class Moderation:
    """Makes rules and takes them away; sees to what workers find by them.

    Args:
        driver: Of the kernel.
        tasks: By which classifiers are asked.
        chosen: The settings.
        share: What a tenant may have of what is free of questions to classifiers (`scheduler.tenant_share`).

    Attributes:
        flags: What persons are to look at.
    """

    def __init__(self, driver: Driver, tasks: Tasks, chosen: Chosen, *, share: float) -> None:
        self.flags = Flags(driver, most=chosen.flags, held_s=chosen.flags_s)
        self._driver = driver
        self._chosen = chosen
        self._changing = asyncio.Lock()
        self._verdicts = Verdicts(driver, tasks, most=chosen.questions, share=share)
        driver.moderation.findings = self
        driver.moderation.search_s = chosen.search_s

    async def adopt(self) -> None:
        """The rules of the configuration hold, and those that calls made before; flags are there again.

        Those that were kept are checked anew: another version may have kept what this one would refuse. What such a
        rule is about is refused until it is deleted.

        Raises:
            InvalidFieldError, LimitExceededError: A rule of the configuration is none, or they are too many.
            StoreUnavailableError: They cannot be read.
        """
        configured = tuple(_read(each) for each in self._chosen.rules)
        keeper, kept = self._driver.keeper, []
        if keeper is not None:
            kept = await keeper.read(kept_rules)
            await self.flags.adopt()
        if configured:
            await asyncio.to_thread(_check_all, configured, "moderation.rules")
        if kept:
            kept = await asyncio.to_thread(_judged, configured, kept)
        if rules := self._in_order(configured, kept):
            self._driver.moderation.change(rules)

    @staticmethod
    def _in_order(configured: Sequence[Rule], kept: Sequence[Rule]) -> tuple[Rule, ...]:
        """Those of the configuration first; of two with a name it counts."""
        names = {rule.name for rule in configured}
        return (*configured, *(rule for rule in kept if rule.name not in names))

    def all(self, caller: Caller, *, has: Callable[[str], bool]) -> list[Rule]:
        """The rules about a tenant that the caller `has` for reading them, those of the configuration first."""
        tenants = [tenant for tenant in (caller.tenant, *caller.principal.tenants) if has(tenant)]
        every = caller.principal.has(ANY)
        return [
            rule
            for rule in self._driver.moderation.rules
            if any(matches(rule.tenants, tenant) for tenant in tenants) or (every and has(rule.tenants))
        ]

    async def create(self, rule: Rule) -> Rule:
        """A new rule, which holds for what is sent to workers from now on.

        Raises:
            InvalidFieldError: It is none, or its name is taken.
            LimitExceededError: There are as many as may be.
            StoreUnavailableError: It cannot be kept.
        """
        rule = replace(rule, origin="stored")
        async with self._changing:
            known = self._driver.moderation.rules
            made = sum(each.origin == "stored" for each in known)
            if made >= self._chosen.kept_rules:
                raise LimitExceededError(
                    f"calls have made {made} rules and moderation.kept_rules is {self._chosen.kept_rules}; delete some",
                    metadata={
                        "bound": "moderation.kept_rules",
                        "value": str(made),
                        "limit": str(self._chosen.kept_rules),
                    },
                )
            await asyncio.to_thread(_check_one, rule, (*known, rule))
            if self._driver.keeper is not None:
                put = Put(NO_TENANT, Kind.MODERATION, rule.name, write_rule(rule))
                await self._driver.keeper.keep_records([put])
            self._driver.moderation.change((*known, rule))
            return rule

    async def delete(self, name: str) -> None:
        """A rule that a call made holds no longer for what is sent to workers from now on.

        Raises:
            RuleNotFoundError: There is none, or it is one of the configuration.
            StoreUnavailableError: That cannot be kept; the rule stays.
        """
        async with self._changing:
            known = self._driver.moderation.rules
            left = tuple(rule for rule in known if rule.name != name or rule.origin != "stored")
            if len(left) == len(known):
                raise RuleNotFoundError(f"no rule {name[:80]!r} was made by a call", metadata={"rule_id": name[:80]})
            if self._driver.keeper is not None:
                await self._driver.keeper.keep_records([Drop(NO_TENANT, Kind.MODERATION, name)])
            self._driver.moderation.change(left)

    # What workers find.

    def flagged(self, task_id: TaskId, rule: str, excerpt: str, *, is_input: bool) -> None:
        """A person is to look at this."""
        if (task := self._driver.views.find_task(task_id)) is not None:
            self.flags.add(task, rule, excerpt, is_input=is_input)
            self._decide(task_id, rule, "flag", Decision.ALLOWED, on="input" if is_input else "output")

    def asked(self, question: Question, rule: Rule, text: str) -> None:
        """A classifier is to be asked."""
        self._verdicts.ask(question, rule, text)

    def moderated(self, task_id: TaskId, rule: str, action: str, spans: int) -> None:
        """A rule has cut something of a task, ended it or refused it: the audit trail tells that, and not what."""
        self._decide(task_id, rule, action, Decision.REFUSED, spans=spans)

    def _decide(self, task_id: TaskId, rule: str, action: str, decision: Decision, **more: object) -> None:
        task, trail = self._driver.views.find_task(task_id), self._driver.trail
        if task is not None and trail is not None:
            spec = task.spec
            said = {"tenant": spec.tenant, "model": spec.model, "task_id": task_id, "rule": rule, "action": action}
            trail.decide("moderation", decision, **said, **more)


def _check_one(rule: Rule, rules: Sequence[Rule]) -> None:
    check_rule(rule)
    check_rules(rules)
    Ruling([rule])


def _check_all(rules: Sequence[Rule], field: str) -> None:
    for number, rule in enumerate(rules):
        check_rule(rule, f"{field}[{number}]")
    check_rules(rules)


def _judged(configured: Sequence[Rule], kept: Sequence[Rule]) -> list[Rule]:
    """Rules that were kept, each with why it cannot be gone by, if it cannot; the log says that, too."""
    names = {rule.name for rule in configured}
    judged = [_judge(rule) for rule in kept if rule.name not in names]
    sound = [number for number, rule in enumerate(judged) if not rule.unsound]

    def why_not(count: int) -> str:
        try:
            check_rules([*configured, *(judged[number] for number in sound[:count])])
        except InferdError as error:
            return error.message
        return ""

    if why := why_not(len(sound)):  # as many of the first as there may be
        first = bisect_left(range(len(sound)), True, key=lambda count: bool(why_not(count + 1)))
        for number in sound[first:]:
            judged[number] = replace(judged[number], unsound=why)
    for rule in judged:
        if rule.unsound:
            log.error(
                "a kept rule of moderation cannot be gone by, and tasks that it is about are refused: delete it",
                rule=rule.name,
                why=rule.unsound,
            )
    return judged


def _judge(rule: Rule) -> Rule:
    if rule.unsound:
        return rule
    try:
        _check_one(rule, (rule,))
    except InferdError as error:
        return replace(rule, unsound=error.message)
    return rule


def _read(chosen: RuleSetting) -> Rule:
    given = chosen.model_dump(exclude={"classifier"})
    given["on"] = frozenset(map(On, given["on"]))
    given["spaces"], given["action"] = Spaces[given["spaces"].upper()], Action[given["action"].upper()]
    asked = chosen.classifier
    return Rule(**given, classifier=None if asked is None else Classifier(**asked.model_dump()))
