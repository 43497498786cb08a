"""Rules and flags of moderation as they are kept, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from inferd.core.moderation import FlagState
from inferd.moderation.rules import Rule
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import Kind

if TYPE_CHECKING:
    from inferd.store.store import Store

MOST_WHY: Final = 500  # characters of why a rule cannot be gone by


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
    """All rules that are kept; one that cannot be read is about all that it may be about, and cannot be gone by."""
    found = []

    def damaged(_: str, key: str, error: Exception) -> None:
        found.append(Rule(name=key, unsound=f"its record is damaged: {error}", origin="stored"))

    for record in store.records(Kind.MODERATION, damaged):
        plain: Any = None
        try:
            plain = json.loads(record.value)
            found.append(Rule.read(plain))
        except UNREADABLE as error:
            found.append(_unread(record.key, plain, error))
    return found


def _unread(name: str, plain: object, error: Exception) -> Rule:
    """A rule of which is known at most whom it is about."""
    about = {}
    if isinstance(plain, dict):
        about = {field: plain[field] for field in ("tenants", "models") if isinstance(plain.get(field), str)}
    why = f"another version of inferd has written it, and this one cannot read it ({type(error).__name__}: {error})"
    return Rule(name=name, unsound=why[:MOST_WHY], origin="stored", **about)


def kept_flags(store: Store) -> list[Flag]:
    """All flags that are kept and can be read."""
    found = []
    for record in store.records(Kind.FLAG, lambda *_: None):
        try:
            found.append(read_flag(record.value))
        except UNREADABLE:
            continue
    return found
