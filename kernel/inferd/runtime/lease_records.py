"""Leases as they are kept: JSON, with instants as Unix time; when one ends also on the clock of its stamp, exactly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inferd.core.ids import DeviceId, LeaseId, ModelName, Tenant
from inferd.core.lease import Claim, CoresClaim, Lease, LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.priority import Priority
from inferd.core.restored import RestoredLease
from inferd.errors import present
from inferd.runtime.clock import Stamp
from inferd.runtime.kept_times import instant_of, read_shift, wall_of, write_stamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inferd.runtime.clock import Clock


def write_lease(lease: Lease, models: Iterable[ModelName], clock: Clock) -> bytes:
    """A lease that is held, under which `models` are loaded."""
    spec = lease.spec
    written = {
        "id": spec.lease_id,
        "tenant": spec.tenant,
        "number": lease.number,
        "claims": [_write_claim(claim) for claim in spec.claims],
        "ttl_s": lease.ttl_s,
        "asked_ttl_s": spec.ttl_s,
        "priority": spec.priority.value,
        "wait": spec.wait,
        "wait_s": spec.wait_s,
        "labels": dict(spec.labels),
        "request": spec.request_id,
        "fingerprint": spec.fingerprint.hex(),
        "fencing_token": lease.fencing_token,
        "models": [*models],
        "created": wall_of(lease.created, clock),
        "granted": wall_of(lease.granted, clock),
        "expires": wall_of(lease.expires, clock),
        "stamp": write_stamp(clock),
        "until": lease.expires,  # on the clock of the stamp
    }
    return json.dumps(written, separators=(",", ":")).encode()


def read_lease(value: bytes, clock: Clock) -> RestoredLease:
    """A lease that was held when the kernel before this one wrote it last."""
    written = json.loads(value)
    shift_s = read_shift(written, clock)
    created, granted = (instant_of(written[name], clock, shift_s) for name in ("created", "granted"))
    spec = LeaseSpec(
        lease_id=LeaseId(written["id"]),
        tenant=Tenant(written["tenant"]),
        claims=tuple(map(_read_claim, written["claims"])),
        ttl_s=written["asked_ttl_s"],
        priority=Priority(written["priority"]),
        wait=written["wait"],
        wait_s=written["wait_s"],
        labels=written["labels"],
        request_id=written["request"],
        fingerprint=bytes.fromhex(written["fingerprint"]),
    )
    return RestoredLease(
        spec=spec,
        number=written["number"],
        ttl_s=written["ttl_s"],
        expires=written["until"] + clock.shift_s(Stamp(*written["stamp"]), least=True),
        created=present(created),
        granted=present(granted),
        fencing_token=written["fencing_token"],
        models=tuple(map(ModelName, written["models"])),
    )


def _write_claim(claim: Claim) -> dict[str, Any]:
    match claim:
        case MemoryClaim():
            return {"memory_bytes": claim.memory_bytes, "device": claim.device_id, **_write_selector(claim)}
        case CoresClaim():
            return {"cores": claim.cores, "device": claim.device_id, **_write_selector(claim)}
        case ModelClaim():
            return {"model": claim.model, "sequences": claim.sequences, "kv_tokens": claim.kv_tokens}


def _write_selector(claim: MemoryClaim | CoresClaim) -> dict[str, Any]:
    return {"selector": dict(claim.selector)} if claim.selector else {}


def _read_claim(written: dict[str, Any]) -> Claim:
    if "model" in written:
        name = ModelName(written["model"])
        return ModelClaim(model=name, sequences=written["sequences"], kv_tokens=written["kv_tokens"])
    device_id = DeviceId(written["device"])
    if "cores" in written:
        return CoresClaim(device_id=device_id, cores=written["cores"], selector=written.get("selector", {}))
    selector = written.get("selector", {})
    return MemoryClaim(device_id=device_id, memory_bytes=written["memory_bytes"], selector=selector)
