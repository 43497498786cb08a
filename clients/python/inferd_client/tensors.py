"""Arrays of numpy and tensors of the wire. numpy is imported when the first array is, and not before."""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from inferd_api.v1.tensor_pb2 import BlobElements, ElementType, InferOutput, StringElements, Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from inferd_api.v1.tensor_pb2 import ModelSignature

    AnyArray: TypeAlias = NDArray[Any]

PIECES, TOKENS = "pieces", "_tokens"  # the dimension of a text in pieces, and what the name of its tokens ends with
NUMPY: Final[Mapping[str, str]] = {
    "float32": "FLOAT",
    "uint8": "UINT8",
    "int8": "INT8",
    "uint16": "UINT16",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "float16": "FLOAT16",
    "float64": "DOUBLE",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "complex64": "COMPLEX64",
    "complex128": "COMPLEX128",
    "bfloat16": "BFLOAT16",
    "float8_e4m3fn": "FLOAT8E4M3FN",
    "float8_e4m3fnuz": "FLOAT8E4M3FNUZ",
    "float8_e5m2": "FLOAT8E5M2",
    "float8_e5m2fnuz": "FLOAT8E5M2FNUZ",
    "float8_e8m0fnu": "FLOAT8E8M0",
    "uint4": "UINT4",
    "int4": "INT4",
    "float4_e2m1fn": "FLOAT4E2M1",
    "uint2": "UINT2",
    "int2": "INT2",
}
"""Types of tensors by the names of types of arrays: of numpy, and from `bfloat16` on those of ml_dtypes."""

_DTYPES: Final[Mapping[str, str]] = {
    **{kind: dtype for dtype, kind in list(NUMPY.items())[:14]},
    "BFLOAT16": "uint16",
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), "uint8"),
}
_PACKED: Final[Mapping[str, int]] = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
_SIGNED: Final = frozenset({"INT4", "INT2"})
_BYTE: Final = 8
_TEXTS: Final = "USTO"
"""Kinds of arrays that may hold texts: of a width each, of any width, and objects."""


def to_tensor(name: str, value: Any) -> Tensor:
    """A tensor of an array, of whatever numpy makes an array of, or of a tensor, which is named.

    Raises:
        TypeError: No array can be made of it, or one of a type that tensors do not have; or some of it is masked, or is
            no text though the rest is, or bytes that are no UTF-8.
    """
    import numpy as np  # noqa: PLC0415 - the package itself needs the wire only

    if isinstance(value, Tensor):
        named = Tensor()
        named.CopyFrom(value)
        named.name = name
        return named
    try:
        array = _as_array(value)
    except ValueError as error:
        raise TypeError(f"input {name!r} cannot be an array: {error}") from None
    if array.dtype.kind in _TEXTS:
        return Tensor(name=name, element_type=_number("STRING"), shape=array.shape, strings=_texts(name, array))
    kind = _kind_of(array.dtype)
    if kind is None:
        known = ", ".join(NUMPY)
        raise TypeError(f"input {name!r} is an array of {array.dtype}; it must be of texts, or one of {known}")
    if kind in _PACKED:
        data = _pack(array.view(np.uint8).ravel(), _PACKED[kind])
    else:
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return Tensor(name=name, element_type=_number(kind), shape=array.shape, data=data)


