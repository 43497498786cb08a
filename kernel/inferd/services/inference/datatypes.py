"""What tensors consist of, in the words of the Open Inference Protocol."""

from typing import Final, NamedTuple

from inferd.errors import UnsupportedInputError
from inferd.plugin.tensor import ElementType
from inferd_api.inference import model_config_pb2 as cp

TEXTS: Final = "BYTES"


class Datatype(NamedTuple):
    """A type of elements.

    Attributes:
        kind: What it is here.
        config: What it is called in configurations.
        contents: The field of typed contents that has it; "" where it is given as raw bytes alone.
        code: Of its elements in an `array.array`; "" where it is no number of such a type.
    """

    kind: ElementType
    config: cp.DataType.ValueType
    contents: str
    code: str


DATATYPES: Final[dict[str, Datatype]] = {
    "BOOL": Datatype(ElementType.BOOL, cp.TYPE_BOOL, "bool_contents", "B"),
    "UINT8": Datatype(ElementType.UINT8, cp.TYPE_UINT8, "uint_contents", "B"),
    "UINT16": Datatype(ElementType.UINT16, cp.TYPE_UINT16, "uint_contents", "H"),
    "UINT32": Datatype(ElementType.UINT32, cp.TYPE_UINT32, "uint_contents", "I"),
    "UINT64": Datatype(ElementType.UINT64, cp.TYPE_UINT64, "uint64_contents", "Q"),
    "INT8": Datatype(ElementType.INT8, cp.TYPE_INT8, "int_contents", "b"),
    "INT16": Datatype(ElementType.INT16, cp.TYPE_INT16, "int_contents", "h"),
    "INT32": Datatype(ElementType.INT32, cp.TYPE_INT32, "int_contents", "i"),
    "INT64": Datatype(ElementType.INT64, cp.TYPE_INT64, "int64_contents", "q"),
    "FP16": Datatype(ElementType.FLOAT16, cp.TYPE_FP16, "", ""),
    "FP32": Datatype(ElementType.FLOAT, cp.TYPE_FP32, "fp32_contents", "f"),
    "FP64": Datatype(ElementType.DOUBLE, cp.TYPE_FP64, "fp64_contents", "d"),
    "BF16": Datatype(ElementType.BFLOAT16, cp.TYPE_BF16, "", ""),
    TEXTS: Datatype(ElementType.STRING, cp.TYPE_STRING, "bytes_contents", ""),
}
"""By their names in requests."""

NAMES: Final[dict[int, str]] = {each.kind.value: name for name, each in DATATYPES.items()}
"""The names by what they are here; the protocol has none for the others."""


class NotOfferedError(UnsupportedInputError):
    """What is asked for is a part of the protocol, and no kernel offers it."""

    code = "UNIMPLEMENTED"


def name_of(kind: int, tensor: str) -> str:
    """What the type of a tensor is called.

    Raises:
        NotOfferedError: The protocol has no name for it.
    """
    if (name := NAMES.get(kind)) is None:
        raise NotOfferedError(
            f"tensor {tensor!r} is {ElementType(kind).name}, for which the Open Inference Protocol has no type; use"
            " inferd.v1.TaskService.RunTask"
        )
    return name
