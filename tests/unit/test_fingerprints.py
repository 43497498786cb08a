"""Fingerprints of tasks: what makes two calls the same, and what that costs of large inputs."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inferd.core.ids import LeaseId, ModelName, TaskId, Tenant
from inferd.core.task import TaskSpec
from inferd.services import tensor_values, work_values
from inferd.services.task_values import read_spec, request_bytes
from inferd.shared import LEAST_BYTES
from inferd_api.v1 import sampling_pb2 as sp
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import tensor_pb2 as pb

LARGE = 1 << 20


def tensor(data: bytes = b"abcd", name: str = "x") -> pb.Tensor:
    return pb.Tensor(name=name, element_type=pb.ElementType.ELEMENT_TYPE_UINT8, shape=[len(data)], data=data)


def infer(*inputs: pb.Tensor, **more: Any) -> pb.InferInput:
    return pb.InferInput(inputs=inputs or (tensor(),), **more)


def read(lease_id: str = "", **spec: Any) -> Any:
    return read_spec(
        tp.TaskSpec(**{"model": "m", **spec}),
        task_id="a",
        tenant=Tenant("t"),
        deadline=None,
        request_id="r",
        lease_id=LeaseId(lease_id),
        prompt_limit_bytes=4 * LARGE,
    )


TASKS: list[dict[str, Any]] = [
    {"prompt": "a"},
    {"prompt": "b"},
    {"prompt": "a", "model": "n"},
    {"prompt": "a", "labels": {"a": "b"}},
    {"prompt": "a", "labels": {"a": "c"}},
    {"prompt": "a", "priority": 3},
    {"prompt": "a", "prefix_cache": False},
    {"prompt": "a", "prefix_cache": True},
    {"prompt": "a", "sampling": sp.SamplingParams(seed=1)},
    {"prompt": "a", "sampling": sp.SamplingParams(seed=2)},
    {"prompt": "a", "embedding": tp.EmbeddingParams()},
    {"prompt": "a", "embedding": tp.EmbeddingParams(normalize=False)},
    {"prompt": "a", "lease_id": "l"},
    {"tokens": tp.TokenPrompt(token_ids=[97])},
    {"tokens": tp.TokenPrompt(token_ids=[98])},
    {"chat": tp.ChatPrompt(messages=[tp.ChatMessage(role="user", content="a")])},
    {"chat": tp.ChatPrompt(messages=[tp.ChatMessage(role="user", content="b")])},
    {"infer": infer()},
    {"infer": infer(tensor(b"abce"))},
    {"infer": infer(tensor(name="y"))},
    {"infer": infer(tensor(), tensor(name="y"))},
    {"infer": infer(outputs=["a", "b"])},
    {"infer": infer(outputs=["b", "a"])},
    {"infer": infer(sequence=pb.InferSequence(id="s"))},
    {"infer": infer(sequence=pb.InferSequence(id="s", start=True))},
    {"infer": infer(sequence=pb.InferSequence(id="z"))},
    {"infer": infer(), "labels": {"a": "b"}},
    {"infer": infer(), "lease_id": "l"},
]


def test_fingerprints() -> None:
    """Two calls have one fingerprint where all of them is the same, and not where a field, or the lease, is another."""
    found = [read(**each).fingerprint for each in TASKS]
    assert len(set(found)) == len(TASKS)
    assert found == [read(**each).fingerprint for each in TASKS]


LARGE_ONES: list[dict[str, Any]] = [
    {"infer": infer(tensor(bytes(LEAST_BYTES - 1)))},
    {"prompt": "a" * LARGE},
    {"tokens": tp.TokenPrompt(token_ids=[300] * (LARGE // 2))},
]


def test_large_tensors_have_fingerprints() -> None:
    """Of tensors that go in memories all bytes count for the fingerprint, and for what a worker dies of, too."""
    data = bytes(LARGE)
    ones = [infer(tensor(each)) for each in (data, data[:-1] + b"1", b"1" + data[1:], data + b"0")]
    ones += [infer(tensor(data, name="y")), infer(tensor(data), tensor(b"abcd", name="y"))]
    for facts in (lambda given: read(infer=given).fingerprint, lambda given: read(infer=given).demand.contents):
        assert len({facts(each) for each in ones}) == len(ones)
        assert [facts(each) for each in ones] == [facts(each) for each in ones]


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    """A kernel that starts again knows the request of a kept task by its fingerprint, however large its tensors are."""
    program = (
        "from test_fingerprints import LARGE, infer, read, tensor\n"
        "print(read(infer=infer(tensor(bytes(LARGE)))).fingerprint.hex())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            },
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {read(infer=infer(tensor(bytes(LARGE)))).fingerprint.hex() + "\n"}


@pytest.mark.parametrize("given", LARGE_ONES, ids=lambda given: next(iter(given)))
def test_a_large_input_is_hashed_once(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a large input are hashed once, for all that is asked of them."""
    hashed: list[int] = []
    sha256 = hashlib.sha256

    class Counted:
        def __init__(self, data: bytes = b"") -> None:
            self._hash = sha256(data)
            hashed.append(len(data))

        def update(self, data: bytes) -> None:
            self._hash.update(data)
            hashed.append(len(data))

        def digest(self) -> bytes:
            found: bytes = self._hash.digest()
            return found

    monkeypatch.setattr(hashlib, "sha256", Counted)
    monkeypatch.setattr(tensor_values, "sha256", Counted)
    monkeypatch.setattr(work_values, "sha256", Counted)
    assert read(**given).fingerprint
    size_bytes = tp.TaskSpec(**given).ByteSize()
    assert size_bytes - 1000 < sum(hashed) < size_bytes + 1000


def test_what_a_request_of_tensors_takes() -> None:
    """Tensors, their texts and shapes and the labels are counted twice: as they came, and as they were read."""
    texts = pb.Tensor(
        name="t",
        element_type=pb.ElementType.ELEMENT_TYPE_STRING,
        shape=[9],
        strings=pb.StringElements(values=list("123456789")),
    )
    for spec in (
        tp.TaskSpec(model="m", infer=infer(tensor(bytes(LARGE))), labels={"a" * 60: "b" * 60}),
        tp.TaskSpec(model="m", infer=infer(texts)),
    ):
        work, demand = work_values.read_work(spec, 1)
        task = TaskSpec(task_id=TaskId("a"), tenant=Tenant("t"), model=ModelName("m"), demand=demand, work=work)
        assert demand.memory_bytes >= spec.infer.ByteSize()
        assert 2 * spec.ByteSize() <= request_bytes(spec, task) <= 2 * spec.ByteSize() + 5000