def blob_tensor(digest: str, dtype: str, shape: Sequence[int], *, start: int = 0) -> Tensor:
    """A tensor whose elements are in a blob, for an input of tasks: see `put_blob`.

    Args:
        digest: Of the blob, `Blob.digest`.
        dtype: The name of the type, as numpy and ml_dtypes have them: "float32".
        shape: Its sizes.
        start: Where the elements begin in the blob, in bytes; the last dimension's stand next to each other.

    Raises:
        TypeError: No tensor has elements of this type.
    """
    import numpy as np  # noqa: PLC0415 - as above

    if (kind := NUMPY.get(dtype)) is None:
        raise TypeError(f"dtype is {dtype!r}; it must be one of {', '.join(NUMPY)}")
    bits = _PACKED.get(kind) or np.dtype(_DTYPES[kind]).itemsize * _BYTE
    blob = BlobElements(digest=digest, start=start, size_bytes=-(-prod(shape) * bits // _BYTE))
    return Tensor(element_type=_number(kind), shape=shape, blob=blob)


def to_array(tensor: Tensor) -> AnyArray:
    """The array of a tensor.

    Texts are `str` in an array of objects. Types that numpy does not have are the bits of each element: bfloat16 as
    uint16, 8-bit floats and FLOAT4E2M1 as uint8, which `.view(ml_dtypes.bfloat16)` and the like make numbers of; the
    other small integers are int8 or uint8. The array is its own: it may be written to.
    """
    import numpy as np  # noqa: PLC0415 - as above

    kind, shape = _kind(tensor.element_type), tuple(tensor.shape)
    if kind == "STRING":
        texts = np.empty(len(tensor.strings.values), object)
        texts[:] = list(tensor.strings.values)
        return texts.reshape(shape)
    if kind in _PACKED:
        return _unpack(np.frombuffer(tensor.data, np.uint8), kind, shape)
    flat = np.frombuffer(tensor.data, np.dtype(_DTYPES[kind]).newbyteorder("<")).copy()
    return flat.astype(_DTYPES[kind], copy=False).reshape(shape)


def to_arrays(output: InferOutput) -> dict[str, AnyArray]:
    """The arrays of a set of outputs, by name."""
    return {tensor.name: to_array(tensor) for tensor in output.outputs}


def is_written(signature: ModelSignature, names: Collection[str]) -> bool:
    """Whether outputs of these names are a text that is written in pieces, each set of outputs one, or its tokens."""
    texts = [info.name for info in signature.outputs if [size.name for size in info.shape] == [PIECES]]
    return {*names} <= {*texts, *(text + TOKENS for text in texts)}


def joined(before: Mapping[str, AnyArray], more: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """The next piece of a text, and of what belongs to it, behind those before."""
    import numpy as np  # noqa: PLC0415 - as above

    return {
        name: before[name] + piece if piece.dtype == object else np.concatenate([before[name], piece])
        for name, piece in more.items()
    }


@cache
def _number(kind: str) -> ElementType.ValueType:
    return ElementType.Value(f"ELEMENT_TYPE_{kind}")


@cache
def _kind(number: ElementType.ValueType) -> str:
    return ElementType.Name(number).removeprefix("ELEMENT_TYPE_")


@lru_cache(maxsize=256)
def _kind_of(dtype: Any) -> str | None:
    """The type of tensors that arrays of a type become: numpy takes longer to name one than all else that is done."""
    return NUMPY.get(dtype.name)


def _as_array(value: Any) -> AnyArray:
    """What numpy makes of it, but texts as they are: its own arrays of texts are as wide as the longest and end at NUL.

    Raises:
        ValueError: numpy makes nothing of it, or would drop what marks a value as missing.
    """
    import numpy as np  # noqa: PLC0415 - as above

    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, str | bytes):
        if np.ma.is_masked(value):
            raise ValueError("some of its values are masked; give those that the model is to see, as by filled()")
        return np.asarray(value)
    array = np.asarray(value, object if _has_texts(value) else None)
    return np.asarray(value, object) if array.dtype.kind in "US" else array


def _has_texts(value: Any) -> bool:
    """Whether there is a text in what may be lists in each other.

    Raises:
        ValueError: There is something masked.
    """
    import numpy as np  # noqa: PLC0415 - as above

    if not isinstance(value, list | tuple):
        return isinstance(value, str | bytes)
    kinds = set(map(type, value))
    if any(issubclass(kind, np.ma.MaskedArray) for kind in kinds) and any(map(np.ma.is_masked, value)):
        raise ValueError("some of its values are masked; give those that the model is to see, as by filled()")
    if any(issubclass(kind, str | bytes) for kind in kinds):
        return True
    return any(issubclass(kind, list | tuple) for kind in kinds) and any(map(_has_texts, value))


def _texts(name: str, array: AnyArray) -> StringElements:
    texts = array.ravel().tolist()
    for text in texts:
        if not isinstance(text, str | bytes):
            raise TypeError(f"input {name!r} holds {text!r:.80}, a {type(text).__name__}, among objects; give texts")
    try:
        return StringElements(values=[text.decode() if isinstance(text, bytes) else text for text in texts])
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        hint = (
            "; the bytes of a file are given as a bytearray"
            if texts and isinstance(texts[0], bytes) and not array.ndim
            else ""
        )
        raise TypeError(f"input {name!r} holds a text that is no UTF-8: {error.reason!s:.80}{hint}") from None


def _pack(codes: AnyArray, bits: int) -> bytes:
    """Codes of a few bits, one in a byte, the first in the low bits."""
    import numpy as np  # noqa: PLC0415 - as above

    each = _BYTE // bits
    whole = np.zeros(-(-codes.size // each) * each, np.uint8)
    whole[: codes.size] = codes & ((1 << bits) - 1)
    parts = whole.reshape(-1, each) << (np.arange(each, dtype=np.uint8) * bits)
    packed: bytes = np.bitwise_or.reduce(parts, axis=1).astype(np.uint8).tobytes()
    return packed


def _unpack(data: AnyArray, kind: str, shape: tuple[int, ...]) -> AnyArray:
    import numpy as np  # noqa: PLC0415 - as above

    bits = _PACKED[kind]
    each = _BYTE // bits
    codes = (data[:, None] >> (np.arange(each, dtype=np.uint8) * bits)) & ((1 << bits) - 1)
    flat = codes.astype(np.uint8).ravel()[: int(np.prod(shape))]
    if kind in _SIGNED:
        half = 1 << (bits - 1)
        flat = ((flat.astype(np.int16) ^ half) - half).astype(np.int8)
    return flat.reshape(shape)
