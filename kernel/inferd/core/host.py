"""Hosts: their states, what they say of themselves, the core's record of one, and how their devices are named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from inferd.core.ids import DeviceId, HostId, InstanceId
from inferd.core.lifecycle import Table
from inferd.errors import InvalidFieldError

LOCAL_HOST = HostId("")  # the kernel's own
LOCAL = "local"  # what that is called for people
HOST_LABEL = "host"  # the label that each host has: its id
UNSEEN = "it has not joined since this kernel was started"  # why a host is LOST of which others knew

MOST_LABELS = 32
MOST_DEVICES = 256  # of a host, and of a backend there
MOST_BACKENDS = 64
MOST_HELD = 4096  # models whose files a host has
MOST_VERSION = 64  # characters
ID_RULE = "1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit; not 'local', the kernel's own host"
KEY_RULE = "1 to 63 letters, digits, '.', '_', '-' and '/', the first a letter or a digit"
VALUE_RULE = "1 to 63 letters, digits, '.', '_', '-', '/' and ':'"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_VALUE = re.compile(r"[A-Za-z0-9._/:-]{1,63}")


class HostState(Enum):
    """Where a host stands."""

    JOINING = 1  # its devices are not known yet, or not again
    READY = 2
    DRAINING = 3  # it gets nothing new but within leases; its instances go when they have ended what they have
    LOST = 4  # nothing is heard of it; it may come back
    GONE = 5
    CORDONED = 6  # it gets no new instance; those that it has stay and take tasks


class HostChange(Enum):
    """What can happen to a host."""

    JOIN = 1  # it says which devices it has
    DRAIN = 2  # on JOINING: it says so, and is to drain as before it was lost
    RESUME = 3  # it is not to drain any more
    LOSE = 4
    RETURN = 5
    LEAVE = 6
    CORDON = 7  # on JOINING: it says which devices it has, and is to take nothing new as before it was lost


HOST_TABLE: Table[HostState, HostChange] = {
    HostState.JOINING: {
        HostChange.JOIN: HostState.READY,
        HostChange.DRAIN: HostState.DRAINING,
        HostChange.CORDON: HostState.CORDONED,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.READY: {
        HostChange.DRAIN: HostState.DRAINING,
        HostChange.CORDON: HostState.CORDONED,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.DRAINING: {
        HostChange.RESUME: HostState.READY,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.CORDONED: {
        HostChange.RESUME: HostState.READY,
        HostChange.DRAIN: HostState.DRAINING,
        HostChange.LOSE: HostState.LOST,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.LOST: {
        HostChange.RETURN: HostState.JOINING,
        HostChange.LEAVE: HostState.GONE,
    },
    HostState.GONE: {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBackend:
    """A backend that works on a host.

    Attributes:
        name: Its name.
        devices: Those that it may use, as the host calls them, its default first.
    """

    name: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host says of itself besides its devices.

    Attributes:
        labels: For selectors of models and leases.
        version: Of inferd there.
        backends: Those that work there; None where every one is taken to work on every device.
        holds: The `file_version` of models whose files it has; None where it does not tell, as the kernel's own.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    backends: tuple[HostBackend, ...] | None = None
    holds: frozenset[str] | None = None


NO_FACTS = HostFacts()


def check_host_id(host_id: str, where: str = "host_id") -> None:
    """Refuse what cannot be the id of a host.

    Raises:
        InvalidFieldError: It cannot.
    """
    if not _ID.fullmatch(host_id) or host_id == LOCAL:
        raise InvalidFieldError(f"{where} is {host_id[:80]!r}; it must be {ID_RULE}", field=where)


def check_selector(labels: Mapping[str, str], where: str) -> None:
    """Refuse what cannot be labels of a host; `host`, which each host has, may be among them.

    Raises:
        InvalidFieldError: There are too many, or a key or a value is none.
    """
    if len(labels) > MOST_LABELS:
        raise InvalidFieldError(f"{where} has {len(labels)} labels; it may have {MOST_LABELS} at most", field=where)
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise InvalidFieldError(f"{where} has a key {key[:80]!r}; it must be {KEY_RULE}", field=where)
        if not _VALUE.fullmatch(value):
            raise InvalidFieldError(f"{where} has {key}={value[:80]!r}; the value must be {VALUE_RULE}", field=where)


def check_facts(facts: HostFacts, devices: int) -> None:
    """Refuse what a host says of itself where it is too much, or no labels.

    Raises:
        InvalidFieldError: It is.
    """
    check_selector(facts.labels, "labels")
    if HOST_LABEL in facts.labels:
        raise InvalidFieldError(
            f"labels has {HOST_LABEL!r}, which is the id of each host; leave it out", field="labels"
        )
    backends = facts.backends or ()
    most = max((len(backend.devices) for backend in backends), default=0)
    for name, value, limit in (
        ("devices", max(devices, most), MOST_DEVICES),
        ("backends", len(backends), MOST_BACKENDS),
        ("holds", len(facts.holds or ()), MOST_HELD),
        ("version", len(facts.version), MOST_VERSION),
    ):
        if value > limit:
            raise InvalidFieldError(f"{name} has {value}; a host may tell {limit} at most", field=name)


@dataclass(slots=True, kw_only=True)
class Host:
    """The core's record of one host. One writer: the kernel machine.

    Attributes:
        host_id: Its id; "" for the kernel's own.
        since: When it came to its state; kernel clock, seconds.
        facts: What it says of itself.
        devices: Those that it has, or had when it was lost.
        instances: Those whose worker may still live there.
        why: Why it is LOST; "" otherwise.
    """

    host_id: HostId
    since: float
    state: HostState = HostState.JOINING
    facts: HostFacts = NO_FACTS
    devices: dict[DeviceId, None] = field(default_factory=dict)
    instances: dict[InstanceId, None] = field(default_factory=dict)
    why: str = ""


def device_on(host_id: HostId, name: str) -> DeviceId:
    """What a device is called in the core and by clients: `host/cuda:0`, on the kernel's own host `cuda:0`."""
    return DeviceId(f"{host_id}/{name}" if host_id else name)


def shown_host(host_id: HostId) -> str:
    """What a host is called for people, and in selectors."""
    return host_id or LOCAL


def host_of(device_id: DeviceId) -> HostId:
    """The host of a device."""
    return HostId(device_id.rpartition("/")[0])


def name_of(device_id: DeviceId) -> DeviceId:
    """What a device is called on its own host, by its workers: `cuda:0`."""
    return DeviceId(device_id.rpartition("/")[2])
