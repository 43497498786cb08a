"""Weights in files beside a model: only inside its folder, or that in which the file lies to which it is a link.

So a folder of links finds its weights, as the cache of Hugging Face is one. ONNX Runtime has the same rule.
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path, PurePosixPath

from inferd.plugin import LoadError

MEMORY_MARK = "_ORT_MEM_ADDR_"  # by which the runtime marks weights at an address of its own memory
TEXT_CHARACTERS = 200


def check_external(
    model: Path, tensor: str, places: Mapping[str, str], needed_bytes: int, sizes: MutableMapping[str, int]
) -> int:
    """Check where a tensor's data is said to be, and that it is there.

    Args:
        model: The file that says it.
        tensor: Its name.
        places: `location`, `offset`, `length` as texts.
        needed_bytes: What its type and shape take; 0 where that is not known.
        sizes: Of files that were checked, by location; added to.

    Returns:
        Its size in bytes.

    Raises:
        LoadError: It is outside the model's folder, not there, or shorter than it is said to be.
    """
    location = places.get("location", "")
    what = f"{model}: the data of tensor {tensor[:TEXT_CHARACTERS]!r} in {location[:TEXT_CHARACTERS]!r}"
    if location not in sizes:
        sizes[location] = _measure(model, location, what)
    offset, length = (_read_size(places, key, what) for key in ("offset", "length"))
    if length and needed_bytes and length != needed_bytes:
        raise LoadError(f"{what} has {length} bytes, but its type and shape take {needed_bytes}")
    size_bytes = length or needed_bytes
    if offset + size_bytes > sizes[location]:
        end = offset + size_bytes
        raise LoadError(f"{what} ends at byte {end}, but the file has {sizes[location]}: it is not whole")
    return size_bytes


def _read_size(places: Mapping[str, str], key: str, what: str) -> int:
    text = places.get(key, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 19:  # noqa: PLR2004 - digits of int64
        raise LoadError(f"{what}: {key} is {text[:TEXT_CHARACTERS]!r}; it must be a number of bytes")
    return int(text)


def _measure(model: Path, location: str, what: str) -> int:
    """The size of a file of the model's folder.

    Raises:
        LoadError: It is not in that folder, or not a file.
    """
    path = PurePosixPath(location)
    if not location or "\0" in location or "\\" in location or MEMORY_MARK in location:
        raise LoadError(f"{what}: that is no path of a file")
    if path.is_absolute() or ".." in path.parts:
        raise LoadError(f"{what}: that leaves the model's folder; put the file beside the model")
    folder = model.parent
    file = folder / path
    try:
        real = Path(os.path.realpath(file, strict=True))
        folders = (os.path.realpath(folder, strict=True), Path(os.path.realpath(model, strict=True)).parent)
        if not any(real.is_relative_to(each) for each in folders):
            raise LoadError(f"{what}: a symbolic link leads out of the model's folder; put the file itself there")
        if not file.is_file():
            raise LoadError(f"{what}: that is not a file")
        status = file.stat()
    except OSError as error:
        raise LoadError(f"{what} cannot be read: {error.strerror or error}") from None
    if status.st_nlink > 1:
        names = f"that file has {status.st_nlink} names (hard links), and others may be outside of the folder"
        raise LoadError(f"{what}: {names}; put a copy there")
    return status.st_size
