"""A GGUF file: metadata and an index of its tensors, memory-mapped.

Versions 2 and 3, little-endian, as ggml's `docs/gguf.md` describes them: a header, key-value pairs, tensor
descriptions, padding, and the tensors' data. Every number is checked against the file before it is used.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_cpu.cursor import Cursor
from inferd_cpu.metadata import Metadata, Value, read_value
from inferd_cpu.quants import FORMATS, UNSUPPORTED, Format

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_ALIGNMENT_BYTES = 1 << 16
_PAIR_BYTES = 8 + 4 + 1  # the shortest key-value pair: an empty key, a type, one byte
_DESCRIPTION_BYTES = 8 + 4 + 8 + 4 + 8  # the shortest tensor description: an empty name, one dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        name: Its name.
        shape: Rows first: the reverse of the order in the file.
        format: How its numbers are stored.
        offset: First byte, from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """How many bytes it takes in the file."""
        return self.elements // self.format.block_elements * self.format.block_bytes


class GgufFile:
    """An open GGUF file. The mapping ends with the last reference to this object and to arrays from `blocks`.

    Attributes:
        path: Where it is.
        metadata: Its key-value pairs.
        tensors: Its tensors by name, in the order of the file.

    Raises:
        LoadError: The file cannot be read, is not GGUF, or contradicts itself.
    """

    path: Path
    metadata: Metadata
    tensors: Mapping[str, Tensor]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapping = _map_file(path)
        cursor = Cursor(path, self._mapping)
        _check_version(cursor)
        tensor_count = cursor.count("tensor count", item_bytes=_DESCRIPTION_BYTES)
        pair_count = cursor.count("metadata count", item_bytes=_PAIR_BYTES)
        self.metadata = Metadata(path, _read_pairs(cursor, pair_count))
        alignment = self.metadata.integer("general.alignment", 32, minimum=1, maximum=MAX_ALIGNMENT_BYTES)
        if alignment & (alignment - 1):
            raise self.metadata.error("general.alignment", f"is {alignment}; it must be a power of 2")
        self.tensors = _read_tensors(cursor, tensor_count, alignment)
        _check_extents(path, list(self.tensors.values()), len(self._mapping))

    def blocks(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The stored blocks of a tensor, shape (blocks, block bytes), without a copy."""
        form = tensor.format
        raw = np.frombuffer(self._mapping, np.uint8, tensor.size_bytes, tensor.offset)
        return raw.reshape(-1, form.block_bytes)

    def release(self, tensor: Tensor) -> None:
        """Let the memory of a tensor go that reading it took; it would be read from the file again."""
        first = tensor.offset // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(self._mapping, "madvise"):
            self._mapping.madvise(mmap.MADV_DONTNEED, first, tensor.offset + tensor.size_bytes - first)


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise LoadError(f"{path}: the file is empty (0 bytes); fetch it again") from None
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from None


def _check_version(cursor: Cursor) -> None:
    magic = cursor.take(4, "magic")
    if magic != MAGIC:
        raise LoadError(f"{cursor.path}: not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    version = cursor.u32("version")
    if version in VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    why = "the file is big-endian; convert it to little-endian" if swapped in (1, *VERSIONS) else "convert it again"
    raise LoadError(f"{cursor.path}: version {version} at byte 4; supported are {VERSIONS[0]} and {VERSIONS[1]}: {why}")


def _read_pairs(cursor: Cursor, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for index in range(count):
        key = cursor.text(f"metadata key {index} of {count}")
        if key in values:
            raise cursor.error(f"metadata key {key!r}", "is there twice: the file is corrupt")
        values[key] = read_value(cursor, key)
    return values


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index in range(count):
        name = cursor.text(f"tensor name {index} of {count}")
        if name in tensors:
            raise cursor.error(f"tensor {name!r}", "is there twice: the file is corrupt")
        tensors[name] = _read_tensor(cursor, name, alignment)
    # Offsets are counted from the end of the last description, rounded up.
    start = -(-cursor.offset // alignment) * alignment
    return {name: replace(tensor, offset=start + tensor.offset) for name, tensor in tensors.items()}


def _read_tensor(cursor: Cursor, name: str, alignment: int) -> Tensor:
    dimensions = cursor.u32(f"dimensions of {name!r}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"dimensions of {name!r}", f"are {dimensions}; they must be 1 to {MAX_DIMENSIONS}")
    sizes = [cursor.u64(f"dimension {axis} of {name!r}") for axis in range(dimensions)]
    number = cursor.u32(f"type of {name!r}")
    form = FORMATS.get(number)
    if form is None:
        why = cursor.error(
            f"type of tensor {name!r}",
            f"is {number} ({UNSUPPORTED.get(number, 'unknown')}), which is not supported;"
            f" supported are {', '.join(f.name for f in FORMATS.values())}",
        )
        raise UnsupportedModelError(str(why)) if number in UNSUPPORTED else why
    if min(sizes) < 1 or sizes[0] % form.block_elements:
        raise cursor.error(
            f"shape of {name!r}",
            f"is {sizes}; its first dimension must be a multiple of {form.block_elements} ({form.name}), none may be 0",
        )
    offset = cursor.u64(f"offset of {name!r}")
    if offset % alignment:
        raise cursor.error(f"offset of {name!r}", f"is {offset}, not a multiple of the alignment {alignment}")
    return Tensor(name=name, shape=tuple(reversed(sizes)), format=form, offset=offset)


def _check_extents(path: Path, tensors: list[Tensor], file_bytes: int) -> None:
    """Each tensor lies inside the file and behind the one before."""
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda t: t.offset):
        if tensor.offset < end:
            raise LoadError(
                f"{path}: tensor {tensor.name!r} begins at byte {tensor.offset}, inside {before!r}, which ends at {end}"
            )
        end, before = tensor.offset + tensor.size_bytes, tensor.name
        if end > file_bytes:
            raise LoadError(
                f"{path}: tensor {tensor.name!r} of shape {list(tensor.shape)} in {tensor.format.name} ends at byte"
                f" {end}, but the file has {file_bytes}: it is cut short or corrupt; fetch it again"
            )
