"""The torch backend on a CUDA device."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")
pytest.importorskip("triton", reason="triton is not installed: it comes with CUDA builds of torch")

import tiny_networks as tiny
import torch

from inferd.plugin import LoadedModel, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd.testing.contract import BackendContract
from inferd_torch import paged_decode, split
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC
from inferd_torch.scoring import Scoring

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

WIDTHS = {"head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 2}


def make_request(folder: Path, **settings: str) -> LoadRequest:
    chosen = {"kv_tokens": "16384", "dtype": "float32", **settings}
    return LoadRequest(path=folder, device="cuda:0", settings=read_settings(SPEC, chosen), capacity_bytes=8 << 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny.write_network("llama", path, **WIDTHS)
    return path


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend()


class TestGraphs(BackendContract):
    """With CUDA graphs, the suite passes."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, folder: Path) -> LoadRequest:
        return make_request(folder)


class TestNoGraphs(BackendContract):
    """Without CUDA graphs, the suite passes."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, folder: Path) -> LoadRequest:
        return make_request(folder, cuda_graphs="false")


class TestNotFused(BackendContract):
    """Where the network of transformers itself computes, the suite passes."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, folder: Path) -> LoadRequest:
        return make_request(folder, fused="false")


class TestHalves(BackendContract):
    """In bfloat16 the suite passes."""

    tolerance = 0.3  # of logits around 10

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, folder: Path) -> LoadRequest:
        return make_request(folder, dtype="bfloat16")


class TestWindows(BackendContract):
    """With sliding windows and CUDA graphs, the suite passes."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = tmp_path_factory.mktemp("gemma3")
        tiny.write_network("gemma3", path, head_dim=32)
        return make_request(path)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2e-2), ("float16", 4e-3)])
@pytest.mark.parametrize("shape", [(9, 3, 64), (32, 8, 128), (4, 4, 80), (16, 1, 256)])
@pytest.mark.parametrize("window", [None, 100])
def test_the_kernel_computes_the_parts_of_its_twin(
    dtype: str, tolerance: float, shape: tuple[int, int, int], window: int | None
) -> None:
    """The compiled Triton kernel gives, for every dtype and shape, what attention in parts gives in torch."""
    torch.manual_seed(0)
    kind, count, table = getattr(torch, dtype), 7, 90
    heads, shared, width = shape
    options: dict[str, Any] = {"device": "cuda", "dtype": kind}
    queries = torch.randn(count, heads, width, **options)
    keys, values = (torch.randn(count * table, 16, shared, width, **options) for _ in range(2))
    tables = torch.randperm(count * table, device="cuda").reshape(count, table)
    lengths = torch.tensor([1, 15, 16, 64, 65, 700, table * 16], device="cuda")
    arguments = (queries, keys, values, tables.int(), lengths.int())
    scoring = Scoring(scaling=width**-0.5, window=window)
    given = paged_decode.PagedDecode(132)(*arguments, scoring=scoring)
    expected = split.attend_split(*arguments, scoring=scoring)
    torch.testing.assert_close(given.float(), expected.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 17, 64])
def test_recorded_steps_give_what_the_processor_gives(backend: TorchBackend, folder: Path, count: int) -> None:
    """A decode step that is played back has the logits of the same step on the processor, for any number of rows."""

    def decode(model: LoadedModel) -> list[Any]:
        generator = np.random.default_rng(count)
        prompts = [generator.integers(256, size=1 + n % 40).tolist() for n in range(count)]
        blocks = [range(4 * n, 4 * n + 4) for n in range(count)]
        for prompt, own in zip(prompts, blocks, strict=True):
            compute(model.session, Part(token_ids=prompt, blocks=own))
        step = [Part(token_ids=[5], begin=len(p), blocks=own) for p, own in zip(prompts, blocks, strict=True)]
        logits = compute(model.session, *step)
        model.session.close()
        return logits

    settings = read_settings(SPEC, {"kv_tokens": "16384"})
    there = decode(backend.load(make_request(folder), lambda _: None))
    here = decode(
        backend.load(
            LoadRequest(path=folder, device="cpu:0", settings=settings, capacity_bytes=8 << 30), lambda _: None
        )
    )
    np.testing.assert_allclose(there, here, rtol=0, atol=5e-3)


def test_a_load_and_its_largest_step_take_no_more_than_measured(backend: TorchBackend, folder: Path) -> None:
    """What torch has reserved of the device at most, warmed up with the largest step, is within the need."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    request = make_request(folder, dtype="bfloat16")
    need = backend.measure(request)
    backend.load(request, lambda _: None).session.close()
    assert torch.cuda.max_memory_reserved() - before <= need.total_bytes


def test_closing_gives_the_memory_back(backend: TorchBackend, folder: Path) -> None:
    """After a session is closed, the device has nothing of it."""
    before = torch.cuda.memory_allocated()
    model = backend.load(make_request(folder), lambda _: None)
    assert torch.cuda.memory_allocated() > before + (1 << 20)
    model.session.close()
    del model
    assert torch.cuda.memory_allocated() <= before + (1 << 20)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices")
@pytest.mark.parametrize("graphs", ["true", "false"])
def test_two_ranks_on_two_devices_give_the_logits_of_one(folder: Path, backend: TorchBackend, graphs: str) -> None:
    """Sums by NCCL, recorded and not: prompts and decode steps give what one device gives."""
    request = make_request(folder, cuda_graphs=graphs)
    one = backend.load(request, lambda _: None).session
    two = backend.load(replace(request, ranks=("cuda:0", "cuda:1")), lambda _: None).session
    text = np.random.default_rng(5).integers(tiny.VOCABULARY, size=20).tolist()
    for begin, end in ((0, 12), *((place, place + 1) for place in range(12, 20))):
        part = Part(token_ids=text[begin:end], begin=begin, blocks=[0, 1])
        for mine, its in zip(compute(one, part), compute(two, part), strict=True):
            np.testing.assert_allclose(mine, its, rtol=0, atol=2e-3)
    two.close()
    one.close()
