"""Tensors as they are written on a command line, by what the model takes there, and as they are shown."""

from __future__ import annotations

import json
import math
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.cli.output import CommandError
from inferd.errors import suggestion
from inferd_api.v1.tensor_pb2 import ElementType, Tensor, TensorInfo
from inferd_client.tensors import NUMPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd_api.v1.tensor_pb2 import ModelSignature

SHOWN: Final = 8  # values of an output in a table
FILE: Final = "bytes"  # the dimension of an input that is a file
FLAGS: Final = {"true": True, "false": False, "1": True, "0": False}


def read_inputs(given: Mapping[str, str], signature: ModelSignature) -> dict[str, Any]:
    """Arrays of what was given as NAME=VALUE.

    A value is `@FILE`, a file of numpy, for texts one of text, and for the bytes of a file whatever it is; a JSON list,
    nested as the tensor is; or elements with commas between them. A text is a single element as it stands.

    Raises:
        CommandError: The model has no such input, or the value cannot be one.
    """
    known = {info.name: info for info in signature.inputs}
    for name in given:
        if name not in known:
            near = suggestion(name, list(known))
            hint = f"; did you mean {near!r}?" if near else ""
            raise _wrong(f"the model has no input {name!r}{hint} It has: {', '.join(map(describe, known.values()))}")
    return {name: _read(known[name], text) for name, text in given.items()}


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
        return _shaped(info, np.array(flags if flags is not None else [_number(part, dtype) for part in parts], dtype))
    except (ValueError, KeyError, OverflowError) as error:
        why = f": {error}" if isinstance(error, OverflowError) else ""
        raise _wrong(f"{text[:80]!r} is no value of {describe(info)}{why}") from None


def _number(text: str, dtype: Any) -> Any:
    if dtype.kind in "iu":
        return int(text, 0)
    return complex(text) if dtype.kind == "c" else float(text)


def _json(text: str) -> list[Any] | None:
    """The list that a value is; None where it is none."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _read_file(info: TensorInfo, kind: str, path: Path) -> Any:
    if _is_file(info, kind):
        return np.frombuffer(path.read_bytes(), np.uint8)
    if kind == "STRING" and path.suffix != ".npy":
        return _shaped(info, np.array([path.read_text(encoding="utf-8")], object))
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _wrong(f"{path} is no array of numpy: {error}") from None
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
    cast = array.astype(dtype)
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
    if info.any_rank:
        return flat
    sizes: list[int | None] = [d.size if d.HasField("size") else None for d in info.shape]
    free = [place for place, size in enumerate(sizes) if size is None]
    fixed = prod(size for size in sizes if size is not None)
    if free and fixed and flat.size % fixed == 0:
        for place in free:
            sizes[place] = flat.size // fixed if place == free[-1] else 1
    elif free or fixed != flat.size:
        raise _wrong(f"{flat.size} elements do not make {describe(info)}; give a JSON list, or a file of numpy")
    return flat.reshape([size for size in sizes if size is not None])


def _wrong(message: str) -> CommandError:
    return CommandError(message, reason="USAGE")
