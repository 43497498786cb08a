"""Leases between the wire and the core."""

from inferd.core.host import check_selector
from inferd.core.ids import DeviceId, LeaseId, ModelName, Tenant
from inferd.core.lease import Claim, CoresClaim, Lease, LeaseSpec, MemoryClaim, ModelClaim
from inferd.core.resources import HOST_DEVICE
from inferd.errors import InvalidFieldError
from inferd.runtime.front.leases import LIVING, Leases
from inferd.services.status import status_of
from inferd.services.task_values import check_labels, fingerprint, read_priority
from inferd.services.times import duration, read_seconds, timestamp
from inferd_api.v1 import lease_pb2 as lp
from inferd_api.v1 import lease_service_pb2 as ls
from inferd_api.v1 import priority_pb2 as pb


def read_lease_spec(spec: lp.LeaseSpec, *, lease_id: str, tenant: Tenant, request_id: str) -> LeaseSpec:
    """A lease from the wire; whether there is such a model and such a device, and the TTL, is the core's to judge.

    Raises:
        InvalidFieldError: A field has a value outside what it allows.
    """
    if not spec.claims:
        raise InvalidFieldError("spec.claims is empty; give one claim at least", field="spec.claims")
    check_labels(spec.labels)
    wait_s = read_seconds(spec.wait_timeout, "spec.wait_timeout") if spec.HasField("wait_timeout") else None
    if wait_s is not None and (wait_s <= 0 or not spec.wait):
        why = f"is {wait_s:g} s; it must be more than 0" if spec.wait else "has a meaning with spec.wait only; set that"
        raise InvalidFieldError(f"spec.wait_timeout {why}", field="spec.wait_timeout")
    return LeaseSpec(
        lease_id=LeaseId(lease_id),
        tenant=tenant,
        claims=tuple(_read_claim(claim, f"spec.claims[{n}]") for n, claim in enumerate(spec.claims)),
        ttl_s=read_seconds(spec.ttl, "spec.ttl") if spec.HasField("ttl") else None,
        priority=read_priority(spec.priority),
        wait=spec.wait,
        wait_s=wait_s,
        labels=dict(spec.labels),
        request_id=request_id,
        fingerprint=fingerprint(spec) if request_id else b"",
    )


def _read_claim(claim: lp.Claim, at: str) -> Claim:
    match claim.WhichOneof("kind"):
        case "memory":
            _check_amount(claim.memory.bytes, f"{at}.memory.bytes")
            device_id, selector = _read_place(claim.memory, f"{at}.memory")
            return MemoryClaim(device_id=device_id, memory_bytes=claim.memory.bytes, selector=selector)
        case "model":
            if not claim.model.model:
                raise InvalidFieldError(f"{at}.model.model is empty; name the model", field=f"{at}.model.model")
            return ModelClaim(
                model=ModelName(claim.model.model),
                sequences=claim.model.sequences,
                kv_tokens=claim.model.kv_tokens,
            )
        case "cores":
            _check_amount(claim.cores.cores, f"{at}.cores.cores")
            device_id, selector = _read_place(claim.cores, f"{at}.cores")
            return CoresClaim(device_id=device_id, cores=claim.cores.cores, selector=selector)
        case _:
            raise InvalidFieldError(f"{at} claims nothing; set one of memory, model and cores", field=at)


def _read_place(claim: lp.MemoryClaim | lp.CoresClaim, at: str) -> tuple[DeviceId, dict[str, str]]:
    """The device of a claim, and the labels of the hosts where it may be; none for the one host that it names."""
    check_selector(claim.selector, f"{at}.selector")
    if claim.selector and "/" in claim.device_id:
        raise InvalidFieldError(
            f"{at} has a selector, and {claim.device_id!r} names a host; leave one of them out, or select host=NAME",
            field=f"{at}.device_id",
        )
    return DeviceId(claim.device_id or HOST_DEVICE), dict(claim.selector)


def _check_amount(amount: int, field: str) -> None:
    if amount < 1:
        raise InvalidFieldError(f"{field} is {amount}; it must be at least 1", field=field)


def write_lease(lease: Lease, leases: Leases) -> lp.Lease:
    """A lease for the wire."""
    spec, clock, living = lease.spec, leases.clock, lease.state in LIVING
    return lp.Lease(
        lease_id=spec.lease_id,
        tenant=spec.tenant,
        spec=lp.LeaseSpec(
            claims=[_write_claim(claim) for claim in spec.claims],
            ttl=duration(lease.ttl_s),
            priority=pb.Priority.ValueType(spec.priority.value),
            wait=spec.wait,
            wait_timeout=duration(spec.wait_s),
            labels=spec.labels,
        ),
        state=lp.LeaseState.ValueType(lease.state.value),
        fencing_token=lease.fencing_token,
        create_time=timestamp(clock, lease.created),
        grant_time=timestamp(clock, lease.granted),
        expire_time=timestamp(clock, lease.expires if living else None),
        remaining=duration(leases.remaining_s(lease)),
        end_time=timestamp(clock, lease.ended),
        position=leases.position(lease),
        waits_for=lease.waits_for,
        eta=duration(leases.eta_s(lease)),
        error=status_of(lease.error) if lease.error is not None else None,
        instance_ids=lease.instances,
        tasks=len(lease.tasks),
    )


def write_renewal(lease: Lease, leases: Leases) -> ls.LeaseRenewal:
    """Where a lease stands, for the one who keeps it alive."""
    return ls.LeaseRenewal(
        lease_id=lease.spec.lease_id,
        state=lp.LeaseState.ValueType(lease.state.value),
        remaining=duration(leases.remaining_s(lease)),
        fencing_token=lease.fencing_token,
    )


def _write_claim(claim: Claim) -> lp.Claim:
    match claim:
        case MemoryClaim():
            return lp.Claim(
                memory=lp.MemoryClaim(device_id=claim.device_id, bytes=claim.memory_bytes, selector=claim.selector)
            )
        case ModelClaim():
            model = lp.ModelClaim(model=claim.model, sequences=claim.sequences, kv_tokens=claim.kv_tokens)
            return lp.Claim(model=model)
        case CoresClaim():
            return lp.Claim(cores=lp.CoresClaim(device_id=claim.device_id, cores=claim.cores, selector=claim.selector))
