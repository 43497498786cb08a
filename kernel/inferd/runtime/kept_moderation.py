"""Rules and flags of moderation as they are kept, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from inferd.core.moderation import FlagState
from inferd.moderation.rules import Rule
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import DamagedError, Kind

if TYPE_CHECKING:
    from inferd.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Something that a person is to look at; times are of the calendar, in seconds."""

    flag_id: str
    task_id: str
    tenant: str
    model: str
    rule: str
    is_input: bool
    excerpt: str
    created: float
    state: FlagState = FlagState.OPEN
    resolved: float | None = None
    resolved_by: str = ""
    note: str = ""


def write_flag(flag: Flag) -> bytes:
    """A flag."""
    return json.dumps({**asdict(flag), "state": flag.state.value}, separators=(",", ":")).encode()


def read_flag(value: bytes) -> Flag:
    """A flag."""
    plain = json.loads(value)
    return Flag(**{**plain, "state": FlagState(plain["state"])})


def write_rule(rule: Rule) -> bytes:
    """A rule."""
    return json.dumps(rule.write(), separators=(",", ":")).encode()


def kept_rules(store: Store) -> list[Rule]:
    """All rules that are kept.

    Raises:
        DamagedError: One cannot be read: without it something might be shown that was not to be.
    """
    found = []
    for record in store.records(Kind.MODERATION, None):
        try:
            found.append(Rule.read(json.loads(record.value)))
        except UNREADABLE as error:
            why = f"the rule of moderation {record.key!r} cannot be read, and without it too much might be shown"
            raise DamagedError(why, metadata={"cause": type(error).__name__}) from None
    return found


def kept_flags(store: Store) -> list[Flag]:
    """All flags that are kept and can be read."""
    found = []
    for record in store.records(Kind.FLAG, lambda *_: None):
        try:
            found.append(read_flag(record.value))
        except UNREADABLE:
            continue
    return found
