"""What is told of hosts besides that they come and go: what they have of files, and what operators want of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from inferd.core.host import HostChange
from inferd.core.ids import HostId


@dataclass(frozen=True, slots=True)
class CordonHost:
    """An operator lets a host get no new instances; those that it has stay and take tasks."""

    host_id: HostId


@dataclass(frozen=True, slots=True)
class HostHolds:
    """A host has the files of these models now, by their `file_version`, and of no others; see `HostFacts`."""

    host_id: HostId
    holds: frozenset[str]


@dataclass(frozen=True, slots=True)
class OrderHosts:
    """Operators wanted this of hosts before this kernel was started: CORDON or DRAIN, once they join."""

    orders: Mapping[HostId, HostChange]
