"""What a lease can claim, and the words for its class.

client.create_lease(claims.memory(4 << 30), claims.cores(2), ttl_s=60)
client.create_lease(claims.model("smollm2", sequences=2, kv_tokens=8192), priority="high")
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from google.protobuf.duration_pb2 import Duration

from inferd_api.v1.lease_pb2 import Claim, CoresClaim, LeaseSpec, MemoryClaim, ModelClaim
from inferd_api.v1.lease_service_pb2 import CreateLeaseRequest
from inferd_api.v1.priority_pb2 import Priority
from inferd_client.values import check_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inferd_api.v1.lease_pb2 import Lease

MOST_SECONDS = 315_576_000_000  # of a duration on the wire: ten thousand years; see google/protobuf/duration.proto

Class: TypeAlias = Literal["low", "normal", "high"]
"""A class of tasks and of waiting leases; a higher one goes first."""


def memory(size_bytes: int, *, device_id: str = "", selector: Mapping[str, str] | None = None) -> Claim:
    """Memory of a device (default "cpu:0"): for a program outside the kernel, or for models loaded under the lease.

    With a `selector`, labels of hosts like `{"zone": "a"}`, it is on a host that has them, and `device_id` is what that
    calls the device ("cuda:0"), or a kind ("cuda"); the kernel chooses, and claims with the same one are on one host.
    """
    check_values({"size_bytes": size_bytes, "device_id": device_id, "selector": selector})
    return Claim(memory=MemoryClaim(device_id=device_id, bytes=size_bytes, selector=selector))


def model(name: str, *, sequences: int = 0, kv_tokens: int = 0) -> Claim:
    """A model that stays loaded, with places for so many tasks and room for so many tokens of theirs."""
    check_values({"name": name, "sequences": sequences, "kv_tokens": kv_tokens})
    return Claim(model=ModelClaim(model=name, sequences=sequences, kv_tokens=kv_tokens))


def cores(count: int, *, device_id: str = "", selector: Mapping[str, str] | None = None) -> Claim:
    """Processor cores of a device (default "cpu:0"), counted, not pinned; `selector` as of `memory`."""
    check_values({"count": count, "device_id": device_id, "selector": selector})
    return Claim(cores=CoresClaim(device_id=device_id, cores=count, selector=selector))


class LeaseOptions(TypedDict, total=False):
    """Keywords of `lease` and `create_lease`; None is the same as leaving it out.

    They are as in `inferd.v1.LeaseSpec`: how long it holds unless it is kept alive, its class among waiting leases,
    whether it waits when there is no room now and for how long at most, and marks of its holder's own.
    """

    ttl_s: float | None
    priority: Class | None
    wait: bool
    wait_timeout_s: float | None
    labels: Mapping[str, str]
    request_id: str


def lease_request(claims: Iterable[Claim], options: LeaseOptions) -> CreateLeaseRequest:
    """The request that claims capacity.

    Raises:
        ValueError: A value is out of range.
        TypeError: There is no such option, or its value is of another kind.
    """
    unknown = next((name for name in options if name not in LeaseOptions.__annotations__), None)
    if unknown is not None:
        raise TypeError(f"a lease has no {unknown!r}; there are {', '.join(sorted(LeaseOptions.__annotations__))}")
    check_values(options)
    wait_timeout_s = options.get("wait_timeout_s")
    spec = LeaseSpec(
        claims=claims,
        ttl=span(options.get("ttl_s")),
        priority=class_number(options.get("priority")),
        wait=options.get("wait", False),
        wait_timeout=span(None if wait_timeout_s == math.inf else wait_timeout_s),
        labels=options.get("labels", {}),
    )
    return CreateLeaseRequest(spec=spec, request_id=options.get("request_id", ""))


def span(seconds: float | None) -> Duration | None:
    """Seconds for the wire; more than it can say is the most that it can."""
    if seconds is None:
        return None
    value = Duration()
    value.FromNanoseconds(round(min(seconds, MOST_SECONDS) * 1e9))
    return value


def class_number(priority: Class | None) -> Priority.ValueType:
    """The class of a name, for the wire.

    Raises:
        ValueError: There is no class of this name.
    """
    if priority is None:
        return Priority.PRIORITY_UNSPECIFIED
    check_values({"priority": priority})
    return Priority.Value(f"PRIORITY_{priority.upper()}")


def has_selectors(claims: Sequence[Claim], lease: Lease) -> bool:
    """Whether a lease has the labels that were claimed: a kernel that does not know these leaves them out."""
    return all(
        bool(told)
        for each, told in zip(map(_selector, claims), map(_selector, lease.spec.claims), strict=False)
        if each
    )


def _selector(claim: Claim) -> Mapping[str, str]:
    return claim.memory.selector or claim.cores.selector
