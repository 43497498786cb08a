"""Adapters that are added to weights as they are loaded, against transformers with the sums as weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from inferd.plugin import LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import LIBRARY
from inferd_cpu.plugin import SPEC

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import tiny_recurrent  # noqa: E402 - what is imported below needs both
from greedy_ids import PROMPTS  # noqa: E402
from network_to_gguf import write_network  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402
from tiny_networks import write_tokenizer  # noqa: E402
from tiny_recurrent import convert_delta  # noqa: E402

from inferd_onnx.decoder.gguf_model import read_gguf_model  # noqa: E402
from inferd_torch.gguf import read_gguf  # noqa: E402

torch.set_num_threads(1)
IDS = PROMPTS.reshape(-1)[:50].tolist()
RANK, ALPHA = 3, 6.0
PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "mlp.down_proj": "ffn_down"}
Floats = np.ndarray[Any, Any]


def load(path: Path, **settings: str) -> Any:
    given = read_settings(SPEC, {"kv_tokens": "1024", "compute": "exact", **settings})
    request = LoadRequest(path=path, device="cpu:0", settings=given, capacity_bytes=1 << 30)
    return CpuBackend().load(request, lambda _: None).session


def read_logits(path: Path, **settings: str) -> Floats:
    session = load(path, **settings)
    (logits,) = compute(session, Part(token_ids=IDS, blocks=range(4)))
    result = np.array(logits)
    session.close()
    return result


def draw(network: Any) -> dict[str, tuple[Floats, Floats]]:
    """Two thin matrices for some weights of a network, by their names there."""
    rng, found = np.random.default_rng(8), {}
    for name, weight in network.state_dict().items():
        if any(f".{part}.weight" in name for part in PARTS):
            rows, columns = weight.shape
            down, up = rng.normal(size=(RANK, columns)) * 0.2, rng.normal(size=(rows, RANK)) * 0.2
            found[name] = (down.astype(np.float32), up.astype(np.float32))
    return found


def write_gguf(network: Any, matrices: dict[str, tuple[Floats, Floats]], path: Path, **changes: str) -> Path:
    """The file that the usual converter makes of an adapter: rows of queries and keys are neighbours by pairs."""
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    writer.add_type(changes.get("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    if "extra" in changes:
        writer.add_uint32(changes["extra"], 5)
    for name, (down, up) in matrices.items():
        rows = up
        layer, part = name.split(".")[2], ".".join(name.split(".")[3:5])
        if part != "mlp.down_proj":
            heads = network.config.num_attention_heads if "q_proj" in part else network.config.num_key_value_heads
            rows = up.reshape(heads, 2, len(up) // heads // 2, -1).swapaxes(1, 2).reshape(up.shape)
        writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight.lora_a", down)
        writer.add_tensor(f"blk.{layer}.{PARTS[part]}.weight.lora_b", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_folder(matrices: dict[str, tuple[Floats, Floats]], folder: Path, **changes: Any) -> Path:
    """As the `peft` package saves an adapter."""
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "target_modules": [*PARTS]}
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
    tensors = {}
    for name, (down, up) in matrices.items():
        stem = name.removesuffix(".weight")
        tensors[f"base_model.model.{stem}.lora_A.weight"] = down
        tensors[f"base_model.model.{stem}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A network as a file and as a folder, an adapter as both, and the logits of their sum."""
    at = tmp_path_factory.mktemp("adapters")
    network = write_network("llama", at / "model.gguf", spread=0.1)
    network.save_pretrained(at / "model")
    write_tokenizer(at / "model")
    matrices = draw(network)
    found = {
        "network": network,
        "matrices": matrices,
        "gguf": at / "model.gguf",
        "folder": at / "model",
        "adapter.gguf": write_gguf(network, matrices, at / "adapter.gguf"),
        "adapter": write_folder(matrices, at / "adapter"),
    }
    for scale in (1.0, 0.5):
        with torch.inference_mode():
            for name, (down, up) in matrices.items():
                network.get_parameter(name).add_(torch.from_numpy(up @ down) * (scale * ALPHA / RANK))
            found[f"logits {scale}"] = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
            for name, (down, up) in matrices.items():
                network.get_parameter(name).sub_(torch.from_numpy(up @ down) * (scale * ALPHA / RANK))
    return found


