"""Which Hugging Face models the native engine takes: for each type what tells its folders from GGUF files.

The names of weights and of settings that most types share are at the end; a type says what it has besides.
"""

from collections.abc import Mapping
from typing import Final

from inferd_cpu.hf_expert_types import EXPERT_TYPES
from inferd_cpu.hf_older_types import OLDER_TYPES
from inferd_cpu.hf_type import HfType, Renames

__all__ = ["TYPES", "HfType"]

_POST_NORMS: Final = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PLAIN_FEED: Final = {"mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
_BERT: Final = {
    **{f"attention.self.{x}": f"attn_{x[0]}" for x in ("query", "key", "value")},
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_AFTER: Final = {
    **{f"{x}.Wqkv": "attn_qkv" for x in ("attn", "mixer")},
    **{f"{x}.out_proj": "attn_output" for x in ("attn", "mixer")},
    "norm1": "attn_output_norm",
    "norm2": "layer_output_norm",
    "mlp.fc1": "ffn_up",
    "mlp.fc11": "ffn_up",
    "mlp.fc12": "ffn_gate",
    "mlp.fc2": "ffn_down",
}
_DELTA: Final = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
_GEMMA3N: Final = {
    **_POST_NORMS,
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
    "altup.correction_coefs": "altup_correct_coef",
    "altup.prediction_coefs": "altup_predict_coef",
    "altup.modality_router": "altup_router",
    "altup.router_norm": "altup_router_norm",
    "laurel.linear_left": "laurel_l",
    "laurel.linear_right": "laurel_r",
    "laurel.post_laurel_norm": "laurel_post_norm",
    "router.proj": "ffn_gate_inp",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
}
_GEMMA: Final = ("gelu",)  # its first configurations say so and mean the tanh, as transformers knows

TYPES: Final[Mapping[str, HfType]] = {
    "llama": HfType(architecture="llama"),
    "mistral": HfType(architecture="llama"),
    "mixtral": HfType(architecture="llama"),
    "ministral3": HfType(architecture="mistral3"),
    "smollm3": HfType(architecture="smollm3"),
    "arcee": HfType(architecture="arcee"),
    "granite": HfType(architecture="granite"),
    "ernie4_5": HfType(architecture="ernie4_5"),
    "qwen2": HfType(architecture="qwen2"),
    "qwen2_moe": HfType(architecture="qwen2moe"),
    "qwen3": HfType(architecture="qwen3"),
    "qwen3_moe": HfType(architecture="qwen3moe"),
    "qwen3_next": HfType(architecture="qwen3next", names=_DELTA, one_more=True, partial=0.25),
    "qwen3_5_text": HfType(architecture="qwen35", names=_DELTA, one_more=True, partial=0.25),
    "qwen3_5_moe_text": HfType(architecture="qwen35moe", names=_DELTA, one_more=True, partial=0.25),
    "seed_oss": HfType(architecture="seed_oss", names={"post_attention_layernorm": "post_attention_norm"}),
    "hunyuan_v1_dense": HfType(
        architecture="hunyuan-dense",
        names={"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"},
    ),
    "gemma": HfType(architecture="gemma", one_more=True, tied=True, activations=_GEMMA),
    "gemma2": HfType(architecture="gemma2", names=_POST_NORMS, one_more=True, tied=True, activations=_GEMMA),
    "gemma3_text": HfType(architecture="gemma3", names=_POST_NORMS, one_more=True, tied=True),
    "gemma3n_text": HfType(architecture="gemma3n", names=_GEMMA3N, tied=True),
    "gemma4_text": HfType(architecture="gemma4", names=_GEMMA3N, tied=True),
    "phi": HfType(architecture="phi2", names={"self_attn.dense": "attn_output", **_PLAIN_FEED}, partial=0.5),
    "phi3": HfType(architecture="phi3", names={"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}),
    "phimoe": HfType(architecture="phimoe"),
    "starcoder2": HfType(architecture="starcoder2", names=_PLAIN_FEED, tied=True),
    "nemotron": HfType(architecture="nemotron", one_more=True, partial=0.5),
    "cohere": HfType(architecture="command-r", tied=True),
    "cohere2": HfType(architecture="cohere2", tied=True),
    "olmo2": HfType(architecture="olmo2", names=_POST_NORMS),
    "olmo3": HfType(architecture="olmo2", names=_POST_NORMS),
    "olmoe": HfType(architecture="olmoe"),
    "exaone4": HfType(architecture="exaone4", names=_POST_NORMS),
    "glm4": HfType(
        architecture="glm4",
        names={
            "post_self_attn_layernorm": "post_attention_norm",
            "post_mlp_layernorm": "post_ffw_norm",
            "mlp.gate_up_proj": "ffn_up",
        },
        partial=0.5,
    ),
    "bert": HfType(architecture="bert", names=_BERT),
    "roberta": HfType(architecture="bert", names=_BERT, offset=2),
    "xlm-roberta": HfType(architecture="bert", names=_BERT, offset=2),
    "nomic_bert": HfType(architecture="nomic-bert", names=_AFTER),
    "jina_embeddings_v3": HfType(architecture="jina-bert-v3", names=_AFTER),
    "modernbert": HfType(
        architecture="modern-bert",
        names={"attn.Wqkv": "attn_qkv", "attn.Wo": "attn_output", "mlp_norm": "ffn_norm", "attn_norm": "attn_norm"}
        | {"mlp.Wi": "ffn_up", "mlp.Wo": "ffn_down"},
    ),
    "eurobert": HfType(architecture="eurobert"),
    **EXPERT_TYPES,
    **OLDER_TYPES,
}

WRAPPED: Final[Mapping[str, str]] = {
    "mistral3": "mistral",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}
"""Models of texts and pictures, by the type of their part for texts, unless it says it; that is taken alone."""

PICTURES: Final = r"(?:model\.)?(?:visual|vision_tower|multi_modal_projector|audio_tower|embed_vision|embed_audio)\..*"
"""Weights of what is not for texts."""

MODEL_NAMES: Final[Renames] = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "final_layernorm": "output_norm",
    "lm_head": "output",
    "word_embeddings": "token_embd",
    "word_embeddings_layernorm": "token_embd_norm",
    "ln_f": "output_norm",
    "wte": "token_embd",
    "wpe": "position_embd",
    "embed_in": "token_embd",
    "embed_out": "output",
    "final_layer_norm": "output_norm",
    "embedding_norm": "token_embd_norm",
    "norm_f": "output_norm",
    "embed_tokens_per_layer": "per_layer_token_embd",
    "per_layer_model_projection": "per_layer_model_proj",
    "per_layer_projection_norm": "per_layer_proj_norm",
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "emb_ln": "token_embd_norm",
    "embeddings.tok_embeddings": "token_embd",
    "embeddings.norm": "token_embd_norm",
    "final_norm": "output_norm",
}
LAYER_NAMES: Final[Renames] = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
EXPERT_NAMES: Final[Renames] = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
ACTIVATIONS: Final[Mapping[str, str]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "norm_epsilon", "norm_eps", "layer_norm_epsilon"),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok", "top_k_experts"),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "ssm.conv_kernel": ("linear_conv_kernel_dim",),
    "ssm.state_size": ("linear_key_head_dim",),
    "ssm.group_count": ("linear_num_key_heads",),
    "ssm.time_step_rank": ("linear_num_value_heads",),
    "full_attention_interval": ("full_attention_interval",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "altup.num_inputs": ("altup_num_inputs",),
    "altup.active_idx": ("altup_active_idx",),
}
"""By the key of a GGUF file, behind the architecture's name, the settings that may have it."""

BARE_NAMES: Final[Renames] = {
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "self_attn.sinks": "attn_sinks.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.moe_statics.e_score_correction_bias": "exp_probs_b.bias",
    "feed_forward.expert_bias": "exp_probs_b.bias",
    "altup.correct_output_scale": "altup_correct_scale.weight",
    "layer_scalar": "layer_output_scale.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
}
"""Numbers of a layer that have no ending."""

ENCODER_HEADS: Final = r"(?:\w+\.)?pooler\..*|.*\.position_ids|cls\..*|head\..*|decoder\..*|lm_head\..*|classifier\..*"
"""Weights of encoders that no embedding is made with."""

HARMLESS: Final = frozenset(
    {
        *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "name"),
        "_model_name_or_path",
        *("auto_map", "license", "use_cache", "initializer_range", "initializer_factor", "pretraining_tp"),
        *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "residual_dropout", "embedding_dropout"),
        *("attention_bias", "mlp_bias", "use_bias", "qkv_bias", "attention_out_bias", "use_qkv_bias", "use_qk_norm"),
        *("is_decoder", "is_encoder_decoder", "return_dict", "output_hidden_states", "output_attentions"),
        *("chunk_size_feed_forward", "problem_type", "id2label", "label2id", "task_specific_params", "tf_legacy_loss"),
        *("router_aux_loss_coef", "router_jitter_noise", "output_router_logits", "vocab_size", "max_window_layers"),
        *("local_attention", "global_attn_every_n_layers", "local_rope_theta", "global_rope_theta", "type_vocab_size"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "mlp_dropout", "norm_bias", "decoder_bias"),
        *("classifier_dropout", "classifier_pooling", "classifier_bias", "classifier_activation", "num_labels"),
        *("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index"),
        *("sparse_prediction", "initializer_cutoff_factor", "gradient_checkpointing", "adapters", "finetuning_task"),
        *("use_sliding_window", "sliding_window", "layer_types", "sliding_window_pattern", "_sliding_window_pattern"),
        *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "rope_local_base_freq"),
        *("original_max_position_embeddings", "tie_word_embeddings", "hidden_act", "hidden_activation", "cache"),
        *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "min_length", "num_return_sequences"),
        *("query_pre_attn_scalar", "no_rope_layers", "no_rope_layer_interval", "decoder_sparse_step", "max_length"),
        *("vocab_size_per_layer_input", "altup_coef_clip", "laurel_rank", "num_global_key_value_heads"),
        *("emb_pdrop", "init_device", "learned_pos_emb", "no_bias", "norm_type", "embedding_fraction", "lm_head_bias"),
        *("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi", "skip_bias_add"),
        *("slow_but_exact", "input_jitter_noise", "head_dim", "rope_interleaved", "use_mrope"),
        *("cache_implementation", "org_vocab_size", "unsloth_version"),
    }
)
"""Settings that are read where they count, that tell of the training, or that the weights say again."""
