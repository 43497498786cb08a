"""Hugging Face folders of small networks with random weights, for the tests of the torch backend."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.models import gemma2, gemma3, gpt_oss, llama, mistral, phi3, qwen2, qwen3, qwen3_5, qwen3_moe, roberta

SEED = 41
VOCABULARY = 320
END, START = 256, 257
CONTEXT = 512
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # wide, so that the best token is rarely a near-tie
    "bos_token_id": START,
    "eos_token_id": END,
    "pad_token_id": END,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: llama.LlamaConfig(**COMMON),
    "qwen2": lambda: qwen2.Qwen2Config(**COMMON),
    "qwen3": lambda: qwen3.Qwen3Config(**COMMON, head_dim=24),
    "mistral": lambda: mistral.MistralConfig(**COMMON, sliding_window=19),
    "gemma3": lambda: gemma3.Gemma3TextConfig(
        **COMMON,
        head_dim=16,
        sliding_window=21,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi3": lambda: phi3.Phi3Config(**COMMON),
    "gemma2": lambda: gemma2.Gemma2Config(**COMMON, head_dim=16, sliding_window=17, attn_logit_softcapping=2.0),
    "gpt_oss": lambda: gpt_oss.GptOssConfig(
        **COMMON, head_dim=16, sliding_window=19, num_local_experts=4, num_experts_per_tok=2
    ),
    "qwen3_moe": lambda: qwen3_moe.Qwen3MoeConfig(
        **COMMON, head_dim=16, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2
    ),
}
# Of them the native engine has a reference.
STATES: dict[str, Any] = {
    "qwen3_5": lambda: qwen3_5.Qwen3_5TextConfig(
        **COMMON,
        head_dim=16,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_key_head_dim=16,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    )
}
REFUSED: dict[str, Any] = {
    "roberta": lambda: roberta.RobertaConfig(**{**COMMON, "pad_token_id": 1}, is_decoder=True)  # positions from 2 on
}


def make_network(name: str, **changes: Any) -> Any:
    """A network in fp32 with weights that depend on `SEED` only."""
    config = (CONFIGS | STATES | REFUSED)[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(SEED)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()


def write_network(name: str, folder: Path, **changes: Any) -> Any:
    """Save a network with a tokenizer of bytes; the network."""
    network = make_network(name, **changes)
    network.save_pretrained(folder, safe_serialization=True)
    write_tokenizer(folder)
    return network


def write_tokenizer(folder: Path) -> None:
    """A token for each byte, `<end>` and `<start>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<start>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<start>",
        "eos_token": {"content": "<end>"},
        "chat_template": "{{ messages[0].content }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
