"""A Ray cluster of several nodes on this machine: processes of this one, ended by their ids."""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from inferd.ray.values import host_name

START_S = 180.0
END_S = 20.0
STORE_BYTES = 80 << 20  # the least that Ray takes
ZONE = "ray.io/availability-zone=here"
PATIENCE = {"RAY_raylet_start_wait_time_s": f"{START_S:.0f}"}  # of a machine that has much else to do
STARTED = b"Ray runtime started"


@dataclass
class Node:
    """A node that runs.

    Attributes:
        process: `ray start --block`, whose children it is.
    """

    process: subprocess.Popen[bytes]

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def raylet(self) -> psutil.Process:
        return next(each for each in self.processes() if each.name() == "raylet")

    def host(self) -> str:
        """What the host on it is called."""
        word = "--node_id="
        return host_name(next(each.removeprefix(word) for each in self.raylet().cmdline() if each.startswith(word)))


@dataclass
class RayCluster:
    """A head and more nodes.

    Attributes:
        port: Of its control store.
        client_port: Of its client server.
        folder: Of its sessions.
        environment: Of its processes.
        nodes: By name; "head" is the first.
    """

    port: int
    client_port: int
    folder: Path
    environment: Mapping[str, str]
    nodes: dict[str, Node] = field(default_factory=dict)
    _ever: list[psutil.Process] = field(default_factory=list)

    def start(self, name: str, *options: str) -> Node:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
                *("--num-cpus=1", f"--memory={512 << 20}", f"--object-store-memory={STORE_BYTES}", *options),
            ],
            env={**os.environ, **self.environment, "RAY_USAGE_STATS_ENABLED": "0", **PATIENCE},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        node = self.nodes[name] = Node(process)
        said = _until(process, STARTED)
        assert STARTED in said, said.decode(errors="replace")[-4000:]
        return node

    def join(self, name: str) -> Node:
        return self.start(name, f"--address=127.0.0.1:{self.port}", "--labels", f"ray.io/node-group={name},{ZONE}")

    def kill(self, name: str) -> None:
        """Kill the raylet of a node, as when a machine is lost."""
        node = self.nodes[name]
        self._ever += node.processes()
        node.raylet().kill()

    def end(self) -> None:
        """End all that was started, by their ids."""
        found = [*self._ever, *(process for node in self.nodes.values() for process in node.processes())]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(found, timeout=END_S)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=END_S)
        for node in self.nodes.values():
            node.process.wait(END_S)
            if node.process.stdout is not None:
                node.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def ray_cluster(environment: Mapping[str, str]) -> Iterator[RayCluster]:
    """A cluster with a head and no other node yet, until the block ends."""
    port, client_port = _free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = RayCluster(port, client_port, folder, environment)
    try:
        cluster.start(
            "head",
            *("--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"),
            f"--temp-dir={folder}",
        )
        yield cluster
    finally:
        cluster.end()


def _until(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    """What a process says until it has said this, or ends, or the time is over."""
    said, deadline, stdout = b"", time.monotonic() + START_S, process.stdout
    while stdout is not None and wanted not in said and (left_s := deadline - time.monotonic()) > 0:
        if select.select([stdout], [], [], min(left_s, 1.0))[0]:
            part = os.read(stdout.fileno(), 65536)
            if not part:
                break
            said += part
    return said


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
