"""What clients in other languages are tried on: a kernel, ways to it that break, and a kernel that is killed.

A program of a language is told by its environment where all this is, and asks by a line on a socket for what is to
happen.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from proxy import Proxy

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import AsyncClient

STEP_S: Final = 0.02
STRAY: Final = ("ADDRESS", "CREDENTIAL", "CREDENTIAL_FILE", "CA_FILE", "CERT_FILE", "KEY_FILE")
"""Variables that programs must not have from whoever runs the tests."""


class Ground:
    """A kernel process on its usual socket, by tickets, on TCP, by a key, and with TLS. One writer: the test.

    Args:
        folder: Its files lie here.

    Attributes:
        environment: What a program is told.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._kernel: KernelProcess | None = None
        self._proxy: Proxy | None = None
        self.environment: dict[str, str] = {}
        runtime = Path(os.environ["XDG_RUNTIME_DIR"])  # of these tests alone, see tests/conftest.py
        self._listen = (f"unix:{runtime}/inferd/inferd.sock", "127.0.0.1:0", "tls:127.0.0.1:0")
        authority = CertAuthority.create(folder / "authority", name="authority", days=1)
        authority.issue("kernel", hosts=("localhost",), uris=(), days=1, out=folder, replace=False)

    @property
    def address(self) -> str:
        """Of its socket."""
        return self._listen[0]

    def start(self) -> None:
        """Start a kernel with what the one before has kept, where that one was."""
        settings = {
            "INFERD_STORE__URL": f"sqlite:{self._folder}/kept/store",
            "INFERD_SOCKET_MODE": "0660",  # its group may use it, too: whoever calls needs a ticket
            "INFERD_TLS__CERT_FILE": str(self._folder / "kernel.pem"),
            "INFERD_TLS__KEY_FILE": str(self._folder / "kernel.key"),
        }
        first, *besides = self._listen
        process = kernel_process(self._folder / "kernel", environment=settings, listen=first, besides=besides)
        self._kernel = self._stack.enter_context(process)
        self._listen = self._kernel.addresses

    async def train(self, name: str) -> str:
        """Begin a training of a small classifier of words; its id."""
        rows = [{"text": f"{word} {number}", "label": word} for number in range(20) for word in ("oak", "whale")]
        async with AsyncClient(self.address) as client:
            made = await client.train(name, rows, recipe={"method": "classify", "epochs": 2}, backend="heads")
            return made.training_id

    def kill(self) -> None:
        """Kill the kernel, and start the next one."""
        if self._kernel is not None:
            self._kernel.process.kill()
        self._stack.close()
        self.start()

    def close(self) -> None:
        """End the kernel in order."""
        self._stack.close()

    async def prepare(self, models: dict[str, Path], proxy: Proxy, control: str) -> None:
        """Give the kernel its models and a key, and say in `environment` where all is."""
        self._proxy = proxy
        key = self._folder / "key"
        async with AsyncClient(self.address) as client:
            for name, path in models.items():
                await client.create_model(name, source=str(path))
            made = await client.create_key("tests", roles=["user"])
        key.touch(mode=0o600)
        key.write_text(made.credential, encoding="ascii")
        kept = {name: value for name, value in os.environ.items() if name not in {f"INFERD_{each}" for each in STRAY}}
        self.environment = {
            **kept,
            "INFERD_TEST_TCP": self._listen[1],
            "INFERD_TEST_TLS": self._listen[2].replace("127.0.0.1", "localhost"),
            "INFERD_TEST_KEY": str(key),
            "INFERD_TEST_CA": str(self._folder / "authority" / "ca.pem"),
            "INFERD_TEST_PROXY": proxy.address,
            "INFERD_TEST_CONTROL": control,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what a program asks for by a line: "cut" all that goes through the proxy, or "kill" the kernel."""
        order = (await reader.readline()).decode().strip()
        if order == "cut" and self._proxy is not None:
            self._proxy.abort()
        elif order == "kill":
            await asyncio.to_thread(self.kill)
        writer.write(b"done\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def _proxy(address: str) -> AsyncIterator[Proxy]:
    """A way to a kernel; while that is away, connections are closed at once."""
    proxy = Proxy(address)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await proxy.serve(reader, writer)
        except OSError:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        proxy.address = f"{host}:{port}"
        try:
            yield proxy
        finally:
            proxy.abort()


@asynccontextmanager
async def ground(folder: Path, **models: Path) -> AsyncIterator[Ground]:
    """A kernel with the models "fake", "slow" (a token each `STEP_S`) and others."""
    made = Ground(folder)
    fakes = {"fake": write_fake_model(folder), "slow": write_fake_model(folder, "slow", step_s=STEP_S)}
    async with AsyncExitStack() as stack:
        stack.callback(made.close)
        await asyncio.to_thread(made.start)
        proxy = await stack.enter_async_context(_proxy(made.address))
        control = await stack.enter_async_context(await asyncio.start_server(made.serve, "127.0.0.1", 0))
        host, port = control.sockets[0].getsockname()[:2]
        await made.prepare({**fakes, **models}, proxy, f"{host}:{port}")
        yield made
