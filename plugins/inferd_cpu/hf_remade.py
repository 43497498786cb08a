"""Tensors of a folder that do not lie there as they are wanted: in several places, turned, or packed in another way."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_weights.model_file import Tensor
from inferd_weights.quants import FORMATS, Format
from inferd_weights.safetensors import SafetensorsFiles

Bytes = NDArray[np.uint8]
_FLOAT: Final = FORMATS[0]
_MXFP4: Final = FORMATS[39]
_CODES: Final = 16  # bytes of 32 numbers of 4 bits
_EXPERTS: Final = 3  # dimensions of experts: their number, outputs, inputs


class HfRemade(SafetensorsFiles):
    """Gives each of them as its blocks, made when they are read."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self._made: dict[str, Callable[[int], Bytes]] = {}  # a share of a tensor
        self._counts: dict[str, int] = {}  # how many shares there are
        self._parts: dict[str, Sequence[Tensor]] = {}  # what is read for them
        super().__init__(path, files)

    def blocks(self, tensor: Tensor) -> Bytes:
        """The stored blocks of a tensor, shape (blocks, block bytes); a copy where they do not lie in one place."""
        made = self._made.get(tensor.name)
        if made is None:
            raw = super().blocks(tensor)
            return raw.copy() if tensor.offset % tensor.format.block_bytes else raw
        shares = [made(index) for index in range(self._counts[tensor.name])]
        whole = shares[0] if len(shares) == 1 else np.concatenate([share.reshape(-1) for share in shares])
        return whole.reshape(-1, tensor.format.block_bytes)

    def shares(self, tensor: Tensor, count: int) -> Iterator[Bytes]:
        """The stored blocks in equal shares; of experts, which lie in several places, no two are in memory at once."""
        if self._counts.get(tensor.name) != count:
            yield from super().shares(tensor, count)
            return
        for index in range(count):
            yield self._made[tensor.name](index).reshape(-1, tensor.format.block_bytes)
            if len(self._parts[tensor.name]) == count:
                super().release(self._parts[tensor.name][index])

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took."""
        if tensor.name not in self._made:
            super().release(tensor)
        for part in self._parts.get(tensor.name, ()):
            super().release(part)

    def _remake(  # noqa: PLR0917 - all of one tensor
        self,
        name: str,
        shape: tuple[int, ...],
        form: Format,
        parts: Sequence[Tensor],
        make: Callable[[int], Bytes],
        count: int = 1,
    ) -> Tensor:
        """A tensor of so many shares, each made of the parts when it is read."""
        self._made[name], self._counts[name], self._parts[name] = make, count, parts
        return Tensor(name=name, shape=shape, format=form, offset=parts[0].offset if parts else 0)

    def _keep(self, name: str, numbers: NDArray[np.float32]) -> Tensor:
        """A tensor that is in memory."""
        kept = np.ascontiguousarray(numbers, np.float32)
        return self._remake(name, kept.shape, _FLOAT, (), lambda _: kept.reshape(-1).view(np.uint8))

    def _read_stored(self, tensor: Tensor) -> Bytes:
        """The bytes of a tensor of the file, in the shape of its numbers and with those of each last."""
        return super().blocks(tensor).reshape(*tensor.shape, tensor.format.block_bytes)

    def _read_numbers(self, tensor: Tensor) -> NDArray[np.float32]:
        return tensor.format.decode(super().blocks(tensor)).reshape(tensor.shape)

    def _turn(self, name: str, tensor: Tensor) -> Tensor:
        """A matrix whose inputs come first."""
        if len(tensor.shape) != 2:  # noqa: PLR2004 - inputs and outputs
            raise self._misshapen(tensor, "inputs and outputs")
        return self._remake(
            name,
            tensor.shape[::-1],
            tensor.format,
            (tensor,),
            lambda _: np.ascontiguousarray(self._read_stored(tensor).swapaxes(0, 1)),
        )

    def _join_heads(self, name: str, tensor: Tensor, heads: int, kv_heads: int) -> Tensor:
        """Queries, keys and values one behind the other, where each head of keys has them beside its own."""
        rows = tensor.shape[0] if tensor.shape else 0
        width, rest = divmod(rows, heads + 2 * kv_heads)
        if rest or not width or heads % kv_heads:
            raise self._misshapen(tensor, f"queries of {heads} heads, keys and values of {kv_heads}")
        queries = heads // kv_heads

        def make(_: int) -> Bytes:
            each = self._read_stored(tensor).reshape(kv_heads, queries + 2, width, -1)
            parts = (each[:, :queries], each[:, queries], each[:, queries + 1])
            return np.concatenate([part.reshape(-1) for part in parts])

        return self._remake(name, (rows, *tensor.shape[1:]), tensor.format, (tensor,), make)

    def _split_rows(self, tensor: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Matrices that are stored one below the other; of experts, those of each."""
        if len(tensor.shape) not in (2, _EXPERTS) or tensor.shape[-2] % len(names):
            raise self._misshapen(tensor, f"{len(names)} parts with equally many rows")
        experts, (both, inputs) = tensor.shape[:-2], tensor.shape[-2:]
        count, rows, made = prod(experts), both // len(names), {}
        for at, name in enumerate(names):

            def take(index: int, first: int = at * rows) -> Bytes:
                return self._read_stored(tensor).reshape(count, both, -1)[index, first : first + rows]

            made[name] = self._remake(name, (*experts, rows, inputs), tensor.format, (tensor,), take, count)
        return made

    def _split_turned(self, tensor: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Experts whose inputs come first, and whose outputs take turns between so many matrices."""
        if len(tensor.shape) != _EXPERTS or tensor.shape[2] % len(names):
            raise self._misshapen(tensor, f"experts, inputs, and outputs of {len(names)} matrices")
        count, inputs, both = tensor.shape
        made = {}
        for at, name in enumerate(names):

            def take(index: int, at: int = at) -> Bytes:
                each = self._read_stored(tensor)[index, :, at :: len(names)]
                return np.ascontiguousarray(each.swapaxes(0, 1))

            shape = (count, both // len(names), inputs)
            made[name] = self._remake(name, shape, tensor.format, (tensor,), take, count)
        return made

    def _split_packed(self, blocks: Tensor, scales: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Experts in MXFP4, codes and scales apart, whose outputs take turns between so many matrices."""
        if (
            len(blocks.shape) != _EXPERTS + 1
            or blocks.shape[-1] != _CODES
            or blocks.shape[:-1] != scales.shape
            or blocks.shape[1] % len(names)
            or {blocks.format.name, scales.format.name} != {"U8"}
        ):
            raise LoadError(
                f"{self.path}: tensor {blocks.name!r} is {blocks.format.name} of shape {list(blocks.shape)}, and"
                f" {scales.name!r} {scales.format.name} of shape {list(scales.shape)}; in MXFP4 there are"
                f" {_CODES} bytes for each scale, and rows of {len(names)} matrices"
            )
        count, both, groups = scales.shape
        made = {}
        for at, name in enumerate(names):

            def take(index: int, at: int = at) -> Bytes:
                chosen = (index, slice(at, None, len(names)))
                return pack_mxfp4(self._read_stored(blocks)[chosen][..., 0], self._read_stored(scales)[chosen])

            shape = (count, both // len(names), groups * _MXFP4.block_elements)
            made[name] = self._remake(name, shape, _MXFP4, (blocks, scales), take, count)
        return made

    def _misshapen(self, tensor: Tensor, wish: str) -> LoadError:
        return LoadError(f"{self.path}: tensor {tensor.name!r} has shape {list(tensor.shape)}; it needs {wish}")


def pack_mxfp4(codes: Bytes, scales: Bytes) -> Bytes:
    """Blocks as GGUF files have them, each its scale and then its codes: the first half of them in the low bits.

    Args:
        codes: Two neighbours in a byte, the first in the low bits; shape (…, 16).
        scales: Exponents; shape (…, 1).
    """
    each = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1).reshape(*codes.shape[:-1], 2 * _CODES)
    return np.concatenate([scales, each[..., :_CODES] | (each[..., _CODES:] << np.uint8(4))], axis=-1)
