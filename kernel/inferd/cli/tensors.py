"""Tensors as they are written on a command line, by what the model takes there, and as they are shown."""

from __future__ import annotations

import json
import math
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zipfile import BadZipFile

import numpy as np

from inferd.cli.output import CommandError
from inferd.errors import suggestion
from inferd_api.v1.tensor_pb2 import ElementType, Tensor, TensorInfo
from inferd_client.tensors import NUMPY, blob_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd_api.v1.blob_pb2 import Blob
    from inferd_api.v1.tensor_pb2 import ModelSignature

SHOWN: Final = 8  # values of an output in a table
FILE: Final = "bytes"  # the dimension of an input that is a file
PIECES: Final = "pieces"  # the dimension of an output that is a text, of which each set of outputs has a piece
MAGIC: Final = b"\x93NUMPY"  # how a .npy file begins
BLOB: Final = "@blob:"
FLAGS: Final = {"true": True, "false": False, "1": True, "0": False}


def read_inputs(
    given: Mapping[str, str], signature: ModelSignature, blob_of: Callable[[str], Blob], *, hint: str = ""
) -> dict[str, Any]:
    """Arrays of what was given as NAME=VALUE; `blob_of` finds a blob by its digest.

    `hint` is told behind an input that the model does not have.

    A value is `@blob:DIGEST`, whose bytes are the elements; `@FILE`, a file of numpy, for texts one of text, and for
    the bytes of a file whatever it is; a JSON list, nested as the tensor is; or elements with commas between them. A
    text is a single element as it stands.

    Raises:
        CommandError: The model has no such input, or the value cannot be one.
    """
    known = {info.name: info for info in signature.inputs}
    for name in given:
        if name not in known:
            near = suggestion(name, list(known))
            meant = f"; did you mean {near!r}?" if near else "."
            has = ", ".join(map(describe, known.values()))
            raise _wrong(f"the model has no input {name!r}{meant} It has: {has}{hint}")
    return {
        name: _in_blob(known[name], blob_of(text.removeprefix(BLOB)))
        if text.startswith(BLOB)
        else _read(known[name], text)
        for name, text in given.items()
    }


