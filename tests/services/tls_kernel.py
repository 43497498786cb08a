"""A kernel with TLS in this process, an authority of its own, and connections with certificates of that."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from connection import Connection

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import kernel_here

HOSTS = ("localhost", "127.0.0.1")
IDENTITIES = (
    {"name": "inferd:web-*", "roles": ["user"], "tenants": ["web"]},
    {"name": "inferd:*", "roles": ["user"], "tenants": ["lab", "web"]},
)


class Certs:
    """An authority and what it has issued, each as NAME.pem and NAME.key in a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.authority = CertAuthority.create(folder / name, name=name, days=30)
        self.ca_file = folder / name / "ca.pem"
        self.crl_file = folder / name / "crl.pem"

    def server(self, name: str = "kernel", *, hosts: Any = HOSTS, days: float = 30, replace: bool = True) -> None:
        self.authority.issue(name, hosts=hosts, uris=(), days=days, out=self.folder, replace=replace)

    def client(self, name: str, *, uris: Any = (), days: float = 1) -> None:
        self.authority.issue(name, hosts=(), uris=uris, days=days, out=self.folder, replace=False)

    def pair(self, name: str) -> tuple[bytes, bytes]:
        """Key and certificate."""
        return (self.folder / f"{name}.key").read_bytes(), (self.folder / f"{name}.pem").read_bytes()

    def settings(self, **more: Any) -> dict[str, Any]:
        """What `[tls]` says."""
        files = {"cert_file": self.folder / "kernel.pem", "key_file": self.folder / "kernel.key"}
        return {
            **files,
            "client_ca_file": self.ca_file,
            "crl_file": self.crl_file,
            "identities": IDENTITIES,
            **more,
        }


class TlsKernel:
    """A kernel that needs a login over TCP, and none on its socket.

    Attributes:
        kernel: It.
        certs: Its authority.
        owner: A connection that needs no login.
    """

    def __init__(self, kernel: Any, folder: Path, certs: Certs) -> None:
        self.kernel = kernel
        self.certs = certs
        self.folder = folder
        self.owner = Connection(kernel, folder)
        self._opened: list[Connection] = [self.owner]

    def address(self, scheme: str = "mtls:") -> str:
        return str(next(each for each in self.kernel.addresses if each.startswith(scheme)))

    def connect(self, name: str = "", *, scheme: str = "mtls:", certs: Certs | None = None) -> Connection:
        """A connection of its own with the certificate of a name, "" for none."""
        certs = certs or self.certs
        key, cert = certs.pair(name) if name else (None, None)
        made = Connection(SimpleNamespace(addresses=["127.0.0.1:1"]), self.folder)  # type: ignore[arg-type] # of a kernel, where it listens
        made.channel = grpc.aio.secure_channel(
            self.address(scheme).removeprefix(scheme),
            grpc.ssl_channel_credentials(self.certs.ca_file.read_bytes(), key, cert),
            options=(("grpc.use_local_subchannel_pool", 1),),
        )
        made.make_stubs()
        self._opened.append(made)
        return made

    async def close(self) -> None:
        for each in self._opened:
            await each.channel.close()


@asynccontextmanager
async def tls_kernel(folder: Path, *, tls: Any = None, **settings: Any) -> AsyncIterator[TlsKernel]:
    """A kernel on a socket, with TLS, and with TLS for clients with certificates."""
    certs = Certs(folder / "certs")
    certs.server()
    listen = (f"unix:{folder}/s", "tls:127.0.0.1:0", "mtls:127.0.0.1:0")
    chosen = {"listen": listen, "auth": {"required": True}, **settings}
    async with kernel_here(folder, tls=certs.settings(**(tls or {})), **chosen) as kernel:
        made = TlsKernel(kernel, folder, certs)
        try:
            yield made
        finally:
            await made.close()


def within(seconds: float, begun: float) -> bool:
    """Whether not more time has passed."""
    return time.monotonic() - begun <= seconds
