"""Small ONNX models for tests, and how they are loaded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from inferd.plugin import ElementType, LoadedTensorModel, LoadRequest, Tensor
from inferd.plugin.backend import read_settings
from inferd.plugin.tensor import NUMPY
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC

CAPACITY_BYTES = 8 << 30
OPSET, IR = 25, 13
Size = int | str | None


def request(path: Path, device: str = "cpu:0", capacity_bytes: int = CAPACITY_BYTES, **settings: str) -> LoadRequest:
    """What to load; settings as a client writes them."""
    values = read_settings(SPEC, settings)
    return LoadRequest(path=path, device=device, settings=values, capacity_bytes=capacity_bytes)


def load(path: Path, **settings: str) -> LoadedTensorModel:
    """Load a model on the processor."""
    return OnnxBackend().load(request(path, **settings), lambda _: None)


def value(name: str, kind: int, shape: Sequence[Size] | None) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
) -> Path:
    """Write a model; where it is."""
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializer=weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)
    return path


def save_identity(path: Path, kind: int = TensorProto.FLOAT, shape: Sequence[Size] | None = ("n", 2)) -> Path:
    """A model whose output `y` is its input `x`."""
    return save(
        path, [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, shape)], [value("y", kind, shape)]
    )


def tensor(array: np.ndarray | Sequence[object], kind: ElementType = ElementType.FLOAT) -> Tensor:
    """A tensor of whole elements."""
    made = np.asarray(array, dtype=NUMPY.get(kind, "u1"))
    return Tensor(element_type=kind, shape=made.shape, array=made)
