"""The tensor session: what a backend of models computes that turn tensors into tensors. The engine supplies the rest.

Vision, speech, classifiers, encoders. The engine owns requests, batches, sequences with their states, and streams; a
session owns weights and turns one set of tensors into another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, runtime_checkable

from inferd.plugin.batching import Batching

if TYPE_CHECKING:  # the kernel process reads this module and must not load numpy
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    AnyArray: TypeAlias = NDArray[Any]


class ElementType(IntEnum):
    """What a tensor consists of; the numbers are those of ONNX's `TensorProto.DataType` and of `inferd.v1`."""

    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26


BITS: Final[dict[ElementType, int]] = {
    **dict.fromkeys((ElementType.UINT2, ElementType.INT2), 2),
    **dict.fromkeys((ElementType.UINT4, ElementType.INT4, ElementType.FLOAT4E2M1), 4),
    **dict.fromkeys((ElementType.UINT8, ElementType.INT8, ElementType.BOOL, ElementType.FLOAT8E8M0), 8),
    **dict.fromkeys((ElementType.FLOAT8E4M3FN, ElementType.FLOAT8E4M3FNUZ), 8),
    **dict.fromkeys((ElementType.FLOAT8E5M2, ElementType.FLOAT8E5M2FNUZ), 8),
    **dict.fromkeys((ElementType.UINT16, ElementType.INT16, ElementType.FLOAT16, ElementType.BFLOAT16), 16),
    **dict.fromkeys((ElementType.FLOAT, ElementType.INT32, ElementType.UINT32), 32),
    **dict.fromkeys((ElementType.DOUBLE, ElementType.INT64, ElementType.UINT64, ElementType.COMPLEX64), 64),
    ElementType.COMPLEX128: 128,
}
"""Bits of an element, of all types but STRING."""

NUMPY: Final[dict[ElementType, str]] = {
    ElementType.FLOAT: "<f4",
    ElementType.UINT8: "u1",
    ElementType.INT8: "i1",
    ElementType.UINT16: "<u2",
    ElementType.INT16: "<i2",
    ElementType.INT32: "<i4",
    ElementType.INT64: "<i8",
    ElementType.STRING: "O",
    ElementType.BOOL: "?",
    ElementType.FLOAT16: "<f2",
    ElementType.DOUBLE: "<f8",
    ElementType.UINT32: "<u4",
    ElementType.UINT64: "<u8",
    ElementType.COMPLEX64: "<c8",
    ElementType.COMPLEX128: "<c16",
    ElementType.BFLOAT16: "<u2",
}
"""The numpy type of a tensor's `array`; "u1" for those that are not named: their bits as they are, packed."""


def size_bytes(element_type: ElementType, shape: Sequence[int]) -> int:
    """Bytes of the elements as they are sent, the last one filled up; not for STRING, whose size no shape says."""
    return -(-prod(shape) * BITS[element_type] // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor.

    Attributes:
        element_type: What it consists of.
        shape: Its sizes; () is a scalar.
        array: Its elements, of the type that `NUMPY` names. It has `shape`, but for types of less than a byte: there it
            is flat, packed from the low bits of each byte on. Strings are `str` in an array of objects. bfloat16 and
            8-bit floats are the bits of each element. Not written to by who is given it.
    """

    element_type: ElementType
    shape: tuple[int, ...]
    array: AnyArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What a model takes or gives under a name.

    Attributes:
        name: Its name.
        element_type: What it consists of.
        shape: Its sizes: a number; a name, equal ones being equal sizes within a request; or "" for any size. None
            where not even their number is known.
        optional: An input that may be left out.
        description: For people; or "".
    """

    name: str
    element_type: ElementType
    shape: tuple[int | str, ...] | None
    optional: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorState:
    """A state that a sequence carries from one request to its next: an output that the engine gives as an input.

    Attributes:
        input_name: The input; clients need not give it, and at the start of a sequence it is zeros.
        output_name: The output whose value it is at the next request.
        start_shape: The shape of the zeros, without the batch's dimension where the model batches.
    """

    input_name: str
    output_name: str
    start_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a session takes and gives; fixed for its life.

    Attributes:
        inputs: In the model's order.
        outputs: In the model's order.
        most_batch: Most rows that requests have together that are computed as one, joined along the first dimension of
            every input and output, which must be free; 1 where the model does not batch. A request has one row or
            several; one that has more than this by itself is computed alone.
        states: What sequences carry on; empty for a model without state. A request outside a sequence gives these
            inputs itself.
        threads: Calls of `predict` that may run at once, from as many threads.
        batching: What else is to be known of batches: which sizes may be filled up, and how long requests wait.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    most_batch: int = 1
    states: tuple[TensorState, ...] = ()
    threads: int = 1
    batching: Batching = field(default_factory=Batching)


@runtime_checkable
class TensorSession(Protocol):
    """One loaded model. Called from `Signature.threads` threads at most."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""
        ...

    def predict(
        self, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> Mapping[str, Tensor] | Iterator[Mapping[str, Tensor]]:
        """Compute the outputs of these names. Long computations release the GIL.

        The engine has held types, ranks and sizes against the signature. A model that gives several sets of outputs,
        one after the other, returns an iterator; its `most_batch` must be 1. What is left of it when the client goes
        is not asked for; an iterator that has a `close` is closed. A set without any output is none: it says that the
        model is at work, and is called for again at once; so an iterator that waits for something gives one now and
        then, and is no hang.

        Raises:
            ValueError: The model does not take these inputs; the message is for the client. Only this request fails.
            Exception: Whatever else; of several requests each is tried alone, and those that raise again fail.
        """
        ...

    def close(self) -> None:
        """Give the memory back. Nothing is called afterwards."""
        ...


@runtime_checkable
class StoppableSession(Protocol):
    """What a `TensorSession` may have besides: calls that can be stopped when nobody waits for them any more."""

    def stop(self, thread: int) -> None:
        """End the call that this thread is in, as soon as that is possible: it may raise whatever it likes.

        Called from any thread, more than once for one call; there may be none in that thread yet, or any more. Returns
        at once.

        Args:
            thread: As `threading.get_ident()` says it in `predict`, or in what steps its iterator.
        """
        ...
