"""`inferd ray`: a process beside a kernel that keeps an agent on each node of a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from inferd.cli.kernel import connected
from inferd.cli.output import CommandError
from inferd.cli.ray_state import State, write_state
from inferd.errors import words_of
from inferd.log_lines import set_up_logs
from inferd.ray.cluster import ClusterError, connect
from inferd.ray.fleet import Fleet
from inferd.ray.kernel_side import KernelSide
from inferd.starts import end_start

if TYPE_CHECKING:
    from inferd.cli.output import Output
    from inferd.config import Settings
    from inferd.ray.fleet import Standing

MOST_AUTHORITIES = 1 << 20  # bytes of certificates that each agent is given
TELL_S = 1.0


def keep_agents(output: Output, settings: Settings, where: str, *, address: str, join: str) -> None:
    """Keep them until SIGTERM or SIGINT; they stay then for `ray.leash_s`, for whoever comes next.

    Raises:
        CommandError: The cluster or the kernel cannot be used.
    """
    set_up_logs()
    ends = threading.Event()
    with connected(address) as client:
        joined = join or settings.ray.join or client.address
        authorities = read_authorities(settings.ray.ca_file)
        client.get_host()  # a kernel that does not answer is told before seconds are spent on Ray
        try:
            cluster = connect(where, fleet_name(joined), leash_s=settings.ray.leash_s, restarts=settings.ray.restarts)
        except ClusterError as error:
            raise CommandError(str(error), reason="CLUSTER_UNUSABLE") from None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ends.set())
        fleet = Fleet(cluster, KernelSide(client), settings.ray, join=joined, authorities=authorities)
        teller = threading.Thread(target=_tell, args=(output, settings.state_dir, where, fleet, ends), daemon=True)
        teller.start()
        end_start()
        try:
            fleet.run(ends)
        finally:
            ends.set()
            teller.join(timeout=2 * TELL_S)
            cluster.close()


def fleet_name(join: str) -> str:
    """What names the agents of one kernel on a cluster: those of another one are not touched."""
    return f"inferd-{sha256(join.encode()).hexdigest()[:12]}"


def read_authorities(file: Path | None) -> str:
    """Certificates in PEM for agents, of `file`, else of $INFERD_CA_FILE; "" for public ones.

    Raises:
        CommandError: They cannot be read, or there is more in the file than certificates.
    """
    path = file or (Path(named) if (named := os.environ.get("INFERD_CA_FILE")) else None)
    if path is None:
        return ""
    try:
        with path.open("rb") as opened:
            text = opened.read(MOST_AUTHORITIES + 1).decode("ascii", errors="replace")
    except OSError as error:
        raise CommandError(
            f"the authorities of ray.ca_file cannot be read: {words_of(error)}", reason="SETTINGS_INVALID"
        ) from None
    if len(text) > MOST_AUTHORITIES or "PRIVATE KEY" in text or "BEGIN CERTIFICATE" not in text:
        raise CommandError(
            f"{path} (ray.ca_file) must hold certificates in PEM and nothing else, at most {MOST_AUTHORITIES} bytes: "
            "each agent is given it",
            reason="SETTINGS_INVALID",
        )
    return text


def _tell(output: Output, folder: Path, where: str, fleet: Fleet, ends: threading.Event) -> None:
    """Tell how the fleet stands, each time that it changes."""
    told: Standing | None = None
    while not ends.wait(TELL_S):
        standing = fleet.standing
        if standing == told:
            continue
        told = standing
        write_state(
            folder, State(where, os.getpid(), standing.troubles, f"{standing.attached} of {standing.nodes} nodes")
        )
        if output.json:
            output.line({"cluster": where, **asdict(standing)})
            continue
        asked = f", {standing.asked} asked for" if standing.asked else ""
        output.text(
            f"{where}: {standing.attached} of {standing.nodes} nodes have an agent ({standing.wanted} wanted{asked})"
        )
        for trouble in standing.troubles:
            output.note(trouble)
