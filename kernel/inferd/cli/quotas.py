"""`inferd quotas create`, `list` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.cli.amounts import size
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.plain import plain
from inferd.cli.prefix import by_prefix
from inferd_api.v1.quota_pb2 import Quota, QuotaUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from inferd.cli.output import Output

MEASURES = {
    "requests_per_minute": "REQUESTS/MIN",
    "tokens_per_minute": "TOKENS/MIN",
    "tasks": "TASKS",
    "input_bytes": "INPUTS",
    "lease_bytes": "LEASED",
    "lease_sequences": "LEASED SEQ",
    "device_seconds_per_day": "DEVICE S/DAY",
}
"""What quotas limit: fields, and how they are headed."""
COLUMNS = ("QUOTA", "TENANTS", "MODELS", *MEASURES.values())
USE_COLUMNS = ("TENANT", "QUOTA", *MEASURES.values())


def create(output: Output, address: str, *, tenants: str, models: str, limits: Mapping[str, float | None]) -> None:
    """Make a quota."""
    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in MEASURES)
        raise CommandError(f"a quota limits something; give one of {options}", reason="USAGE")
    with connected(address) as client:
        quota = client.create_quota(Quota(tenants=tenants, models=models, **given))  # type: ignore[arg-type] # limits alone
    if output.json:
        output.document(plain(quota))
    else:
        output.text(f"{quota.quota_id}  {_said(quota)}")


def list_all(output: Output, address: str) -> None:
    """List quotas, and what is used of them."""
    with connected(address) as client:
        quotas, uses = list(client.list_quotas()), list(client.list_quota_uses())
    if output.json:
        output.document({"quotas": [plain(quota) for quota in quotas], "uses": [plain(use) for use in uses]})
        return
    output.table(
        COLUMNS,
        map(_row, quotas),
        empty="no quotas; make one with: inferd quotas create --tasks 10",
        gives_way="MODELS",
    )
    if uses:
        output.text("")
        output.table(USE_COLUMNS, map(use_row, uses), empty="", gives_way="TENANT")


def delete(output: Output, address: str, quota_id: str) -> None:
    """Take a quota away."""
    with connected(address) as client:
        by_prefix(client.delete_quota, quota_id, (quota.quota_id for quota in client.list_quotas() if quota.quota_id))
    if output.json:
        output.document({"quota_id": quota_id, "deleted": True})
    else:
        output.text(f"{quota_id} holds no longer")


def use_row(use: QuotaUse) -> tuple[str, ...]:
    """What a tenant uses: of each limit so much of how much."""
    quota = use.quota
    about = quota.quota_id[:8] or f"{quota.tenants} {quota.models}"
    return (use.tenant, about, *(_part(use, name) for name in MEASURES))


def fullest(uses: Iterable[QuotaUse], most: int) -> list[QuotaUse]:
    """Those that have used the largest parts of a limit first."""
    return sorted(uses, key=_fullness, reverse=True)[:most]


def _fullness(use: QuotaUse) -> float:
    limited = [name for name in MEASURES if use.quota.HasField(name)]  # type: ignore[arg-type] # fields that may be unset
    return max((getattr(use, name) / (getattr(use.quota, name) or 1) for name in limited), default=0.0)


def _part(use: QuotaUse, name: str) -> str:
    if not use.quota.HasField(name):  # type: ignore[arg-type] # as above
        return ""
    return f"{_amount(name, getattr(use, name))} of {_amount(name, getattr(use.quota, name))}"


def _row(quota: Quota) -> tuple[str, ...]:
    limits = (
        _amount(name, getattr(quota, name)) if quota.HasField(name) else ""  # type: ignore[arg-type] # as above
        for name in MEASURES
    )
    return (quota.quota_id or "configured", quota.tenants, quota.models, *limits)


def _said(quota: Quota) -> str:
    limits = [
        f"{name} {_amount(name, getattr(quota, name))}"
        for name in MEASURES
        if quota.HasField(name)  # type: ignore[arg-type] # as above
    ]
    return f"tenants {quota.tenants}, models {quota.models}: {', '.join(limits)}"


def _amount(name: str, value: float) -> str:
    return size(value) if name.endswith("_bytes") else f"{value:.10g}"
