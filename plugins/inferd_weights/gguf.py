"""A GGUF file: metadata and an index of its tensors, memory-mapped.

Versions 1 to 3, of either byte order, as ggml's `docs/gguf.md` describes them: a header, key-value pairs, tensor
descriptions, padding, and the tensors' data. Every number is checked against the file before it is used. A model may be
in several files, `NAME-00001-of-00003.gguf` and so on: the first has the metadata, and each has tensors.
"""

import mmap
import re
from dataclasses import replace
from pathlib import Path

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_weights.byte_order import SWAPPED
from inferd_weights.cursor import Cursor
from inferd_weights.metadata import Metadata, Value, read_value
from inferd_weights.model_file import MAX_DIMENSIONS, ModelFile, Tensor, map_file
from inferd_weights.quants import FORMATS, UNSUPPORTED

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
MAX_ALIGNMENT_BYTES = 1 << 16
MAX_PARTS = 1 << 12
_PAIR_BYTES = (
    8 + 4 + 1
)  # the shortest key-value pair: an empty key, a type, one byte; lengths have half of it when short
_DESCRIPTION_BYTES = 8 + 4 + 8 + 4 + 8  # the shortest tensor description: an empty name, one dimension
_SHORTER_BYTES = (4, 8)  # by which version 1 makes them shorter
_PART = re.compile(r"^(?P<name>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\.\w+)$")


class GgufFile(ModelFile):
    """An open GGUF file.

    Raises:
        LoadError: The file cannot be read, is not GGUF, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        mapping, self.metadata, first, big = _read_file(path)
        self._mappings = [mapping]
        self._big = frozenset({0} if big else ())
        self.tensors = first
        parts = self.metadata.integer("split.count", 1, maximum=MAX_PARTS)
        if parts > 1:
            self.tensors = first | self._read_parts(parts)

    def _read_parts(self, count: int) -> dict[str, Tensor]:
        """The tensors of the second part and of those behind it."""
        number = self.metadata.integer("split.no", maximum=count - 1)
        named = _PART.match(self.path.name)
        if number or named is None or int(named["number"]) != 1 or int(named["count"]) != count:
            raise LoadError(
                f"{self.path}: is part {number + 1} of a model in {count} files; give the first of them, whose name"
                f" must end with -00001-of-{count:05}.gguf"
            )
        tensors: dict[str, Tensor] = {}
        for part in range(1, count):
            path = self.path.with_name(f"{named['name']}-{part + 1:05}-of-{count:05}{named['ending']}")
            if not path.exists():
                raise LoadError(f"{path}: part {part + 1} of {count} of the model is missing; fetch it, too")
            mapping, metadata, some, big = _read_file(path)
            if metadata.integer("split.no") != part or metadata.integer("split.count") != count:
                raise LoadError(
                    f"{path}: metadata 'split.no' says that the file is not part {part + 1} of {count}: fetch it again"
                )
            twice = next((name for name in some if name in tensors or name in self.tensors), None)
            if twice is not None:
                raise LoadError(f"{path}: tensor {twice!r} is in another part of the model, too")
            self._mappings.append(mapping)
            self._big |= {part} if big else set()
            tensors |= {name: replace(tensor, part=part) for name, tensor in some.items()}
        found = len(self.tensors) + len(tensors)
        expected = self.metadata.integer("split.tensors.count", found)
        if expected != found:
            raise LoadError(
                f"{self.path}: metadata 'split.tensors.count' is {expected}, but the files have {found}: fetch them"
            )
        return tensors


def _read_file(path: Path) -> tuple[mmap.mmap, Metadata, dict[str, Tensor], bool]:
    """The bytes of one file, its metadata and its tensors, and whether it is big-endian."""
    mapping = map_file(path)
    cursor = Cursor(path, mapping)
    _check_version(cursor)
    shorter = _SHORTER_BYTES if cursor.short else (0, 0)
    tensor_count = cursor.count("tensor count", item_bytes=_DESCRIPTION_BYTES - shorter[1])
    pair_count = cursor.count("metadata count", item_bytes=_PAIR_BYTES - shorter[0])
    metadata = Metadata(path, _read_pairs(cursor, pair_count))
    alignment = metadata.integer("general.alignment", 32, minimum=1, maximum=MAX_ALIGNMENT_BYTES)
    if alignment & (alignment - 1):
        raise LoadError(f"{path}: metadata 'general.alignment' is {alignment}; it must be a power of 2")
    tensors = _read_tensors(cursor, tensor_count, alignment)
    _check_extents(path, list(tensors.values()), len(mapping))
    big = cursor.order == ">"
    strange = next((t for t in tensors.values() if big and t.format.name not in SWAPPED), None)
    if strange is not None:
        raise UnsupportedModelError(
            f"{path}: the file is big-endian, and tensor {strange.name!r} is {strange.format.name}, which is known in"
            " little-endian files only: convert it where it was made"
        )
    return mapping, metadata, tensors, big


def _check_version(cursor: Cursor) -> None:
    magic = cursor.take(4, "magic")
    if magic != MAGIC:
        raise LoadError(f"{cursor.path}: not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    version = cursor.u32("version")
    if version not in VERSIONS and (swapped := int.from_bytes(version.to_bytes(4, "little"), "big")) in VERSIONS:
        cursor.order, version = ">", swapped
    if version not in VERSIONS:
        raise LoadError(
            f"{cursor.path}: version {version} at byte 4; supported are {VERSIONS[0]} to {VERSIONS[-1]}: convert it"
            " again"
        )
    cursor.short = version == 1


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
    sizes = [cursor.size(f"dimension {axis} of {name!r}") for axis in range(dimensions)]
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
