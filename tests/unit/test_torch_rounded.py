"""Weights that are rounded to fp8 when they are read: what is computed with, and what it takes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import packed_folders as packed
import tiny_networks as tiny
import torch

from inferd.plugin import LoadedModel, LoadError, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_torch.backend import TorchBackend
from inferd_torch.fused import TorchSteps, fuse
from inferd_torch.packed.rounded import LARGEST, NarrowProduct, RoundedLinear, multiply_wide, round_rows
from inferd_torch.plugin import SPEC

IDS = list(range(30, 75))
CODES = np.arange(128)
# What a byte of e4m3 stands for, by its definition: 4 bits of exponent, 3 of fraction, none infinite.
VALUES = np.where(CODES < 8, CODES % 8 * 2.0**-9, (1 + CODES % 8 / 8) * 2.0 ** (CODES // 8 - 7))[:-1]


def ask(path: Path, **settings: str) -> LoadRequest:
    chosen = read_settings(SPEC, {"kv_tokens": "128", "weights": "fp8", **settings})
    return LoadRequest(path=path, device="cpu:0", settings=chosen, capacity_bytes=4 << 30)


def load(path: Path, **settings: str) -> LoadedModel:
    return TorchBackend().load(ask(path, **settings), lambda _: None)


def rounded(weights: Any) -> Any:
    """By numpy: each row by its largest number, to the nearest of `VALUES`."""
    scales = np.abs(weights).max(axis=1, keepdims=True) / np.float32(LARGEST)
    own = weights / scales
    nearest = VALUES[np.abs(np.abs(own)[..., None] - VALUES).argmin(axis=-1)]
    return np.sign(own) * nearest * scales


def test_layers_compute_with_rounded_weights(tmp_path: Path) -> None:
    """Logits are those of transformers with weights that numpy rounded; what makes logits is as it is stored."""
    network = tiny.write_network("qwen2", tmp_path)
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(rounded(module.weight.numpy())))
    with torch.inference_mode():
        expected = network(input_ids=torch.tensor([IDS])).logits[0].numpy()
    model = load(tmp_path)
    part = Part(token_ids=IDS, blocks=range(3))
    (given,) = compute(model.session, part)
    np.testing.assert_allclose(given, expected, rtol=0, atol=0.05 * np.abs(expected).max())
    assert np.median(np.abs(given - expected)) < 2e-3  # a number between two may be rounded either way
    assert model.description.compute_format == "FLOAT32 with weights of fp8"
    session: Any = model.session
    session._fused = fuse(session._network, windows=dict.fromkeys(range(3)), context_tokens=128, steps=TorchSteps)
    np.testing.assert_allclose(compute(session, part)[0], given, rtol=0, atol=1e-3)
    attention = session._network.model.layers[1].self_attn
    assert len({getattr(attention, f"{n}_proj").numbers.untyped_storage().data_ptr() for n in "qkv"}) == 1


def test_rounded_weights_are_counted_with_a_byte_each(tmp_path: Path) -> None:
    """What is measured are the bytes that are held, a quarter of float32 and a scale for each output."""
    tiny.write_network("llama", tmp_path)
    backend, request = TorchBackend(), ask(tmp_path)
    need = backend.measure(request)
    network = backend.load(request, lambda _: None).session._network  # type: ignore[union-attr]
    found = [module for module in network.modules() if isinstance(module, RoundedLinear)]
    assert len(found) == 3 * 7
    own = sum(module.out_features * (module.in_features + 4) for module in found)
    assert need.weights_bytes == own + sum(each.nbytes for each in network.parameters())


def test_products_of_rounded_rows() -> None:
    """Rows rounded by their largest numbers give torch's product what numpy gives, in bfloat16 and with a bias."""
    torch.manual_seed(1)
    rows, weights, bias = torch.randn(5, 64).bfloat16(), torch.randn(32, 64), torch.randn(32).bfloat16()
    numbers, scales = round_rows(weights)
    given = NarrowProduct()(rows, numbers, scales[:, 0], bias)
    expected = rounded(rows.float().numpy()) @ rounded(weights.numpy()).T + bias.float().numpy()
    assert given.dtype == torch.bfloat16
    np.testing.assert_allclose(given.float(), expected, rtol=0, atol=0.01 * np.abs(expected).max())
    odd = NarrowProduct()(rows[:, :63], numbers[:, :63], scales[:, 0], bias)
    torch.testing.assert_close(odd, multiply_wide(rows[:, :63], numbers[:, :63], scales[:, 0], bias))


def test_a_row_of_zeros_and_a_row_of_large_numbers_stay_finite() -> None:
    """Neither divides by zero nor becomes what is no number."""
    numbers, scales = round_rows(torch.tensor([[0.0, 0.0], [3e38, -3e38]]))
    assert torch.isfinite(numbers.float()).all()
    assert torch.isfinite(scales).all()
    assert numbers[1].float().tolist() == [LARGEST, -LARGEST]


def test_what_is_not_rounded_is_refused(tmp_path: Path) -> None:
    """Weights of 4 bits, GGUF files and several ranks are refused, each with the reason."""
    import tiny_models  # noqa: PLC0415 - beside those of networks

    packed.write_packed("awq", tmp_path)
    with pytest.raises(LoadError, match=r"'weights' is 'fp8', which rounds plain weights of folders; these .*4 bits"):
        load(tmp_path)
    file = tiny_models.write_model(tiny_models.MODELS["llama"], tmp_path / "llama.gguf")
    with pytest.raises(LoadError, match=r"'weights' is 'fp8', .*these are of a GGUF file: leave it out"):
        load(file)
    tiny.write_network("llama", tmp_path)
    settings = ask(tmp_path, ranks="2").settings
    request = LoadRequest(
        path=tmp_path, device="cpu:0", settings=settings, capacity_bytes=4 << 30, ranks=("cpu:0", "cpu:0")
    )
    with pytest.raises(LoadError, match=r"weights of 8 bits \(setting 'weights'\) are not divided among 2 ranks"):
        TorchBackend().measure(request)
