"""How much may be kept in blobs."""

from pathlib import Path
from typing import NamedTuple, Protocol

from inferd.errors import InvalidFieldError, LimitExceededError


class BlobBounds(Protocol):
    """How much may be kept, and for how long; see `inferd.blob_settings` for what each means."""

    @property
    def all_bytes(self) -> int:
        """Of all tenants."""

    @property
    def all_count(self) -> int:
        """Of all tenants."""

    @property
    def tenant_bytes(self) -> int:
        """Of one tenant."""

    @property
    def tenant_count(self) -> int:
        """Of one tenant."""

    @property
    def tenant_share(self) -> float:
        """How many times what is left free, of all, a tenant may have."""

    @property
    def blob_bytes(self) -> int:
        """Of one blob."""

    @property
    def open_dir(self) -> Path | None:
        """Where the files of models are opened; None for where it fits."""

    @property
    def inline_bytes(self) -> int:
        """Of tensors that a task is given: more are kept as blobs."""

    @property
    def upload_s(self) -> float:
        """How long one stays of which nothing comes."""

    @property
    def room_s(self) -> float:
        """How long room is kept for what does not come."""

    @property
    def retention_s(self) -> float:
        """How long one stays that nobody uses."""

    @property
    def sweep_s(self) -> float:
        """Between two looks."""


class Held(NamedTuple):
    """What there is: of all tenants, and of one."""

    all_bytes: int
    all_count: int
    tenant_bytes: int
    tenant_count: int


def check_room(bounds: BlobBounds, size_bytes: int, held: Held) -> None:
    """Refuse a blob of so many bytes.

    Raises:
        InvalidFieldError: It has none.
        LimitExceededError: It is too large, or the tenant, or all, would have too much, or the tenant more than its
            share of what is then free.
    """
    if size_bytes < 1:
        raise InvalidFieldError(f"start.size_bytes is {size_bytes}; it must be 1 or more", field="start.size_bytes")
    _check("blob_bytes", size_bytes, 0, bounds.blob_bytes, "bytes of the blob")
    _check("tenant_bytes", size_bytes, held.tenant_bytes, bounds.tenant_bytes, "bytes of blobs of the tenant")
    _check("tenant_count", 1, held.tenant_count, bounds.tenant_count, "blobs of the tenant")
    _check("all_bytes", size_bytes, held.all_bytes, bounds.all_bytes, "bytes of blobs")
    _check("all_count", 1, held.all_count, bounds.all_count, "blobs")
    # Judged by the bytes that are left then: one large blob would take all of them.
    left_bytes = bounds.all_bytes - held.all_bytes - size_bytes
    _check_share("all_bytes", held.tenant_bytes + size_bytes, left_bytes, bounds.tenant_share)
    _check_share("all_count", held.tenant_count + 1, bounds.all_count - held.all_count, bounds.tenant_share)


def _check_share(name: str, of_tenant: int, left: int, share: float) -> None:
    if of_tenant > share * left:
        raise LimitExceededError(
            f"the tenant would have {of_tenant} of blobs.{name}, and may have {share:g} times the {left} that are left "
            "(blobs.tenant_share); delete some, or raise one of these settings of the kernel",
            metadata={"bound": "blobs.tenant_share", "value": str(of_tenant), "free": str(left)},
            field="start.size_bytes" if name.endswith("bytes") else "",
        )


def _check(name: str, more: int, held: int, limit: int, what: str) -> None:
    if held + more > limit:
        raise LimitExceededError(
            f"{more} and the {held} that there are would be {held + more} {what}, and blobs.{name} is {limit}; delete"
            " some, or raise that setting of the kernel",
            metadata={"bound": f"blobs.{name}", "value": str(more), "held": str(held), "limit": str(limit)},
            field="start.size_bytes" if name.endswith("bytes") else "",
        )
