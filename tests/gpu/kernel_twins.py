"""Each Triton kernel beside the torch that states it: the largest difference, a line for each case.

python tests/gpu/kernel_twins.py cuda            (every type of number)
TRITON_INTERPRET=1 python tests/gpu/kernel_twins.py cpu
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inferd_torch import draw_kernels, fused_kernels, paged_decode, paged_prefill, sampling, spans, split
from inferd_torch.fused import Rotation, TorchSteps
from inferd_torch.packed import kernels, layouts, linear, rounded_kernels
from inferd_torch.packed import rounded as narrow
from inferd_torch.scoring import Scoring

SMALL = ((6, 2, 24, 40, 8),)  # heads, shared, width, width of values, block
LARGE = ((32, 8, 128, 128, 16), (4, 4, 80, 80, 16))
BLOCKS = 14  # of each sequence


def make_pool(shape: tuple[int, ...], device: str, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values, and block tables of four sequences."""
    _, shared, width, value_width, block_tokens = shape
    keys, values = (
        torch.randn(4 * BLOCKS, block_tokens, shared, n, device=device).to(kind) for n in (width, value_width)
    )
    return keys, values, torch.randperm(4 * BLOCKS).reshape(4, BLOCKS).int().to(device)


def scorings(heads: int, width: int, device: str) -> Iterator[Scoring]:
    """Plain, and with all that there is."""
    plain = Scoring(scaling=width**-0.5)
    yield plain
    yield replace(plain, window=33, softcap=2.0, sinks=torch.linspace(-1, 3, heads, device=device))


