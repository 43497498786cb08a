"""The architectures, by the name that a file gives: each is what tells it from Llama."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from inferd_cpu.family import Experts, Family

_POST_NORMS: Final = Family(attention_post_norm="post_attention_norm", feed_post_norm="post_ffw_norm")
_GEMMA: Final = Family(activation="gelu_tanh", embedding_root=True)
_GEMMA_NORMS: Final = replace(
    _GEMMA, attention_post_norm=_POST_NORMS.attention_post_norm, feed_post_norm=_POST_NORMS.feed_post_norm
)
_GEMMA3: Final = replace(_GEMMA_NORMS, head_norms="head", window_pattern=6, window_rope="plain", wide_scale=62)
_GEMMA3N: Final = replace(
    _GEMMA3, wide_scale=0, window_pattern=5, value_norm=True, unscaled=True, shared_keys=True, layer_inputs=True
)
_QWEN_DELTA: Final = Family(head_norms="head", feed_norm="post_attention_norm", output_gated=True, delta="tiled")
_QWEN_EXPERTS: Final = Experts(normalised=True, shared="gated")
_PLAIN_FEED: Final = Family(norm="layer", activation="gelu_tanh", gated=False)
_ENCODER: Final = Family(
    norm="layer",
    attention_norm="",
    attention_post_norm="attn_output_norm",
    feed_norm="",
    feed_post_norm="layer_output_norm",
    final_norm="",
    encodes=True,
    sum_norms=True,
    embedded=True,
)

FAMILIES: Final[Mapping[str, Family]] = {
    # mistral, mixtral, smollm and falcon3 files say llama, too
    "llama": Family(interleaved=True, experts=Experts(normalised=True, optional=True)),
    "mistral3": Family(interleaved=True, experts=Experts(normalised=True, optional=True)),
    "smollm3": Family(interleaved=True, unrotated=4),
    "arcee": Family(interleaved=True, activation="relu2", gated=False),
    "granite": Family(interleaved=True, logits_divided=True, rotates_if_said=True),
    "granitemoe": Family(
        interleaved=True, logits_divided=True, rotates_if_said=True, experts=Experts(normalised=True, shared="may")
    ),
    "minicpm": Family(interleaved=True, logits_divided=True, older_scales=True),
    "ernie4_5": Family(interleaved=True),
    "qwen2": Family(),
    "qwen2moe": Family(experts=Experts(shared="gated")),
    "qwen2vl": Family(sections=True),
    "qwen3": Family(head_norms="head"),
    "qwen3vl": Family(head_norms="head", sections=True),
    "qwen3moe": Family(head_norms="head", experts=Experts(normalised=True)),
    "qwen3vlmoe": Family(head_norms="head", sections=True, experts=Experts(normalised=True)),
    "qwen3next": replace(_QWEN_DELTA, delta="grouped", experts=_QWEN_EXPERTS),
    "qwen35": replace(_QWEN_DELTA, sections=True),
    "qwen35moe": replace(_QWEN_DELTA, sections=True, experts=_QWEN_EXPERTS),
    "seed_oss": Family(feed_norm="post_attention_norm"),
    "hunyuan-dense": Family(head_norms="head", head_norms_optional=True, head_norms_after=True),
    "hunyuan-moe": Family(
        head_norms="head",
        head_norms_optional=True,
        head_norms_after=True,
        experts=Experts(normalised=True, shared="plain"),
    ),
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA_NORMS, window_pattern=2, wide_scale=46),
    "gemma3": _GEMMA3,
    "gemma3n": replace(_GEMMA3N, streams=True),
    "gemma4": replace(
        _GEMMA3N, window_pattern=6, divided=True, experts=Experts(normalised=True, optional=True, beside=True)
    ),
    "phi2": replace(_PLAIN_FEED, parallel=True, feed_norm=""),
    "phi3": Family(),
    "phimoe": Family(norm="layer", experts=Experts(gating="mixer")),
    "mpt": replace(_PLAIN_FEED, activation="gelu", unrotated=1, slopes=True),
    "bloom": replace(_PLAIN_FEED, unrotated=1, slopes=True, embedding_normed=True),
    "gpt2": replace(_PLAIN_FEED, unrotated=1, positions=True),
    "starcoder": replace(_PLAIN_FEED, unrotated=1, positions=True),
    "starcoder2": _PLAIN_FEED,
    "gptneox": replace(_PLAIN_FEED, activation="gelu", parallel=None),
    "falcon": replace(_PLAIN_FEED, activation="gelu", parallel=True, feed_norm="", attention_norm_own="attn_norm_2"),
    "nemotron": Family(norm="layer", activation="relu2", gated=False),
    "stablelm": Family(norm="layer", head_norms="heads", head_norms_optional=True, parallel=None),
    "command-r": Family(
        interleaved=True, norm="layer", head_norms="heads", head_norms_optional=True, parallel=True, feed_norm=""
    ),
    "cohere2": Family(interleaved=True, norm="layer", parallel=True, feed_norm="", window_pattern=4, full_rope=False),
    "olmo2": replace(
        _POST_NORMS, attention_norm="", feed_norm="", head_norms="row", window_pattern=4, window_rope="plain"
    ),
    "olmoe": Family(head_norms="row", experts=Experts()),
    "exaone": Family(),
    "exaone4": replace(
        _POST_NORMS, attention_norm="", feed_norm="", head_norms="head", window_pattern=4, full_rope=False
    ),
    "chatglm": Family(interleaved=True),
    "glm4": replace(_POST_NORMS, interleaved=True),
    "glm4moe": Family(
        head_norms="head",
        head_norms_optional=True,
        feed_norm="post_attention_norm",
        experts=Experts(gating="sigmoid", normalised=True, shared="plain", choice_bias=True),
    ),
    "gpt-oss": Family(
        feed_norm="post_attention_norm",
        activation="clamped",
        sinks=True,
        window_pattern=2,
        yarn_truncates=False,
        experts=Experts(gating="chosen"),
    ),
    "deepseek2": Family(interleaved=True, latent=True, experts=Experts(shared="plain", choice_bias=True)),
    "dots1": Family(
        head_norms="head", experts=Experts(gating="sigmoid", normalised=True, shared="plain", choice_bias=True)
    ),
    "ernie4_5-moe": Family(interleaved=True, experts=Experts(normalised=True, shared="plain", choice_bias=True)),
    "bert": replace(_ENCODER, activation="gelu", gated=False, unrotated=1, positions=True),
    "nomic-bert": _ENCODER,
    "jina-bert-v3": replace(_ENCODER, activation="gelu", gated=False),
    "modern-bert": Family(
        norm="layer",
        activation="gelu",
        first_unnormed=True,
        encodes=True,
        embedded=True,
        window_pattern=3,
        window_first=True,
        window_rope="plain",
    ),
    "eurobert": Family(encodes=True),
    "gemma-embedding": replace(_GEMMA3, encodes=True),
    "lfm2": Family(head_norms="head", convolutions=True, final_norm="token_embd_norm"),
    "lfm2moe": Family(
        head_norms="head",
        convolutions=True,
        final_norm="token_embd_norm",
        experts=Experts(gating="sigmoid", normalised=True, choice_bias=True),
    ),
}

REFUSED: Final[Mapping[str, str]] = {
    "jina-bert-v2": "whose results could not be compared: no package that is maintained computes it",
}
"""Architectures that could be described, and why they are not."""
