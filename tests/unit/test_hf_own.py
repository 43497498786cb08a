"""Hugging Face types that store weights or say settings in a way of their own: against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inferd.plugin import LoadError
from inferd_cpu.hf_remade import pack_mxfp4
from inferd_weights.quants import FORMATS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from network_to_gguf import make_network  # noqa: E402 - what is imported here needs both
from tiny_families import FAMILIES  # noqa: E402
from tiny_family import YARN  # noqa: E402
from tiny_folders import IDS, change, load, read_logits, save  # noqa: E402
from transformers.integrations.mxfp4 import convert_moe_packed_tensors  # noqa: E402

Settings = dict[str, Any]
torch.set_num_threads(1)


def make(name: str, **changes: Any) -> Any:
    """A network of a family, of which the configuration is changed."""
    family = FAMILIES[name]
    changed = {"architecture": family.architecture, "model_type": family.model_type, "config": family.config | changes}
    return make_network(type(family)(**changed), 0.3)


def compare(network: Any, folder: Path) -> None:
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([IDS])).logits[0].float().numpy()
    np.testing.assert_allclose(read_logits(folder), expected, atol=3e-4 * np.abs(expected).max())


def write_packed(folder: Path) -> Any:
    """A folder of gpt-oss whose experts have 4 bits, as it is published; its network has what these mean."""
    network = make("gpt_oss")
    save(network, folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    random, weights = np.random.default_rng(7), load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        count, inputs, outputs = weights.pop(name).shape
        blocks = random.integers(0, 256, (count, outputs, inputs // 32, 16), np.uint8)
        scales = random.integers(121, 125, (count, outputs, inputs // 32), np.uint8)
        weights |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        meant = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
        network.get_parameter(name).data.copy_(meant)
    save_file(weights, folder / "model.safetensors")
    return network


def test_experts_of_gpt_oss_in_four_bits_are_those_of_transformers(tmp_path: Path) -> None:
    """As it is published: codes and scales apart. They keep their 4 bits, and logits are those of what they mean."""
    compare(write_packed(tmp_path), tmp_path)
    model = load(tmp_path, compute="native")
    assert model.description.weight_format.startswith("MXFP4")
    model.session.close()


def test_experts_of_gpt_oss_in_sixteen_bits(tmp_path: Path) -> None:
    """Unpacked by others: inputs come first, gates and ups take turns."""
    save(make("gpt_oss").to(torch.bfloat16), tmp_path)
    whole = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    compare(whole.eval(), tmp_path)


def test_packed_blocks_mean_what_they_mean_to_transformers() -> None:
    """Every code with every scale that gives finite numbers, bit by bit."""
    codes = np.tile(np.arange(256, dtype=np.uint8).reshape(16, 16), (253, 1))
    scales = np.repeat(np.arange(253, dtype=np.uint8), 16)[:, None]
    found = FORMATS[39].decode(pack_mxfp4(codes, scales))
    blocks, exponents = torch.tensor(codes.reshape(1, -1, 1, 16)), torch.tensor(scales.reshape(1, -1, 1))
    expected = convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32)
    np.testing.assert_array_equal(found, expected[0].T.numpy())


@pytest.mark.parametrize(
    ("break_them", "words"),
    [
        (lambda name, w: {name: w[name][..., :8].copy()}, "there are 16 bytes for each scale"),
        (lambda name, w: {name: w[name].astype(np.float32)}, "is F32 of shape"),
        (lambda name, w: {name.replace("blocks", "scales"): w[name][:, :1, :, 0].copy()}, "for each scale"),
        (lambda name, _: {name.replace("blocks", "scales"): None}, "has no scales beside it"),
    ],
    ids=["codes", "floats", "scales", "none"],
)
def test_packed_experts_that_contradict_themselves_are_refused(tmp_path: Path, break_them: Any, words: str) -> None:
    """With both shapes, before anything is made of them."""
    write_packed(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= break_them("model.layers.1.mlp.experts.gate_up_proj_blocks", weights)
    save_file({name: each for name, each in weights.items() if each is not None}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match=words):
        load(tmp_path)


MINICPM = {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 16, "tie_word_embeddings": False}


def test_scales_of_minicpm(tmp_path: Path) -> None:
    """Those of its own configuration, which transformers does not have, are factors of Granite's."""
    multipliers = {"embedding_multiplier": 12.0, "residual_multiplier": 1.4 / 4**0.5, "logits_scaling": 64 / 16}
    network = make("granite", **multipliers, attention_multiplier=16**-0.5)
    folder = save(network, tmp_path)

    def rename(settings: Settings) -> None:
        for name in (*multipliers, "attention_multiplier"):
            del settings[name]
        settings.update(model_type="minicpm", **MINICPM)

    change(folder, rename)
    compare(network, folder)


