"""Keys and rules as they are kept: JSON, with Unix times, and no secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import structlog

from inferd.core.key import Key, Secret
from inferd.core.policy import ResourceKind, Rule, Verb
from inferd.core.principal import Principal
from inferd.runtime.kept_records import UNREADABLE
from inferd.store.store import DamagedError, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.store.store import Record, Store

log = structlog.get_logger()


def write_key(key: Key, used: float | None) -> bytes:
    """A key and its last use."""
    return _json(
        {
            "id": key.key_id,
            "principal": key.principal.name,
            "roles": sorted(key.principal.roles),
            "tenants": key.principal.tenants,
            "created": key.created,
            "expires": key.expires,
            "revoked": key.revoked,
            "used": used,
            "secrets": [[secret.number, secret.digest.hex(), secret.until] for secret in key.secrets],
            **({} if key.uses is None else {"uses": key.uses}),
        }
    )


def read_key(value: bytes) -> tuple[Key, float | None]:
    """A key and its last use."""
    written = json.loads(value)
    key = Key(
        key_id=written["id"],
        principal=Principal(
            name=written["principal"], roles=frozenset(written["roles"]), tenants=tuple(written["tenants"])
        ),
        created=written["created"],
        expires=written["expires"],
        revoked=written["revoked"],
        secrets=tuple(Secret(number, bytes.fromhex(digest), until) for number, digest, until in written["secrets"]),
        uses=written.get("uses"),
    )
    return key, written["used"]


def write_rule(rule: Rule) -> bytes:
    """A rule that was made by a call."""
    return _json(
        {
            "id": rule.rule_id,
            "who": rule.who,
            "allow": rule.allow,
            "verbs": sorted(rule.verbs),
            "kinds": sorted(rule.kinds),
            "models": rule.models,
            "tenants": rule.tenants,
        }
    )


def read_rule(value: bytes) -> Rule:
    """A rule that was made by a call."""
    written = json.loads(value)
    return Rule(
        who=written["who"],
        allow=written["allow"],
        verbs=frozenset(map(Verb, written["verbs"])),
        kinds=frozenset(map(ResourceKind, written["kinds"])),
        models=written["models"],
        tenants=written["tenants"],
        rule_id=written["id"],
    )


def kept_keys(store: Store) -> list[tuple[Key, float | None]]:
    """All keys that are kept; one that cannot be read is left out, so that nobody is known by it."""
    return list(_read(store, Kind.KEY, read_key, lambda tenant, key, error: _leave_out("key", tenant, key, error)))


def kept_rules(store: Store) -> list[Rule]:
    """All rules that are kept.

    Raises:
        DamagedError: One cannot be read: without it more might be allowed than was meant.
    """
    return list(_read(store, Kind.RULE, read_rule, None))


def _read(
    store: Store, kind: Kind, read: Callable[[bytes], Any], leave_out: Callable[[str, str, Exception], None] | None
) -> Iterator[Any]:
    for record in store.records(kind, leave_out):
        try:
            yield read(record.value)
        except UNREADABLE as error:
            if leave_out is None:
                raise _unreadable(record, error) from None
            leave_out(record.tenant, record.key, error)


def _unreadable(record: Record, error: Exception) -> DamagedError:
    why = f"the rule {record.key!r} cannot be read, and without it more might be allowed than was meant"
    return DamagedError(why, metadata={"cause": type(error).__name__})


def _leave_out(what: str, tenant: str, key: str, error: Exception) -> None:
    log.error(
        "what was kept cannot be read: it is left out, and stays in the store",
        what=what,
        key=key,
        tenant=tenant,
        why=type(error).__name__,
    )


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
