"""Hugging Face folders on the native engine: against transformers, and against the GGUF file of the same network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inferd.engine.text.tokenizer import Tokenizer
from inferd.plugin import LoadError, UnsupportedModelError, list_hf_weights, read_hf_vocabulary
from inferd_cpu.families import FAMILIES
from inferd_cpu.hf_folder import HfFolder
from inferd_cpu.hf_types import TYPES
from inferd_cpu.native import LIBRARY
from inferd_weights.model_file import ModelFile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from greedy_ids import generate, generate_with_transformers  # noqa: E402 - what is imported below needs both
from network_to_gguf import make_network, write_network  # noqa: E402
from tiny_family import rope  # noqa: E402
from tiny_folders import IDS, NAMES, change, load, read_logits, save  # noqa: E402
from tiny_networks import write_tokenizer  # noqa: E402

torch.set_num_threads(1)
GREEDY = (
    *("llama", "gemma3", "phi3", "qwen2_moe", "glm4", "gpt_oss", "deepseek_v2", "deepseek_v3", "lfm2", "glm4_moe"),
    *("granitemoe", "stablelm2", "ministral3", "gpt2", "gptneox", "falcon", "ernie4_5_moe", "hunyuan_moe", "dots1"),
)


def check(network: Any, folder: Path) -> None:
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(read_logits(folder), expected, atol=3e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Of each type that is offered, as transformers saves it."""
    network = make_network(NAMES[name], 0.3)
    check(network, save(network, tmp_path))


def test_every_type_is_compared() -> None:
    """No type is offered that nothing was compared with."""
    encoders = {name for name, known in TYPES.items() if FAMILIES[known.architecture].encodes}  # test_hf_encoders.py
    compared = {family.model_type for family in NAMES.values()}
    assert set(TYPES) - encoders - compared == {"minicpm"}  # of the parts of granite, test_hf_own.py


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_ids_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Ten prompts, 32 tokens each."""
    network = make_network(NAMES[name], 0.3)
    model = load(save(network, tmp_path))
    assert generate(model.session).tolist() == generate_with_transformers(network).tolist()
    model.session.close()


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")
@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "phi3", "mixtral", "qwen3_moe", "gpt_oss", "granitemoeshared", "gptneox"]
)
@pytest.mark.parametrize("quantization", ["auto", "4bit"])
def test_native_logits_are_those_of_the_file(tmp_path: Path, name: str, quantization: str) -> None:
    """Quantised on load, a folder gives the bits that the GGUF file of the same network gives."""
    network = write_network(name, tmp_path / "tiny.gguf", spread=0.1)
    folder = save(network, tmp_path / "folder")
    chosen = {"compute": "native", "quantization": quantization}
    expected = read_logits(tmp_path / "tiny.gguf", **chosen)
    assert read_logits(folder, **chosen).tobytes() == expected.tobytes()


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")
def test_experts_are_packed_one_by_one_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two experts of a folder are made one array, and of each tensor's file what was read is let go."""
    folder, let_go, asked = save(make_network(NAMES["qwen3_moe"], 0.3), tmp_path), set[str](), set[str]()
    release, blocks = ModelFile.release, HfFolder.blocks
    monkeypatch.setattr(ModelFile, "release", lambda file, each: (let_go.add(each.name), release(file, each))[1])
    monkeypatch.setattr(HfFolder, "blocks", lambda file, each: (asked.add(each.name), blocks(file, each))[1])
    load(folder, compute="native").session.close()
    assert not {name for name in asked if "_exps." in name}
    experts = {name for name in load_file(folder / "model.safetensors") if ".experts." in name}
    assert experts
    assert experts <= let_go


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_sixteen_bits_in_several_files(tmp_path: Path, dtype: str) -> None:
    """Weights keep what they are, and may be in shards."""
    network = make_network(NAMES["qwen3"], 0.3).to(getattr(torch, dtype))
    network.save_pretrained(tmp_path, max_shard_size="30KB")
    write_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = load(tmp_path)
    assert model.description.weight_format == {"bfloat16": "BF16", "float16": "F16"}[dtype]
    model.session.close()
    whole = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    check(whole.eval(), tmp_path)


