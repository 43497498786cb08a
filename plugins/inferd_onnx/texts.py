"""Texts as values of the runtime's own: its Python interface makes none of them, so a model gives one.

They are needed only where a graph has texts and, beside them, types that numpy does not have.
"""

from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from inferd.plugin import ElementType
from inferd_onnx.wire import write_field

NAME, IR_VERSION, OPSET, FATAL = b"texts", 8, 13, 4
MODEL_IR, MODEL_GRAPH, MODEL_OPSET, OPSET_VERSION = 1, 7, 8, 2
GRAPH_NAME, GRAPH_TENSOR, GRAPH_OUTPUT = 2, 5, 12
TENSOR_DIMS, TENSOR_TYPE, TENSOR_STRINGS, TENSOR_NAME = 1, 2, 6, 8
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, ELEMENT_TYPE = 1, 2, 1, 1
CPU = ["CPUExecutionProvider"]


def make_texts(array: NDArray[Any]) -> tuple[Any, ort.InferenceSession]:
    """A value that holds the texts of an array, and what must live as long as it does."""
    kind = int(ElementType.STRING)
    tensor = b"".join(
        [
            *(write_field(TENSOR_DIMS, size) for size in array.shape),
            write_field(TENSOR_TYPE, kind),
            *(write_field(TENSOR_STRINGS, text.encode()) for text in array.flat),
            write_field(TENSOR_NAME, NAME),
        ]
    )
    type_ = write_field(VALUE_TYPE, write_field(TYPE_TENSOR, write_field(ELEMENT_TYPE, kind)))
    output = write_field(GRAPH_OUTPUT, write_field(VALUE_NAME, NAME) + type_)
    graph = write_field(GRAPH_NAME, NAME) + write_field(GRAPH_TENSOR, tensor) + output
    opset = write_field(MODEL_OPSET, write_field(OPSET_VERSION, OPSET))
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = 1
    model = write_field(MODEL_IR, IR_VERSION) + opset + write_field(MODEL_GRAPH, graph)
    session = ort.InferenceSession(model, options, providers=CPU)
    (value,) = session.run_with_ort_values([NAME.decode()], {})
    return value, session
