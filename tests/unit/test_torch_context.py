"""How many tokens of a sequence a network of transformers takes."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny
import torch
from transformers import AutoModelForCausalLM, Phi3Config, Qwen2Config, modeling_utils

from inferd.plugin import SamplingDefaults, Vocabulary
from inferd_torch.artifact import Artifact
from inferd_torch.network import is_recordable, read_context, settle_rotation, tensor_by_tensor


def read(config: Any) -> int:
    at = Path("some")
    artifact = Artifact(
        path=at,
        folder=at,
        options={},
        parameters=1,
        weight_format="F32",
        vocabulary=Vocabulary(algorithm="bpe"),
        sampling=SamplingDefaults(),
    )
    return read_context(artifact, config)


@pytest.mark.parametrize(("original", "factor", "tokens"), [(64, 4.0, 256), (16, 4.0, 64), (64, 1.0, 64)])
def test_yarn_stretches_the_context(original: int, factor: float, tokens: int) -> None:
    """The original context times the factor, and no less than the setting of positions says."""
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": factor, "original_max_position_embeddings": original}
    assert read(Qwen2Config(max_position_embeddings=64, rope_parameters=rope)) == tokens


def test_longrope_keeps_the_original_context() -> None:
    """How a position rotates depends on the longest sequence of a step beyond it."""
    factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "original_max_position_embeddings": 64}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    assert (
        read(Phi3Config(max_position_embeddings=256, original_max_position_embeddings=64, rope_parameters=rope)) == 64
    )


LONGROPE = {"short_factor": [1.5] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 64}
ROTATIONS: dict[str, Any] = {
    "phi3": {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, **LONGROPE},
    "llama": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize("name", sorted(ROTATIONS))
def test_a_rotation_is_settled_up_to_the_original_context(name: str) -> None:
    """Rotations by length are transformers' own there, and ask no number of the device: that cannot be recorded."""
    config = tiny.CONFIGS[name]()
    config.max_position_embeddings = 64
    config.original_max_position_embeddings = 64
    config.rope_parameters = ROTATIONS[name]
    network = AutoModelForCausalLM.from_config(config).eval()
    rotary, positions = network.model.rotary_emb, torch.arange(64)[None]
    expected = rotary(torch.zeros(1), positions)
    settle_rotation(network)
    for given, wanted in zip(rotary(torch.zeros(1), positions), expected, strict=True):
        assert torch.equal(given, wanted)
    rotary.to("meta")(torch.zeros(1, device="meta"), positions.to("meta"))  # where no number can be looked at


@pytest.mark.parametrize(
    ("name", "dtype", "capability", "recordable"),
    [
        ("llama", torch.float32, (8, 0), True),
        ("qwen3_moe", torch.bfloat16, (9, 0), True),
        ("qwen3_moe", torch.bfloat16, (8, 0), False),
        ("gpt_oss", torch.float16, (9, 0), False),
    ],
)
def test_experts_are_recorded_where_they_do_not_wait(
    name: str, dtype: torch.dtype, capability: tuple[int, int], *, recordable: bool
) -> None:
    """Networks of experts are recorded where torch's product of experts asks the host for nothing."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(tiny.CONFIGS[name]())
    assert is_recordable(network, dtype, capability) == recordable


def test_weights_take_memory_one_by_one_while_they_load() -> None:
    """What takes the memory of all weights at once is left out in this, and in its place again behind it."""
    taken = modeling_utils.caching_allocator_warmup
    with tensor_by_tensor():
        assert modeling_utils.caching_allocator_warmup is not taken
        assert modeling_utils.caching_allocator_warmup(None, {}, None) is None
    assert modeling_utils.caching_allocator_warmup is taken
