"""Greedy tokens through our paged attention against those of transformers' own `generate`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch
from torch_greedy import count_near_ties, generate, load

PROMPTS, OUTPUT_TOKENS = 8, 12


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than networks as small as these, above all beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generate_alone(network: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    """What transformers gives, and how far each best logit is above the second."""
    given = network.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.long),
        max_new_tokens=OUTPUT_TOKENS,
        min_new_tokens=OUTPUT_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(given.logits)[:, 0].topk(2).values
    return given.sequences[0, len(prompt) :].tolist(), (best[:, 0] - best[:, 1]).tolist()


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Batched greedy output of ragged prompts is what `generate` gives for each alone, in every architecture."""
    network = tiny.write_network(name, tmp_path)
    network.generation_config.eos_token_id = None
    generator = np.random.default_rng(5)
    prompts = [generator.integers(tiny.END, size=3 + 5 * n).tolist() for n in range(PROMPTS)]
    expected, margins = zip(*(generate_alone(network, prompt) for prompt in prompts), strict=True)
    outputs = generate(load(tmp_path).session, prompts, OUTPUT_TOKENS)
    assert count_near_ties(outputs, list(expected), list(margins)) <= 1
    assert len({tuple(output) for output in outputs}) > PROMPTS // 2
