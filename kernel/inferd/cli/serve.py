"""`inferd serve`: a kernel in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
from importlib import import_module
from typing import TYPE_CHECKING, Any

from inferd import __version__
from inferd.cli.guard import PR_SET_PDEATHSIG, prctl
from inferd.cli.lacking import words
from inferd.cli.output import CommandError
from inferd.places import own_socket
from inferd.plugin.registry import BackendState
from inferd.runtime.plugins import plugins_ahead

UNIX, MUTUAL_TLS = "unix:", "mtls:"

if TYPE_CHECKING:
    from inferd.cli.http_beside import HttpBeside
    from inferd.cli.output import Output
    from inferd.cli.ray_beside import Beside
    from inferd.config import Settings
    from inferd.server import Kernel
    from inferd.store.kernels import KernelEntry


def serve(output: Output, settings: Settings, *, http: str = "") -> None:
    """Serve until SIGTERM, which drains, or SIGINT; a line on stdout tells when and where it serves, or stands by.

    Raises:
        CommandError: Hosts are to be those of a Ray cluster, or HTTP is to be served, and that cannot be.
    """
    beside: list[Beside | HttpBeside] = []
    if settings.ray.cluster:
        from inferd.cli.ray_beside import Beside  # noqa: PLC0415 - a start waits for what is imported

        beside.append(Beside(output, settings))
    if http and http != "off":
        from inferd.cli.http_beside import HttpBeside  # noqa: PLC0415 - as above

        beside.append(HttpBeside(output, http))

    def ready(kernel: Kernel) -> None:
        announce(output, kernel)
        for each in beside:
            each.start(kernel.addresses)

    asyncio.run(_serve(settings, ready=ready, stands=lambda me, leader: announce_standby(output, me, leader)))


async def _serve(settings: Settings, **told: Any) -> None:
    """As `inferd.serving.serve`, which is imported while processes of their own look at the plugins."""
    ahead = asyncio.create_task(plugins_ahead(settings), name="plugins")
    try:
        serving = await asyncio.to_thread(import_module, "inferd.serving")
        await serving.serve(settings, ahead=ahead, **told)
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)


def announce(output: Output, kernel: Kernel) -> None:
    """Tell that the kernel serves."""
    models, keeper = kernel.driver.views.model_names(), kernel.driver.keeper
    store = "" if keeper is None else keeper.state.name
    if output.json:
        backends = [
            {"name": report.name, "state": report.state.name, "why": report.why, "fix": report.fix}
            for report in kernel.reports
        ]
        facts = {"version": __version__, "pid": os.getpid(), "addresses": list(kernel.addresses), "store": store}
        unserved = [
            {"path": path, "why": fault.why} for path, fault in kernel.declaring.declarations.in_repository.items()
        ]
        facts |= {"metrics": kernel.metrics_address, "models": models, "backends": backends}
        output.line({**facts, "unserved": unserved})
        return
    backends_text = ", ".join(f"{report.name} {report.state.name.lower()}" for report in kernel.reports) or "none"
    count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
    addresses = " and ".join(kernel.addresses)
    keeps = f"keeps what is created in {store}" if store else "keeps nothing"
    output.text(f"inferd {__version__} listens on {addresses} ({count}, backends: {backends_text}; {keeps})")
    if kernel.metrics_address:
        scheme = "https" if kernel.metrics_address.startswith("tls:") else "http"
        output.note(f"Prometheus reads {scheme}://{kernel.metrics_address.removeprefix('tls:')}/metrics")
    for report in kernel.reports:
        if report.state is BackendState.READY and report.why:
            output.note(words(report.name, report.why, report.fix))
    for fault in kernel.declaring.declarations.in_repository.values():
        output.note(f"not served: {fault}")
    if told := how_to_log_in(kernel):
        output.note(told)


def announce_standby(output: Output, me: KernelEntry, leader: KernelEntry | None) -> None:
    """Tell that the kernel stands by, and who leads."""
    if output.json:
        leads = (
            None if leader is None else {"addresses": list(leader.addresses), "host": leader.host, "pid": leader.pid}
        )
        facts = {"version": __version__, "pid": os.getpid(), "addresses": list(me.addresses)}
        output.line({**facts, "standing_by": True, "leader": leads})
        return
    who = "no kernel leads now" if leader is None else f"leader is {leader}"
    output.text(f"inferd {__version__} at {' and '.join(me.addresses)} stands by: {who}")


def how_to_log_in(kernel: Kernel) -> str:
    """How calls that need a login are let in, for the user of a kernel; "" where there are none."""
    free = MUTUAL_TLS if kernel.socket_needs_login else (UNIX, MUTUAL_TLS)
    ports = [address for address in kernel.addresses if not address.startswith(free)]
    socket = next((address for address in kernel.addresses if address.startswith(UNIX)), "")
    if not ports or not (kernel.needs_login or kernel.socket_needs_login):
        return ""
    need = f"calls to {' and '.join(ports)} need a key"
    if kernel.socket_needs_login and not kernel.has_key_makers:
        return f"{need}, and nobody can make keys: start once without auth.local_roles = []"
    if kernel.socket_needs_login:
        where = f"--write FILE --address {socket or ports[0]}"
        make = f"inferd --credential-file ADMIN.key keys create NAME --role user {where}"
        return f"{need}: {make}; use it with: inferd --credential-file FILE …"
    make = "inferd keys create NAME --role user --write FILE"
    if socket and socket != f"{UNIX}{own_socket()}":
        make += f" --address {socket}"
    return f"{need}: {make}; use it with: inferd --credential-file FILE …"


def end_with_parent(parent: int | None) -> None:
    """Have the system send SIGTERM to this process when its parent ends.

    Args:
        parent: Process id of the parent as the one who started this process knows it; None for whoever it is now.

    Raises:
        CommandError: The system cannot do it, or `parent` has ended already.
    """
    now = os.getppid()
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except OSError as error:
        why = f"--exit-with-parent does not work on this system: {error.strerror}"
        raise CommandError(why, reason="SYSTEM_ERROR") from None
    if os.getppid() != (parent or now):
        raise CommandError(f"the parent {parent or now} has ended already", reason="SYSTEM_ERROR")