ROPES = {
    "linear": rope(rope_type="linear", factor=4.0),
    "llama3": rope(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
    ),
    "yarn": rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.3),
    "dynamic": rope(rope_type="dynamic", factor=4.0),
}


@pytest.mark.parametrize("kind", ROPES)
def test_rotations_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """Each way of scaling; a configuration of older make says the same elsewhere."""
    family = NAMES["qwen2"]
    network = make_network(
        type(family)(architecture="qwen2", model_type="qwen2", config={"rope_parameters": ROPES[kind]}), 0.3
    )
    folder = save(network, tmp_path)
    check(network, folder)
    logits = read_logits(folder)

    def make_older(settings: dict[str, Any]) -> None:
        given = settings.pop("rope_parameters")
        settings["rope_theta"] = given.pop("rope_theta")
        given["type"] = given.pop("rope_type")
        settings["rope_scaling"] = given

    change(folder, make_older)
    assert read_logits(folder).tobytes() == logits.tobytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_network(NAMES["qwen2"], 0.3), tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    for file in sound.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen9"}, "'model_type' is 'qwen9', which is not supported; supported: llama, mistral"),
        ({"model_type": None}, "'model_type' is None"),
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'; of this type silu is supported"),
        ({"altup_factor": 3}, "'altup_factor' is 3, which is not supported and may change results"),
        ({"layer_types": ["linear_attention"] * 4}, "'layer_types' is .*supported are lists of"),
        ({"use_sliding_window": True, "layer_types": None}, "is true, but no layer_types say where"),
        ({"rope_parameters": rope(rope_type="spiral")}, "'rope_type' is 'spiral'; supported: default"),
        ({"rope_parameters": rope(rope_type="linear")}, "'factor' is missing in how positions are scaled"),
        ({"rope_parameters": rope(rope_theta="x")}, "'rope_theta' is 'x'; it must be a number above 0"),
        ({"rope_parameters": 7}, "'rope_scaling' is 7; it must be an object"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'quantization_config' is not supported"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0; it must be a whole number above 0|block_count"),
        ({"num_hidden_layers": 3}, "tensors, .* among them, have no place"),
        ({"num_hidden_layers": 5}, "tensor 'blk.4.attn_norm.weight' of shape .* is missing"),
        ({"hidden_size": 128}, "has shape"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'; it must be a whole number above 0"),
        ({"rms_norm_eps": None}, "layer_norm_rms_epsilon' is missing"),
        ({"num_attention_heads": [4]}, "'num_attention_heads' is \\[4\\]; it must be a whole number above 0"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    """A setting that changes results, or that contradicts the weights, is an error with its name and value."""
    change(folder, lambda settings: settings.update(changes))
    with pytest.raises(LoadError, match=words):
        load(folder)


def test_a_type_that_another_backend_may_know_is_said(folder: Path) -> None:
    """An unknown type is of the kind of error to which the kernel adds who can load it."""
    change(folder, lambda settings: settings.update(model_type="mamba"))
    with pytest.raises(UnsupportedModelError, match="'mamba'"):
        load(folder)


def test_what_comes_with_a_folder(folder: Path) -> None:
    """Tokens, endings and advice to sample are those of its files."""
    (folder / "generation_config.json").write_text('{"eos_token_id": [9], "temperature": 0.6, "do_sample": true}')
    model = load(folder)
    assert model.vocabulary.definition == (folder / "tokenizer.json").read_bytes()
    assert model.vocabulary.eos_ids[0] == 9
    assert model.sampling.numbers["temperature"] == 0.6
    model.session.close()


def test_tokens_that_only_the_settings_have_are_added(folder: Path) -> None:
    """Texts become the ids that transformers gives; a number that the definition cannot give is refused."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"eos_token": "<end>"}
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    end = max(token["id"] for token in definition["added_tokens"]) + 1
    token = {"content": "<extra>", "special": True, **flags}
    listed = {str(each["id"]): each for each in definition["added_tokens"]} | {str(end): token}
    path.write_text(json.dumps(settings | {"added_tokens_decoder": listed}), encoding="utf-8")
    vocabulary = read_hf_vocabulary(folder, {}, {})
    library = transformers.AutoTokenizer.from_pretrained(folder)
    assert Tokenizer(vocabulary, size=end + 1).encode("a<extra>b") == library("a<extra>b")["input_ids"]
    path.write_text(json.dumps(settings | {"added_tokens_decoder": {str(end + 7): token}}), encoding="utf-8")
    with pytest.raises(LoadError, match=f"'<extra>', which is {end + 7} in tokenizer_config"):
        read_hf_vocabulary(folder, {}, {})


def test_a_head_that_is_not_the_embedding_counts(folder: Path) -> None:
    """As in transformers: a head that is said to be the embedding, and is not, is used; one that is the same is not."""
    untied, file = read_logits(folder), folder / "model.safetensors"
    change(folder, lambda settings: settings.update(tie_word_embeddings=True))
    assert read_logits(folder).tobytes() == untied.tobytes()
    weights = load_file(file)
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, file)
    same = read_logits(folder)
    assert np.abs(same - untied).max() > 1e-3
    del weights["lm_head.weight"]
    save_file(weights, file)
    assert read_logits(folder).tobytes() == same.tobytes()
    change(folder, lambda settings: settings.update(tie_word_embeddings=False))
    with pytest.raises(LoadError, match="'tie_word_embeddings' is false, and there is no"):
        load(folder)


@pytest.mark.parametrize("name", ["norm.weight", "layers.0.self_attn.q_proj.weight"])
def test_a_weight_that_is_there_twice_is_refused(folder: Path, name: str) -> None:
    """Under two prefixes of a network: neither is taken."""
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: weights[f"model.{name}"] * 3}, folder / "model.safetensors")
    with pytest.raises(LoadError, match=f"'(?:model.)?{name}' is there twice"):
        load(folder)


def test_biases_that_settings_deny_are_refused(tmp_path: Path) -> None:
    """The configuration says that there are none: transformers drops them."""
    folder = save(make_network(NAMES["llama"], 0.3), tmp_path, attention_bias=False)
    assert "model.layers.0.self_attn.q_proj.bias" in load_file(folder / "model.safetensors")
    with pytest.raises(LoadError, match=r"'attention_bias' is false, but there is 'blk\.0\.attn_"):
        load(folder)


@pytest.mark.parametrize("name", ["qwen3_5", "gemma4"])
def test_of_texts_and_pictures_the_text_is_taken(tmp_path: Path, name: str) -> None:
    """What is not for texts is left out, whether names are as they are now or as they were."""
    network = make_network(NAMES[name], 0.3)
    folder = save(network, tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for prefix in ("model.language_model.", "language_model.model."):
        renamed = {key.replace("model.", prefix, 1): weight for key, weight in weights.items()}
        save_file(renamed | {"model.visual.patch_embed.weight": np.ones((2, 2), np.float32)}, file)
        change(folder, lambda settings: wrap(settings, name))
        check(network, folder)


def wrap(settings: dict[str, Any], name: str) -> None:
    """Settings of a text as those of one part of more."""
    if "text_config" not in settings:
        text = dict(settings)
        settings.clear()
        settings.update(model_type=name, text_config=text, vision_config={"depth": 3}, image_token_id=5)


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (
            "onnx/model_quantized.onnx",
            "onnx/model_quantized.onnx: name that file onnx/model.onnx for the backend 'onnx'",
        ),
        ("decoder_model_merged.onnx", "decoder_model_merged.onnx: name that file model.onnx for the backend 'onnx'"),
        ("model.onnx", "model.onnx: load it with the backend 'onnx'"),
    ],
)
def test_a_folder_with_graphs_alone(tmp_path: Path, graph: str, why: str) -> None:
    """Where a folder has graphs of ONNX and no safetensors, the file that is there is named, and what to do with it."""
    (tmp_path / graph).parent.mkdir(exist_ok=True)
    (tmp_path / graph).touch()
    with pytest.raises(LoadError, match=f"has no safetensors but {why}, or save the model as safetensors"):
        list_hf_weights(tmp_path)
