"""A real GGUF file by the torch backend: most of a minute of processor time.

`make test` has a small one, which gives there what it gives by the cpu backend (tests/unit/test_torch_backend.py), and
the real one by the cpu backend, whose tokens are those of the reference.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks
import torch
from torch_greedy import count_near_ties, generate, load

from inferd.engine.text.tokenizer import Tokenizer

OUTPUT_TOKENS = 12
ASKED = ("capital", "question", "spaces", "accents", "chinese_question", "arabic", "emoji", "code_python")
REFERENCE = Path(tiny_networks.__file__).with_name("smollm2_greedy.json")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than networks as small as these, above all beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
