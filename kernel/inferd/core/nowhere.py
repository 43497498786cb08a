"""Why a model can be loaded nowhere, as far as hosts are known: what is missing, and what is there that is like it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from inferd.core.gangs import check_span
from inferd.core.host import HOST_LABEL, HostState, host_of, name_of, shown_host
from inferd.errors import InvalidFieldError, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.atlas import Atlas
    from inferd.core.broker import Broker
    from inferd.core.ids import DeviceId
    from inferd.core.model import ModelSpec

CLOSED = {
    HostState.CORDONED: ("is cordoned", "are cordoned"),
    HostState.DRAINING: ("drains", "drain"),
    HostState.LOST: ("is lost", "are lost"),
    HostState.JOINING: ("joins", "join"),
}
"""How hosts stand that take nothing new: one, and several."""
MOST_TOLD = 8
MOST_COMPARED = 256  # names among which the one is looked for that was meant


def check_place(spec: ModelSpec, broker: Broker, where: str = "") -> None:
    """Refuse a model that could be loaded on no host that is known.

    Args:
        spec: It.
        broker: Devices.
        where: In front of the field's name: "model." where the model is one field of a call.

    Raises:
        InvalidFieldError: One of its devices is not known, or no host has all that it needs.
    """
    atlas = broker.atlas
    for name in spec.devices:
        if "/" in name:
            broker.account(name, field=f"{where}device")
        elif not atlas.has_name(name):
            raise InvalidFieldError(
                f"no device {name!r}{_near(name, atlas.names(), 'there are')}", field=f"{where}device"
            )
    if atlas.may(spec):
        check_span(spec, broker, where)
        return
    field = "placement.selector" if atlas.of_backend(spec) else "backend"
    raise InvalidFieldError(f"{why_nowhere(spec, atlas)}; or wait until such a host has joined", field=where + field)


def why_nowhere(spec: ModelSpec, atlas: Atlas) -> str:
    """What no host has that is known; there is none that a model may use."""
    names = " or ".join(spec.devices)
    if not atlas.named(spec):
        return f"no host that is known has {names}"
    if not (works := atlas.of_backend(spec)):
        return f"backend {spec.backend!r} works on no host that is known on {names}"
    for key, value in spec.placement.selector.items():
        if not atlas.selected({key: value}):
            return _no_label(key, value, atlas)
    words = spec.placement.words
    some = [_on(device_id) for device_id in atlas.listed(works, spec, most=MOST_TOLD)]
    where = f"{', '.join(some[:3])} and others" if len(some) > 3 else " and ".join(some)  # noqa: PLR2004 - enough to go on
    return f"no host that is known has {words} and {names} for backend {spec.backend!r}, which works on {where}"


def why_not_selected(selector: Mapping[str, str], names: str, atlas: Atlas) -> str:
    """What no host has that is known: one of some labels, or such devices beside them."""
    for key, value in selector.items():
        if not atlas.selected({key: value}):
            return _no_label(key, value, atlas)
    return f"no host that is known has {' and '.join(f'{k}={v}' for k, v in sorted(selector.items()))} and {names}"


def why_closed(spec: ModelSpec, atlas: Atlas) -> str:
    """Why no host takes an instance of a model, of those that it may use; "" where one does, or there is none.

    No host is named: whoever has tasks may not know of hosts.
    """
    bits = atlas.may(spec)
    if not bits or not atlas.is_closed(bits):
        return ""
    hosts = {host_of(device_id) for device_id in atlas.listed(bits, spec, most=MOST_COMPARED)}
    counts = Counter(state for host_id in sorted(hosts) if (state := atlas.closed.get(host_id)) is not None)
    if len(hosts) == 1:
        how = "; ".join(f"the one that may {CLOSED[state][0]}" for state in counts)
    elif len(counts) == 1:
        how = "".join(f"all {CLOSED[state][1]}" for state in counts)
    else:
        how = ", ".join(f"{count} {CLOSED[state][count > 1]}" for state, count in counts.items())
    where = f" with {spec.placement.words}" if spec.placement.selector else ""
    resumed = counts.keys() & {HostState.CORDONED, HostState.DRAINING}
    return f"no host{where} takes new work: {how}" + ("; `inferd hosts resume` has one take it" if resumed else "")


def _no_label(key: str, value: str, atlas: Atlas) -> str:
    wanted = f"{key}={value}"
    if key == HOST_LABEL:
        there = [shown_host(host_id) for host_id in atlas.hosts(most=MOST_COMPARED)]
        return f"no host is called {value!r}{_near(value, there, 'there are')}"
    values = atlas.label_values(key)
    if values:
        there = [f"{key}={each}" for each in values[:MOST_COMPARED]]
        return f"no host that is known has the label {wanted}{_near(wanted, there, 'hosts have')}"
    keys = [*atlas.label_keys()[:MOST_COMPARED], HOST_LABEL]
    return f"no host that is known has a label {key!r}{_near(key, keys, 'labels of hosts are')}"


def _near(wanted: str, there: list[str], words: str) -> str:
    near = suggestion(wanted, there)
    meant = f"; did you mean {near!r}?" if near else ""
    more = f" and {len(there) - MOST_TOLD} others" if len(there) > MOST_TOLD else ""
    return f"{meant or ';'} {words} {', '.join(sorted(there)[:MOST_TOLD])}{more}"


def _on(device_id: DeviceId) -> str:
    return f"{name_of(device_id)} of {shown_host(host_of(device_id))}"
