"""Greedy ids of ten prompts: of transformers, and of a session."""

from typing import Any

import numpy as np
import tiny_family
import torch

from inferd.plugin import TokenSession
from inferd.testing.batches import Part, compute

PROMPTS = np.random.default_rng(3).integers(3, tiny_family.VOCABULARY, size=(10, 20))
OUTPUT = 32


@torch.inference_mode()
def generate_with_transformers(network: Any) -> np.ndarray[Any, Any]:
    """Greedy ids of all prompts, every step from the whole text, so that no cache stands between."""
    ids = torch.tensor(PROMPTS)
    for _ in range(OUTPUT):
        logits = network(input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, PROMPTS.shape[1] :].numpy()


def generate(session: TokenSession) -> np.ndarray[Any, Any]:
    """Greedy ids of all prompts, one step for all of them and then a step a token."""
    length = PROMPTS.shape[1]
    tables = [range(4 * i, 4 * i + 4) for i in range(len(PROMPTS))]
    parts = [
        Part(token_ids=ids.tolist(), blocks=blocks, wanted=[length - 1])
        for ids, blocks in zip(PROMPTS, tables, strict=True)
    ]
    output: list[list[int]] = []
    for past in range(length, length + OUTPUT):
        output.append([int(logits[-1].argmax()) for logits in compute(session, *parts)])
        parts = [
            Part(token_ids=[token], blocks=blocks, begin=past) for token, blocks in zip(output[-1], tables, strict=True)
        ]
    return np.array(output).T
