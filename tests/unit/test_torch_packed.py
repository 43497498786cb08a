"""Folders of weights of 4 bits: what they hold is what is computed with, and it stays packed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import packed_folders as packed
import torch

from inferd.plugin import LoadedModel, LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_torch.backend import TorchBackend
from inferd_torch.fused import TorchSteps, fuse
from inferd_torch.packed.layouts import PLACES, WIDTH, pack_runs, unpack_runs
from inferd_torch.packed.linear import PackedLinear
from inferd_torch.plugin import SPEC

IDS = list(range(30, 75))


def ask(path: Path, capacity_bytes: int = 4 << 30, **settings: str) -> LoadRequest:
    chosen = read_settings(SPEC, {"kv_tokens": "128", **settings})
    return LoadRequest(path=path, device="cpu:0", settings=chosen, capacity_bytes=capacity_bytes)


def load(path: Path, **settings: str) -> LoadedModel:
    return TorchBackend().load(ask(path, **settings), lambda _: None)


@pytest.mark.parametrize("kind", sorted(packed.KINDS))
def test_a_folder_computes_what_its_weights_are_worth(kind: str, tmp_path: Path) -> None:
    """Logits are those of transformers with each weight worked out by numpy before it was packed."""
    network = packed.write_packed(kind, tmp_path)
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
    model = load(tmp_path)
    (given,) = compute(model.session, Part(token_ids=IDS, blocks=range(3)))
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-3)
    assert re.fullmatch(r"(GPTQ|AWQ|COMPRESSED-TENSORS), 4 bits", model.description.weight_format)
    assert model.description.parameters == sum(each.numel() for each in network.parameters())


def test_weights_stay_packed_and_are_counted_so(tmp_path: Path) -> None:
    """What is measured are the bytes that are held: words, scales and zero points, and no weight beside them."""
    packed.write_packed("gptq_order", tmp_path)
    backend, request = TorchBackend(), ask(tmp_path)
    need = backend.measure(request)
    session: Any = backend.load(request, lambda _: None).session
    network = session._network
    found = [module for module in network.modules() if isinstance(module, PackedLinear)]
    assert len(found) == 3 * 7
    held = sum(each.nbytes for each in network.parameters())
    held += sum(each.nbytes for module in found for each in module.buffers())
    assert need.weights_bytes == held
    assert not [module for module in network.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    assert type(network).__name__ == "Qwen2ForCausalLM"


@pytest.mark.parametrize(("kind", "name"), [("gptq", "qwen2"), ("gptq_order", "llama"), ("compressed_zeros", "qwen2")])
def test_a_fused_network_has_its_packed_products_merged(kind: str, name: str, tmp_path: Path) -> None:
    """Queries, keys and values are one packed product, held once, and the network still computes what it did."""
    packed.write_packed(kind, tmp_path, name)
    session: Any = load(tmp_path).session
    network = session._network
    part = Part(token_ids=IDS, blocks=range(3))
    (before,) = compute(session, part)
    session._fused = fuse(network, windows=dict.fromkeys(range(3)), context_tokens=128, steps=TorchSteps)
    attention = network.model.layers[1].self_attn
    stored = {getattr(attention, f"{name}_proj").words.untyped_storage().data_ptr() for name in "qkv"}
    assert len(stored) == 1
    (fused,) = compute(session, part)
    np.testing.assert_allclose(fused, before, rtol=0, atol=1e-3)
    session._fused = None
    np.testing.assert_allclose(compute(session, part)[0], before, rtol=0, atol=1e-5)


def test_products_whose_inputs_differ_in_order_are_not_merged(tmp_path: Path) -> None:
    """Where each of three products has an order of its own, they are computed one after the other."""
    packed.write_packed("gptq_order", tmp_path, "llama")
    session: Any = load(tmp_path).session
    part = Part(token_ids=IDS, blocks=range(3))
    key = session._network.model.layers[0].self_attn.k_proj
    order = torch.arange(len(key.order)).flip(0).int()
    numbers = unpack_runs(key.words)[:, : len(order)]
    back = torch.argsort(key.order)
    key.group, key.scales = 0, key.scales[:, :1].contiguous()
    key.zeros = key.zeros[:, :1].contiguous()
    key.words, key.order = pack_runs(numbers[:, back][:, order.long()]), order
    (before,) = compute(session, part)
    session._fused = fuse(session._network, windows=dict.fromkeys(range(3)), context_tokens=128, steps=TorchSteps)
    np.testing.assert_allclose(compute(session, part)[0], before, rtol=0, atol=1e-3)


def test_our_words_are_read_back() -> None:
    """Numbers come back from words as they went in, with zeros up to a whole width."""
    numbers = torch.randint(0, 16, (3, 300), dtype=torch.uint8)
    words = pack_runs(numbers)
    assert words.shape == (3, 2 * WIDTH // PLACES)
    back = unpack_runs(words)
    assert torch.equal(back[:, :300], numbers)
    assert not back[:, 300:].any()


def say(**values: Any) -> Callable[[Path], None]:
    """Have `quantization_config` say something else."""

    def change(folder: Path) -> None:
        told = json.loads((folder / "config.json").read_text())["quantization_config"]
        packed.change_config(folder, quantization_config=told | values)

    return change


def say_of_weights(**values: Any) -> Callable[[Path], None]:
    """The same of the weights of compressed-tensors."""

    def change(folder: Path) -> None:
        told = json.loads((folder / "config.json").read_text())["quantization_config"]
        told["config_groups"]["group_0"]["weights"] |= values
        packed.change_config(folder, quantization_config=told)

    return change


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Have the file hold something else."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file  # noqa: PLC0415 - as above

        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return write


PLACE = "model.layers.1.mlp.up_proj"
REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "8 bits": ("gptq", say(bits=8), r"bits is 8; supported: 4"),
    "another form": ("gptq", say(checkpoint_format="marlin"), r"checkpoint_format is 'marlin'; supported: 'gptq'"),
    "by module": ("gptq", say(dynamic={"-:x": {}}), r"dynamic is \{'-:x': \{\}\}, which is not supported"),
    "unknown": ("gptq", say(rotation="hadamard"), r"rotation is 'hadamard', which is not supported"),
    "odd groups": ("gptq", say(group_size=48), r"groups have 48 numbers; supported are 32, 64, 128, multiples of 256"),
    "no group": ("gptq", say(group_size=None), r"group_size is None; it must be a whole number above 0, or -1"),
    "gemv": ("awq", say(version="gemv"), r"version is 'gemv'; supported: 'gemm'"),
    "no zeros": ("awq", say(zero_point=False), r"zero_point is False; supported: True"),
    "another method": ("awq", say(quant_method="bitsandbytes"), r"quantization_config 'bitsandbytes' is not supported"),
    "floats": ("compressed", say_of_weights(type="float"), r"group_0: type is 'float'; supported: 'int'"),
    "tensors": ("compressed", say_of_weights(strategy="tensor"), r"strategy is 'tensor'; supported: 'group', 'chann"),
    "blocks": ("compressed", say_of_weights(block_structure=[1, 2]), r"block_structure is \[1, 2\]"),
    "another format": ("compressed", say(format="marlin-24"), r"format is 'marlin-24'; supported: 'pack-quantized'"),
    "keys": ("compressed", say(kv_cache_scheme={"num_bits": 8}), r"kv_cache_scheme is \{'num_bits': 8\}"),
    "sparse": ("compressed", say(sparsity_config={"format": "sparse-24"}), r"sparsity_config is .*sparse-24"),
    "transformed": ("compressed", say(transform_config={"x": 1}), r"transform_config is \{'x': 1\}"),
    "no scales": (
        "gptq",
        change_weights(lambda w: w.pop(f"{PLACE}.scales")),
        rf"{PLACE}.scales is missing, which belongs to a weight of 4 bits",
    ),
    "other scales": (
        "gptq",
        change_weights(lambda w: w.update({f"{PLACE}.scales": w[f"{PLACE}.scales"][:1].clone()})),
        rf"{PLACE}.scales has the shape \(1, 96\); it must be \(2, 96\)",
    ),
    "other zeros": (
        "gptq",
        change_weights(lambda w: w.update({f"{PLACE}.qzeros": w[f"{PLACE}.qzeros"].reshape(-1, 2).contiguous()})),
        rf"{PLACE}.qzeros has the shape \(12, 2\); it must be \(2, 12\)",
    ),
    "no words": ("compressed", say_of_weights(strategy=["group"]), r"strategy is \['group'\]; supported: 'group'"),
    "no name": ("gptq", say(quant_method=["gptq"]), r"quantization_config \['gptq'\] is not supported"),
    "no object": ("compressed", say(config_groups={"g": 5}), r"quantization_config: g is 5; it must be an object"),
    "no weights": (
        "compressed",
        say(config_groups={"g": {"weights": "int4"}}),
        r"g: weights is 'int4'; it must be an object",
    ),
    "no sparsity": ("compressed", say(sparsity_config="x"), r"sparsity_config is 'x'; it must be an object"),
    "in secret": (
        "gptq",
        change_weights(lambda w: w.update({f"{PLACE}.g_idx": w[f"{PLACE}.g_idx"].flip(0)})),
        rf"{PLACE}.g_idx groups inputs in another order than theirs, and config.json does not say so",
    ),
    "uneven": (
        "gptq_order",
        change_weights(lambda w: w.update({f"{PLACE}.g_idx": torch.zeros_like(w[f"{PLACE}.g_idx"])})),
        rf"{PLACE}.g_idx has groups of other sizes than 32",
    ),
    "nothing packed": (
        "gptq",
        change_weights(lambda w: [w.pop(name) for name in list(w) if "qweight" in name]),
        r"config.json says 'gptq', and no weight is named ….qweight",
    ),
    "of others": (
        "gptq",
        change_weights(lambda w: w.update({"model.embed_tokens.qweight": w.pop(f"{PLACE}.qweight")})),
        r"model.embed_tokens.scales is missing",
    ),
    "other sizes": (
        "gptq",
        lambda folder: packed.change_config(folder, intermediate_size=128),
        r"is stored with 96 inputs and 64 outputs, and config.json says 128 and 64",
    ),
    "more of them": (
        "gptq",
        change_weights(lambda w: w.update({"model.layers.0.self_attn.k_scale": torch.ones(1)})),
        r"1 weights are scales or zero points that the network does not have, for example model.layers.0.self_attn.k_s",
    ),
}


@pytest.mark.parametrize("size", [256, 1 << 30, 1 << 70])
def test_groups_beyond_a_row_take_no_memory(size: int, tmp_path: Path) -> None:
    """A folder whose groups are larger than any row computes what whole rows do, and needs what they need."""
    packed.write_packed("gptq", tmp_path)

    def merge(weights: dict[str, torch.Tensor]) -> None:
        for name, each in weights.items():
            if name.endswith((".scales", ".qzeros")):
                weights[name] = each[:1].clone()
            elif name.endswith(".g_idx"):
                weights[name] = torch.zeros_like(each)

    change_weights(merge)(tmp_path)
    found = []
    for told in (-1, size):
        say(group_size=told)(tmp_path)
        (given,) = compute(load(tmp_path).session, Part(token_ids=IDS, blocks=range(3)))
        found.append((TorchBackend().measure(ask(tmp_path)), given.tolist()))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_packed_otherwise_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """A folder that says or holds something else than is served is refused with what it is."""
    kind, change, words = REFUSED[name]
    packed.write_packed(kind, tmp_path)
    change(tmp_path)
    with pytest.raises(LoadError, match=words):
        load(tmp_path)


def test_packed_weights_are_not_divided(tmp_path: Path) -> None:
    """Over several ranks they are refused, with what to do."""
    packed.write_packed("awq", tmp_path)
    request = ask(tmp_path, ranks="2")
    request = LoadRequest(
        path=tmp_path, device="cpu:0", settings=request.settings, capacity_bytes=4 << 30, ranks=("cpu:0", "cpu:0")
    )
    with pytest.raises(LoadError, match=r"weights of 4 bits \(awq\) are not divided among 2 ranks: leave out"):
        TorchBackend().measure(request)
