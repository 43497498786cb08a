"""Make `tiny_logits.json`: the logits that Hugging Face transformers computes, in fp32, for the tiny models.

    hf/bin/python tests/reference/make_tiny_logits.py        (environment: see make_reference.py)

For each model: the logits of the rows `ROWS` of its prompt.
"""

import json
from pathlib import Path
from typing import Any

import tiny_models as tiny
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROWS = (0, 7, 39)
CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


@torch.inference_mode()
def compute(model: tiny.TinyModel) -> dict[str, list[float]]:
    """The logits of each row, to 7 digits."""
    rope: dict[str, Any] = {"rope_type": model.scaling, "rope_theta": model.rope_base}
    rope |= {"linear": {"factor": 2.0}, "llama3": tiny.LLAMA3_SCALING}.get(model.scaling, {})
    make_config, make_network = CLASSES[model.architecture]
    config = make_config(
        vocab_size=tiny.VOCABULARY_SIZE,
        hidden_size=tiny.WIDTH,
        intermediate_size=tiny.HIDDEN,
        num_hidden_layers=tiny.LAYERS,
        num_attention_heads=tiny.HEADS,
        num_key_value_heads=tiny.KV_HEADS,
        head_dim=tiny.HEAD_WIDTH,
        max_position_embeddings=tiny.CONTEXT_TOKENS,
        rms_norm_eps=tiny.EPSILON,
        tie_word_embeddings=model.tied,
        rope_parameters=rope,
        attn_implementation="eager",
        dtype=torch.float32,
    )
    network = make_network(config).eval()
    weights = {name: torch.from_numpy(weight) for name, weight in tiny.make_weights(model).items()}
    left = network.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys, left
    assert left.missing_keys == (["lm_head.weight"] if model.tied else []), left
    network.tie_weights()
    logits = network(input_ids=torch.tensor([tiny.PROMPT])).logits[0]
    return {str(row): [float(f"{x:.7g}") for x in logits[row].tolist()] for row in ROWS}


if __name__ == "__main__":
    made = {name: compute(model) for name, model in tiny.MODELS.items()}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in made.items())
    Path(__file__).with_name("tiny_logits.json").write_text("{" + text + "}\n", encoding="utf-8")
