"""What it costs to know who calls and whether they may: calls with a key beside the same calls without one."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from limits import Figure

from inferd.testing.kernel import kernel_process, write_fake_model
from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.auth_service_pb2 import CreateKeyRequest
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_api.v1.model_pb2 import Model
from inferd_api.v1.model_service_pb2 import CreateModelRequest, GetModelRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import RunTaskRequest
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub

ROUNDS = 20
CALLS = 200  # of a round, with a key, and without one
STREAMS = 6  # pairs of them
TOKENS = 1000

Metadata = tuple[tuple[str, str], ...]


def figures(*, only: str) -> Iterator[Figure]:
    """`auth.unary_ratio`: the time of a call with a key over one without; `auth.stream_ratio`: the same of rates."""
    if not any(name.startswith(only) for name in ("auth.unary_ratio", "auth.stream_ratio")):
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel_process(Path(folder)) as kernel,
        grpc.insecure_channel(kernel.address) as channel,
    ):
        path = write_fake_model(Path(folder), context_tokens=TOKENS + 16)
        models: Any = ModelServiceStub(channel)
        models.CreateModel(CreateModelRequest(model=Model(name="fake", source=str(path))))
        auth: Any = AuthServiceStub(channel)
        key = Key(principal="bench", roles=["user"], tenants=["bench"])
        made = auth.CreateKey(CreateKeyRequest(key=key))
        login: Metadata = (("authorization", f"Bearer {made.credential}"),)
        yield _unary(models, login)
        yield _stream(TaskServiceStub(channel), login)


def _unary(models: Any, login: Metadata) -> Figure:
    def median_us(metadata: Metadata) -> float:
        took = []
        for _ in range(CALLS):
            began = time.perf_counter()
            models.GetModel(GetModelRequest(name="fake"), metadata=metadata)
            took.append(time.perf_counter() - began)
        return statistics.median(took) * 1e6

    median_us(login)
    rounds = [(median_us(login), median_us(())) for _ in range(ROUNDS)]
    known, unknown = (statistics.median(each) for each in zip(*rounds, strict=True))
    ratio = statistics.median(mine / others for mine, others in rounds)
    detail = f"GetModel, median of {ROUNDS} rounds of {CALLS}; {known:.0f} us with a key, {unknown:.0f} us without"
    return Figure(name="auth.unary_ratio", value=round(ratio, 3), unit="x", detail=detail)


def _stream(tasks: Any, login: Metadata) -> Figure:
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True)
    request = RunTaskRequest(spec=TaskSpec(model="fake", prompt="la", sampling=sampling))

    def rate(metadata: Metadata) -> float:
        """Tokens a second."""
        began = time.perf_counter()
        for _ in tasks.RunTask(request, metadata=metadata):
            pass
        return TOKENS / (time.perf_counter() - began)

    rate(login)
    pairs = [(rate(login), rate(())) for _ in range(STREAMS)]
    known, unknown = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(mine / others for mine, others in pairs)
    detail = f"one stream of {TOKENS} tokens, median of {STREAMS} pairs; {known:.0f} and {unknown:.0f} tokens/s"
    return Figure(name="auth.stream_ratio", value=round(ratio, 3), unit="x", detail=detail)
