"""A linear module of weights of 4 bits, and its product in torch."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from inferd_torch.packed.layouts import PLACES, WIDTH, unpack_runs
from inferd_torch.packed.rounded import RoundedLinear

MIDDLE = 8  # the zero point where none are stored
UNPACKED = 1 << 22  # numbers that are unpacked at a time: beside the weights they take 9 bytes each


class Multiply(Protocol):
    """A product with packed weights."""

    def __call__(  # noqa: D102 - said above
        self,
        inputs: Tensor,
        words: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bias: Tensor | None,
        *,
        group: int,
    ) -> Tensor: ...


def multiply(
    inputs: Tensor, words: Tensor, scales: Tensor, zeros: Tensor | None, bias: Tensor | None, *, group: int
) -> Tensor:
    """The product of rows with packed weights.

    A weight is its number less its zero point, times its scale, in float32, and rounded to the type of `inputs`.

    Args:
        inputs: Shape (T, K).
        words: As `layouts.py` has them, shape (N, K / 8), with K up to a whole `WIDTH`.
        scales: Shape (N, G).
        zeros: Zero points, shape (N, G), uint8; None where they are all `MIDDLE`.
        bias: Shape (N,), or None.
        group: Inputs that share a scale; 0 for all.

    Returns:
        Shape (T, N), of the type of `inputs`.
    """
    width, rows = inputs.shape[1], max(1, UNPACKED // (PLACES * words.shape[1]))
    given = []
    for first in range(0, len(words), rows):
        some = slice(first, first + rows)
        numbers = unpack_runs(words[some])[:, :width].float()
        size = group or width
        points = MIDDLE if zeros is None else _spread(zeros[some].float(), size, width)
        weights = numbers.sub_(points).mul_(_spread(scales[some].float(), size, width))
        given.append(linear(inputs, weights.to(inputs.dtype), None if bias is None else bias[some]))
    return torch.cat(given, dim=1)


def _spread(groups: Tensor, size: int, width: int) -> Tensor:
    """What belongs to groups, for each of their inputs."""
    return groups.repeat_interleave(size, dim=1)[:, :width]


class PackedLinear(nn.Module):
    """Takes the place of `torch.nn.Linear`.

    Args:
        inputs: Numbers that come in.
        outputs: Numbers that go out.
        group: Inputs that share a scale; 0 for all.
        zeros: Whether there are zero points.
        ordered: Whether inputs are taken in an order of their own.
        scales: The type of the scales.
        bias: What is added, or None; a parameter like those of other modules.

    Attributes:
        words: See `multiply`; `scales`, `zeros` as well.
        order: Which input comes when, shape (K,), int32; None for theirs.
        product: What computes it; the session of a device puts its own there.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        group: int,
        zeros: bool,
        ordered: bool,
        scales: torch.dtype,
        bias: nn.Parameter | None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.group = inputs, outputs, group
        groups = -(-inputs // group) if group else 1
        self.words: Tensor
        self.scales: Tensor
        self.zeros: Tensor | None
        self.order: Tensor | None
        self.register_buffer("words", torch.empty((outputs, -(-inputs // WIDTH) * WIDTH // PLACES), dtype=torch.int32))
        self.register_buffer("scales", torch.empty((outputs, groups), dtype=scales))
        self.register_buffer("zeros", torch.empty((outputs, groups), dtype=torch.uint8) if zeros else None)
        self.register_buffer("order", torch.empty(inputs, dtype=torch.int32) if ordered else None)
        self.bias = bias
        self.product: Multiply = multiply

    def forward(self, inputs: Tensor) -> Tensor:
        """The product, shape (…, K) -> (…, N)."""
        rows = inputs.reshape(-1, self.in_features)
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        given = self.product(rows, self.words, self.scales, self.zeros, self.bias, group=self.group)
        return given.view(*inputs.shape[:-1], self.out_features)


def merge_packed(products: Sequence[PackedLinear]) -> PackedLinear | None:
    """Several with the same inputs as one, of whose weights theirs are parts from now on; None where that cannot be."""
    first = products[0]
    if len({(each.group, each.zeros is None, each.bias is None, each.scales.dtype) for each in products}) > 1:
        return None
    orders = [each.order for each in products]
    for order in orders[1:]:
        if (order is None) != (first.order is None) or not (
            order is None or first.order is None or torch.equal(order, first.order)
        ):
            return None
    sizes = [each.out_features for each in products]
    with torch.device("meta"):
        whole = PackedLinear(
            first.in_features,
            sum(sizes),
            group=first.group,
            zeros=first.zeros is not None,
            ordered=first.order is not None,
            scales=first.scales.dtype,
            bias=None,
        )
    whole.order, whole.product = first.order, first.product
    for name in ("words", "scales", "zeros"):
        parts = [getattr(each, name) for each in products]
        if parts[0] is None:
            continue
        merged = torch.cat(parts)
        setattr(whole, name, merged)
        for each, part in zip(products, torch.split(merged, sizes), strict=True):
            setattr(each, name, part)
    if first.bias is not None:
        bias = torch.cat([each.bias.data for each in products if each.bias is not None])
        whole.bias = nn.Parameter(bias, requires_grad=False)
    return whole


def count_bytes(network: nn.Module) -> int:
    """What the packed and rounded weights of a network take, without biases."""
    kinds = (PackedLinear, RoundedLinear)
    return sum(
        buffer.nbytes for module in network.modules() if isinstance(module, kinds) for buffer in module.buffers()
    )
