"""What tiny random networks of transformers, and the metadata of their GGUF files, have in common."""

from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 96
WINDOW = 11
CONTEXT = 256
BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
}
YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
    "rope.scaling.yarn_beta_fast": 8.0,
}
EXPERTS = {"expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyFamily:
    """A network.

    Attributes:
        architecture: As a GGUF file names it.
        model_type: As transformers does.
        config: Beside `BASE`.
        metadata: Keys, without the architecture's name, beside those that all files have.
        permuted: The converter makes neighbours of rotary pairs.
    """

    architecture: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    permuted: bool = False


def windows(*flags: int) -> list[str]:
    return ["sliding_attention" if flag else "full_attention" for flag in flags]


def rope(**changes: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0} | changes
