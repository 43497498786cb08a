"""Which devices claims are on that name labels of hosts in place of a host."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from inferd.core.bits import numbers_in
from inferd.core.claim_seats import Fit, Held, Seats
from inferd.core.host import host_of
from inferd.core.lease import CoresClaim, MemoryClaim
from inferd.core.nowhere import why_not_selected
from inferd.core.resources import size_text
from inferd.errors import InvalidFieldError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from inferd.core.accounts import Account
    from inferd.core.broker import Broker
    from inferd.core.claim_seats import PlacedClaim, Seating
    from inferd.core.ids import DeviceId, HostId
    from inferd.core.lease import Claim, LeaseSpec

    Labels = tuple[tuple[str, str], ...]

MOST_PLACED = 32  # claims with a selector of one lease
MOST_ORDERS = 4  # in which groups of claims are tried, those that found least first


def choose_devices(spec: LeaseSpec, broker: Broker) -> LeaseSpec:
    """The lease with a device for each claim that has a selector; those with one selector are on one host.

    That is the host where they could be served soonest beside all else that the lease claims, then where they leave
    most memory free. The choice is made once: a lease that waits does so for the devices that were chosen.

    Raises:
        InvalidFieldError: No host that is known has the labels and such devices, or could ever give as much.
    """
    groups: dict[Labels, list[int]] = {}
    named = Held()
    for number, claim in enumerate(spec.claims):
        if isinstance(claim, MemoryClaim | CoresClaim):
            if claim.selector:
                groups.setdefault(tuple(sorted(claim.selector.items())), []).append(number)
            else:
                named.take(claim, claim.device_id)
    if not groups:
        return spec
    count = sum(map(len, groups.values()))
    if count > MOST_PLACED:
        message = f"{count} claims have a selector; {MOST_PLACED} may, so add up what is for one device"
        raise InvalidFieldError(message, field="spec.claims")
    placed = {labels: [c for n in at if isinstance(c := spec.claims[n], MemoryClaim | CoresClaim)]
              for labels, at in groups.items()}  # fmt: skip
    seats = Seats(broker)
    seatings = _seat_groups(placed, named, seats, broker)
    claims: list[Claim] = list(spec.claims)
    for labels, numbers in groups.items():
        if (found := seatings.get(labels)) is None:
            raise _refused(dict(labels), placed[labels], seats, broker, f"spec.claims[{numbers[0]}]")
        for number, claim, device_id in zip(numbers, placed[labels], found.device_ids, strict=True):
            claims[number] = replace(claim, device_id=device_id)
    return replace(spec, claims=tuple(claims))


def _seat_groups(
    placed: Mapping[Labels, Sequence[PlacedClaim]], named: Held, seats: Seats, broker: Broker
) -> dict[Labels, Seating | None]:
    """Where each group of claims is, those first that may be on fewest devices; None where it may be nowhere."""
    order = sorted(placed, key=lambda labels: _devices(labels, placed[labels], broker).bit_count())
    best: dict[Labels, Seating | None] = {}
    best_fit = -1
    for _ in range(MOST_ORDERS):
        held = named.copy()
        found: dict[Labels, Seating | None] = {}
        for labels in order:
            seating = found[labels] = _best(labels, placed[labels], held, seats, broker)
            for claim, device_id in zip(placed[labels], () if seating is None else seating.device_ids, strict=False):
                held.take(claim, device_id)
        fits = {labels: Fit.NEVER if each is None else each.fit for labels, each in found.items()}
        worst = min(order, key=lambda labels: fits[labels])
        if fits[worst] > best_fit:
            best, best_fit = found, fits[worst]
        if fits[worst] is Fit.NOW or worst == order[0]:
            break
        order = [worst, *(labels for labels in order if labels != worst)]
    return best


def _devices(labels: Labels, claims: Sequence[PlacedClaim], broker: Broker) -> int:
    """The devices that the first of some claims may be on."""
    return broker.atlas.selected(dict(labels)) & broker.atlas.called(claims[0].device_id)


def _best(labels: Labels, claims: Sequence[PlacedClaim], held: Held, seats: Seats, broker: Broker) -> Seating | None:
    """The best of the hosts with most room; where they cannot hold the claims now, the first of others that can."""
    bits = _devices(labels, claims, broker)
    roomiest = dict.fromkeys(map(host_of, broker.roomiest(bits)))
    best: Seating | None = None
    for host_id in roomiest:
        seating = seats.find(claims, _here(host_id, broker), held)
        if seating is not None and (best is None or seating.rank > best.rank):
            best = seating
    if best is not None and best.fit is Fit.NOW:
        return best
    for most, host_id in _others(bits, claims[0], roomiest, broker):
        if (best is not None and best.fit >= most) or not seats.steps:
            break
        seating = seats.find(claims, _here(host_id, broker), held)
        if seating is not None and (best is None or seating.fit > best.fit):
            best = seating
    return best


def _here(host_id: HostId, broker: Broker) -> Sequence[DeviceId]:
    return broker.atlas.ids(numbers_in(broker.atlas.of_host(host_id)))


def _others(
    bits: int, claim: PlacedClaim, looked_at: Mapping[HostId, None], broker: Broker
) -> Iterator[tuple[Fit, HostId]]:
    """Hosts that could hold a claim beside those that were looked at; each with the fit that it cannot better.

    All devices are looked at, one by one but shortly: what a lease is refused for must hold of all of them.
    """
    size_bytes, cores = (claim.memory_bytes, 0) if isinstance(claim, MemoryClaim) else (0, claim.cores)
    told, later = {*looked_at}, dict.fromkeys(looked_at)
    for device_id, account in broker.devices.items():
        if size_bytes > account.capacity_bytes or cores > account.cores:
            continue
        host_id = host_of(device_id)
        if host_id in told or not broker.atlas.bits_of((device_id,)) & bits:
            continue
        given_bytes = account.free_bytes + account.idle_bytes + account.stopping_bytes
        if account.open and size_bytes <= given_bytes and cores <= account.free_cores:
            told.add(host_id)
            yield Fit.NOW, host_id
        else:
            later[host_id] = None
    yield from ((Fit.LATER, host_id) for host_id in later if host_id not in told)


def _refused(
    selector: Mapping[str, str], claims: Sequence[PlacedClaim], seats: Seats, broker: Broker, where: str
) -> InvalidFieldError:
    """Why some claims may be nowhere."""
    atlas = broker.atlas
    bits = {claim.device_id: atlas.selected(selector) & atlas.called(claim.device_id) for claim in claims}
    there = {name: atlas.ids(numbers_in(each)) for name, each in bits.items()}
    kind = "memory" if isinstance(claims[0], MemoryClaim) else "cores"
    if not set.intersection(*({*map(host_of, device_ids)} for device_ids in there.values())):
        words = why_not_selected(selector, " and ".join(there), atlas)
        return InvalidFieldError(f"{words}; or wait until such a host has joined", field=f"{where}.{kind}.selector")
    wanted, most = _amounts(claims, [broker.devices[each] for device_ids in there.values() for each in device_ids])
    labels = " and ".join(f"{key}={value}" for key, value in sorted(selector.items()))
    could = "could ever give" if seats.steps else "was found in the time for it that could ever give"
    return InvalidFieldError(
        f"no host with {labels} {could} {wanted}, beside what else the lease claims; the most that one "
        f"device there has is {most}",
        field=f"{where}.{kind}.{'bytes' if kind == 'memory' else 'cores'}",
    )


def _amounts(claims: Sequence[PlacedClaim], accounts: Sequence[Account]) -> tuple[str, str]:
    """What some claims take, and the most of that which one of some devices has; in words."""
    wanted, most = Counter[str](), dict[str, None]()
    for claim in claims:
        if isinstance(claim, MemoryClaim):
            wanted[f"{size_text(claim.memory_bytes)} of {claim.device_id}"] += 1
            most[size_text(max(each.capacity_bytes for each in accounts))] = None
        else:
            wanted[f"{claim.cores} cores of {claim.device_id}"] += 1
            most[f"{max(each.cores for each in accounts)} cores"] = None
    return " and ".join(f"{count} times {each}" if count > 1 else each for each, count in wanted.items()), " and ".join(
        most
    )
