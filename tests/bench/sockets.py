"""What a socket in a file costs beside the loopback: one kernel, asked at both in turn through grpc.aio."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from limits import Figure

from inferd.testing.kernel import kernel_process
from inferd_client import AsyncClient

NAMES = {"transport.unix_over_tcp": 1, "transport.unix_over_tcp_64": 64}
"""How many calls are under way at once."""
TURNS = 151
CALLS = 64  # in a turn


def figures(*, only: str) -> Iterator[Figure]:
    """`transport.unix_over_tcp`, and the same with 64 calls at once."""
    if any(name.startswith(only) for name in NAMES):
        environment = {"INFERD_AUTH__REQUIRED": "false"}
        with (
            tempfile.TemporaryDirectory() as folder,
            kernel_process(Path(folder), environment=environment, besides=("127.0.0.1:0",)) as process,
        ):
            for name, at_once in NAMES.items():
                if name.startswith(only):
                    yield asyncio.run(_compare(name, *process.addresses, at_once=at_once))


async def _compare(name: str, unix: str, tcp: str, *, at_once: int) -> Figure:
    """The median of the ratios of turns, which alternate: what else goes on the machine meets both."""
    times: dict[str, list[float]] = {unix: [], tcp: []}
    async with AsyncClient(unix) as one, AsyncClient(tcp) as other:
        places = [(unix, one), (tcp, other)]
        for _, client in places:
            await _time(client, at_once)
        for _ in range(TURNS):
            for address, client in places:
                times[address].append(await _time(client, at_once))
            places.reverse()
    ratio = statistics.median(a / b for a, b in zip(times[unix], times[tcp], strict=True))
    us = {address: statistics.median(found) * 1e6 for address, found in times.items()}
    detail = (
        f"GetHost, {at_once} at once: {us[unix]:.0f} us a call on the socket, {us[tcp]:.0f} by the loopback, medians "
        f"of {TURNS} turns of {CALLS} calls each"
    )
    return Figure(name=name, value=round(ratio, 3), unit="ratio", detail=detail)


async def _time(client: AsyncClient, at_once: int) -> float:
    """Seconds for a call."""

    async def ask() -> None:
        for _ in range(CALLS // at_once):
            await client.get_host()

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(at_once)))
    return (time.perf_counter() - started) / CALLS
