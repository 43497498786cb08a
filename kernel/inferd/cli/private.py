"""A kernel of one command: started when none runs, ended with the command."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inferd.cli.named import is_known
from inferd.cli.output import CommandError
from inferd.errors import present
from inferd.places import SHARED, own_socket, system_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd.cli.named import Wanted

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
LINE_BYTES = 1 << 20
UNIX = "unix:"
ALONE = {"INFERD_STORE__URL": "memory:", "INFERD_DRAIN_S": "0", "INFERD_METRICS_LISTEN": ""}


class PrivateKernel(NamedTuple):
    """Where it listens, and its process id."""

    address: str
    pid: int


class StartingKernel(NamedTuple):
    """A private kernel that may not serve yet: where it is to listen, its process, and what it says."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self) -> PrivateKernel:
        """Wait until it serves.

        Raises:
            CommandError: It did not start; the message ends with what it said last.
        """
        _wait_until_ready(self.process, self.log)
        return PrivateKernel(self.address, self.process.pid)


@contextmanager
def starting_kernel() -> Iterator[StartingKernel]:
    """A kernel that listens on a socket in a folder of its own; no process is left when the block ends.

    It runs in a session of its own, so that Ctrl-C reaches this process only, which then ends it in order. Should
    this process be killed, the kernel ends with it.
    """
    with tempfile.TemporaryDirectory(prefix="inferd-") as folder:
        address, log = f"{UNIX}{folder}/kernel.sock", Path(folder) / "kernel.log"
        command = [sys.executable, "-m", "inferd", "serve", "--listen", address, "--output", "json"]
        command += ["--exit-with-parent", "--parent", str(os.getpid())]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                # Nothing of it is to outlive the command, nor to take a port from a kernel that stays.
                env={**os.environ, **ALONE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            yield StartingKernel(address, process, log)
        finally:
            _end(process)


@contextmanager
def kernel_ahead(wanted: Wanted, address: str, data_dir: Callable[[], Path]) -> Iterator[StartingKernel | None]:
    """A private kernel that starts while the command imports its client; None where it may not be needed.

    It is where nobody listens at the address, or at the usual places, and where the model is known. Whatever is not
    as it should be is left to be found, and told, on the ordinary way.
    """
    needed = False
    with suppress(CommandError):
        needed = _nobody_listens(address) and is_known(wanted, data_dir)
    if not needed:
        yield None
        return
    with starting_kernel() as kernel:
        yield kernel


def _nobody_listens(address: str) -> bool:
    """Whether there is surely no kernel at an address, "" for the usual places; of those of networks nobody knows."""
    if address:
        return "," not in address and address.startswith(UNIX) and _is_silent(Path(address.removeprefix(UNIX)))
    places = (own_socket(), SHARED / f"inferd-{os.geteuid()}" / "inferd.sock", system_socket())
    return all(place is None or _is_silent(place) for place in places)


def _is_silent(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.setblocking(False)
            asked.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return True
    except OSError:
        return False
    return False


@contextmanager
def private_kernel() -> Iterator[PrivateKernel]:
    """As `starting_kernel`, once it serves.

    Raises:
        CommandError: It did not start; the message ends with what it said last.
    """
    with starting_kernel() as kernel:
        yield kernel.ready()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    stdout = present(process.stdout)
    deadline = time.monotonic() + START_TIMEOUT_S
    said = b""
    while b"\n" not in said and len(said) < LINE_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([stdout], [], [], left_s)[0]:
            raise _not_started(f"it was not ready within {START_TIMEOUT_S:.0f} s", log)
        chunk = os.read(stdout.fileno(), 1 << 16)
        if not chunk:
            raise _not_started(_told(said) or f"it ended with status {process.wait()}", log)
        said += chunk
    if "addresses" not in json.loads(said):
        raise _not_started(_told(said), log)


def _told(said: bytes) -> str:
    """The message of the error that the kernel told, if it did."""
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _not_started(why: str, log: Path) -> CommandError:
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    return CommandError("\n  ".join([f"the private kernel did not start: {why}", *last]), reason="KERNEL_NOT_STARTED")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
