"""SmolLM2-135M-Instruct against the greedy ids of Hugging Face transformers in fp32 (tests/reference)."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

NEAR_TIE = 1e-4
STEPS = 4
CASES = ("long", "one_letter", "capital")
"""The long one is here alone; tests/e2e has all others, with more steps and their text."""
REFERENCE = Path(tiny_models.__file__).with_name("smollm2_greedy.json")


@pytest.mark.model
@pytest.mark.timeout(600)  # half a minute on two free cores, several when they are shared
def test_greedy_ids_equal_the_reference(smollm2: Path, record_property: Callable[[str, int], None]) -> None:
    """Prompts of 1 to 620 tokens in one ragged batch over scattered blocks continue as the reference does."""
    known = json.loads(REFERENCE.read_text(encoding="utf-8"))["cases"]
    cases = [known[name] for name in CASES]
    settings = read_settings(SPEC, {"compute": "exact", "max_step_tokens": "2048", "kv_tokens": "8192"})
    request = LoadRequest(path=smollm2, device="cpu:0", settings=settings, capacity_bytes=4 << 30)
    session = CpuBackend().load(request, lambda _: None).session
    free = list(np.random.default_rng(0).permutation(session.limits.blocks))
    parts = []
    for case in cases:
        count = -(-(len(case["prompt"]) + len(case["output"])) // session.limits.block_tokens)
        blocks = [int(free.pop()) for _ in range(count)]
        parts.append(Part(token_ids=case["prompt"], blocks=blocks, wanted=[len(case["prompt"]) - 1]))
    near_ties = 0
    for step in range(STEPS):
        chosen = [int(logits.argmax()) for logits in compute(session, *parts)]
        expected = [case["output"][step] for case in cases]
        for case, got, wanted in zip(cases, chosen, expected, strict=True):
            if got != wanted:
                assert case["margins"][step] < NEAR_TIE, (case["text"], step, got, wanted)
                near_ties += 1
        parts = [
            Part(token_ids=[i], blocks=part.blocks, begin=part.begin + len(part.token_ids))
            for i, part in zip(expected, parts, strict=True)
        ]
    record_property("near_ties_that_differ", near_ties)
    session.close()
