"""One run of an agent on a node: a process, what it tells, and how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PROGRAM = (sys.executable, "-P", "-m", "inferd.cli.hosting")
LINE_BYTES = 64 << 10  # of what it tells, at most
MOST_TEXT = 500  # characters of a line that are kept
FOLDERS = 64  # of files of models: so many nodes may be on one machine
TAIL_LINES = 8  # of what it says of failures that are kept
SECRET = ("INFERD_CREDENTIAL", "INFERD_CREDENTIAL_FILE", "INFERD_ADDRESS")
"""Variables of clients, which are not this agent's."""


class Orders(NamedTuple):
    """What an agent is started with. The invitation goes through a pipe: it is in no argument and in no variable.

    Attributes:
        address: Of the kernel; of several, one of which leads, with commas.
        invitation: For this host alone.
        name: Of the host.
        labels: Of the host.
        authorities: Certificates in PEM by which the kernel's is checked; "" for the usual ones.
        memory_bytes: What it gives of `cpu:0` at most; 0 for what it finds.
    """

    address: str
    invitation: str
    name: str
    labels: Mapping[str, str]
    authorities: str = ""
    memory_bytes: int = 0


class AgentProcess:
    """An agent that runs, started by the thread that waits for it: it ends when that thread does.

    Args:
        orders: What it is started with.
        folder: Its state.
        attached: Called when it is attached to the kernel.
        detached: Called with the reason when it says that it is not.
    """

    def __init__(
        self, orders: Orders, folder: Path, *, attached: Callable[[], None], detached: Callable[[str], None]
    ) -> None:
        self._attached = attached
        self._detached = detached
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = subprocess.Popen(
            [*PROGRAM, str(os.getpid()), *_arguments(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(orders, folder),
            start_new_session=True,  # Ctrl-C at a terminal is for whoever decides, not for agents
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, heard), daemon=True)
            for stream, heard in ((self._process.stdout, self._told), (self._process.stderr, self._said))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()
        stdin = self._process.stdin
        if stdin is not None:
            try:
                stdin.write(orders.invitation.encode())
                stdin.close()
            except OSError:  # it has ended: that is told as how it ended
                pass

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> str | None:
        """How it ended, for people; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        for reader in self._readers:
            reader.join(timeout=1)
        how = f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
        tail = " | ".join(self._tail)
        return f"{how}: {tail}" if tail else how

    def end(self, limit_s: float) -> None:
        """End it: in order, and after `limit_s` at once."""
        self._process.terminate()
        try:
            self._process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=limit_s)
        for reader in self._readers:
            reader.join(timeout=1)

    def _read(self, stream: IO[bytes], heard: Callable[[str], None]) -> None:
        with stream:
            while line := stream.readline(LINE_BYTES):
                heard(line.decode(errors="replace").strip())

    def _told(self, line: str) -> None:
        try:
            facts = json.loads(line)
        except ValueError:
            return
        if isinstance(facts, dict) and "epoch" in facts:
            self._attached()
        elif isinstance(facts, dict) and isinstance(error := facts.get("error"), dict):
            self._tail.append(str(error.get("message"))[:MOST_TEXT])

    def _said(self, line: str) -> None:
        if line:
            self._tail.append(line[:MOST_TEXT])
        if "not attached to" in line:
            self._detached(line[:MOST_TEXT])


def _arguments(orders: Orders) -> list[str]:
    labels = [part for name, value in sorted(orders.labels.items()) for part in ("--label", f"{name}={value}")]
    invited = ["--token-file", "-"] if orders.invitation else []
    kernels = [part for address in orders.address.split(",") for part in ("--join", address.strip())]
    return ["host", *kernels, "--name", orders.name, *invited, *labels, "-o", "json"]


def _environment(orders: Orders, folder: Path) -> dict[str, str]:
    """That of the actor, so what the node's operator and Ray have set (GPUs that may be seen, threads)."""
    given = {name: value for name, value in os.environ.items() if name not in SECRET and not name.startswith("RAY_")}
    given["INFERD_STATE_DIR"] = str(folder)
    given.setdefault("INFERD_HOSTS__CACHE_FOLDERS", str(FOLDERS))  # nodes of one machine have one data_dir
    if orders.authorities:
        file = folder / "authorities.pem"
        file.write_text(orders.authorities)
        given["INFERD_CA_FILE"] = str(file)
    if orders.memory_bytes:
        given["INFERD_DEVICES__MEMORY_BYTES"] = json.dumps({"cpu:0": orders.memory_bytes})
    return given