OWN: dict[str, tuple[str, Settings]] = {
    "falcon with heads of their own": ("falcon", {"multi_query": False, "num_kv_heads": 4, "bias": True}),
    "starcoder with heads of their own": ("starcoder", {"multi_query": False}),
    "gpt2 of the usual width": ("gpt2", {"n_inner": None, "tie_word_embeddings": True}),
    "widths of lfm2": ("lfm2", {"block_auto_adjust_ff_dim": True, "block_multiple_of": 32, "intermediate_size": 120}),
    "choice of deepseek_v2 without groups": ("deepseek_v2", {"topk_method": "greedy", "n_group": None}),
    "two scales of deepseek_v2": (
        "deepseek_v2",
        {"rope_parameters": YARN | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.4}},
    ),
    "halves of deepseek_v3": ("deepseek_v3", {"rope_interleave": False}),
    "windows of the last layers of dots1": ("dots1", {"sliding_window": 11, "max_window_layers": 2}),
    "every second layer of ernie4_5_moe": ("ernie4_5_moe", {"moe_layer_interval": 2, "tie_word_embeddings": True}),
    "multipliers of granitemoe": (
        "granitemoe",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
    ),
    "no window of gpt_oss": ("gpt_oss", {"layer_types": ["full_attention"] * 4}),
}


@pytest.mark.parametrize("case", OWN)
def test_what_types_say_in_their_own_way(tmp_path: Path, case: str) -> None:
    """Is computed as transformers computes it."""
    network = make(OWN[case][0], **OWN[case][1])
    compare(network, save(network, tmp_path))


