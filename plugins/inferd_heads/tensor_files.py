"""Arrays in a file of the safetensors format, and JSON beside it. Reading executes nothing and checks all numbers."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_weights.safetensors import SafetensorsFiles

KINDS: Final = {"<f4": "F32", "<i4": "I32", "<i8": "I64"}
MOST_JSON_BYTES: Final = 1 << 20
_ALIGNMENT: Final = 8

Array = NDArray[Any]


def write_tensors(path: Path, arrays: Mapping[str, Array]) -> str:
    """Write arrays of float32, int32 or int64; the SHA-256 of the file."""
    header: dict[str, Any] = {}
    end = 0
    kept = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    for name, array in kept.items():
        extent = [end, end + array.nbytes]
        header[name] = {"dtype": KINDS[array.dtype.str], "shape": list(array.shape), "data_offsets": extent}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        parts: list[Any] = [
            struct.pack("<Q", len(text)),
            text,
            *(each.reshape(-1).view(np.uint8) for each in kept.values()),
        ]
        for data in parts:
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


class TensorFile:
    """The arrays of a file.

    Raises:
        LoadError: It cannot be read, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = SafetensorsFiles(path, [path])

    def shape(self, name: str, dtype: str, dimensions: int) -> tuple[int, ...]:
        """The shape of an array.

        Raises:
            LoadError: There is none of this name, or it is of another type, or has other dimensions.
        """
        tensor = self._files.tensors.get(name)
        if tensor is None:
            raise LoadError(f"{self.path}: has no tensor {name!r}; it has {', '.join(self._files.tensors) or 'none'}")
        if tensor.format.name != KINDS[dtype] or len(tensor.shape) != dimensions:
            raise LoadError(
                f"{self.path}: {name!r} is {tensor.format.name} of shape {list(tensor.shape)}; it must be"
                f" {KINDS[dtype]} with {dimensions} dimensions"
            )
        return tensor.shape

    def read(self, name: str, dtype: str, dimensions: int) -> Array:
        """A copy of an array.

        Raises:
            LoadError: As `shape`.
        """
        shape = self.shape(name, dtype, dimensions)
        tensor = self._files.tensors[name]
        if not tensor.elements:
            return np.zeros(shape, dtype)
        made = self._files.blocks(tensor).reshape(-1).view(dtype).reshape(shape).copy()
        self._files.release(tensor)
        return made


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write an object."""
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Mapping[str, Any]:
    """Read an object.

    Raises:
        LoadError: It cannot be read, is too long, or is none.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_JSON_BYTES + 1)
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MOST_JSON_BYTES:
        raise LoadError(f"{path}: has more than {MOST_JSON_BYTES} bytes")
    try:
        document: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise LoadError(f"{path}: is a {type(document).__name__}; it must be an object")
    return document


def digest_file(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        LoadError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from None
