"""Files of weights in the format of safetensors: a header in JSON, then the numbers, which are mapped and not read.

The header's length stands in the first eight bytes. Every number of it is checked before it is used.
"""

import json
import mmap
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError, UnsupportedModelError
from inferd_onnx.decoder.sources import Weight

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as the format's own library has it
KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_safetensors(path: Path) -> dict[str, Weight]:
    """The weights of a file by name.

    Raises:
        LoadError: It is damaged, or has numbers of another kind.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from None
    try:
        begin, header = _read_header(mapping)
        return {name: _read_weight(mapping, begin, name, given) for name, given in header.items()}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LoadError(f"{path} is no sound safetensors file: {error}; fetch it again") from None


def _read_header(mapping: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and what is said of each weight."""
    size = int.from_bytes(mapping[:LENGTH_BYTES], "little")
    begin = LENGTH_BYTES + size
    if size > MAX_HEADER_BYTES or begin > len(mapping):
        raise ValueError(f"its header has {size} bytes; the file has {len(mapping)}")
    header = json.loads(mapping[LENGTH_BYTES:begin])
    if not isinstance(header, dict):
        raise TypeError(f"its header is a {type(header).__name__}")
    header.pop("__metadata__", None)
    return begin, header


def _read_weight(mapping: mmap.mmap, begin: int, name: str, given: Any) -> Weight:
    kind, sizes, (first, end) = given["dtype"], given["shape"], given["data_offsets"]
    if kind not in KINDS:
        raise UnsupportedModelError(f"weight {name[:80]!r} is of {kind!r}; supported are {', '.join(KINDS)}")
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"the weight {name[:80]!r} has the sizes {sizes}")
    dtype = np.dtype(KINDS[kind])
    if end - first != prod(sizes) * dtype.itemsize or first < 0 or begin + end > len(mapping):
        raise ValueError(f"the weight {name[:80]!r} lies at {first} to {end}, which its sizes {sizes} contradict")
    raw = np.frombuffer(mapping, np.uint8, end - first, begin + first)
    data = raw.reshape(1 if len(sizes) == 1 else sizes[0], -1)

    def unpack(rows: NDArray[Any]) -> NDArray[np.float32]:
        numbers = np.ascontiguousarray(rows).view(dtype)
        if kind == "BF16":
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return numbers.astype(np.float32)

    return Weight(name=name, kind=kind, sizes=tuple(sizes), data=data, unpack=unpack)
