"""A tiny random network of each architecture in transformers, and the metadata that its GGUF file would have."""

import tiny_experts
import tiny_gemma
import tiny_older
import tiny_recurrent
import tiny_slopes
from tiny_family import WINDOW, YARN, YARN_KEYS, TinyFamily, rope, windows

FAMILIES: dict[str, TinyFamily] = (
    {
        "llama": TinyFamily(
            architecture="llama",
            model_type="llama",
            config={"attention_bias": True, "mlp_bias": True},
            permuted=True,
        ),
        "mistral": TinyFamily(
            architecture="llama",
            model_type="mistral",
            config={"sliding_window": WINDOW},
            metadata={"attention.sliding_window": WINDOW},
            permuted=True,
        ),
        "ministral3": TinyFamily(
            architecture="mistral3",
            model_type="ministral3",
            config={
                "head_dim": 16,
                "rope_parameters": YARN
                | {
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "llama_4_scaling_beta": 0.3,
                    "original_max_position_embeddings": 12,
                },
            },
            metadata=YARN_KEYS
            | {
                "rope.scaling.original_context_length": 12,
                "rope.scaling.yarn_log_multiplier": 1.0,
                "attention.temperature_scale": 0.3,
            },
            permuted=True,
        ),
        "llama_yarn": TinyFamily(
            architecture="llama",
            model_type="llama",
            config={"rope_parameters": YARN},
            metadata=YARN_KEYS,
            permuted=True,
        ),
        "smollm3": TinyFamily(architecture="smollm3", model_type="smollm3", permuted=True),
        "arcee": TinyFamily(architecture="arcee", model_type="arcee", permuted=True),
        "granite": TinyFamily(
            architecture="granite",
            model_type="granite",
            config={
                "embedding_multiplier": 3.0,
                "residual_multiplier": 0.5,
                "attention_multiplier": 0.2,
                "logits_scaling": 4.0,
            },
            metadata={"embedding_scale": 3.0, "residual_scale": 0.5, "attention.scale": 0.2, "logit_scale": 4.0},
            permuted=True,
        ),
        "ernie4_5": TinyFamily(
            architecture="ernie4_5",
            model_type="ernie4_5",
            config={"head_dim": 16, "use_bias": False},
        ),
        "qwen2": TinyFamily(architecture="qwen2", model_type="qwen2"),
        "qwen3": TinyFamily(architecture="qwen3", model_type="qwen3", config={"head_dim": 16, "attention_bias": True}),
        "seed_oss": TinyFamily(
            architecture="seed_oss",
            model_type="seed_oss",
            config={"head_dim": 16, "attention_bias": True, "attention_out_bias": False},
        ),
        "hunyuan_dense": TinyFamily(
            architecture="hunyuan-dense", model_type="hunyuan_v1_dense", config={"head_dim": 16, "pad_token_id": 0}
        ),
        "gemma": TinyFamily(
            architecture="gemma", model_type="gemma", config={"head_dim": 16, "tie_word_embeddings": True}
        ),
        "gemma2": TinyFamily(
            architecture="gemma2",
            model_type="gemma2",
            config={
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "sliding_window": WINDOW,
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 5.0,
                "tie_word_embeddings": True,
            },
            metadata={
                "attention.sliding_window": WINDOW,
                "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 5.0,
            },
        ),
        "gemma3": TinyFamily(
            architecture="gemma3",
            model_type="gemma3_text",
            config={
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "sliding_window": WINDOW,
                "num_hidden_layers": 7,
                "layer_types": windows(1, 1, 1, 1, 1, 0, 1),
                "rope_parameters": {
                    "sliding_attention": rope(),
                    "full_attention": rope(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                },
                "tie_word_embeddings": True,
            },
            metadata={
                "attention.sliding_window": WINDOW,
                "rope.freq_base": 1000000.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 8.0,
            },
        ),
        "phi2": TinyFamily(
            architecture="phi2",
            model_type="phi",
            config={
                "num_key_value_heads": 4,
                "layer_norm_eps": 1e-5,
                "rope_parameters": rope(partial_rotary_factor=0.5),
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
            },
            metadata={"rope.dimension_count": 8},
        ),
        "phi3": TinyFamily(
            architecture="phi3",
            model_type="phi3",
            config={
                "sliding_window": WINDOW,
                "rope_parameters": rope(partial_rotary_factor=0.75),
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
            },
            metadata={"attention.sliding_window": WINDOW, "rope.dimension_count": 12},
        ),
        "phi3_longrope": TinyFamily(
            architecture="phi3",
            model_type="phi3",
            config={
                "sliding_window": None,
                "original_max_position_embeddings": 8,
                "rope_parameters": rope(
                    rope_type="longrope",
                    short_factor=[1.0 + i / 10 for i in range(8)],
                    long_factor=[1.0 + i for i in range(8)],
                    original_max_position_embeddings=8,
                ),
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
            },
            metadata={
                "rope.scaling.original_context_length": 8,
                "rope.scaling.attn_factor": 1.632993161855452,
            },
        ),
        "starcoder2": TinyFamily(
            architecture="starcoder2",
            model_type="starcoder2",
            config={"sliding_window": None, "residual_dropout": 0.0, "embedding_dropout": 0.0},
        ),
        "nemotron": TinyFamily(
            architecture="nemotron",
            model_type="nemotron",
            config={"head_dim": 16, "rope_parameters": rope(partial_rotary_factor=0.5)},
            metadata={"rope.dimension_count": 8},
        ),
        "stablelm": TinyFamily(
            architecture="stablelm",
            model_type="stablelm",
            config={"use_qkv_bias": True, "rope_parameters": rope(partial_rotary_factor=0.25)},
            metadata={"rope.dimension_count": 4},
        ),
        "stablelm2": TinyFamily(
            architecture="stablelm",
            model_type="stablelm",
            config={
                "use_parallel_residual": True,
                "qk_layernorm": True,
                "rope_parameters": rope(partial_rotary_factor=0.25),
            },
            metadata={"rope.dimension_count": 4, "use_parallel_residual": True},
        ),
        "command_r": TinyFamily(
            architecture="command-r",
            model_type="cohere",
            config={"logit_scale": 0.25, "use_qk_norm": True, "layer_norm_eps": 1e-5, "tie_word_embeddings": True},
            metadata={"logit_scale": 0.25},
        ),
        "cohere2": TinyFamily(
            architecture="cohere2",
            model_type="cohere2",
            config={"logit_scale": 0.25, "sliding_window": WINDOW, "layer_norm_eps": 1e-5, "tie_word_embeddings": True},
            metadata={"logit_scale": 0.25, "attention.sliding_window": WINDOW},
        ),
        "olmo2": TinyFamily(architecture="olmo2", model_type="olmo2"),
        "olmo3": TinyFamily(
            architecture="olmo2",
            model_type="olmo3",
            config={"sliding_window": WINDOW, "rope_parameters": rope()},
            metadata={"attention.sliding_window": WINDOW},
        ),
        "exaone4": TinyFamily(
            architecture="exaone4",
            model_type="exaone4",
            config={"head_dim": 16, "sliding_window": WINDOW, "sliding_window_pattern": 4},
            metadata={"attention.sliding_window": WINDOW},
        ),
        "glm4": TinyFamily(
            architecture="glm4",
            model_type="glm4",
            config={
                "head_dim": 16,
                "attention_bias": True,
                "rope_parameters": rope(partial_rotary_factor=0.5),
                "pad_token_id": 0,
            },
            metadata={"rope.dimension_count": 8},
        ),
        "chatglm": TinyFamily(
            architecture="chatglm",
            model_type="glm",
            config={
                "head_dim": 16,
                "attention_bias": True,
                "rope_parameters": rope(partial_rotary_factor=0.5),
                "pad_token_id": 0,
            },
            metadata={"rope.dimension_count": 8},
        ),
        "lfm2": TinyFamily(
            architecture="lfm2",
            model_type="lfm2",
            config={
                "layer_types": ["conv", "full_attention", "conv", "conv"],
                "block_auto_adjust_ff_dim": False,
                "conv_L_cache": 3,
                "tie_word_embeddings": True,
            },
            metadata={"attention.head_count_kv": [0, 2, 0, 0], "shortconv.l_cache": 3},
        ),
    }
    | tiny_experts.FAMILIES
    | tiny_older.FAMILIES
    | tiny_recurrent.FAMILIES
    | tiny_gemma.FAMILIES
    | tiny_slopes.FAMILIES
)