def _in_blob(info: TensorInfo, blob: Blob) -> Tensor:
    """A tensor whose elements are all bytes of a blob."""
    kind = kind_of(info)
    if kind == "STRING":
        raise _wrong(f"input {describe(info)} is of texts, which no blob has; give them")
    dtype = _dtype(info, kind)
    if blob.size_bytes % dtype.itemsize:
        raise _wrong(
            f"blob {blob.digest} has {blob.size_bytes} bytes, and {describe(info)} {dtype.itemsize} an element"
        )
    return blob_tensor(blob.digest, dtype.name, _sizes(info, blob.size_bytes // dtype.itemsize))


def describe(info: TensorInfo) -> str:
    """An input or output in a few words: `x FLOAT[batch, 2]`."""
    sizes = [str(d.size) if d.HasField("size") else d.name or "?" for d in info.shape]
    shape = "[…]" if info.any_rank else f"[{', '.join(sizes)}]"
    return f"{info.name} {kind_of(info)}{shape}{' (optional)' if info.optional else ''}"


def kind_of(tensor: TensorInfo | Tensor) -> str:
    """The name of its type."""
    return ElementType.Name(tensor.element_type).removeprefix("ELEMENT_TYPE_")


def shown(array: Any) -> str:
    """The beginning of an array, for people."""
    values = [_plain(value) for value in array.ravel()[:SHOWN].tolist()]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return ", ".join(texts) + (", …" if array.size > SHOWN else "")


def nested(array: Any) -> Any:
    """An array as JSON has it: numbers that are none are the words of ProtoJSON, complex ones are pairs."""
    return _map(array.tolist())


def _map(value: Any) -> Any:
    return [_map(each) for each in value] if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _read(info: TensorInfo, text: str) -> Any:
    try:
        return _read_value(info, text)
    except OSError as error:
        raise _wrong(f"{text[1:]} of input {info.name!r} cannot be read: {error.strerror or error}") from None
    except OverflowError as error:
        raise _wrong(f"{text[:80]!r} is no value of {describe(info)}: {error}") from None


def _read_value(info: TensorInfo, text: str) -> Any:
    kind = kind_of(info)
    if text.startswith("@"):
        return _read_file(info, kind, Path(text[1:]).expanduser())
    listed = _json(text)
    if kind == "STRING":
        texts = np.array(text if listed is None else listed, object)
        return texts if listed is not None and texts.ndim == len(info.shape) else _shaped(info, texts.ravel())
    dtype = _dtype(info, kind)
    try:
        if listed is not None:
            array = np.array(listed)
            array = array.astype(dtype) if array.size == 0 else _cast(info, array, dtype)
            return array if info.any_rank or array.ndim == len(info.shape) else _shaped(info, array.ravel())
        parts = [part.strip() for part in text.split(",")]
        flags = [FLAGS[part.lower()] for part in parts] if kind == "BOOL" else None
        numbers = flags if flags is not None else [_number(part, dtype) for part in parts]
        return _shaped(info, _narrowed(np.array(numbers), dtype) if dtype.kind in "fc" else np.array(numbers, dtype))
    except (ValueError, KeyError):
        raise _wrong(f"{text[:80]!r} is no value of {describe(info)}{_file_hint(info, text)}") from None


def _file_hint(info: TensorInfo, text: str) -> str:
    """How the file is given that a value may have meant."""
    try:
        there = Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # no name that a file can have
        there = False
    return f"; for the file of that name write {info.name}=@{text}" if there else ""


def _number(text: str, dtype: Any) -> Any:
    if dtype.kind in "iu":
        return int(text, 0)
    return complex(text) if dtype.kind == "c" else _float(text)


def _float(text: str) -> float:
    """A number; one that no float can be would become Infinity, which nobody wrote."""
    number = float(text)
    if math.isinf(number) and any(letter.isdigit() for letter in text):
        raise OverflowError(f"{text[:80]} is outside of float64")
    return number


def _narrowed(array: Any, dtype: Any) -> Any:
    """Numbers in a type that may be smaller; one that has no place in it is an error, and not Infinity."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    lost = np.isfinite(array) & ~np.isfinite(cast)
    if lost.any():
        raise OverflowError(f"{array[lost].flat[0]} is outside of {dtype}")
    return cast


def _json(text: str) -> list[Any] | None:
    """The list that a value is; None where it is none."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text, parse_float=_float)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _read_file(info: TensorInfo, kind: str, path: Path) -> Any:
    if _is_file(info, kind):
        return np.frombuffer(path.read_bytes(), np.uint8)
    if kind == "STRING" and path.suffix != ".npy":
        try:
            return _shaped(info, np.array([path.read_text(encoding="utf-8")], object))
        except UnicodeDecodeError as error:
            raise _wrong(f"{path} of input {info.name!r} is no UTF-8 text: position {error.start}") from None
    with path.open("rb") as file:
        whole = file.read(len(MAGIC)) == MAGIC
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile):
        why = "it is damaged, or holds objects of Python, which are never read" if whole else "it is another file"
        raise _wrong(f"{path} is no array of numpy: {why}; write it with numpy.save, of numbers or texts") from None
    if not isinstance(array, np.ndarray):
        raise _wrong(f"{path} holds {len(array.files)} arrays; give a .npy file, which holds one")
    return array if kind == "STRING" else _cast(info, array, _dtype(info, kind))


def _is_file(info: TensorInfo, kind: str) -> bool:
    """Whether an input is the bytes of a file, as a recipe takes them."""
    return kind == "UINT8" and [size.name for size in info.shape] == [FILE]


def _cast(info: TensorInfo, array: Any, dtype: Any) -> Any:
    """The numbers in the model's type, where that is of the same kind: no fraction and no sign is lost."""
    if not np.can_cast(array.dtype, dtype, "same_kind") and not (array.dtype.kind in "iu" and dtype.kind in "iuf"):
        raise _wrong(f"the numbers given are {array.dtype}; the model takes {describe(info)}")
    cast = _narrowed(array, dtype) if dtype.kind in "fc" else array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        raise OverflowError(f"a number is outside of {dtype}")
    return cast


def _dtype(info: TensorInfo, kind: str) -> Any:
    for dtype, name in NUMPY.items():
        if name == kind:
            if hasattr(np, dtype):  # what other libraries have made known to it is not counted on
                return np.dtype(dtype)
            break
    raise _wrong(f"input {describe(info)} has a type that numpy does not have; a client can send its bits")


def _shaped(info: TensorInfo, flat: Any) -> Any:
    """Elements in the shape that the model takes: its last free dimension takes what there is, the others one each."""
    return flat if info.any_rank else flat.reshape(_sizes(info, flat.size))


def _sizes(info: TensorInfo, count: int) -> list[int]:
    if info.any_rank:
        return [count]
    sizes: list[int | None] = [d.size if d.HasField("size") else None for d in info.shape]
    free = [place for place, size in enumerate(sizes) if size is None]
    fixed = prod(size for size in sizes if size is not None)
    if free and fixed and count % fixed == 0:
        for place in free:
            sizes[place] = count // fixed if place == free[-1] else 1
    elif free or fixed != count:
        raise _wrong(f"{count} elements do not make {describe(info)}; give a JSON list, or a file of numpy")
    return [size for size in sizes if size is not None]


def _wrong(message: str) -> CommandError:
    return CommandError(message, reason="USAGE")
