"""`inferd host`: the agent of a host in the foreground."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from inferd import __version__, descriptors, logs
from inferd.agent.agent import Agent
from inferd.agent.cache import Cache
from inferd.agent.connection import Kernels
from inferd.agent.credential import OwnCredential, find_credential
from inferd.agent.facts import Found
from inferd.agent.folders import own_folder
from inferd.agent.giving import Giving, check_reached
from inferd.cli.output import CommandError, command_error
from inferd.core.host import check_host_id
from inferd.errors import InvalidFieldError
from inferd.folders import config_path
from inferd.log_lines import LogLines, set_up_logs
from inferd.notifying import Notices
from inferd.plugin.cores import forbid_cores
from inferd.plugin.registry import BackendState
from inferd.starts import end_start
from inferd_client import CredentialError, InferdError
from inferd_client.channel import target
from inferd_client.credentials import MOST_BYTES, credential_of
from inferd_client.errors import UnauthenticatedError

CREDENTIAL = "inferd-host-token"
"""The name of an invitation among the credentials of a service."""

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.cli.output import Output
    from inferd.config import Settings


def read_labels(given: Sequence[str]) -> dict[str, str]:
    """Labels as they are given, `NAME=VALUE` each.

    Raises:
        CommandError: One is no label, or stands twice.
    """
    labels: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise CommandError(f"--label {each!r} is none; write NAME=VALUE, as zone=a", reason="USAGE")
        if name in labels:
            raise CommandError(f"--label {name} is given twice; a label has one value", reason="USAGE")
        labels[name] = value
    return labels


def serve_host(
    output: Output,
    settings: Settings,
    addresses: Sequence[str],
    *,
    name: str,
    labels: Mapping[str, str],
    token_file: Path | None,
    serve_files: str = "",
) -> None:
    """Serve a kernel with this machine's devices, until SIGTERM or SIGINT.

    Raises:
        CommandError: The kernel does not take this host, or another agent has its folder of models.
    """
    try:
        for address in addresses:
            target(address)
        if serve_files:
            check_reached(serve_files)
        check_host_id(name := name or platform.node(), "--name")
        asyncio.run(
            _serve(
                output,
                settings,
                addresses,
                name=name,
                labels=labels,
                token=_read_token(token_file),
                serve_files=serve_files,
            )
        )
    except CredentialError as error:
        raise CommandError(str(error), reason="CREDENTIAL_INVALID") from None
    except ValueError as error:
        raise CommandError(f"--join: {error}", reason="USAGE") from None
    except (InferdError, InvalidFieldError) as error:
        raise command_error(error) from None


def _read_token(file: Path | None) -> str:
    """The invitation in a file; without one that which a service manager gives by its name, or ""."""
    if file is None:
        given = os.environ.get("CREDENTIALS_DIRECTORY", "")
        credential = Path(given, CREDENTIAL)
        return credential.read_text(encoding="utf-8").strip() if given and credential.exists() else ""
    if str(file) == "-":
        return sys.stdin.read(MOST_BYTES).strip()
    return credential_of(None, file)


async def _serve(
    output: Output,
    settings: Settings,
    addresses: Sequence[str],
    *,
    name: str,
    labels: Mapping[str, str],
    token: str,
    serve_files: str,
) -> None:
    set_up_logs()
    descriptors.raise_limit()
    if not settings.core_dumps:
        forbid_cores()
    ends, notices = asyncio.Event(), Notices()

    def end() -> None:
        notices.stopping()
        ends.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    log_folder = settings.state_dir / "workers"
    own = OwnCredential(settings.state_dir, addresses, name)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(notices.beating())
        folder = stack.enter_context(own_folder(settings.data_dir, most=settings.hosts.cache_folders))
        credential, giving = await find_credential(own, addresses, name, token), None
        with output.status("looking for backends and devices"):
            found = await Found.here(settings)
        cache, facts = Cache(folder, settings.hosts.cache_bytes), found.facts(name, labels, log_folder)
        if serve_files:
            giving = Giving(cache, settings.hosts.gives)
            await stack.enter_async_context(giving.running(serve_files))
            facts.files.CopyFrom(giving.server)
        agent = Agent(
            facts,
            kernels=Kernels(addresses, credential),
            found=found,
            log_folder=log_folder,
            own=[str(path.resolve()) for path in (config_path(), settings.data_dir, settings.state_dir)],
            cache=cache,
            watcher=Told(output, " or ".join(addresses), name, found, notices),
            giving=giving,
        )
        logs.install(write=LogLines.write)
        end_start()
        try:
            await agent.run(ends)
        except UnauthenticatedError as error:
            if credential is not None:
                raise
            raise CommandError(
                f"host {name!r} has no credential in {settings.state_dir}, by which it had joined before, and "
                f"{' or '.join(addresses)} needs one; make an invitation (inferd hosts invite --host {name}) and give "
                f"that (--token-file FILE){f'; {error.message}' if credential_of(None, None) else ''}",
                reason=error.reason,
            ) from None


class Told:
    """Tells how the agent stands: that it is attached on stdout, and why it is not beside it, each time anew.

    Args:
        output: Where.
        address: Of the kernel.
        name: Of this host.
        found: What it has.
        notices: Of this program: it is ready once it knows how it stands, attached or not.
    """

    def __init__(self, output: Output, address: str, name: str, found: Found, notices: Notices | None = None) -> None:
        self._notices = Notices({}) if notices is None else notices
        self._output = output
        self._address = address
        self._name = name
        self._found = found
        self._why = ""

    def attached(self, epoch: int, *, resumed: bool) -> None:
        """It is attached."""
        self._why = ""
        self._notices.ready(f"attached to {self._address}")
        backends = [report.name for report in self._found.reports if report.state is BackendState.READY]
        if self._output.json:
            facts = {"version": __version__, "pid": os.getpid(), "host": self._name, "kernel": self._address}
            self._output.line({**facts, "epoch": epoch, "resumed": resumed, "backends": backends})
            return
        again = ", again: all goes on" if resumed else ""
        self._output.text(
            f"host {self._name} is attached to {self._address} (backends: {', '.join(backends) or 'none'}){again}"
        )

    def detached(self, why: str) -> None:
        """It is not."""
        if why != self._why:
            self._why = why
            self._notices.ready(f"not attached to {self._address}: {why}; trying again")
            self._output.note(f"not attached to {self._address}: {why}; trying again")
