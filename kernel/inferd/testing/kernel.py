"""Kernels for tests: one in this process, or one in a process of its own, each with folders of its own."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.config import Settings
from inferd.errors import present
from inferd.runtime.front.front import Front
from inferd.server import Kernel, running_front, running_kernel
from inferd.standing import Watch

OPEN_PORT: dict[str, Any] = {"listen": ("127.0.0.1:0",), "auth": {"required": False}}
"""Settings of a kernel on a free port of the loopback that needs no login, for tests of what sockets do not have."""
FAKE_PLUGIN = "inferd.testing.plugin"
START_TIMEOUT_S = 150.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProcess:
    """A kernel in a process of its own.

    Attributes:
        address: Where it listens, "unix:/PATH" unless it was told otherwise.
        addresses: The same, and where it listens besides.
        pid: Its process id.
        folder: Its data and state lie under this.
        process: Itself.
        metrics: Where Prometheus reads, host:port; "" for nowhere.
    """

    address: str
    addresses: tuple[str, ...]
    pid: int
    folder: Path
    process: subprocess.Popen[str]
    metrics: str = ""


def write_fake_model(folder: Path, name: str = "fake", **behaviour: Any) -> Path:
    """Write a model of the FakeBackend, see `inferd.testing.fake` for what it can be told; its path."""
    path = folder / f"{name}.fake"
    path.write_text(json.dumps(behaviour), encoding="utf-8")
    return path


@asynccontextmanager
async def kernel_here(folder: Path, watch: Watch | None = None, **settings: Any) -> AsyncIterator[Kernel]:
    """A kernel in this process and loop, with the FakeBackend, on a socket of its own; as `running_kernel`."""
    with _socket() as address:
        async with running_kernel(_settings(folder, {"listen": (address,), **settings}), watch) as kernel:
            yield kernel


@asynccontextmanager
async def front_here(folder: Path, **settings: Any) -> AsyncIterator[Front]:
    """A kernel in this process and loop, with the FakeBackend, without a port: it is asked in values."""
    async with running_front(_settings(folder, settings)) as front:
        yield front


@contextmanager
def _socket() -> Iterator[str]:
    """An address that no other kernel has, and short enough wherever the folders of a test are."""
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        yield f"unix:{folder}/k"


def _settings(folder: Path, chosen: Mapping[str, Any]) -> Settings:
    usual: dict[str, Any] = {
        "data_dir": folder / "data",
        "state_dir": folder / "state",
        "plugin_modules": (FAKE_PLUGIN,),
        "store": {"url": "memory:"},
        "metrics_listen": "",
    }
    return Settings(**{**usual, **chosen})


@contextmanager
def kernel_process(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    listen: str = "",
    besides: Sequence[str] = (),
) -> Iterator[KernelProcess]:
    """A kernel in a process of its own, with the FakeBackend, ended in order.

    Args:
        folder: Its data and state lie under this.
        environment: Its settings.
        listen: Where it listens; default: on a socket of its own.
        besides: And where else.

    Raises:
        RuntimeError: It did not start; the message holds what it said.
    """
    with ExitStack() as stack:
        addresses = (listen or stack.enter_context(_socket()), *besides)
        yield stack.enter_context(_process(folder, environment or {}, addresses))


@contextmanager
def _process(folder: Path, environment: Mapping[str, str], addresses: Sequence[str]) -> Iterator[KernelProcess]:
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / "kernel.log"
    chosen = {
        "INFERD_DATA_DIR": str(folder / "data"),
        "INFERD_STATE_DIR": str(folder / "state"),
        "INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]),
        "INFERD_STORE__URL": "memory:",
        "INFERD_METRICS_LISTEN": "",
    }
    with said.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "inferd", "serve", "-o", "json", "--exit-with-parent"),
                *(word for address in addresses for word in ("--listen", address)),
            ],
            env={**os.environ, **chosen, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = _first_line(process)
        if not line:
            raise RuntimeError(f"the kernel did not start: {said.read_text(encoding='utf-8')}")
        said_first = json.loads(line)
        addresses, metrics = tuple(said_first["addresses"]), said_first.get("metrics", "")  # a standby has none
        yield KernelProcess(
            address=addresses[0],
            addresses=addresses,
            pid=process.pid,
            folder=folder,
            process=process,
            metrics=metrics,
        )
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    stdout = present(process.stdout)
    deadline = time.monotonic() + START_TIMEOUT_S
    while (left_s := deadline - time.monotonic()) > 0 and process.poll() is None:
        if select.select([stdout], [], [], min(left_s, 0.5))[0]:
            return stdout.readline()
    return ""
