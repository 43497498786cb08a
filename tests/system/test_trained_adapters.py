"""An adapter of a published model, trained on a published corpus by the backend `torch`, and served by two backends."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

from inferd.core.training import TrainingMethod
from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import ExportKind, LoadRequest, TrainingRecipe, TrainRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, make_batch
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC as CPU
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC as TORCH

CORPUS = ("aiperf", "0.13.0")
"""A package with the works of Shakespeare, without punctuation, and its version."""
LINES, HELD = 16, 12  # lines of a row, rows that are held back
RECIPE = TrainingRecipe(method=TrainingMethod.LORA, most_tokens=128, batch=4, learning_rate=2e-3)
STEPS = 24
OUTPUT_TOKENS = 64
PROMPTS = (
    "Shall I compare thee to a summers day",
    "Enter the King with all his men",
    "My lord the queen is dead",
    "What is a man",
    "Once upon a time",
)
ROUNDING, NEAR_TIE = 0.01, 0.25
"""Of logits, between the best token and the second: where two are as near, another order of sums may decide otherwise
with numbers of 32 bits, and products of 8 bits, as the native engine has them."""
LEAST_SAME = 0.95
"""Of the tokens that torch chooses, those that the native engine would have chosen, too."""


@pytest.mark.model
@pytest.mark.timeout(1800)  # minutes of computing, and others compute, too
def test_an_adapter_learns_a_corpus_and_is_served_by_two_backends(
    smollm2: Path, packaged: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Held-out loss falls by a tenth in ten minutes of a core; behind each prefix all choose the same, up to near ties.

    With the same numbers, the file's decoded to 32 bits, that is each token; the native engine multiplies in 8 bits.
    """
    begun, computed = time.monotonic(), time.process_time()
    session = TorchBackend().train(make_request(smollm2, packaged(*CORPUS), tmp_path), lambda _: None)
    before = session.evaluate().loss
    for _ in range(session.steps):
        session.step()
    after = session.evaluate().loss
    took = {"s": round(time.monotonic() - begun), "core_s": round(time.process_time() - computed)}
    print(json.dumps({"before": before, "after": after, "steps": session.steps, **took}))  # noqa: T201
    assert after <= 0.9 * before
    assert took["core_s"] <= 600
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    assert session.export(adapter) is ExportKind.ADAPTER
    session.close()
    lead = go_on(TorchBackend(), read_settings(TORCH, {}), smollm2, adapter)
    compare(lead, adapter, smollm2)


def compare(lead: tuple[list[list[int]], Any], adapter: Path, model: Path) -> None:
    """See that the backend `cpu` chooses what torch has chosen, behind the same prefixes."""
    wanted, margins = lead
    for compute, near in (("exact", ROUNDING), ("native", NEAR_TIE)):
        chosen, _ = go_on(CpuBackend(), read_settings(CPU, {"compute": compute}), model, adapter, told=wanted)
        apart = [
            margin
            for ours, theirs, row in zip(chosen, wanted, margins, strict=True)
            for one, other, margin in zip(ours, theirs, row, strict=True)
            if one != other
        ]
        count = len(PROMPTS) * OUTPUT_TOKENS
        print(json.dumps({"compute": compute, "tokens": count, "apart": len(apart), "by": max(apart, default=0.0)}))  # noqa: T201
        assert max(apart, default=0.0) < near
        assert len(apart) <= (1 - LEAST_SAME) * count


def make_request(model: Path, package: Path, folder: Path) -> TrainRequest:
    """Sixteen lines are a row; the last of the mixed ones are held back."""
    lines = next(package.rglob("shakespeare.txt")).read_text(encoding="utf-8").split("\n")
    rows = ["\n".join(lines[at : at + LINES]) for at in range(0, len(lines) - LINES, LINES)]
    random.Random(1).shuffle(rows)
    for name, some in (("rows", rows[:4000]), ("held", rows[4000 : 4000 + HELD])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in some))
    return TrainRequest(
        path=model,
        rows=folder / "rows.jsonl",
        held=folder / "held.jsonl",
        recipe=replace(RECIPE, epochs=STEPS * RECIPE.batch / 4000),
        device="cpu:0",
        capacity_bytes=8 << 30,
    )


def go_on(
    backend: Any, settings: dict[str, Any], model: Path, adapter: Path, *, told: list[list[int]] | None = None
) -> tuple[list[list[int]], Any]:
    """Greedy tokens behind all prompts, with the adapter, and how far the second best was from each.

    Where tokens are `told`, each is behind those, whatever was chosen before.
    """
    loaded = backend.load(
        LoadRequest(path=model, device="cpu:0", settings=settings, capacity_bytes=4 << 30), lambda _: None
    )
    session = loaded.session
    tokenizer = Tokenizer(loaded.vocabulary, size=session.limits.vocabulary_size)
    session.add_adapter(0, session.read_adapter(adapter))
    given = [tokenizer.encode(prompt) for prompt in PROMPTS]
    per = -(-(max(map(len, given)) + OUTPUT_TOKENS) // session.limits.block_tokens)
    outputs: list[list[int]] = [[] for _ in given]
    margins: list[list[float]] = [[] for _ in given]
    begins = [0] * len(given)
    for number in range(OUTPUT_TOKENS):
        parts = [
            Part(token_ids=ids, begin=begin, blocks=range(n * per, (n + 1) * per), wanted=[len(ids) - 1])
            for n, (ids, begin) in enumerate(zip(given, begins, strict=True))
        ]
        logits = np.array(session.step(replace(make_batch(parts), adapters=np.zeros(len(given), np.int32))).logits)
        for row, output, margin in zip(logits, outputs, margins, strict=True):
            second, first = np.partition(row, -2)[-2:]
            margin.append(float(first - second))
            output.append(int(row.argmax()))
        begins = [begin + len(ids) for begin, ids in zip(begins, given, strict=True)]
        given = [output[number : number + 1] for output in told or outputs]
    session.close()
    return outputs, margins