def decode(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Single rows, in parts."""
    for shape in shapes:
        heads, _, width, _, block_tokens = shape
        keys, values, tables = make_pool(shape, device, kind)
        queries = torch.randn(4, heads, width, device=device).to(kind)
        lengths = torch.tensor([1, 63, 65, BLOCKS * block_tokens], dtype=torch.int32, device=device)
        for scoring in scorings(heads, width, device):
            for parts in (1, 5) if scoring.plain else (3,):
                given = paged_decode.attend_parts(queries, keys, values, tables, lengths, scoring=scoring, parts=parts)
                whole = paged_decode.combine(*given, scoring.sinks, dtype=torch.float32)
                stated = split.attend_parts(queries, keys, values, tables, lengths, scoring=scoring, parts=parts)
                yield far(whole, split.combine(*stated, scoring.sinks))


def prefill(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Spans: a whole prompt, a chunk in the middle, two rows."""
    for shape in shapes:
        heads, _, width, _, block_tokens = shape
        keys, values, tables = make_pool(shape, device, kind)
        lengths = np.array([spans.ROWS + 21, BLOCKS * block_tokens, 2])
        counts = np.array([spans.ROWS + 21, 40, 2])
        tiles = spans.cut_spans(np.cumsum(counts) - counts, counts, lengths)
        tiles = np.concatenate((tiles, np.zeros((2, spans.FIELDS), np.int32)))  # none, as where a step is filled up
        at = spans.Spans(tiles=torch.from_numpy(tiles).to(device), tables=tables)
        queries = torch.randn(int(counts.sum()), heads, width, device=device).to(kind)
        for scoring in scorings(heads, width, device):
            given = paged_prefill.PagedPrefill()(queries, keys, values, at, scoring=scoring)
            yield far(given, spans.attend_spans(queries, keys, values, at, scoring=scoring))


def norm(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """With something to add, and without."""
    del shapes
    for width in (64, 576, 4096):
        hidden, added, weight = (torch.randn(n, width, device=device).to(kind) for n in (3, 3, 1))
        for more in (None, added):
            both = [
                (own, steps.norm(own, more, weight[0], 1e-5))
                for steps, own in ((fused_kernels.TritonSteps(), hidden.clone()), (TorchSteps(), hidden.clone()))
            ]
            yield max(far(*pair) for pair in zip(*both, strict=True))


def rotate(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """With norms of heads, and without."""
    for heads, shared, width, _, block_tokens in shapes:
        projected = torch.randn(3, (heads + 2 * shared) * width, device=device).to(kind)
        tables = [torch.randn(40, width // 2, device=device) for _ in range(2)]
        norms = [torch.randn(width, device=device).to(kind) for _ in range(2)]
        for query_norm, key_norm in ((None, None), norms):
            rotation = Rotation(
                heads=heads,
                shared=shared,
                width=width,
                cosines=tables[0],
                sines=tables[1],
                slots=torch.tensor([9, 0, 21], device=device),
                positions=torch.tensor([39, 0, 7], device=device),
                query_norm=query_norm,
                key_norm=key_norm,
                epsilon=1e-6,
            )
            both = []
            for steps in (fused_kernels.TritonSteps(), TorchSteps()):
                pools = [torch.zeros(3, block_tokens, shared, width, device=device, dtype=kind) for _ in range(2)]
                both.append((steps.rotate(projected, rotation, *pools), *pools))
            yield max(far(*pair) for pair in zip(*both, strict=True))


def gate(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Wider than a program, and narrower."""
    del shapes
    for width in (96, 1500):
        projected = torch.randn(3, 2 * width, device=device).to(kind)
        yield far(fused_kernels.TritonSteps().gate(projected), TorchSteps().gate(projected))


def packed(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Products with weights of 4 bits: few rows in parts and whole, more rows, small groups and whole rows."""
    inputs, outputs = (300, 70) if shapes is SMALL else (1100, 200)
    numbers = torch.randint(0, 16, (outputs, inputs), dtype=torch.uint8)
    words = layouts.pack_runs(numbers).to(device)
    for group, rows, parts in ((32, 3, 2), (128, 17, 1), (0, 3, 1), (64, 70, 1)):
        groups = -(-inputs // group) if group else 1
        scales = torch.rand(outputs, groups).half().to(device)
        zeros = torch.randint(0, 16, (outputs, groups), dtype=torch.uint8).to(device) if group == 32 else None
        bias = torch.randn(outputs, device=device).to(kind) if rows == 3 else None
        own = torch.randn(rows, inputs, device=device).to(kind)
        given = kernels.multiply(own, words, scales, zeros, bias, group=group, parts=parts)
        yield far(given, linear.multiply(own, words, scales, zeros, bias, group=group))


def rounded(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Products with weights of fp8, whole and in parts."""
    inputs, outputs = (300, 70) if shapes is SMALL else (1100, 200)
    numbers, scales = (each.to(device) for each in narrow.round_rows(torch.randn(outputs, inputs)))
    for rows, parts in ((3, 2), (17, 1), (3, 1), (70, 1)):
        bias = torch.randn(outputs, device=device).to(kind) if rows == 3 else None
        own = torch.randn(rows, inputs, device=device).to(kind)
        given = rounded_kernels.multiply(own, numbers, scales[:, 0], bias, parts=parts)
        yield far(given, narrow.multiply_wide(own, numbers, scales[:, 0], bias))


def draw(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Tokens of rows that ask for everything, among equal logits and rows that are not finite: part of other ones."""
    draws, size = (2, 700) if shapes is SMALL else (20, 128256)
    block, draw_kernels.BLOCK = draw_kernels.BLOCK, 256 if shapes is SMALL else draw_kernels.BLOCK
    generator = np.random.default_rng(11)
    others = 0.0
    for number in range(draws):
        logits = torch.from_numpy(generator.normal(0, 3, (12, size)).astype(np.float32)).to(device)
        logits = ((2 * logits).round() / 2 if number % 2 else logits).to(kind)
        logits[0, 3], logits[1, 5], logits[2], logits[3, 8:] = float("nan"), float("inf"), float("-inf"), float("-inf")
        choices = ([0, 0.7, 1, 1.5], [0, 0, 5, 40, size - 1], [1, 1, 0.9, 0.5, 0.01], [0, 0, 0.05, 0.3])
        columns = [*(generator.choice(some, 12) for some in choices), generator.uniform(0, 1, 12)]
        table = torch.from_numpy(np.stack(columns).astype(np.float64)).to(device)
        both = []
        for how in (draw_kernels.draw, sampling.draw_sorted):
            both.append(torch.empty(12, dtype=torch.int64, device=device))
            how(logits, table, both[-1])
        others += float((both[0] != both[1]).double().mean()) / draws
    draw_kernels.BLOCK = block
    yield others


def rounds(device: str, kind: torch.dtype, shapes: tuple[Any, ...]) -> Iterator[float]:
    """Rows rounded to fp8; none has a number that lies between two of that kind, which may be rounded either way."""
    del shapes
    if device != "cpu" and torch.cuda.get_device_capability(device)[0] < narrow.CAPABILITY:
        yield 0.0
        return
    own = (torch.randint(-8, 9, (3, 300), device=device) * 0.25).to(kind)
    own[:, 0], own[2] = 7.0, 0.0
    both = [each(own) for each in (rounded_kernels.round_rows, narrow.round_rows)]
    yield max(far(*pair) for pair in zip(*both, strict=True))


def far(given: Tensor, stated: Tensor) -> float:
    """The largest difference, as a part of the largest number; infinite where one is NaN."""
    given, stated = given.float(), stated.float()
    if not torch.isfinite(given).all():
        return float("inf")
    return float((given - stated).abs().max() / stated.abs().max().clamp(min=1e-6))


def compare(device: str, kinds: tuple[torch.dtype, ...], shapes: tuple[Any, ...]) -> Iterator[tuple[str, str, float]]:
    """The name of each kernel, the type of its numbers, and the largest difference of all cases."""
    torch.manual_seed(0)
    for cases in (decode, prefill, norm, rotate, gate, packed, rounded, rounds, draw):
        for kind in kinds:
            yield cases.__name__, str(kind).removeprefix("torch."), max(cases(device, kind, shapes))


def mend_interpreter() -> None:
    """Have Triton's interpreter take arrays of one number as numbers, which numpy does no longer."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = mended


if __name__ == "__main__":
    where = sys.argv[1]
    if where == "cpu":
        mend_interpreter()
    some = (torch.float32,) if where == "cpu" else (torch.float32, torch.bfloat16)
    for name, kind, difference in compare(where, some, SMALL if where == "cpu" else LARGE):
        print(name, difference, kind)