@pytest.mark.parametrize("adapter", ["adapter.gguf", "adapter"])
@pytest.mark.parametrize("base", ["gguf", "folder"])
def test_logits_are_those_of_the_sum(made: dict[str, Any], base: str, adapter: str) -> None:
    """A file or a folder with an adapter that is either, whatever order rows have there; and half of an adapter."""
    for scale in (1.0, 0.5):
        expected = made[f"logits {scale}"]
        logits = read_logits(made[base], adapter=str(made[adapter]), adapter_scale=str(scale))
        np.testing.assert_allclose(logits, expected, atol=3e-4 * np.abs(expected).max())
    assert np.abs(read_logits(made[base]) - made["logits 1.0"]).max() > 0.1


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe"])
def test_heads_of_delta_nets_are_found_in_either_order(tmp_path: Path, name: str) -> None:
    """Files tile the value heads that folders group: each base with either adapter gives what the sum gives."""
    family, rng = tiny_recurrent.FAMILIES[name], np.random.default_rng(8)
    network = write_network(name, tmp_path / "model.gguf", spread=0.2)
    network.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    parts = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
    writer, matrices = gguf.GGUFWriter(tmp_path / "adapter.gguf", family.architecture), {}
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for part in parts:
        key = f"model.layers.0.linear_attn.{part}.weight"
        weight = network.get_parameter(key)
        down, up = (rng.normal(size=shape) * 0.3 for shape in ((RANK, weight.shape[1]), (weight.shape[0], RANK)))
        matrices[key] = (down.astype(np.float32), up.astype(np.float32))
        turned = convert_delta(family, key, matrices[key][part != "out_proj"])
        assert turned is not None
        ((stored, numbers),) = turned
        both = (numbers, up) if part == "out_proj" else (down, numbers)
        for letter, each in zip("ab", both, strict=True):
            writer.add_tensor(f"{stored}.lora_{letter}", np.ascontiguousarray(each, np.float32))
        with torch.inference_mode():
            weight.add_(torch.from_numpy((up @ down).astype(np.float32)) * (ALPHA / RANK))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_folder(matrices, tmp_path / "adapter", target_modules=list(parts))
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
    for base in ("model.gguf", "model"):
        for adapter in ("adapter.gguf", "adapter"):
            logits = read_logits(tmp_path / base, adapter=str(tmp_path / adapter))
            np.testing.assert_allclose(logits, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")
def test_native_sums_do_not_depend_on_the_kind(made: dict[str, Any]) -> None:
    """Quantised on load, a file and a folder with either adapter give the same bits, near those of fp32."""
    expected = made["logits 1.0"]
    bits = set()
    for base in ("gguf", "folder"):
        for adapter in ("adapter.gguf", "adapter"):
            logits = read_logits(made[base], compute="native", adapter=str(made[adapter]))
            bits.add(logits.tobytes())
            assert np.sqrt(np.mean((logits - expected) ** 2)) < 0.06 * expected.std()
    assert len(bits) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, at: write_folder(m["matrices"], at, peft_type="IA3"), "'peft_type' is IA3, which is not supported"),
        (lambda m, at: write_folder(m["matrices"], at, use_dora=True), "'use_dora' is True, which is not supported"),
        (lambda m, at: write_folder(m["matrices"], at, rank_pattern={"q.*": 4}), "'rank_pattern' has"),
        (lambda m, at: write_folder(m["matrices"], at, r="x"), "r is 'x' and lora_alpha 6.0"),
        (lambda m, at: write_folder(m["matrices"], at, r=RANK + 1), f"but r is {RANK + 1}"),
        (lambda m, at: write_folder(m["matrices"], at, init_lora_weights="pissa"), "'init_lora_weights' is pissa"),
        (lambda m, at: write_folder(m["matrices"], at, init_lora_weights="loftq"), "'init_lora_weights' is loftq"),
        (lambda m, at: write_folder(m["matrices"], at, alora_invocation_tokens=[5]), "'alora_invocation_tokens' is"),
        (lambda m, at: write_folder(m["matrices"], at, use_qalora=True), "'use_qalora' is True, which may change"),
        (lambda m, at: write_folder(m["matrices"], at, use_bdlora={"nblocks": 2}), "'use_bdlora' is"),
        (lambda m, at: write_folder(m["matrices"], at, arrow_config={"top_k": 2}), "'arrow_config' is"),
        (lambda m, at: write_folder(m["matrices"], at, target_parameters=["a"]), "'target_parameters' is"),
        (lambda m, at: write_folder(m["matrices"], at, scales_twice=2), "'scales_twice' is 2"),
        (lambda m, at: write_folder(m["matrices"], at, layers_to_transform=[0]), "'layers_to_transform' is \\[0\\]"),
        (lambda m, at: write_folder(m["matrices"], at, target_modules=["q_proj"]), "'target_modules' lacks"),
        (
            lambda m, at: write_gguf(m["network"], m["matrices"], at / "a.gguf", extra="adapter.alora.tokens"),
            "'adapter.alora.tokens' is 5, which may change results",
        ),
        (lambda _, at: write_folder({}, at), "it changes nothing; it is no adapter"),
        (
            lambda m, at: write_gguf(m["network"], m["matrices"], at / "a.gguf", type="model"),
            "'general.type' is 'model'",
        ),
        (
            lambda m, at: write_gguf(m["network"], m["matrices"], at / "a.gguf", architecture="qwen2"),
            "'general.architecture' is 'qwen2'; of an adapter for this model it must be 'llama'",
        ),
        (lambda m, _: m["gguf"], "'general.type' is ''; of an adapter"),
        (
            lambda m, at: write_folder({"model.layers.9.mlp.down_proj.weight": next(iter(m["matrices"].values()))}, at),
            "changes 'blk.9.ffn_down.weight' by matrices of shapes .* has none: the adapter is for another model",
        ),
        (lambda _, at: at / "nothing", "cannot be read"),
        (lambda *_: Path("adapter.gguf"), "must be an absolute path"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_said(
    made: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any], Path], Path], words: str
) -> None:
    """Other kinds, other models and what is missing are errors with names."""
    with pytest.raises(LoadError, match=words) as caught:
        load(made["gguf"], adapter=str(change(made, tmp_path)))
    assert caught.type is LoadError  # no other backend may be named: none adds adapters


