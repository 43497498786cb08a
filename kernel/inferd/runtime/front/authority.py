"""What decides who may do what in a kernel: its keys and its rules, from the configuration and the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from inferd.core.policy import ALL_KINDS, ALL_VERBS, ResourceKind, Rule, Verb
from inferd.core.roles import BUILT_IN
from inferd.runtime.front.access import Access
from inferd.runtime.front.auth import Auth
from inferd.runtime.kept_keys import kept_keys, kept_rules
from inferd.runtime.keyring import Keyring
from inferd.runtime.pepper import read_pepper

if TYPE_CHECKING:
    from pathlib import Path

    from inferd import auth_settings as settings
    from inferd.runtime.keeper import Keeper


@dataclass(frozen=True, slots=True)
class Authority:
    """What decides.

    Attributes:
        keyring: Who callers are.
        access: What they may do.
        auth: What may be done with both.
    """

    keyring: Keyring
    access: Access
    auth: Auth

    @classmethod
    async def made(cls, chosen: settings.Auth, keeper: Keeper | None, *, pepper_path: Path) -> Self:
        """The authority of a kernel, with what the one before it has kept.

        Args:
            chosen: What is configured.
            keeper: Of the kernel; None where nothing is kept.
            pepper_path: Where the pepper lies if the configuration names no other place.

        Raises:
            InvalidFieldError: The pepper is none, or others may read it.
            StoreUnavailableError: What was kept cannot be read.
        """
        pepper = await asyncio.to_thread(read_pepper, chosen.pepper_file or pepper_path)
        keep = None if keeper is None else keeper.keep_records
        keyring, access = Keyring(pepper, chosen, keep=keep), Access(read_rules(chosen))
        auth = Auth(keyring, access, keep=keep, rules_limit=chosen.kept_rules)
        if keeper is not None:
            keyring.adopt(await keeper.read(kept_keys))
            auth.adopt_rules(await keeper.read(kept_rules))
        return cls(keyring, access, auth)


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
