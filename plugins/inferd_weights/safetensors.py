"""Files of weights in the format of safetensors: a header in JSON, then the numbers. Every number is checked first.

The header's length comes first, in eight bytes; the header names for each tensor its kind of numbers, its shape, and
where it lies behind the header. Tensors follow each other without gaps to the end of the file.
"""

import json
import mmap
import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from inferd.plugin import LoadError
from inferd_weights.model_file import MAX_DIMENSIONS, ModelFile, Tensor, map_file
from inferd_weights.quants import FORMATS, Format

KINDS: Final = {"F32": FORMATS[0], "F16": FORMATS[1], "BF16": FORMATS[30]}
OTHERS: Final = {"F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}  # bytes: of what is no weight
MAX_HEADER_BYTES: Final = 32 << 20  # a tensor takes some hundred
MAX_MARKS: Final = {b"{": (1 << 18) + 2, b"[": (1 << 19) + 2, b",": 1 << 21}
"""How often these may stand in a header: as in one of 262,144 tensors. What is read takes thirty times its text."""
_LENGTH: Final = struct.Struct("<Q")


class SafetensorsFiles(ModelFile):
    """The tensors of several files, under their own names.

    Args:
        path: Of the folder that they are of.
        files: All of them.

    Raises:
        LoadError: As `read_safetensors`, or a tensor is in two of them.
    """

    tensors: dict[str, Tensor]

    def __init__(self, path: Path, files: Iterable[Path]) -> None:
        self.path = path
        self._mappings = []
        self.tensors = {}
        for part, file in enumerate(files):
            mapping, tensors = read_safetensors(file, part)
            if twice := self.tensors.keys() & tensors.keys():
                raise LoadError(f"{file}: tensor {min(twice)!r} is in another file, too")
            self._mappings.append(mapping)
            self.tensors |= tensors


def read_safetensors(path: Path, part: int) -> tuple[mmap.mmap, dict[str, Tensor]]:
    """The bytes of a file, and its tensors, which get the number of the file; some may be of `OTHERS`.

    Raises:
        LoadError: The file cannot be read, contradicts itself, or has numbers of another kind.
    """
    mapping, header, start = _read_header(path)
    tensors = {name: _read_tensor(path, name, given, start=start, part=part) for name, given in header.items()}
    _check_extents(path, tensors, start, len(mapping))
    return mapping, tensors


def check_length(path: Path) -> None:
    """See that a file is as long as its header says, whatever its numbers are.

    Raises:
        LoadError: It cannot be read, its header is damaged, or it has another length.
    """
    mapping, header, start = _read_header(path)
    extents: list[Any] = [given.get("data_offsets") if isinstance(given, Mapping) else 0 for given in header.values()]
    if not all(_are_sizes(extent) and len(extent) == 2 for extent in extents):  # noqa: PLR2004 - both ends
        raise LoadError(f"{path}: the header does not say where each tensor lies: the file is damaged; fetch it again")
    end = start + max((extent[1] for extent in extents), default=0)
    if end != len(mapping):
        raise LoadError(f"{path}: tensors end at byte {end} of {len(mapping)}: the file is cut short or damaged")


def _read_header(path: Path) -> tuple[mmap.mmap, dict[str, Any], int]:
    """The bytes of a file, what its header says of each tensor, and where their numbers begin."""
    mapping = map_file(path)
    if len(mapping) < _LENGTH.size:
        raise LoadError(f"{path}: it has {len(mapping)} bytes, too few for the length of its header: fetch it again")
    (size_bytes,) = _LENGTH.unpack(mapping[: _LENGTH.size])
    start = _LENGTH.size + size_bytes
    if size_bytes > MAX_HEADER_BYTES or start > len(mapping):
        raise LoadError(
            f"{path}: the header needs {size_bytes} bytes; the file has {len(mapping)}, and {MAX_HEADER_BYTES} are"
            " permitted: it is cut short or no safetensors file"
        )
    header = _parse(path, mapping[_LENGTH.size : start])
    header.pop("__metadata__", None)
    return mapping, header, start


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name is there twice")
        return found

    for mark, most in MAX_MARKS.items():
        if (count := raw.count(mark)) > most:
            raise LoadError(f"{path}: the header has {mark.decode()!r} {count} times; at most {most} are read")
    try:
        header = json.loads(raw, object_pairs_hook=build)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: the header is no JSON: {error}: the file is damaged; fetch it again") from None
    if not isinstance(header, dict):
        raise LoadError(f"{path}: the header is a {type(header).__name__}; it must be an object")
    return header


def _read_tensor(path: Path, name: str, given: Any, *, start: int, part: int) -> Tensor:
    where = f"{path}: tensor {name!r}"
    if not isinstance(given, Mapping):
        raise LoadError(f"{where} is described by a {type(given).__name__}; it must be an object")
    kind: Any = given.get("dtype")
    shape: Any = given.get("shape")
    extent: Any = given.get("data_offsets")
    form = _find_format(kind) if isinstance(kind, str) else None
    if form is None:
        raise LoadError(f"{where} is of {kind!r}; supported are {', '.join(KINDS)}: save the model in one of these")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise LoadError(f"{where} has shape {shape!r}; it must be up to {MAX_DIMENSIONS} whole numbers")
    wanted = prod(shape) * form.block_bytes
    if not _are_sizes(extent) or len(extent) != 2 or extent[1] - extent[0] != wanted:  # noqa: PLR2004 - both ends
        raise LoadError(f"{where} lies at {extent!r}; its {prod(shape)} numbers of {kind} take {wanted} bytes")
    return Tensor(name=name, shape=tuple(shape), format=form, offset=start + extent[0], part=part)


def _find_format(kind: str) -> Format | None:
    return Format(kind, 1, OTHERS[kind], KINDS["F32"].decode) if kind in OTHERS else KINDS.get(kind)


def _are_sizes(value: Any) -> bool:
    """Whether it is a list of whole numbers from 0 on."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 62 for size in value)


def _check_extents(path: Path, tensors: Mapping[str, Tensor], start: int, size_bytes: int) -> None:
    """Tensors follow each other to the end of the file."""
    end = start
    for tensor in sorted(tensors.values(), key=lambda each: (each.offset, each.size_bytes)):
        if tensor.offset != end:
            raise LoadError(
                f"{path}: tensor {tensor.name!r} begins at byte {tensor.offset}; the one before it ends at {end}:"
                " the file is damaged; fetch it again"
            )
        end += tensor.size_bytes
    if end != size_bytes:
        raise LoadError(f"{path}: tensors end at byte {end} of {size_bytes}: the file is cut short or damaged")
