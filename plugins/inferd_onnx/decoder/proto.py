"""An ONNX model as bytes, written without any library.

Source: onnx/onnx.proto, whose field numbers are the constants here.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inferd_onnx.wire import write_field

IR_VERSION, OPSET, CONTRIB_OPSET = 9, 18, 1
CONTRIB = "com.microsoft"
FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7
MODEL_IR, MODEL_PRODUCER, MODEL_GRAPH, MODEL_OPSET = 1, 2, 7, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_NAME, GRAPH_TENSOR, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_KIND = 1, 2, 3, 20
KIND_FLOAT, KIND_INT = 1, 2
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_PLACE = 1, 2, 8, 9, 13, 14
PLACE_EXTERNAL = 1
ENTRY_KEY, ENTRY_VALUE = 1, 2
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TYPE_ELEMENT, TYPE_SHAPE = 1, 2, 1, 1, 2
SHAPE_DIM, DIM_VALUE, DIM_NAME = 1, 1, 2
FIXED32 = 5

Sizes = Sequence[int | str]


@dataclass(slots=True)
class Graph:
    """A graph that grows node by node; one writer, who builds it.

    Attributes:
        name: Of the graph.
    """

    name: str
    _nodes: list[bytes] = field(default_factory=list)
    _weights: list[bytes] = field(default_factory=list)
    _inputs: list[bytes] = field(default_factory=list)
    _outputs: list[bytes] = field(default_factory=list)

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        attributes: Mapping[str, int | float] | None = None,
    ) -> None:
        """Add a node; "" for an input or output that is left out."""
        parts = [write_field(NODE_INPUT, name.encode()) for name in inputs]
        parts += [write_field(NODE_OUTPUT, name.encode()) for name in outputs]
        parts += [write_field(NODE_NAME, f"{operator}/{outputs[0]}".encode()), write_field(NODE_OP, operator.encode())]
        parts += [write_field(NODE_ATTRIBUTE, _attribute(name, value)) for name, value in (attributes or {}).items()]
        if domain:
            parts.append(write_field(NODE_DOMAIN, domain.encode()))
        self._nodes.append(b"".join(parts))

    def add_weight(self, name: str, kind: int, sizes: Sequence[int], size_bytes: int) -> None:
        """Add a weight whose numbers the runtime is handed in memory, so that the model's size has no bound."""
        parts = [write_field(TENSOR_DIMS, size) for size in sizes]
        parts += [write_field(TENSOR_TYPE, kind), write_field(TENSOR_NAME, name.encode())]
        for key, value in (("location", name), ("length", str(size_bytes))):
            entry = write_field(ENTRY_KEY, key.encode()) + write_field(ENTRY_VALUE, value.encode())
            parts.append(write_field(TENSOR_EXTERNAL, entry))
        self._weights.append(b"".join([*parts, write_field(TENSOR_PLACE, PLACE_EXTERNAL)]))

    def add_numbers(self, name: str, numbers: Sequence[int]) -> None:
        """Add a list of int64 that stands in the model itself: shapes are worked out from it while loading."""
        parts = [write_field(TENSOR_DIMS, len(numbers)), write_field(TENSOR_TYPE, INT64)]
        parts += [write_field(TENSOR_NAME, name.encode())]
        self._weights.append(b"".join([*parts, write_field(TENSOR_RAW, struct.pack(f"<{len(numbers)}q", *numbers))]))

    def add_input(self, name: str, kind: int, sizes: Sizes) -> None:
        """Add an input; a text is the name of a free size."""
        self._inputs.append(_value(name, kind, sizes))

    def add_output(self, name: str, kind: int, sizes: Sizes) -> None:
        """Add an output, as an input."""
        self._outputs.append(_value(name, kind, sizes))

    def write(self) -> bytes:
        """The whole model."""
        parts = [write_field(GRAPH_NAME, self.name.encode())]
        fields = (GRAPH_NODE, self._nodes), (GRAPH_TENSOR, self._weights)
        for number, messages in (*fields, (GRAPH_INPUT, self._inputs), (GRAPH_OUTPUT, self._outputs)):
            parts += [write_field(number, message) for message in messages]
        model = [write_field(MODEL_IR, IR_VERSION), write_field(MODEL_PRODUCER, b"inferd")]
        model.append(write_field(MODEL_GRAPH, b"".join(parts)))
        for domain, version in (("", OPSET), (CONTRIB, CONTRIB_OPSET)):
            opset = write_field(OPSET_DOMAIN, domain.encode()) + write_field(OPSET_VERSION, version)
            model.append(write_field(MODEL_OPSET, opset))
        return b"".join(model)


def _attribute(name: str, value: float) -> bytes:
    parts = [write_field(ATTRIBUTE_NAME, name.encode())]
    if isinstance(value, int):
        parts += [write_field(ATTRIBUTE_INT, value & (1 << 64) - 1), write_field(ATTRIBUTE_KIND, KIND_INT)]
    else:
        parts += [bytes([ATTRIBUTE_FLOAT << 3 | FIXED32]) + struct.pack("<f", value)]
        parts.append(write_field(ATTRIBUTE_KIND, KIND_FLOAT))
    return b"".join(parts)


def _value(name: str, kind: int, sizes: Sizes) -> bytes:
    dims = [
        write_field(DIM_VALUE, size) if isinstance(size, int) else write_field(DIM_NAME, size.encode())
        for size in sizes
    ]
    shape = b"".join(write_field(SHAPE_DIM, dim) for dim in dims)
    tensor = write_field(TYPE_ELEMENT, kind) + write_field(TYPE_SHAPE, shape)
    return write_field(VALUE_NAME, name.encode()) + write_field(VALUE_TYPE, write_field(TYPE_TENSOR, tensor))
