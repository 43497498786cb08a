"""The Open Inference Protocol beside others: MLServer with an equal model, and an empty service in C++.

`oip.mlserver.…` are our rates over those of MLServer, same client and same messages, in turns: `BENCH_MLSERVER` names
the Python of an environment that has it (`python3 -m venv V && V/bin/pip install mlserver`, outside of this tree).
`oip.front.…` are the rates of an empty service in C++ (`empty_front.cpp`, compiled here) over those of the empty one of
grpc.aio: how much a front in C++ could give at most. Triton itself needs a machine of its own: the ratio to it is not
measured here.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from infer import LARGEST, MIB, ROUNDS, Pair, empty_service, kernel_with_model, unary
from limits import Figure, Skipped
from oip import infer, request

from inferd_api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub

CASES = {"sequential": (16, 1), "b32": (16, 32), "mib": (MIB // 4, 8)}
WORDS = {"sequential": "16 floats, one after the other", "b32": "16 floats, 32 in flight", "mib": "1 MiB, 8 in flight"}
START_S = 120.0
MODEL = '''
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Identity(MLModel):
    """Gives its input back, as it is."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload):
        (given,) = payload.inputs
        output = ResponseOutput(name="y", shape=given.shape, datatype=given.datatype, data=given.data,
                                parameters=given.parameters)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])
'''


def figures(*, only: str) -> Iterator[Figure]:
    """`oip.mlserver.…` and `oip.front.…`."""
    for kind, measure in (("mlserver", _mlserver), ("front", _front)):
        names = [name for name in CASES if f"oip.{kind}.{name}".startswith(only)]
        if not names:
            continue
        try:
            yield from measure(names)
        except Skipped as skipped:
            for name in names:
                yield Figure(name=f"oip.{kind}.{name}", value=None, unit="x", detail=f"skipped: {skipped}")


def _mlserver(names: list[str]) -> list[Figure]:
    python = os.environ.get("BENCH_MLSERVER", "")
    if not python:
        raise Skipped("BENCH_MLSERVER names no Python with mlserver")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        theirs = stack.enter_context(_serving_mlserver(python, folder))
        ours, _ = stack.enter_context(kernel_with_model(folder))
        return asyncio.run(_compare("mlserver", ours, theirs, names))


def _front(names: list[str]) -> list[Figure]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fast = stack.enter_context(_serving_front(folder))
        slow = stack.enter_context(empty_service())
        return asyncio.run(_compare("front", fast, slow, names))


async def _compare(kind: str, first: str, second: str, names: list[str]) -> list[Figure]:
    async with (
        grpc.aio.insecure_channel(first, options=LARGEST) as ours,
        grpc.aio.insecure_channel(second, options=LARGEST) as theirs,
    ):
        pairs = {}
        for name in names:
            floats, at_once = CASES[name]
            asked = request(floats)
            pairs[name] = Pair(*(unary(_call(kind, channel, asked), at_once) for channel in (ours, theirs)))
        for _ in range(ROUNDS):
            for pair in pairs.values():
                await pair.measure()
    what = {"mlserver": "rate over MLServer's", "front": "rate of an empty service in C++ over that of grpc.aio"}[kind]
    return [
        Figure(
            name=f"oip.{kind}.{name}",
            value=round(pair.ratio(), 3),
            unit="x",
            detail=f"{WORDS[name]}: {what}; {pair.told()}",
        )
        for name, pair in pairs.items()
    ]


def _call(kind: str, channel: Any, asked: Any) -> Any:
    if kind == "mlserver":
        return infer(GRPCInferenceServiceStub(channel), asked)
    one = channel.unary_unary("/empty/One")

    async def run() -> None:
        await one(asked.SerializeToString())

    return run


@contextmanager
def _serving_front(folder: Path) -> Iterator[str]:
    """The address of an empty service in C++."""
    compiler, config = shutil.which("g++"), shutil.which("pkg-config")
    if compiler is None or config is None:
        raise Skipped("there is no g++ and pkg-config")
    flags = subprocess.run([config, "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=False)
    if flags.returncode:
        raise Skipped(f"gRPC for C++ is not there: {flags.stderr.strip().splitlines()[-1]}")
    source, program = Path(__file__).with_name("empty_front.cpp"), folder / "empty_front"
    command = [compiler, "-O2", "-std=c++17", str(source), "-o", str(program), *flags.stdout.split()]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Skipped(f"empty_front.cpp does not compile: {made.stderr.strip().splitlines()[0]}")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.communicate()


@contextmanager
def _serving_mlserver(python: str, folder: Path) -> Iterator[str]:
    """The address of MLServer with a model that gives its input back, in its own process, without workers."""
    model = folder / "mlserver" / "x"
    model.mkdir(parents=True)
    (model / "identity.py").write_text(MODEL)
    (model / "model-settings.json").write_text(json.dumps({"name": "x", "implementation": "identity.Identity"}))
    port, rest, metrics = _ports(3)
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": rest,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "grpc_max_message_length": 8 * MIB,
        "metrics_endpoint": None,
        "logging_settings": None,
    }
    (folder / "mlserver" / "settings.json").write_text(json.dumps(settings))
    log = folder / "mlserver.log"
    with log.open("w") as told:
        command = [python, "-m", "mlserver.cli.main", "start", str(folder / "mlserver")]
        process = subprocess.Popen(command, stdout=told, stderr=told, cwd=folder, env={**os.environ, "PYTHONPATH": ""})
    try:
        _wait(process, port, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until it takes requests.

    Raises:
        Skipped: It ended, or takes too long.
    """
    until = time.monotonic() + START_S
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = GRPCInferenceServiceStub(channel)
        while process.poll() is None and time.monotonic() < until:
            try:
                stub.ModelInfer(request(16), timeout=2)
            except grpc.RpcError:
                time.sleep(0.2)
            else:
                return
    lines = log.read_text().strip().splitlines()
    raise Skipped(f"MLServer does not serve: {lines[-1] if lines else 'it says nothing'}")


if __name__ == "__main__":
    for figure in figures(only=sys.argv[1] if len(sys.argv) > 1 else "oip."):
        print(json.dumps(figure), flush=True)
