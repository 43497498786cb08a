"""What the name of an architecture, or a key of a single one, says of a network beside its sizes."""

from pathlib import Path
from typing import Any

import pytest

from inferd.plugin import LoadError
from inferd_cpu.architecture import Architecture, read_architecture
from inferd_cpu.hf_config import HfConfig
from inferd_weights.metadata import Kind, Metadata, Value

PATH = Path("some/config.json")
SIZES = {
    "context_length": 256,
    "embedding_length": 64,
    "block_count": 4,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
FOLDER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
KINDS = {bool: Kind.BOOL, int: Kind.I64, float: Kind.F64, str: Kind.STRING}


def read_file(name: str, **keys: Any) -> Architecture:
    """The shape that a GGUF file says; `__` in a key stands for a dot."""
    given = SIZES | {key.replace("__", "."): value for key, value in keys.items()}
    values = {f"{name}.{key}": Value(KINDS[type(value)], value) for key, value in given.items()}
    return read_architecture(Metadata(PATH, values | {"general.architecture": Value(Kind.STRING, name)}))


def read_folder(model_type: str, **settings: Any) -> Architecture:
    """The shape that a config.json says."""
    return read_architecture(HfConfig(PATH, FOLDER | {"model_type": model_type} | settings).metadata, grouped=True)


def test_a_minicpm_file_without_scales_has_those_of_its_first_models() -> None:
    """Embeddings by 12, layers by 1.4 over the root of their number, logits by 256 over the width; keys go before."""
    older = read_file("minicpm")
    assert (older.embedding_scale, older.residual_scale, older.logit_scale) == (12.0, 1.4 / 4**0.5, 256 / 64)
    newer = read_file("minicpm", embedding_scale=3.0, residual_scale=0.5, logit_scale=8.0)
    assert (newer.embedding_scale, newer.residual_scale, newer.logit_scale) == (3.0, 0.5, 1 / 8)
    plain = read_file("llama")
    assert (plain.embedding_scale, plain.residual_scale, plain.logit_scale) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["granite", "granitemoe"])
def test_a_granite_file_may_say_that_nothing_rotates(name: str) -> None:
    """`rope.scaling.finetuned` is a switch there, of other architectures a word on the training."""
    more = {"expert_count": 4, "expert_used_count": 2} if name == "granitemoe" else {}
    for said, rope in ((False, -1), (True, 0)):
        shape = read_file(name, rope__scaling__finetuned=said, **more)
        assert {layer.rope for layer in shape.layers} == {rope}
    assert {layer.rope for layer in read_file("minicpm", rope__scaling__finetuned=False).layers} == {0}


@pytest.mark.parametrize("used", [1, 3])
def test_sparse_mixer_chooses_two_experts(used: int) -> None:
    """Another number is refused by name, of a file and of a folder: it is not defined, and transformers takes two."""
    keys = {"expert_count": 4, "attention__layer_norm_epsilon": 1e-5}
    with pytest.raises(LoadError, match=f"'phimoe.expert_used_count' is {used}, which is not supported; .* chooses 2"):
        read_file("phimoe", expert_used_count=used, **keys)
    assert read_file("phimoe", expert_used_count=2, **keys).routing
    settings = {"num_local_experts": 4, "router_jitter_noise": 0.01}
    with pytest.raises(LoadError, match=f"'num_experts_per_tok' is {used}, which is not supported; it must be 2"):
        read_folder("phimoe", num_experts_per_tok=used, **settings)
    assert read_folder("phimoe", num_experts_per_tok=2, **settings).routing


@pytest.mark.parametrize("cap", [1, 1.5, 50.0])
@pytest.mark.parametrize(
    ("model_type", "name"), [("gemma3_text", "attn_logit_softcapping"), ("llama", "final_logit_softcapping")]
)
def test_a_cap_that_the_type_does_not_apply_is_refused(model_type: str, name: str, cap: float) -> None:
    """A cap of 1 is one, too: it is no factor."""
    given = {"sliding_window": None, "head_dim": 16, name: cap}
    with pytest.raises(LoadError, match=f"{name!r} is {cap}, which is not supported of {model_type!r}"):
        read_folder(model_type, **given)
    assert read_folder(model_type, **given | {name: None}).attention_cap == 0


@pytest.mark.parametrize(
    ("more", "magnitude"),
    [
        ({}, 1.1386294361),
        ({"attn_factor": 0.8782488562869419}, 1.0),
        ({"attention_factor": 1.25}, 1.25),
        ({"attention_factor": 1.25, "attn_factor": 0.5}, 1.25),
    ],
)
def test_a_folder_may_say_how_much_yarn_grows_scores(more: dict[str, float], magnitude: float) -> None:
    """`attn_factor` multiplies what follows from the factor, as in GGUF files; `attention_factor` is all of it."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, **more}
    (rope,) = read_folder("qwen3", rope_scaling=scaling, head_dim=16).ropes
    assert rope.magnitude == pytest.approx(magnitude)


@pytest.mark.parametrize(("factor", "tokens"), [(4.0, 1024), (1.0, 256), (1e29, 2**31 - 1)])
def test_yarn_stretches_the_context(factor: float, tokens: int) -> None:
    """What YaRN was added to takes the original context times the factor, and no less than before."""
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 256}
    keys = {"type": "yarn", "factor": factor, "original_context_length": 256}
    assert read_folder("qwen2", rope_scaling=scaling).context_tokens == tokens
    assert (
        read_file("qwen2", **{f"rope__scaling__{key}": value for key, value in keys.items()}).context_tokens == tokens
    )
    scaling["original_max_position_embeddings"] = 16
    assert read_folder("qwen2", rope_scaling=scaling | {"factor": 2.0}).context_tokens == 256
