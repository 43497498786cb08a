"""Settings of a config.json: what an absent one means in each type, which types apply one, and which may say no."""

from collections.abc import Mapping
from typing import Any, Final

_LOCAL: Final = {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
_CHOOSES: Final = {"use_sliding_window": False}
_GEMMA4_ROPE: Final = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
}

_GPT_OSS_ROPE: Final = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False} | {
    "original_max_position_embeddings": 4096
}
_MINISTRAL_ROPE: Final = {"type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0} | {
    "original_max_position_embeddings": 16384,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_MULTIPLIERS: Final = dict.fromkeys(
    ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0
)

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "mistral": {"sliding_window": 4096},
    "mixtral": {"rope_theta": 1e6},
    "smollm3": {"rope_theta": 2e6, "no_rope_layer_interval": 4, "tie_word_embeddings": True, **_CHOOSES},
    "granite": _MULTIPLIERS,
    "granitemoe": _MULTIPLIERS,
    "granitemoeshared": _MULTIPLIERS,
    "gpt_oss": {"rope_theta": 1.5e5, "rope_parameters": _GPT_OSS_ROPE, "sliding_window": 128},
    "ministral3": {"rope_parameters": _MINISTRAL_ROPE},
    "deepseek_v2": {"q_lora_rank": 1536, "n_shared_experts": 2, "topk_method": "greedy"} | {"norm_topk_prob": False},
    "deepseek_v3": {"q_lora_rank": 1536, "n_shared_experts": 1, "n_group": 8, "topk_group": 4, "norm_topk_prob": True}
    | {"first_k_dense_replace": 3, "routed_scaling_factor": 2.5},
    "glm4_moe": {"n_shared_experts": 1, "first_k_dense_replace": 1, "norm_topk_prob": True},
    "dots1": {"norm_topk_prob": False, "sliding_window": 4096, "max_window_layers": 62},
    "ernie4_5_moe": {"rope_theta": 5e5, "tie_word_embeddings": True, "moe_num_shared_experts": 2, "moe_k": 6}
    | {"moe_layer_start_index": 1, "moe_num_experts": 64},
    "lfm2": {"rope_theta": 1e6, "conv_L_cache": 3, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256},
    "lfm2_moe": {"rope_theta": 1e6, "conv_L_cache": 3, "num_dense_layers": 2, "norm_topk_prob": True},
    "exaone": {"rope_theta": 5e5},
    "gpt_neox": {"use_parallel_residual": True},
    "ernie4_5": {"rope_theta": 5e5, "tie_word_embeddings": True},
    "qwen2": _CHOOSES,
    "qwen2_moe": {**_CHOOSES, "norm_topk_prob": False},
    "qwen3": _CHOOSES,
    "qwen3_moe": {**_CHOOSES, "norm_topk_prob": False},
    "olmoe": {"norm_topk_prob": False},
    "qwen3_next": {"norm_topk_prob": True},
    "gemma2": {"query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    | {"sliding_window": 4096},
    "gemma3_text": {**_LOCAL, "query_pre_attn_scalar": 256, "sliding_window": 4096},
    "gemma3n_text": {**_LOCAL, "sliding_window": 512, "final_logit_softcapping": 30.0, "num_kv_shared_layers": 15}
    | {"hidden_size_per_layer_input": 256},
    "gemma4_text": {"rope_parameters": _GEMMA4_ROPE, "sliding_window": 512, "hidden_size_per_layer_input": 256}
    | {"num_kv_shared_layers": 0},
    "phimoe": {"rope_theta": 1e6},
    "cohere": {"rope_theta": 5e5, "logit_scale": 0.0625},
    "cohere2": {"sliding_window": 4096, "logit_scale": 0.0625},
    "olmo3": {"rope_theta": 5e5, "sliding_window": 4096},
    "exaone4": {"sliding_window": 4096},
    "nomic_bert": {"rope_theta": 1e3},
    "jina_embeddings_v3": {"rope_theta": 2e4},
    "modernbert": {"global_rope_theta": 1.6e5, "local_rope_theta": 1e4, "local_attention": 128},
}
"""By type, what a setting is where its file does not have it, as transformers' configurations say it.

What is not here is 10000 for the base of rotations, and nothing for the others; sizes must be given.
"""

_GRANITE: Final = frozenset({"granite", "granitemoe", "granitemoeshared"})
OWN: Final[Mapping[str, frozenset[str]]] = {
    "attention_multiplier": _GRANITE,
    "embedding_multiplier": _GRANITE,
    "residual_multiplier": _GRANITE,
    "logits_scaling": _GRANITE,
    "logit_scale": frozenset({"cohere", "cohere2"}),
    "attn_logit_softcapping": frozenset({"gemma2"}),  # the attention of later types does not apply it
    "final_logit_softcapping": frozenset({"gemma2", "gemma3_text", "gemma3n_text", "gemma4_text"}),
    "query_pre_attn_scalar": frozenset({"gemma2", "gemma3_text"}),
    "partial_rotary_factor": frozenset(
        {
            *("gpt_neox", "stablelm", "glm", "glm4_moe"),
            *("phi", "phi3", "nemotron", "glm4", "gemma4_text", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
        }
    ),
}
"""Settings that change results, by the types that apply them; of others they are absent, or factors of 1."""

ALWAYS_BIASED: Final = frozenset({"qwen2", "qwen2_moe", "phi"})
"""Types whose attention has biases, whatever the file says."""

WINDOWED: Final = frozenset(
    {"mistral", "mixtral", "smollm3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "starcoder2", "modernbert", "olmo3"}
    | {
        "gpt_oss",
        "dots1",
        "ministral3",
        "gemma2",
        "gemma3_text",
        "gemma3n_text",
        "gemma4_text",
        "phi3",
        "phimoe",
        "cohere2",
        "exaone4",
    }
)
"""Types whose layers may have a window; of others a left-over one says nothing."""

FALSY: Final = frozenset(
    {
        *("mlp_only_layers", "clip_qkv", "qk_layernorm", "apply_residual_connection_post_layernorm"),
        *("add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder", "pruned_heads", "torchscript"),
        *("use_bfloat16", "remove_invalid_values", "output_scores", "return_dict_in_generate", "early_stopping"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "diversity_penalty", "bad_words_ids"),
        *("use_bidirectional_attention", "attention_k_eq_v", "enable_moe_block", "use_double_wide_mlp"),
        *("quantization_config", "attn_output_gate", "is_llama_config", "prefix", "suppress_tokens"),
        *("begin_suppress_tokens", "forced_decoder_ids", "unpad_inputs", "use_memory_efficient_attention"),
        *("use_flash_attn", "fused_bias_fc", "fused_dropout_add_ln", "use_xentropy", "parallel_block", "prenorm"),
        *("scale_attn_by_inverse_layer_idx", "n_group", "topk_group", "first_k_dense_replace", "scoring_func"),
        *("num_nextn_predict_layers", "alibi", "multi_query", "use_mambapy", "vision_config", "audio_config"),
        *("router_bias", "n_shared_experts", "moe_layer_freq", "moe_intermediate_size", "num_experts"),
        *(
            "num_local_experts",
            "embedding_scale",
            "final_logit_cap",
            "lm_head_multiplier",
            "use_post_norm",
            "use_cla",
            "use_mla",
        ),
        *("tokenizer_class", "add_classification_head", "mtp_num_layers", "mtp_num_hidden_layers"),
    }
)
"""Settings that are not supported, and that say so where they are no, nothing or empty."""

_ROPE: Final = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section"}) | {
    "mrope_interleaved"
}
_LENGTH: Final = frozenset({"factor", "original_max_position_embeddings", "attention_factor"})
_YARN: Final = _LENGTH | {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
ROPE_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "default": _ROPE | _LENGTH,
    "proportional": _ROPE | _LENGTH,
    "linear": _ROPE | _LENGTH,
    "dynamic": _ROPE | _YARN,
    "llama3": _ROPE | _LENGTH | {"low_freq_factor", "high_freq_factor"},
    "yarn": _ROPE | _YARN | {"truncate", "finetuned", "attn_factor"},
    **dict.fromkeys(
        ("longrope", "su"), _ROPE | _LENGTH | {"short_factor", "long_factor", "short_mscale", "long_mscale"}
    ),
}
"""By the way to scale positions, what may be said of it: that is read, or the reference does not read it either."""
