"""Linear modules whose weights are rounded to 8 bits when they are read: fp8 e4m3, with a scale for each output.

Where a device multiplies such numbers (arXiv:2209.05433), rows are rounded as well, each by its largest number, and the
product is that of torch; elsewhere weights alone are, and products widen them as they read.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

KIND = torch.float8_e4m3fn
LARGEST = 448.0  # of that kind
LEAST = 1e-12  # a scale: of a row of zeros
WIDENED = 1 << 22  # numbers that are widened at a time: beside the weights they take 8 bytes each
MULTIPLE = 16  # of inputs and outputs, that products of rounded rows want
CAPABILITY = 9  # from which on devices have these products with scales for rows and outputs


class MultiplyRounded(Protocol):
    """A product of rows (T, K) with rounded weights (N, K) and their scales (N,) -> (T, N)."""

    def __call__(  # noqa: D102 - said above
        self, inputs: Tensor, numbers: Tensor, scales: Tensor, bias: Tensor | None
    ) -> Tensor: ...


class RoundRows(Protocol):
    """Rounds rows (T, K): their numbers in fp8, and their scales (T, 1), float32."""

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]: ...  # noqa: D102 - said above


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row by its largest number; nothing becomes infinite."""
    wide = rows.float()
    scales = (wide.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_(min=LEAST)
    return (wide / scales).clamp_(-LARGEST, LARGEST).to(KIND), scales


def multiply_wide(inputs: Tensor, numbers: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """The product with rows as they are; sums are scaled, then rounded to the type of `inputs`."""
    given, rows = [], max(1, WIDENED // numbers.shape[1])
    for first in range(0, len(numbers), rows):
        some = slice(first, first + rows)
        sums = linear(inputs, numbers[some].to(inputs.dtype)).float().mul_(scales[some])
        given.append((sums if bias is None else sums.add_(bias[some])).to(inputs.dtype))
    return torch.cat(given, dim=1)


class NarrowProduct:
    """The product with rounded rows, by torch; of numbers of inputs and outputs that it has no kernel for, by another.

    Args:
        rounds: What rounds rows.
        otherwise: The other product.
    """

    def __init__(self, rounds: RoundRows = round_rows, otherwise: MultiplyRounded = multiply_wide) -> None:
        self._rounds = rounds
        self._otherwise = otherwise

    def __call__(self, inputs: Tensor, numbers: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        """See `MultiplyRounded`."""
        if inputs.shape[1] % MULTIPLE or len(numbers) % MULTIPLE or inputs.dtype != torch.bfloat16:
            return self._otherwise(inputs, numbers, scales, bias)
        rows, factors = self._rounds(inputs)
        given: Tensor = torch._scaled_mm(  # noqa: SLF001 - what torch calls it
            rows, numbers.t(), scale_a=factors, scale_b=scales[None], bias=bias, out_dtype=inputs.dtype
        )
        return given


class RoundedLinear(nn.Module):
    """Takes the place of `torch.nn.Linear`.

    Args:
        inputs: Numbers that come in.
        outputs: Numbers that go out.
        bias: What is added, or None; a parameter like those of other modules.

    Attributes:
        numbers: Shape (N, K), fp8.
        scales: Shape (N,), float32.
        product: What computes it; the session of a device puts its own there.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.numbers: Tensor
        self.scales: Tensor
        self.register_buffer("numbers", torch.empty((outputs, inputs), dtype=KIND))
        self.register_buffer("scales", torch.empty(outputs, dtype=torch.float32))
        self.bias = bias
        self.product: MultiplyRounded = multiply_wide

    def forward(self, inputs: Tensor) -> Tensor:
        """The product, shape (…, K) -> (…, N)."""
        given = self.product(inputs.reshape(-1, self.in_features), self.numbers, self.scales, self.bias)
        return given.view(*inputs.shape[:-1], self.out_features)


def merge_rounded(products: Sequence[RoundedLinear]) -> RoundedLinear:
    """Several with the same inputs as one, of whose weights theirs are parts from now on."""
    sizes, first = [each.out_features for each in products], products[0]
    with torch.device("meta"):
        whole = RoundedLinear(first.in_features, sum(sizes), bias=None)
    whole.product = first.product
    for name in ("numbers", "scales"):
        merged = torch.cat([getattr(each, name) for each in products])
        setattr(whole, name, merged)
        for each, part in zip(products, torch.split(merged, sizes), strict=True):
            setattr(each, name, part)
    if first.bias is not None:
        bias = torch.cat([each.bias.data for each in products if each.bias is not None])
        whole.bias = nn.Parameter(bias, requires_grad=False)
    return whole
