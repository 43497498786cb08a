"""Short prompts that are computed together: which these are, and that each gives what it gives alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import llama_to_onnx
import network_to_gguf

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute, make_batch
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.decoder.counts import takes_counts
from inferd_onnx.decoder.plan import FILLED_PART, FILLED_ROWS, SHORT, split
from inferd_onnx.plugin import SPEC

SIZE = 16  # tokens of a block
COUNTS = (9, 2, 3, 16, 1, 8, 40, 2, 13, 1)
BLOCKS = 4  # of a sequence


def load(path: Path) -> Any:
    sizes = {"kv_tokens": "1024", "max_step_tokens": "256", "block_tokens": str(SIZE), "context_tokens": "60"}
    request = LoadRequest(path=path, device="cpu:0", settings=read_settings(SPEC, sizes), capacity_bytes=4 << 30)
    return OnnxBackend().load(request, lambda _: None).session


def make_parts(begins: Sequence[int]) -> list[Part]:
    """Prompts of `COUNTS` tokens, each in blocks of its own."""
    random = np.random.default_rng(3)
    return [
        Part(
            token_ids=random.integers(5, 90, count).tolist(),
            begin=begin,
            blocks=range(place * BLOCKS, (place + 1) * BLOCKS),
        )
        for place, (count, begin) in enumerate(zip(COUNTS, begins, strict=True))
    ]


def count_runs(session: Any) -> list[int]:
    """The sequences of each run from now on."""
    runs: list[int] = []
    compute_run = session._compute

    def noted(run: Any, *rest: Any) -> None:
        runs.append(len(run.lengths))
        compute_run(run, *rest)

    session._compute = noted
    return runs


def test_our_graph(tmp_path: Path) -> None:
    """Prompts in one step give the bits that each gives alone, first ones and such that go on, up to the last place."""
    network_to_gguf.write_network("llama", tmp_path / "tiny.gguf")
    together, apart = load(tmp_path / "tiny.gguf"), load(tmp_path / "tiny.gguf")
    runs = count_runs(together)
    begun = [Part(token_ids=[7] * 20, blocks=part.blocks) for part in make_parts([0] * len(COUNTS))]
    for parts in (
        make_parts([0] * len(COUNTS)),
        begun[:5],
        begun[5:],
        make_parts([20, 19, 20, 20, 3, 17, 0, 18, 20, 1]),
    ):
        for part, found in zip(parts, compute(together, *parts), strict=True):
            assert found.tobytes() == compute(apart, part)[0].tobytes()
    if takes_counts():
        assert runs[:5] == [2, 2, 2, 3, 1]  # those with one token; 16 and 13; 9 and 8; 3, 2 and 2; 40


def test_a_graph_that_comes_with_its_folder(tmp_path: Path) -> None:
    """Prompts that begin are computed together by a graph with GroupQueryAttention; those that go on are not."""
    llama_to_onnx.write_folder("genai", tmp_path)
    together, apart = load(tmp_path), load(tmp_path)
    runs = count_runs(together)
    for begins in ([0] * len(COUNTS), [9, 0, 3, 16, 1, 8, 0, 0, 13, 1]):
        parts = make_parts(begins)
        for part, found in zip(parts, compute(together, *parts), strict=True):
            np.testing.assert_allclose(found, compute(apart, part)[0], atol=1e-4)
    assert runs[:5] == [2, 2, 2, 3, 1]
    assert sorted(runs[5:]) == [1] * 6 + [2, 2]  # those with one token, and those with two that begin


@pytest.mark.parametrize("joins", ["none", "first", "any"])
def test_bounds_of_a_run(joins: Any) -> None:
    """Every sequence is in one run, with little filled up and within what there is room for; long ones are alone."""
    random = np.random.default_rng(5)
    for _ in range(50):
        counts = random.integers(1, 25, 24).tolist()
        begins = [int(begin) if random.random() < 0.5 else 0 for begin in random.integers(0, 36, 24)]
        parts = [
            Part(token_ids=[1] * count, begin=begin, blocks=range(4))
            for count, begin in zip(counts, begins, strict=True)
        ]
        runs = list(split(make_batch(parts), most_tokens=200, joins=joins, place_tokens=60))
        assert sorted(np.concatenate([run.members for run in runs]).tolist()) == list(range(24))
        rows = np.concatenate([run.rows.reshape(-1) for run in runs])
        assert sorted(rows[rows >= 0].tolist()) == list(range(sum(counts)))
        for run in runs:
            wide = run.rows.shape[1]
            if len(run.members) > 1:
                real = run.counts.sum()
                assert run.rows.size - real <= max(FILLED_PART * real, FILLED_ROWS)
                assert run.lengths.sum() <= 200
                assert (run.begins + wide <= 60).all()
                assert wide == 1 or (joins != "none" and wide <= SHORT)
                assert wide == 1 or joins == "any" or not run.begins.any()
