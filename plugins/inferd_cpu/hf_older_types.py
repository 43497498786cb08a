"""Hugging Face types of older make, which have names of their own for most of what they say."""

from collections.abc import Mapping
from typing import Final

from inferd_cpu.hf_type import HfType

_SIZES: Final = {
    "n_embd": "hidden_size",
    "n_embed": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
}
_GPT: Final = {
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_GPT_IGNORED: Final = frozenset(
    {
        *("n_ctx", "attn_pdrop", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout"),
        *("summary_proj_to_labels", "summary_type", "summary_use_proj", "scale_attention_softmax_in_fp32"),
        *("attention_softmax_in_fp32", "validate_runner_input", "inference_runner", "max_batch_size"),
        *("max_sequence_length", "pad_key_length", "pre_allocate_kv_cache"),
    }
)
_FEED: Final = {"mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
_FALCON: Final = {
    "ln_attn": "attn_norm_2",
    "ln_mlp": "attn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
}

OLDER_TYPES: Final[Mapping[str, HfType]] = {
    "gpt2": HfType(
        architecture="gpt2",
        names=_GPT,
        tied=True,
        aliases=_SIZES,
        four=True,
        only={"scale_attn_weights": True},
        ignored=_GPT_IGNORED,
    ),
    "gpt_bigcode": HfType(
        architecture="starcoder",
        names=_GPT,
        tied=True,
        aliases=_SIZES,
        four=True,
        only={"scale_attn_weights": True},
        ignored=_GPT_IGNORED,
    ),
    "gpt_neox": HfType(
        architecture="gptneox",
        names={
            "attention.query_key_value": "attn_qkv_heads",
            "attention.dense": "attn_output",
            **_FEED,
        },
        partial=0.25,
        aliases={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
        keys={"use_parallel_residual": "use_parallel_residual"},
    ),
    "falcon": HfType(
        architecture="falcon",
        names=_FALCON | _FEED,
        tied=True,
        aliases={**_SIZES, "ffn_hidden_size": "intermediate_size", "activation": "hidden_act"},
        defaults={"max_position_embeddings": 2048},
        four=True,
        only={"alibi": False, "parallel_attn": True},
        ignored=frozenset({"num_ln_in_parallel_attn", "bias", "apply_residual_connection_post_layernorm"}),
    ),
    "stablelm": HfType(
        architecture="stablelm",
        partial=0.25,
        keys={"use_parallel_residual": "use_parallel_residual"},
        ignored=frozenset({"qk_layernorm"}),  # the weights say it
    ),
    "minicpm": HfType(architecture="minicpm"),
    "mpt": HfType(
        architecture="mpt",
        names={"norm_1": "attn_norm", "norm_2": "ffn_norm", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output"}
        | {"ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down"},
        tied=True,
        aliases={"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}
        | {"max_seq_len": "max_position_embeddings"},
        four=True,
    ),
    "bloom": HfType(
        architecture="bloom",
        names={"self_attention.query_key_value": "attn_qkv_heads", "self_attention.dense": "attn_output", **_FEED},
        tied=True,
        aliases={"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
        | {"seq_length": "max_position_embeddings"},
        defaults={"max_position_embeddings": 2048},
        four=True,
    ),
    "glm": HfType(architecture="chatglm", names={"mlp.gate_up_proj": "ffn_up"}, partial=0.5),
    "exaone": HfType(
        architecture="exaone",
        names={
            "ln_1": "attn_norm",
            "ln_2": "ffn_norm",
            **{f"attn.attention.{x}_proj": f"attn_{x}" for x in "qkv"},
            "attn.attention.out_proj": "attn_output",
            "mlp.c_fc_0": "ffn_gate",
            "mlp.c_fc_1": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
        aliases={"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"}
        | {"activation_function": "hidden_act"},
    ),
}
