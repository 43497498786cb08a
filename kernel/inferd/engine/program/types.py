"""What tensors of a program consist of: as configurations, numpy and inferd call it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from inferd.plugin import ElementType


class Kind(NamedTuple):
    """A type of elements.

    Attributes:
        element_type: What it is here.
        numpy: What arrays of it have in a program.
    """

    element_type: ElementType
    numpy: Any


KINDS: Final[dict[str, Kind]] = {
    "TYPE_BOOL": Kind(ElementType.BOOL, np.bool_),
    "TYPE_UINT8": Kind(ElementType.UINT8, np.uint8),
    "TYPE_UINT16": Kind(ElementType.UINT16, np.uint16),
    "TYPE_UINT32": Kind(ElementType.UINT32, np.uint32),
    "TYPE_UINT64": Kind(ElementType.UINT64, np.uint64),
    "TYPE_INT8": Kind(ElementType.INT8, np.int8),
    "TYPE_INT16": Kind(ElementType.INT16, np.int16),
    "TYPE_INT32": Kind(ElementType.INT32, np.int32),
    "TYPE_INT64": Kind(ElementType.INT64, np.int64),
    "TYPE_FP16": Kind(ElementType.FLOAT16, np.float16),
    "TYPE_FP32": Kind(ElementType.FLOAT, np.float32),
    "TYPE_FP64": Kind(ElementType.DOUBLE, np.float64),
    "TYPE_STRING": Kind(ElementType.STRING, np.object_),
}
"""By their names in configurations."""
NAMES: Final[dict[ElementType, str]] = {kind.element_type: name for name, kind in KINDS.items()}
BY_NUMPY: Final[dict[Any, str]] = {np.dtype(kind.numpy): name for name, kind in KINDS.items()}
