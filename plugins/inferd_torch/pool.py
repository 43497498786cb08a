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

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, over all layers."""
        return sum(each[0].nbytes for layer in self.layers for each in layer)

    def read(self, block: int) -> Tensor:
        """The bytes of a block, on the host: those of keys, then those of values, layer by layer.

        Raises:
            ValueError: It is outside the pool.
        """
        return torch.cat(self._bytes_of(block)).cpu()

    def write(self, block: int, data: bytes) -> None:
        """Have a block hold the bytes of another.

        Raises:
            ValueError: It is outside the pool, or there are not as many bytes as it has. Nothing has changed.
        """
        parts = self._bytes_of(block)
        if len(data) != self.block_bytes:
            raise ValueError(f"block {block} has {self.block_bytes} bytes, and {len(data)} were given")
        given = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(parts[0].device)
        begin = 0
        for part in parts:
            part.copy_(given[begin : begin + part.nbytes])
            begin += part.nbytes

    def _bytes_of(self, block: int) -> list[Tensor]:
        """Keys and values of a block, layer by layer, as bytes where they are."""
        if not 0 <= block < self.blocks:
            raise ValueError(f"bad block: {block}; it must be from 0 to {self.blocks - 1}")
        return [each[block].reshape(-1).view(torch.uint8) for layer in self.layers for each in layer]

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
