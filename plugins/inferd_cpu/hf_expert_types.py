"""Hugging Face types with experts, or with keys and values that are kept as one row."""

from collections.abc import Mapping
from typing import Any, Final

from inferd_cpu.hf_type import HfType, Renames

SIGMOID: Final = 2  # as a GGUF file counts the ways to weigh experts

_SHARED: Final = {f"mlp.shared_experts.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")}
_LATENT: Final = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}
_ROUTED: Final[Renames] = {
    "expert_count": "n_routed_experts",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "leading_dense_block_count": "first_k_dense_replace",
}
_GROUPED: Final = _ROUTED | {"expert_group_count": "n_group", "expert_group_used_count": "topk_group"}
_RANKS: Final = {"attention.q_lora_rank": "q_lora_rank", "attention.kv_lora_rank": "kv_lora_rank"}
_LATENT_KEYS: Final = _GROUPED | _RANKS | {"attention.value_length_mla": "v_head_dim"}
_LATENT_IGNORED: Final = frozenset({"ep_size", "aux_loss_alpha", "seq_aux", "qk_head_dim", "num_mtp_layers"})
_PLAIN_LATENT: Final[Mapping[str, Any]] = {"attention_bias": False, "moe_layer_freq": 1}
_GRANITE: Final = {
    "block_sparse_moe.router.layer": "ffn_gate_inp",
    "block_sparse_moe.router": "ffn_gate_inp",
    "shared_mlp.output_linear": "ffn_down_shexp",
}
_LFM: Final = {
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
    "feed_forward.gate": "ffn_gate_inp",
}
_LFM_KEYS: Final = {"attention.layer_norm_rms_epsilon": "norm_eps", "shortconv.l_cache": "conv_L_cache"}
_LFM_IGNORED: Final = frozenset(
    {
        *("block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_xavier_init"),
        *("conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads", "use_pos_enc", "conv_bias"),
    }
)

EXPERT_TYPES: Final[Mapping[str, HfType]] = {
    "gpt_oss": HfType(
        architecture="gpt-oss",
        names={"post_attention_layernorm": "post_attention_norm", "mlp.router": "ffn_gate_inp"},
        activations=("silu",),
        only={"swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        ignored=frozenset({"experts_per_token", "initial_context_length"}),
    ),
    "deepseek_v2": HfType(
        architecture="deepseek2",
        names=_SHARED | _LATENT,
        keys=_LATENT_KEYS,
        only={**_PLAIN_LATENT, "scoring_func": "softmax", "norm_topk_prob": False},
        ignored=_LATENT_IGNORED,
    ),
    "deepseek_v3": HfType(
        architecture="deepseek2",
        names=_SHARED | _LATENT,
        keys=_LATENT_KEYS,
        only={**_PLAIN_LATENT, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        ignored=_LATENT_IGNORED,
        gating=SIGMOID,
    ),
    "glm4_moe": HfType(
        architecture="glm4moe",
        names=_SHARED | {"post_attention_layernorm": "post_attention_norm"},
        partial=0.5,
        keys=_GROUPED,
        ignored=frozenset({"num_mtp_layers"}),
    ),
    "dots1": HfType(
        architecture="dots1", names=_SHARED, keys=_GROUPED, only={"scoring_func": "noaux_tc", "moe_layer_freq": 1}
    ),
    "granitemoe": HfType(architecture="granitemoe", names=_GRANITE),
    "granitemoeshared": HfType(
        architecture="granitemoe",
        names=_GRANITE,
        keys={"expert_shared_feed_forward_length": "shared_intermediate_size"},
    ),
    "ernie4_5_moe": HfType(
        architecture="ernie4_5-moe",
        names=_SHARED,
        keys={
            "expert_count": "moe_num_experts",
            "expert_used_count": "moe_k",
            "expert_shared_count": "moe_num_shared_experts",
            "leading_dense_block_count": "moe_layer_start_index",
            "interleave_moe_layer_step": "moe_layer_interval",
        },
        only={"moe_use_aux_free": True, "moe_gate": "topk"},
        ignored=frozenset({"moe_norm_min", "moe_capacity", "compression_ratio", "moe_dropout_prob"}),
    ),
    "hunyuan_v1_moe": HfType(
        architecture="hunyuan-moe",
        names={"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}
        | {"mlp.gate.wg": "ffn_gate_inp"}
        | {f"mlp.shared_mlp.{x}_proj": f"ffn_{x}_shexp" for x in ("gate", "up", "down")},
    ),
    "lfm2": HfType(
        architecture="lfm2",
        names=_LFM,
        tied=True,
        aliases={"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"},
        keys=_LFM_KEYS,
        only={"block_use_swiglu": True},
        ignored=_LFM_IGNORED,
    ),
    "lfm2_moe": HfType(
        architecture="lfm2moe",
        names=_LFM,
        tied=True,
        aliases={"tie_embedding": "tie_word_embeddings"},
        keys={
            **_LFM_KEYS,
            "leading_dense_block_count": "num_dense_layers",
            "expert_weights_scale": "routed_scaling_factor",
        },
        ignored=_LFM_IGNORED,
    ),
}
