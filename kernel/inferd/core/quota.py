"""Quotas, as values: how much a tenant may use, and what it has used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.core.principal import ANY

if TYPE_CHECKING:
    from inferd.core.ids import Tenant

MEASURES: Final = (
    "requests_per_minute",
    "tokens_per_minute",
    "tasks",
    "input_bytes",
    "lease_bytes",
    "lease_sequences",
    "device_seconds_per_day",
)
"""What quotas limit, as fields of `Quota` and of `QuotaUse`, settings and fields of the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much each tenant by itself may use of all the models that a pattern names; None where that is not limited.

    Attributes:
        tenants: Pattern of tenants, "*" for any part of a name.
        models: Pattern of models.
        requests_per_minute: Tasks that are made.
        tokens_per_minute: Tokens that they read and write.
        tasks: Tasks that have not ended.
        input_bytes: What the inputs of those take of memory.
        lease_bytes: Memory that leases hold or wait for; of no model, so that `models` is "*".
        lease_sequences: Sequences of models that leases hold or wait for.
        device_seconds_per_day: Time of devices; of one that computes several tasks each has its part.
        quota_id: Of one that was made by a call; "" for those of the configuration.
    """

    tenants: str = ANY
    models: str = ANY
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tasks: int | None = None
    input_bytes: int | None = None
    lease_bytes: int | None = None
    lease_sequences: int | None = None
    device_seconds_per_day: float | None = None
    quota_id: str = ""

    @property
    def key(self) -> str:
        """By which it is known, also to the next kernel."""
        return self.quota_id or f"{self.tenants} {self.models}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """What a tenant uses of what a quota could limit; of device seconds only where it does. See `Quota`."""

    quota: Quota
    tenant: Tenant
    requests_per_minute: int
    tokens_per_minute: int
    tasks: int
    input_bytes: int
    lease_bytes: int
    device_seconds_per_day: float
    lease_sequences: int = 0  # of a kernel that did not count them

    @property
    def fullness(self) -> float:
        """The largest part that is used of a limit; 1 for all of it."""
        pairs = [(getattr(self, name), getattr(self.quota, name)) for name in MEASURES]
        return max((used / limit if limit else 1.0 for used, limit in pairs if limit is not None), default=0.0)
