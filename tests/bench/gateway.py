"""Figures of the gateway: what is left of the rate through HTTP, and how much later the first token comes."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limits import Figure
from served import ROOM, least_median, run_case
from workload import WARM, Case

from inferd.testing.kernel import kernel_process
from inferd_client import AsyncClient, Client

CASE = Case("b32", 32, 128, 128)
PAIRS = 3
FIRST_TOKENS = 60  # pairs of them
NAMES = ("http.b32", "http.first_token")
GREEDY: Any = {"max_tokens": 1, "temperature": 0.0, "ignore_eos": True, "prefix_cache": False}
MARK = b'"text":"'  # of a chunk that has text


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that runs.

    Attributes:
        port: On 127.0.0.1.
        key: What it answers to.
    """

    port: int
    key: str

    async def complete(self, prompt: list[int], tokens: int) -> tuple[float, bytes]:
        """Stream a completion on a connection of its own; seconds to its first text, and all that came.

        A socket is read and nothing else, so that the client costs next to nothing.
        """
        body = json.dumps(
            {
                "model": "bench",
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "prefix_cache": False,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        started = time.perf_counter()
        writer.write(head.encode() + body)
        pieces, first_s = [], 0.0
        while piece := await reader.read(65536):
            pieces.append(piece)
            if not first_s and MARK in piece:
                first_s = time.perf_counter() - started
        writer.close()
        return first_s, b"".join(pieces)


@contextmanager
def gateway(folder: Path, address: str) -> Iterator[Gateway]:
    """A gateway in a process of its own, ended in order."""
    process = subprocess.Popen(
        [*(sys.executable, "-m", "inferd", "http", "--address", address, "-o", "json", "--listen", "127.0.0.1:0")],
        env={**os.environ, "INFERD_STATE_DIR": str(folder / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Gateway(int(told["url"].rpartition(":")[2]), Path(told["key_file"]).read_text().strip())
    finally:
        process.terminate()
        process.wait(30)


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """`http.b32` and `http.first_token`: both ways in turn, in one sitting, with a real model."""
    wanted = [name for name in NAMES if name.startswith(only)]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as made, kernel_process(Path(made)) as kernel, Client(kernel.address) as client:
        client.create_model("bench", source=str(weights), settings=ROOM)
        client.load_model("bench")
        with gateway(Path(made), kernel.address) as served:
            asyncio.run(run_case(kernel.address, WARM))
            asyncio.run(run_http(served, WARM))
            if "http.b32" in wanted:
                yield rates(kernel.address, served)
            if "http.first_token" in wanted:
                yield asyncio.run(first_tokens(kernel.address, served))


def rates(address: str, served: Gateway) -> Figure:
    """The rate of b32 through HTTP as a share of that through gRPC, each token streamed."""
    shares, speeds = [], []
    for number in range(PAIRS):
        took: dict[bool, float] = {}  # by whether it is HTTP
        for over_http in (number % 2 == 0, number % 2 != 0):
            if over_http:
                took[True] = asyncio.run(run_http(served, CASE))
            else:
                took[False], _ = asyncio.run(run_case(address, CASE))
        shares.append(took[False] / took[True])
        speeds.append(CASE.figure[0] / took[True])
    detail = f"{statistics.median(speeds):.1f} output tok/s through HTTP; median of {PAIRS} pairs, "
    detail += f"with 95 % at least {least_median(shares):.3f}, {min(shares):.3f} to {max(shares):.3f}"
    return Figure(name="http.b32", value=round(statistics.median(shares), 3), unit="ratio", detail=detail)


async def run_http(served: Gateway, case: Case) -> float:
    """Run a case through HTTP; seconds."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(served.complete(prompt, case.output_tokens) for prompt in case.prompts()))
    seconds = time.perf_counter() - started
    for _, answer in answers:
        if f'"completion_tokens":{case.output_tokens}'.encode() not in answer:
            raise RuntimeError(f"{case.name}: not {case.output_tokens} tokens came: {answer[-500:]!r}")
    return seconds


async def first_tokens(address: str, served: Gateway) -> Figure:
    """How much later the first token of a short prompt comes through HTTP, on an idle kernel."""
    later, direct = [], []
    async with AsyncClient(address) as client:
        for number in range(FIRST_TOKENS):
            prompt = [1000 + number] * 8
            started = time.perf_counter()
            await client.generate("bench", prompt, **GREEDY)
            direct.append(time.perf_counter() - started)
            first_s, _ = await served.complete(prompt, 1)
            later.append(first_s)
    value = (statistics.median(later) - statistics.median(direct)) * 1e3
    detail = (
        f"{statistics.median(later) * 1e3:.2f} ms through HTTP, {statistics.median(direct) * 1e3:.2f} ms through gRPC; "
    )
    detail += f"medians of {FIRST_TOKENS} in turn, a connection for each"
    return Figure(name="http.first_token", value=round(value, 2), unit="ms", detail=detail)
