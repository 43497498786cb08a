"""A GGUF file: its metadata and its index of weights. Every number is checked before memory is taken for it.

Source: ggml's docs/gguf.md. The numbers of the weights are unpacked by the `gguf` package.
"""

import mmap
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_onnx.decoder.sources import Weight

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
BOOL = 7
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MAX_ENTRIES, MAX_TENSORS, MAX_DIMS, MAX_ITEMS = 1 << 16, 1 << 16, 4, 1 << 24
ALIGNMENT_KEY, ALIGNMENT = "general.alignment", 32
PLAIN = {"F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata by key, weights by name; one reads from the mapping when its numbers are asked for."""

    path: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)


def read_gguf(path: Path) -> GgufFile:
    """Read a file's metadata and index.

    Raises:
        LoadError: It is damaged, or has weights in a format that is not known.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from None
    try:
        return _Reader(path, mapping).read()
    except (ValueError, struct.error, OverflowError, MemoryError) as error:
        raise LoadError(f"{path} is not a sound GGUF file: {error}; fetch it again") from None


class _Reader:
    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self._path = path
        self._data = mapping
        self._at = 0

    def read(self) -> GgufFile:
        if self._data[:4] != MAGIC:
            raise ValueError(f"it begins with {self._data[:4]!r}, not with {MAGIC!r}")
        self._at = 4
        version = self._number("I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}; supported are {VERSIONS}")
        tensors, entries = self._number("Q"), self._number("Q")
        if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
            raise ValueError(f"it says that it has {tensors} weights and {entries} keys")
        found = GgufFile(self._path)
        for _ in range(entries):
            key = self._text()
            if key in found.metadata:
                raise ValueError(f"the key {key[:80]!r} is there twice")
            found.metadata[key] = self._value(self._number("I"))
        alignment = found.metadata.get(ALIGNMENT_KEY, ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment < 1 << 20:
            raise ValueError(f"{ALIGNMENT_KEY} is {str(alignment)[:80]}")
        index = [self._entry() for _ in range(tensors)]
        base = -(-self._at // alignment) * alignment
        for name, sizes, kind, offset in index:
            if name in found.weights:
                raise ValueError(f"the weight {name[:80]!r} is there twice")
            found.weights[name] = self._weight(name, sizes, kind, base + offset)
        return found

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _text(self) -> str:
        size = self._number("Q")
        if size > len(self._data) - self._at:
            raise ValueError(f"a text at byte {self._at} has {size} bytes, but {len(self._data) - self._at} are left")
        text = self._data[self._at : self._at + size].decode(errors="replace")
        self._at += size
        return text

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            if kind not in NUMBERS:
                raise ValueError(f"a value at byte {self._at} is of the unknown type {kind}")
            return self._number(NUMBERS[kind])
        kind, count = self._number("I"), self._number("Q")
        if count > min(MAX_ITEMS, len(self._data) - self._at):
            raise ValueError(f"an array at byte {self._at} has {count} items, but {len(self._data) - self._at} bytes")
        if kind == STRING:
            return [self._text() for _ in range(count)]
        if kind not in NUMBERS:
            raise ValueError(f"an array at byte {self._at} is of the unsupported type {kind}")
        values = struct.unpack_from(f"<{count}{NUMBERS[kind]}", self._data, self._at)
        self._at += struct.calcsize(f"<{count}{NUMBERS[kind]}")
        return list(values)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self._text(), self._number("I")
        if not 0 < dims <= MAX_DIMS:
            raise ValueError(f"the weight {name[:80]!r} has {dims} sizes")
        sizes = tuple(self._number("Q") for _ in range(dims))[::-1]  # the innermost one stands first in the file
        return name, sizes, self._number("I"), self._number("Q")

    def _weight(self, name: str, sizes: tuple[int, ...], number: int, begin: int) -> Weight:
        try:
            kind = GGMLQuantizationType(number)
            block, block_bytes = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise ValueError(f"the weight {name[:80]!r} is in the unknown format {number}") from None
        if not all(sizes) or sizes[-1] % block:
            raise ValueError(f"the weight {name[:80]!r} has the sizes {sizes}; {kind.name} has blocks of {block}")
        row_bytes = sizes[-1] // block * block_bytes
        end = begin + prod(sizes[:-1]) * row_bytes
        if end > len(self._data):
            raise ValueError(f"the weight {name[:80]!r} ends at byte {end}, but the file has {len(self._data)}")
        raw = np.frombuffer(self._data, np.uint8, end - begin, begin)

        def unpack(rows: NDArray[Any]) -> NDArray[np.float32]:
            if kind.name in PLAIN:
                return rows.view(PLAIN[kind.name]).astype(np.float32)
            unpacked: NDArray[np.float32] = dequantize(np.ascontiguousarray(rows), kind)
            return unpacked

        data = raw.reshape(1, -1) if len(sizes) == 1 else raw.reshape(sizes[0], -1)
        return Weight(name=name, kind=kind.name, sizes=sizes, data=data, unpack=unpack)