def test_an_adapter_may_change_nothing(made: dict[str, Any]) -> None:
    """Times 0, it is read and checked, and the model is the one without it."""
    logits = read_logits(made["gguf"], adapter=str(made["adapter.gguf"]), adapter_scale="0")
    np.testing.assert_array_equal(logits, read_logits(made["gguf"]))


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ({"general.type": "adapter", "general.architecture": "llama"}, "--set adapter=.*adapter.gguf"),
        ({"adapter.type": "lora", "general.architecture": "llama"}, "--set adapter="),
        ({"general.architecture": "controlvector"}, "a control vector"),
        ({"general.type": "mmproj", "general.architecture": "clip"}, "mmproj"),
        ({"general.architecture": "clip"}, "mmproj"),
        ({"general.type": "imatrix"}, "an importance matrix"),
    ],
)
@pytest.mark.parametrize("read", [load, read_gguf_model, read_gguf])
def test_files_that_are_no_models_are_told_for_what_they_are(
    tmp_path: Path, kinds: dict[str, str], words: str, read: Callable[[Path], Any]
) -> None:
    """An adapter, a projector and an importance matrix are refused by every backend with what is done with them."""
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", kinds.get("general.architecture", ""))
    for key, value in kinds.items():
        if key != "general.architecture":
            writer.add_string(key, value)
    writer.add_tensor("x", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(LoadError, match=words) as caught:
        read(tmp_path / "adapter.gguf")
    assert caught.type is LoadError


@pytest.mark.parametrize("name", ["falcon", "falcon_two_norms", "starcoder"])
def test_heads_that_a_folder_has_in_another_order_are_not_changed(tmp_path: Path, name: str) -> None:
    """Of types that store queries, keys and values by groups of heads an adapter would change others than it means."""
    network = write_network(name, tmp_path / "model.gguf", spread=0.1)
    network.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    part = "attn.c_attn" if name == "starcoder" else "self_attention.query_key_value"
    key = f"transformer.h.1.{part}.weight"
    rows, columns = network.state_dict()[key].shape
    matrices = {key: (np.ones((RANK, columns), np.float32), np.ones((rows, RANK), np.float32))}
    adapter = write_folder(matrices, tmp_path / "adapter", target_modules=[part])
    for model in ("model", "model.gguf"):
        with pytest.raises(LoadError, match="may have in another order than they are loaded in; convert the adapter"):
            load(tmp_path / model, adapter=str(adapter))
