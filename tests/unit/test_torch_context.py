"""How many tokens of a sequence a network of transformers takes."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

from transformers import Phi3Config, Qwen2Config

from inferd.plugin import SamplingDefaults, Vocabulary
from inferd_torch.artifact import Artifact
from inferd_torch.network import read_context


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
