"""A model's tensors, memory-mapped: where each lies, and its bytes as they are stored."""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_weights.byte_order import swap
from inferd_weights.metadata import Metadata
from inferd_weights.quants import Format

MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        name: Its name.
        shape: Rows first: the reverse of the order in the file.
        format: How its numbers are stored.
        offset: First byte, from the beginning of the file.
        part: The number of the file, from 0, where a model has several.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    offset: int
    part: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes in the file."""
        return self.elements // self.format.block_elements * self.format.block_bytes


class ModelFile:
    """The tensors and metadata of a model, memory-mapped. A mapping ends with the last reference to it.

    Attributes:
        path: Where it is, or its first part.
        metadata: What it says of itself, with the keys of GGUF.
        tensors: Its tensors by their names in GGUF.
    """

    path: Path
    metadata: Metadata
    tensors: Mapping[str, Tensor]
    _mappings: list[mmap.mmap]
    _big: frozenset[int] = frozenset()  # the parts whose byte order is not that of this reader

    def blocks(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The stored blocks of a tensor, shape (blocks, block bytes); without a copy, unless they are big-endian."""
        return self._in_order(tensor, self._raw(tensor))

    def rows(self, tensor: Tensor, which: slice | NDArray[np.integer[Any]] = slice(None)) -> NDArray[np.uint8]:
        """The stored blocks of some rows, shape (blocks, block bytes); no others are read. A vector is one row."""
        count = tensor.shape[0] if len(tensor.shape) > 1 else 1
        chosen = self._raw(tensor).reshape(count, -1)[which]
        return self._in_order(tensor, np.ascontiguousarray(chosen))

    def shares(self, tensor: Tensor, count: int) -> Iterator[NDArray[np.uint8]]:
        """The stored blocks of a tensor in so many equal shares, each as `blocks`."""
        yield from np.split(self.blocks(tensor), count)

    def numbers(self, tensor: Tensor, which: slice | NDArray[np.integer[Any]] = slice(None)) -> NDArray[np.float32]:
        """Some rows as fp32, all their numbers in a row."""
        return tensor.format.decode(self.rows(tensor, which)).reshape(-1)

    def _raw(self, tensor: Tensor) -> NDArray[np.uint8]:
        return np.frombuffer(self._mappings[tensor.part], np.uint8, tensor.size_bytes, tensor.offset)

    def _in_order(self, tensor: Tensor, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        blocks = raw.reshape(-1, tensor.format.block_bytes)
        return swap(tensor.format, blocks) if tensor.part in self._big else blocks

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took; it would be read from the file again."""
        first, mapping = tensor.offset // mmap.PAGESIZE * mmap.PAGESIZE, self._mappings[tensor.part]
        if hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_DONTNEED, first, tensor.offset + tensor.size_bytes - first)


def map_file(path: Path) -> mmap.mmap:
    """The bytes of a file.

    Raises:
        LoadError: It cannot be read, or has none.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise LoadError(f"{path}: the file is empty (0 bytes); fetch it again") from None
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from None
