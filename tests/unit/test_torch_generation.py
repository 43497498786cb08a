"""Greedy tokens through our paged attention against those of transformers' own `generate`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch

from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import LoadedModel, LoadRequest, TokenSession
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC

PROMPTS, OUTPUT_TOKENS = 8, 12
ASKED = ("capital", "question", "spaces", "accents", "chinese_question", "arabic", "emoji", "code_python")
NEAR_TIE = 1e-4  # of a logit: arithmetic in another order may decide such a step otherwise
REFERENCE = Path(__file__).parents[1] / "reference" / "smollm2_greedy.json"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than networks as small as these, above all beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(path: Path, **settings: str) -> LoadedModel:
    request = LoadRequest(path=path, device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=4 << 30)
    return TorchBackend().load(request, lambda _: None)


def generate(session: TokenSession, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Greedy output of all prompts: each is read alone, then all go on in one step."""
    per = -(-max(len(prompt) + count for prompt in prompts) // session.limits.block_tokens)
    blocks = [range(n * per, (n + 1) * per) for n in range(len(prompts))]
    outputs = []
    for prompt, own in zip(prompts, blocks, strict=True):
        (logits,) = compute(session, Part(token_ids=prompt, blocks=own, wanted=[len(prompt) - 1]))
        outputs.append([int(logits[0].argmax())])
    while len(outputs[0]) < count:
        parts = [
            Part(token_ids=output[-1:], begin=len(prompt) + len(output) - 1, blocks=own)
            for prompt, output, own in zip(prompts, outputs, blocks, strict=True)
        ]
        for output, logits in zip(outputs, compute(session, *parts), strict=True):
            output.append(int(logits[0].argmax()))
    return outputs


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


def count_near_ties(outputs: list[list[int]], expected: list[list[int]], margins: list[list[float]]) -> int:
    """How many outputs part at a near-tie; parting anywhere else is an error."""
    near_ties = 0
    for output, wanted, margin in zip(outputs, expected, margins, strict=True):
        step = next((n for n, (a, b) in enumerate(zip(output, wanted, strict=True)) if a != b), None)
        if step is not None:
            assert margin[step] < NEAR_TIE, f"differs at step {step} with a margin of {margin[step]}"
            near_ties += 1
    print(f"{len(outputs)} prompts x {len(outputs[0])} tokens, {near_ties} ended by a near-tie")  # noqa: T201 - shown by pytest -rP
    return near_ties


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


@pytest.mark.model
def test_smollm2_from_a_gguf_file(smollm2: Path) -> None:
    """SmolLM2 gives the tokens of fp32 transformers for prompts in many scripts, and its tokenizer the ids of all."""
    cases = json.loads(REFERENCE.read_text())["cases"]
    asked = [cases[name] for name in ASKED]
    model = load(smollm2, context_tokens="2048")
    tokenizer = Tokenizer(model.vocabulary, size=model.session.limits.vocabulary_size)
    for case in cases.values():
        assert tokenizer.encode(case["text"]) == case["prompt"]
    outputs = generate(model.session, [case["prompt"] for case in asked], OUTPUT_TOKENS)
    expected = [case["output"][:OUTPUT_TOKENS] for case in asked]
    assert count_near_ties(outputs, expected, [case["margins"] for case in asked]) <= 1
    description = model.description
    assert (description.architecture, description.weight_format, description.compute_format) == (
        "llama",
        "Q4_1",
        "FLOAT32",
    )
    model.session.close()