PUBLISHED: dict[str, tuple[str, Settings, tuple[str, ...]]] = {
    "gpt_oss": ("gpt_oss", {"experts_per_token": 2, "initial_context_length": 4096}, ("swiglu_alpha",)),
    "deepseek_v3": (
        "deepseek_v3",
        {"ep_size": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
        (),
    ),
    "lfm2": ("lfm2", {"full_attn_idxs": [1], "block_dim": 64, "use_pos_enc": True}, ("layer_types",)),
    "gpt2": ("gpt2", {"n_ctx": 1024}, ("intermediate_size", "num_key_value_heads")),
    "gpt_neox": ("gptneox", {"rotary_pct": 0.25, "rotary_emb_base": 10000}, ("rope_parameters",)),
    "falcon": ("falcon", {"num_kv_heads": 71}, ("num_key_value_heads",)),
    "hunyuan_v1_moe": ("hunyuan_moe", {"moe_topk": [2] * 4, "moe_intermediate_size": [32] * 4}, ()),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_configurations_as_they_are_published(tmp_path: Path, case: str) -> None:
    """What older configurations say besides changes nothing, and means the same where it is all there is."""
    family, settings, drop = PUBLISHED[case]
    network = make(family)

    def alter(given: Settings) -> None:
        for name in drop:
            given.pop(name, None)
        given.update(settings)

    folder = save(network, tmp_path)
    change(folder, alter)
    compare(network, folder)


REFUSED: dict[str, tuple[str, Settings, str]] = {
    "gpt_oss": ("gpt_oss", {"swiglu_limit": 9.0}, "'swiglu_limit' is 9.0, which is not supported; supported is 7.0"),
    "deepseek_v2": ("deepseek_v2", {"topk_method": "noaux_tc"}, "'topk_method' is 'noaux_tc'; supported: greedy"),
    "deepseek_v3": ("deepseek_v3", {"scoring_func": "softmax"}, "'scoring_func' is softmax"),
    "falcon": ("falcon", {"parallel_attn": False}, "'parallel_attn' is False, which is not supported"),
    "alibi": ("falcon", {"alibi": True}, "'alibi' is True"),
    "gpt2": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "'scale_attn_by_inverse_layer_idx' is True"),
    "ernie4_5_moe": ("ernie4_5_moe", {"moe_layer_end_index": 1}, "'moe_layer_end_index' is 1"),
    "hunyuan_v1_moe": ("hunyuan_moe", {"moe_topk": [1, 2, 2, 2]}, "'moe_topk' is"),
    "ministral3": ("ministral3", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'llama_4_scaling_beta'"),
    "experts of none": ("llama", {"n_group": 4}, "'n_group' is 4, which is not supported"),
    "packed in another way": ("gpt_oss", {"quantization_config": {"quant_method": "gptq"}}, "'quantization_config'"),
    "packed of another type": ("llama", {"quantization_config": {"quant_method": "mxfp4"}}, "'quantization_config'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_type_does_not_support_is_named(tmp_path: Path, case: str) -> None:
    """With its value, and what is supported."""
    family, settings, words = REFUSED[case]
    folder = save(make(family), tmp_path, **settings)
    with pytest.raises(LoadError, match=words):
        load(folder)


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_layers_that_predict_farther_are_left_out(tmp_path: Path, name: str) -> None:
    """Behind the last layer, as many as the settings say; one more has no place."""
    network = make(name)
    folder = save(network, tmp_path)
    weights = load_file(folder / "model.safetensors")
    more = {key.replace(".3.", ".4.", 1): each for key, each in weights.items() if key.startswith("model.layers.3.")}
    save_file(weights | more, folder / "model.safetensors")
    compare(network, folder)
    change(folder, lambda settings: settings.update(num_nextn_predict_layers=0))
    with pytest.raises(LoadError, match="have no place"):
        load(folder)


def test_masks_and_missing_prefixes_of_gpt2(tmp_path: Path) -> None:
    """As it was published first: no prefix, and each layer with its mask."""
    network = make("gpt2", tie_word_embeddings=True)
    folder = save(network, tmp_path)
    weights = {key.removeprefix("transformer."): x for key, x in load_file(folder / "model.safetensors").items()}
    masks = {f"h.{i}.attn.bias": np.tri(256, dtype=np.float32)[None, None] for i in range(4)}
    save_file(weights | masks, folder / "model.safetensors")
    compare(network, folder)


@pytest.mark.parametrize("name", ["mistral", "ministral3"])
def test_of_mistral3_the_text_is_taken(tmp_path: Path, name: str) -> None:
    """Its part for texts is of either type, which it says itself; what is for pictures is left out."""
    network = make(name)
    folder = save(network, tmp_path)
    weights = load_file(folder / "model.safetensors")
    renamed = {f"language_model.{key}": each for key, each in weights.items()}
    pictures = {f"{x}.weight": np.ones((2, 2), np.float32) for x in ("vision_tower.conv", "multi_modal_projector.norm")}
    save_file(renamed | pictures, folder / "model.safetensors")

    def wrap(settings: Settings) -> None:
        text = dict(settings)
        settings.clear()
        settings.update(model_type="mistral3", text_config=text, vision_config={"depth": 3}, image_token_index=5)

    change(folder, wrap)
    compare(network, folder)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj_bias"),
        ("gpt_oss", "model.layers.1.mlp.experts.gate_up_proj"),
        ("gpt_oss", "model.layers.1.mlp.experts.down_proj"),
        ("granitemoeshared", "model.layers.1.block_sparse_moe.input_linear.weight"),
        ("granitemoeshared", "model.layers.1.shared_mlp.input_linear.weight"),
        ("gpt2", "transformer.h.1.attn.c_attn.weight"),
        ("gptneox", "gpt_neox.layers.1.attention.query_key_value.weight"),
        ("stablelm2", "model.layers.1.self_attn.q_layernorm.norms.2.weight"),
        ("deepseek_v3", "model.layers.1.mlp.gate.e_score_correction_bias"),
    ],
)
@pytest.mark.parametrize("shape", [(), (5,), (3, 5, 7)], ids=str)
def test_weights_of_other_shapes_are_refused(tmp_path: Path, name: str, tensor: str, shape: tuple[int, ...]) -> None:
    """What is put in order when it is read has the shape that this needs, or the error names it."""
    folder = save(make(name), tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert tensor in weights
    save_file(weights | {tensor: np.ones(shape, np.float32)}, folder / "model.safetensors")
    with pytest.raises(LoadError, match=r"has shape|is missing|must be alike"):
        load(folder)
