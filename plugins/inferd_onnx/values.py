"""Tensors of the interface to and from values of the runtime."""

import ctypes
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inferd.plugin import ElementType, Tensor
from inferd.plugin.tensor import BITS, NUMPY

PLAIN = frozenset(
    {
        ElementType.FLOAT,
        ElementType.DOUBLE,
        ElementType.FLOAT16,
        ElementType.BOOL,
        ElementType.STRING,
        *(ElementType.INT8, ElementType.INT16, ElementType.INT32, ElementType.INT64),
        *(ElementType.UINT8, ElementType.UINT16, ElementType.UINT32, ElementType.UINT64),
    }
)
"""Types that numpy and the runtime have alike; of the others the bits are copied."""
BYTE_BITS = 8


def to_array(name: str, tensor: Tensor) -> NDArray[Any]:
    """A tensor of a plain type as the runtime takes it.

    Raises:
        ValueError: It holds what is no text.
    """
    array = np.require(tensor.array, requirements=("C", "A")).reshape(tensor.shape)
    if tensor.element_type is ElementType.STRING:  # the runtime would take str() of whatever else there is
        for each in array.flat:
            if not isinstance(each, str):
                raise ValueError(f"input {name!r} holds a {type(each).__name__}; it must hold texts")  # noqa: TRY004 - of the client
            if not each.isascii():
                _check_text(name, each)
    return array


def to_value(name: str, tensor: Tensor) -> Any:
    """A tensor of any type but texts as a value of the runtime's own.

    Raises:
        ValueError: As `to_array`, or there are fewer or more bytes than its shape says.
    """
    if tensor.element_type in PLAIN:
        return ort.OrtValue.ortvalue_from_numpy(to_array(name, tensor))
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), int(tensor.element_type))
    data = np.ascontiguousarray(tensor.array)
    size_bytes = value.tensor_size_in_bytes()
    if data.nbytes != size_bytes:
        raise ValueError(f"input {name!r} has {data.nbytes} bytes; its shape {tensor.shape} takes {size_bytes}")
    if size_bytes:
        ctypes.memmove(value.data_ptr(), data.ctypes.data, size_bytes)
    return value


def from_array(element_type: ElementType, array: Any) -> Tensor:
    """An output of a plain type."""
    found = np.asarray(array)
    return Tensor(element_type=element_type, shape=found.shape, array=found)


def from_value(element_type: ElementType, value: Any) -> Tensor:
    """An output of any type, from a value of the runtime in the memory of the processor."""
    if element_type in PLAIN:
        return from_array(element_type, value.numpy())
    shape, size_bytes = tuple(value.shape()), value.tensor_size_in_bytes()
    raw = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
    array = np.frombuffer(raw, NUMPY.get(element_type, "u1"))
    packed = BITS[element_type] < BYTE_BITS
    return Tensor(element_type=element_type, shape=shape, array=array if packed else array.reshape(shape))


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"input {name!r} holds a text that is not Unicode: {error.reason}") from None
