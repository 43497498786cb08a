"""Attention in parts against plain attention, and the Triton kernel against attention in parts."""

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from inferd_torch.split import TILE, attend_parts, attend_split, part_tokens

WIDTH, VALUE_WIDTH, BLOCK_TOKENS, TABLE = 24, 40, 8, 40
LENGTHS = (1, BLOCK_TOKENS, TILE, TILE + 1, 3 * TILE - 1, TABLE * BLOCK_TOKENS)
KERNEL = """
import torch
from inferd_torch import paged_decode, split
torch.manual_seed(0)
for heads, shared, width, value_width, block_tokens, window, parts in (
    (9, 3, 64, 64, 16, None, 4), (4, 4, 24, 40, 8, None, 3), (8, 2, 16, 16, 16, 70, 5), (8, 1, 64, 64, 32, None, 1)
):
    blocks = 4 * 20
    queries = torch.randn(4, heads, width)
    keys, values = (torch.randn(blocks, block_tokens, shared, n) for n in (width, value_width))
    tables = torch.randperm(blocks).reshape(4, 20)
    lengths = torch.tensor([1, 63, 65, 20 * block_tokens])
    given = [
        attend(queries, keys, values, tables, lengths, scaling=width**-0.5, window=window, parts=parts)
        for attend in (paged_decode.attend_parts, split.attend_parts)
    ]
    for one, other in zip(*given):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
print("same")
"""


def make(lengths: tuple[int, ...], heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, a pool of keys and values, shuffled block tables, lengths."""
    torch.manual_seed(3)
    count = len(lengths)
    blocks = count * TABLE
    return (
        torch.randn(count, heads, WIDTH),
        torch.randn(blocks, BLOCK_TOKENS, shared, WIDTH),
        torch.randn(blocks, BLOCK_TOKENS, shared, VALUE_WIDTH),
        torch.randperm(blocks).reshape(count, TABLE).int(),
        torch.tensor(lengths, dtype=torch.int32),
    )


@pytest.mark.parametrize(
    ("heads", "window", "parts"), list(product([(4, 4), (6, 2), (8, 1)], [None, 5, 100], [1, 4, 7]))
)
def test_parts_make_the_whole(heads: tuple[int, int], window: int | None, parts: int) -> None:
    """Attention over parts of the keys gives what attention over all of them gives, whatever is shared or seen."""
    queries, keys, values, tables, lengths = make(LENGTHS, *heads)
    scaling = 0.3
    given = attend_split(queries, keys, values, tables, lengths, scaling=scaling, window=window, parts=parts)
    for row, length in enumerate(LENGTHS):
        first = 0 if window is None else max(0, length - window)
        own_keys, own_values = (pool[tables[row].long()].flatten(0, 1)[first:length] for pool in (keys, values))
        expected = scaled_dot_product_attention(
            queries[row][:, None],
            own_keys.transpose(0, 1),
            own_values.transpose(0, 1),
            scale=scaling,
            enable_gqa=True,
        )
        torch.testing.assert_close(given[row], expected[:, 0], rtol=0, atol=1e-5)


def test_a_part_without_keys_weighs_nothing() -> None:
    """Where a sequence is shorter than its parts, the empty ones weigh -inf and hold no NaN."""
    queries, keys, values, tables, lengths = make((1, 2 * TILE), 4, 2)
    means, weights = attend_parts(queries, keys, values, tables, lengths, scaling=1.0, window=None, parts=3)
    assert torch.isinf(weights).sum(dim=1).tolist() == [[0, 4, 4], [0, 0, 4]]
    assert torch.isfinite(means).all()


def test_parts_are_whole_tiles() -> None:
    """The parts of any number of keys are whole tiles that hold all of them, and none is needlessly large."""
    counts = torch.arange(1, 1000)
    for parts in (1, 2, 5):
        share = part_tokens(counts, parts)
        assert (share % TILE == 0).all()
        assert (share * parts >= counts).all()
        assert (share * parts < counts + TILE * parts).all()


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed: it comes with CUDA builds of torch")
def test_the_kernel_computes_the_same_parts() -> None:
    """The Triton kernel, run by Triton's interpreter on the processor, gives the parts that torch gives."""
    done = subprocess.run(
        [sys.executable, "-c", KERNEL],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.stdout.strip() == "same", done.stderr
