"""Kernels for tests: one in this process, or one in a process of its own, each with folders of its own."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.config import Settings
from inferd.errors import present
from inferd.runtime.front.front import Front
from inferd.server import Kernel, running_front, running_kernel

FAKE_PLUGIN = "inferd.testing.plugin"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProcess:
    """A kernel in a process of its own.

    Attributes:
        address: Where it listens, "127.0.0.1:PORT".
        addresses: The same, and where it listens besides.
        pid: Its process id.
        folder: Its data and state lie under this.
        process: Itself.
    """

    address: str
    addresses: tuple[str, ...]
    pid: int
    folder: Path
    process: subprocess.Popen[str]


def write_fake_model(folder: Path, name: str = "fake", **behaviour: Any) -> Path:
    """Write a model of the FakeBackend, see `inferd.testing.fake` for what it can be told; its path."""
    path = folder / f"{name}.fake"
    path.write_text(json.dumps(behaviour), encoding="utf-8")
    return path


@asynccontextmanager
async def kernel_here(folder: Path, **settings: Any) -> AsyncIterator[Kernel]:
    """A kernel in this process and loop, with the FakeBackend, on a free port of the loopback."""
    async with running_kernel(_settings(folder, settings)) as kernel:
        yield kernel


@asynccontextmanager
async def front_here(folder: Path, **settings: Any) -> AsyncIterator[Front]:
    """A kernel in this process and loop, with the FakeBackend, without a port: it is asked in values."""
    async with running_front(_settings(folder, settings)) as front:
        yield front


def _settings(folder: Path, chosen: Mapping[str, Any]) -> Settings:
    usual: dict[str, Any] = {
        "listen": ("127.0.0.1:0",),
        "data_dir": folder / "data",
        "state_dir": folder / "state",
        "plugin_modules": (FAKE_PLUGIN,),
        "store": {"url": "memory:"},
    }
    return Settings(**{**usual, **chosen})


@contextmanager
def kernel_process(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    listen: str = "127.0.0.1:0",
    besides: Sequence[str] = (),
) -> Iterator[KernelProcess]:
    """A kernel in a process of its own, with the FakeBackend, on a free port of the loopback; ended in order.

    Args:
        folder: Its data and state lie under this.
        environment: Its settings.
        listen: Where it listens.
        besides: And where else.

    Raises:
        RuntimeError: It did not start; the message holds what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / "kernel.log"
    chosen = {
        "INFERD_DATA_DIR": str(folder / "data"),
        "INFERD_STATE_DIR": str(folder / "state"),
        "INFERD_PLUGIN_MODULES": json.dumps([FAKE_PLUGIN]),
        "INFERD_STORE__URL": "memory:",
    }
    with said.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "inferd", "serve", "-o", "json", "--exit-with-parent"),
                *(word for address in (listen, *besides) for word in ("--listen", address)),
            ],
            env={**os.environ, **chosen, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = _first_line(process)
        if not line:
            raise RuntimeError(f"the kernel did not start: {said.read_text(encoding='utf-8')}")
        addresses = tuple(json.loads(line)["addresses"])
        yield KernelProcess(address=addresses[0], addresses=addresses, pid=process.pid, folder=folder, process=process)
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
