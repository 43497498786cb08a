"""Weights of real files in the native library, k-quants with small scales among them."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import rescaled
from native_products import LIBRARY, SETS, W4M, W8, Tensor, decode, is_missing, multiply
from numpy.typing import NDArray

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC
from inferd_weights.gguf import GgufFile
from inferd_weights.quants import FORMATS

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built: make native"),
]
SETS_HERE = [name for name in SETS if LIBRARY.exists() and not is_missing(name)]
SAMPLE = 1 << 15  # numbers of each tensor
LAYERS = 8  # of 30 with small scales: each k-quant has one or two
PROMPT = [504, 3575, 282, 4649, 314]  # The capital of France is


def test_a_real_file_is_unpacked_bit_by_bit(gemma3: Path) -> None:
    """Of every tensor of a published Q4_K_M file both decoders give the bits of the reference decoder."""
    file, subnormal = GgufFile(gemma3), 0
    for tensor in file.tensors.values():
        number = next(number for number, form in FORMATS.items() if form is tensor.format)
        raw = file.blocks(tensor)[: SAMPLE // tensor.format.block_elements]
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number)).reshape(-1).view(np.uint32)
        assert np.array_equal(tensor.format.decode(raw).reshape(-1).view(np.uint32), expected)
        assert np.array_equal(decode(number, raw).view(np.uint32), expected)
        if tensor.format.name == "Q6_K":
            subnormal += int((np.ascontiguousarray(raw[:, 209]) & 0x7C < 4).sum())
    assert subnormal > 1000  # of block scales: the file is one of those that this is about


@pytest.mark.parametrize("isa", SETS_HERE)
def test_a_real_file_is_packed_and_multiplied(isa: str, gemma3: Path) -> None:
    """The first rows of a layer's matrices give the products of the reference decoder's numbers."""
    file = GgufFile(gemma3)
    seen = set()
    for name in ("attn_q", "attn_v", "ffn_down", "ffn_up"):
        for layer in (0, 9, 17):
            tensor = file.tensors[f"blk.{layer}.{name}.weight"]
            number = next(number for number, form in FORMATS.items() if form is tensor.format)
            seen.add(tensor.format.name)
            k = tensor.shape[1]
            raw = file.blocks(tensor).reshape(len(file.blocks(tensor)) * tensor.format.block_elements // k, -1)[:32]
            expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number)).astype(np.float64)
            rows = Tensor(number, np.ascontiguousarray(raw), k, 32, np.empty(0, np.int32))
            x = np.random.default_rng(layer).normal(0, 1, (5, k)).astype(np.float32)
            products, _ = multiply(isa, W4M if tensor.format.name == "Q4_K" else W8, rows, x)
            wanted = x @ expected.T
            assert np.sqrt(np.mean((products - wanted) ** 2)) < 0.015 * wanted.std()
    assert {"Q4_K", "Q6_K"} <= seen


@pytest.fixture(scope="module")
def rescaled_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rescaled.rescale_feed_forward(
        smollm2, tmp_path_factory.mktemp("rescaled") / "rescaled.gguf", factor=8, layers=LAYERS
    )


@pytest.fixture(scope="module")
def expected(rescaled_model: Path) -> NDArray[np.float32]:
    return run(rescaled_model, compute="exact")


def run(path: Path, **settings: str) -> NDArray[np.float32]:
    """Logits behind each token of the prompt."""
    sizes = {"kv_tokens": "64", "max_step_tokens": "64", "context_tokens": "64", "max_sequences": "1"}
    chosen: dict[str, Any] = read_settings(SPEC, sizes | settings)
    request = LoadRequest(path=path, device="cpu:0", settings=chosen, capacity_bytes=4 << 30)
    session = CpuBackend().load(request, lambda _: None).session
    (logits,) = compute(session, Part(token_ids=PROMPT, blocks=range(4)))
    found = np.array(logits)
    session.close()
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("isa", SETS_HERE)
def test_small_scales_change_no_answer(isa: str, rescaled_model: Path, expected: NDArray[np.float32]) -> None:
    """A model that is the same function with small scales in every k-quant answers natively as it does in fp32."""
    logits = run(rescaled_model, compute="native", isa=isa)
    assert np.sqrt(np.mean((logits - expected) ** 2)) < 0.15 * expected.std()
    words = GgufFile(rescaled_model).metadata.texts("tokenizer.ggml.tokens")
    assert [words[row[-1].argmax()][1:] for row in (logits, expected)] == ["Paris", "Paris"]
