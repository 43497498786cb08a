"""What TLS with certificates of clients costs: one kernel, asked in plaintext and at its `mtls:` address in turn."""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from limits import Figure

from inferd.cli.cert_authority import CertAuthority
from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_client import AsyncClient, Client

NAMES = ("auth.tls_over_plain", "auth.tls_streams_over_plain", "auth.tls_connect")
CALLS = 200  # in a turn
TURNS = 15
STREAMS = 16
STREAM_TOKENS = 200
STREAM_TURNS = 9
CONNECTIONS = 50
Files = dict[str, Path]


def figures(*, only: str) -> Iterator[Figure]:
    """`auth.tls_over_plain` (a call), `auth.tls_streams_over_plain` and `auth.tls_connect`."""
    if not any(name.startswith(only) for name in NAMES):
        return
    with tempfile.TemporaryDirectory() as folder, _kernel(Path(folder)) as (process, files):
        plain, secure = process.addresses[:2]
        with Client(plain) as client:
            client.create_model("bench", source=str(write_fake_model(Path(folder), blocks=8192)))
            client.load_model("bench")
        if NAMES[0].startswith(only):
            yield _unary(process.pid, plain, secure, files)
        if NAMES[1].startswith(only):
            yield _streams(process.pid, plain, secure, files)
        if NAMES[2].startswith(only):
            yield _connect(plain, secure, files)


@contextmanager
def _kernel(folder: Path) -> Iterator[tuple[KernelProcess, Files]]:
    authority = CertAuthority.create(folder / "ca", name="bench", days=1)
    authority.issue("kernel", hosts=["127.0.0.1"], uris=(), days=1, out=folder, replace=False)
    authority.issue("client", hosts=(), uris=(), days=1, out=folder, replace=False)
    ca_file = folder / "ca/ca.pem"
    environment = {
        "INFERD_AUTH__REQUIRED": "false",
        "INFERD_TLS__CERT_FILE": str(folder / "kernel.pem"),
        "INFERD_TLS__KEY_FILE": str(folder / "kernel.key"),
        "INFERD_TLS__CLIENT_CA_FILE": str(ca_file),
        "INFERD_TLS__CRL_FILE": str(folder / "ca/crl.pem"),
        "INFERD_TLS__IDENTITIES": json.dumps([{"name": "inferd:client", "roles": ["admin"], "tenants": ["*"]}]),
    }
    files = {"ca_file": ca_file, "cert_file": folder / "client.pem", "key_file": folder / "client.key"}
    listen, besides = "127.0.0.1:0", ("mtls:127.0.0.1:0",)
    with kernel_process(folder / "kernel", environment=environment, listen=listen, besides=besides) as process:
        yield process, files


def _unary(pid: int, plain: str, secure: str, files: Files) -> Figure:
    """Medians of turns, which alternate: what else goes on the machine meets both."""
    times: dict[str, list[float]] = {plain: [], secure: []}
    effort_s = {plain: 0.0, secure: 0.0}
    with Client(plain) as one, Client(secure, **files) as other:
        for _ in range(TURNS):
            for address, client in ((plain, one), (secure, other)):
                before_s, started = _processor_s(pid), time.perf_counter()
                for _ in range(CALLS):
                    client.get_host()
                times[address].append((time.perf_counter() - started) / CALLS)
                effort_s[address] += _processor_s(pid) - before_s
    usual = {address: statistics.median(found) for address, found in times.items()}
    detail = (
        f"GetHost, {usual[secure] * 1e6:.0f} us with TLS and a certificate and {usual[plain] * 1e6:.0f} us without; "
        f"medians of {TURNS} pairs of turns of {CALLS} calls; of the processor the kernel took "
        f"{effort_s[secure] / effort_s[plain]:.2f} times as much"
    )
    return Figure(name=NAMES[0], value=_paired(times[secure], times[plain]), unit="ratio", detail=detail)


def _processor_s(pid: int) -> float:
    """What a process has taken of the processor."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _paired(some: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of what was measured one after the other."""
    return round(statistics.median(one / other for one, other in zip(some, others, strict=True)), 3)


def _streams(pid: int, plain: str, secure: str, files: Files) -> Figure:
    effort_s = {plain: 0.0, secure: 0.0}
    rates: dict[str, list[float]] = {plain: [], secure: []}
    for _ in range(STREAM_TURNS):
        for address, given in ((plain, {}), (secure, files)):
            before_s = _processor_s(pid)
            rates[address].append(STREAMS * STREAM_TOKENS / asyncio.run(_run(address, given)))
            effort_s[address] += _processor_s(pid) - before_s
    usual = {address: statistics.median(found) for address, found in rates.items()}
    detail = (
        f"{STREAMS} streams of {STREAM_TOKENS} tokens of the FakeBackend on one connection, {usual[secure]:.0f} tok/s "
        f"with TLS and {usual[plain]:.0f} without; medians of {STREAM_TURNS} pairs; of the "
        f"processor the kernel took {effort_s[secure] / effort_s[plain]:.2f} times as much"
    )
    return Figure(name=NAMES[1], value=_paired(rates[secure], rates[plain]), unit="ratio", detail=detail)


async def _run(address: str, files: Any) -> float:
    """Seconds for all streams."""

    async def read(client: AsyncClient) -> None:
        async for _ in client.run("bench", "a" * 16, max_tokens=STREAM_TOKENS, temperature=0.0, ignore_eos=True):
            pass

    async with AsyncClient(address, **files) as client:
        await client.get_host()
        started = time.perf_counter()
        await asyncio.gather(*(read(client) for _ in range(STREAMS)))
        return time.perf_counter() - started


def _connect(plain: str, secure: str, files: Files) -> Figure:
    """From nothing to the first answer."""
    times: dict[str, list[float]] = {plain: [], secure: []}
    for _ in range(CONNECTIONS):
        for address, given in ((plain, {}), (secure, files)):
            started = time.perf_counter()
            with Client(address, **given) as client:
                client.get_host()
            times[address].append(time.perf_counter() - started)
    least = {address: statistics.median(found) * 1e3 for address, found in times.items()}
    detail = f"a client, its connection and GetHost, median of {CONNECTIONS}; {least[plain]:.1f} ms without TLS"
    return Figure(name=NAMES[2], value=round(least[secure], 1), unit="ms", detail=detail)
