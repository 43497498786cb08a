"""The process beside a kernel that keeps its agents on a Ray cluster: started, watched, started anew. Without Ray."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from inferd.addresses import UNIX, is_loopback
from inferd.cli.beside import end_child, run_again
from inferd.cli.output import CommandError
from inferd.cli.ray_state import State, forget_state, write_state
from inferd.ray.cluster import ClusterError, cluster_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.cli.output import Output
    from inferd.config import Settings

END_S = 5.0
EVERYWHERE = ("0.0.0.0", "[::]", "::")  # noqa: S104 - looked for, not listened on # nosec B104

log = structlog.get_logger()


class Beside:
    """Starts it once the kernel serves, and ends it with the kernel. One writer: the kernel's loop.

    Args:
        output: Where notes go.
        settings: Of the kernel.

    Raises:
        CommandError: Ray is not installed, or its cluster or the address for agents is none.
    """

    def __init__(self, output: Output, settings: Settings) -> None:
        self._output = output
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        try:
            cluster_address(settings.ray.cluster)
        except ClusterError as error:
            raise CommandError(f"--hosts: {error}", reason="USAGE") from None
        if find_spec("ray") is None:
            raise CommandError(
                f"--hosts {settings.ray.cluster}: Ray is not installed; {sys.executable} -m pip install 'inferd[ray]'",
                reason="PACKAGE_MISSING",
            )

    def start(self, addresses: Sequence[str]) -> None:
        """The kernel serves; where it does so again, all is as it was."""
        if self._task is None or self._task.done():
            join = join_address(self._settings.ray.join, addresses)
            if not join.startswith(("tls:", "mtls:")):
                self._output.note(
                    f"agents join at {join}, which only nodes on this machine reach; for others listen on "
                    "tls:HOST:PORT, or name an address of the kernel: ray.join"
                )
            own = next((each for each in addresses if each.startswith(UNIX)), addresses[0])
            self._task = asyncio.get_running_loop().create_task(self._keep(own, join), name="agents on Ray")

    async def _keep(self, own: str, join: str) -> None:
        folder, cluster = self._settings.state_dir, self._settings.ray.cluster

        def tell(how: str, pause_s: float) -> None:
            log.warning("the process that keeps agents on Ray ended", how=how, again_in_s=pause_s)
            write_state(folder, State(cluster, 0, (f"the process that keeps agents on Ray ended: {how}",)))

        try:
            await run_again(lambda: self._run(own, join), tell)
        finally:
            forget_state(folder)

    async def _run(self, own: str, join: str) -> str:
        """Run it once; how it ended."""
        parts = ["-P", "-m", "inferd", "ray", self._settings.ray.cluster, "--join", join, "--address", own]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *parts,
            "--parent",
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        last = ""
        try:
            if process.stderr is not None:
                async for line in process.stderr:
                    sys.stderr.buffer.write(line)
                    sys.stderr.flush()
                    last = line.decode(errors="replace").strip() or last
            code = await process.wait()
        finally:
            await end_child(process, END_S)
        return f"{'signal' if code < 0 else 'code'} {abs(code)}: {last[:1000].removeprefix('error: ')}"


def join_address(given: str, addresses: Sequence[str]) -> str:
    """Where agents reach the kernel: as given, else where it listens, TLS first.

    Raises:
        CommandError: It listens on all addresses of this machine: which of them others reach is not known here.
    """
    if given:
        return given
    with_tls = [each for each in addresses if each.startswith(("tls:", "mtls:"))]
    for each in with_tls:
        host = each.split(":", 1)[1].rpartition(":")[0]
        if host not in EVERYWHERE and not is_loopback(host.strip("[]")):
            return each
    if with_tls and any(each.split(":", 1)[1].rpartition(":")[0] in EVERYWHERE for each in with_tls):
        raise CommandError(
            f"the kernel listens on {with_tls[0]}, and agents need the address that their machines reach it by: "
            "set ray.join, as tls:kernel.example:7411",
            reason="SETTINGS_INVALID",
        )
    near = [each for each in addresses if not each.startswith(UNIX)]
    return (near or list(addresses))[0]
