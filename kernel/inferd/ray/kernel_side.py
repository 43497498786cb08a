"""The kernel as the process beside it sees it: a client."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

from inferd.ray.values import HostSeen, HostState
from inferd_api.v1 import host_pb2
from inferd_api.v1.lease_pb2 import LEASE_STATE_PENDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd_client import Client

LET_GO = "Ray lets its node go"
"""Why a host drains that this process, or one before it, has let go: what operators drain stays so."""
MOST_LEASES = 10_000  # that wait, and are counted
STATES: Mapping[host_pb2.HostState.ValueType, HostState] = {
    host_pb2.HOST_STATE_JOINING: HostState.JOINING,
    host_pb2.HOST_STATE_READY: HostState.READY,
    host_pb2.HOST_STATE_DRAINING: HostState.DRAINING,
    host_pb2.HOST_STATE_CORDONED: HostState.CORDONED,
    host_pb2.HOST_STATE_LOST: HostState.LOST,
}


class KernelSide:
    """What is asked of the kernel about its hosts. All calls raise InferdError where they fail.

    Args:
        client: Of it; whoever it is must be allowed to ask for all tenants.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def look(self) -> tuple[Mapping[str, HostSeen], int]:
        """Its hosts by name, and how many tasks and leases wait."""
        waiting = self._client.get_host().queued_tasks
        waiting += sum(1 for _ in islice(self._client.list_leases(states=[LEASE_STATE_PENDING]), MOST_LEASES))
        hosts = {
            host.host_id: HostSeen(
                name=host.host_id,
                state=STATES[host.state],
                busy=bool(host.placed_tasks or host.held_leases),
                instances=host.instances,
                let_go=host.ordered == host_pb2.HOST_STATE_DRAINING and host.order_reason == LET_GO,
            )
            for host in self._client.list_hosts()
            if host.state in STATES
        }
        return hosts, waiting

    def invite(self, host: str, ttl_s: float) -> str:
        """An invitation for one host alone, for so long."""
        return self._client.create_invite(host, uses=1, ttl_s=ttl_s).credential

    def drain(self, host: str) -> None:
        """Have a host take nothing new, and what runs there end or move; this does not wait for that."""
        with closing(self._client.drain_host(host, reason=LET_GO)) as drain:
            next(drain, None)

    def resume(self, host: str) -> None:
        """Have a host take work again."""
        self._client.resume_host(host)

    def forget(self, host: str) -> None:
        """A host is gone, whatever was heard of it: its tasks go on elsewhere at once. No other node has its name."""
        self._client.remove_host(host, force=True, revoke=True)
