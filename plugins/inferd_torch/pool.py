"""The KV blocks of all layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Keys and values of one token in one layer: (heads, key_width) and (heads, value_width)."""

    heads: int
    key_width: int
    value_width: int

    @property
    def numbers(self) -> int:
        """How many numbers that is."""
        return self.heads * (self.key_width + self.value_width)


class Pool:
    """Preallocated blocks; for each layer keys (blocks + 1, B, G, D) and values (blocks + 1, B, G, E).

    The block behind the last belongs to nobody: rows that only fill up a recorded step write there.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        *,
        blocks: int,
        block_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.blocks = blocks
        self.block_tokens = block_tokens
        self.layers: list[tuple[Tensor, Tensor]] = [
            (
                torch.zeros((blocks + 1, block_tokens, shape.heads, shape.key_width), device=device, dtype=dtype),
                torch.zeros((blocks + 1, block_tokens, shape.heads, shape.value_width), device=device, dtype=dtype),
            )
            for shape in shapes
        ]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks, each pair from its first to its second; in order.

        Raises:
            ValueError: A block is outside the pool. Nothing has changed.
        """
        for block in (block for pair in pairs for block in pair):
            if not 0 <= block < self.blocks:
                raise ValueError(f"bad pair: block {block}; it must be from 0 to {self.blocks - 1}")
        for source, target in pairs:
            for keys, values in self.layers:
                keys[target] = keys[source]
                values[target] = values[source]
