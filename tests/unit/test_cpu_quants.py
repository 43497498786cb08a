"""Every stored format against the independent decoder of the `gguf` package."""

import gguf
import numpy as np
import pytest

from inferd_weights.quants import FORMATS, UNSUPPORTED

BLOCKS = 64


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # random bytes make NaN scales, in both decoders
@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("number", FORMATS, ids=lambda number: FORMATS[number].name)
def test_decodes_as_ggml_does(number: int) -> None:
    """Random blocks of every format become the same fp32 numbers, bit by bit, as the reference decoder makes."""
    form = FORMATS[number]
    raw = np.random.default_rng(number).integers(0, 256, (BLOCKS, form.block_bytes), dtype=np.uint8)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(number)).reshape(BLOCKS, -1)
    decoded = form.decode(raw)
    assert decoded.shape == (BLOCKS, form.block_elements)
    assert decoded.view(np.uint32).tolist() == expected.view(np.uint32).tolist()


def test_names_and_sizes_are_those_of_ggml() -> None:
    """Each number has the name and the block size that ggml gives it, whether it is supported or not."""
    for number, form in FORMATS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (form.name, form.block_elements, form.block_bytes) == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
    for number, name in UNSUPPORTED.items():
        assert name == gguf.GGMLQuantizationType(number).name
