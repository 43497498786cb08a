"""The kernel as the process beside it sees it: a client."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING

from inferd.ray.values import HostSeen, HostState
from inferd_api.v1.lease_pb2 import LEASE_STATE_PENDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from inferd_client import Client

MOST_LEASES = 10_000  # that wait, and are counted


class KernelSide:
    """What is asked of the kernel about its hosts.

    Args:
        client: Of it; whoever it is must be allowed to ask for all tenants.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def look(self, attached: Iterable[str]) -> tuple[Mapping[str, HostSeen], int]:
        """The hosts of agents that are attached, by name, and how many tasks and leases wait.

        Raises:
            InferdError: It does not answer, or not to this client.
        """
        with closing(self._client.watch_host()) as watched:
            seen = next(watched)
        waiting = seen.host.queued_tasks
        waiting += sum(1 for _ in islice(self._client.list_leases(states=[LEASE_STATE_PENDING]), MOST_LEASES))
        on = [(each.device.partition("/")[0], each) for each in seen.instances if "/" in each.device]
        instances = Counter(name for name, _ in on)
        busy = {name for name, each in on if each.running_tasks or each.lease_id}
        hosts = {
            name: HostSeen(name=name, state=HostState.READY, busy=name in busy, instances=instances[name])
            for name in attached
        }
        return hosts, waiting

    def invite(self, host: str, ttl_s: float) -> str:
        """An invitation for one host alone, for so long."""
        return self._client.create_invite(host, uses=1, ttl_s=ttl_s).credential
