from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import onnx_models as models
import onnx_seeds
from onnx import TensorProto, helper

from inferd.plugin import LoadRequest
from inferd.testing.tensor_contract import TensorContract
from inferd_onnx.backend import OnnxBackend


@pytest.fixture(scope="module")
def backend() -> OnnxBackend:
    return OnnxBackend()


def make_network(folder: Path, *, external: bool) -> Path:
    """Two products with a bend between them, with weights in the file or beside it."""
    random = np.random.default_rng(7)
    weights = [
        helper.make_tensor(
            name, TensorProto.FLOAT, shape, random.normal(0, 0.1, shape).astype("f4").tobytes(), raw=True
        )
        for name, shape in (("first", (64, 256)), ("second", (256, 10)))
    ]
    if external:
        (folder / "weights.bin").write_bytes(b"".join(weight.raw_data for weight in weights))
        offset = 0
        for weight in weights:
            size_bytes = len(weight.raw_data)
            for key, number in (("location", "weights.bin"), ("offset", offset), ("length", size_bytes)):
                weight.external_data.add(key=key, value=str(number))
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            offset += size_bytes
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["bent"]),
        helper.make_node("MatMul", ["bent", "second"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        models.value("scores", TensorProto.FLOAT, ["batch", 10]),
        models.value("label", TensorProto.INT64, ["batch"]),
    ]
    return models.save(folder / "model.onnx", nodes, [models.value("x", 1, ["batch", 64])], outputs, weights)


class TestFile(TensorContract):
    """A file that batches, computed by several threads at once, passes the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = make_network(tmp_path_factory.mktemp("file"), external=False)
        return models.request(path, threads="3", intra_threads="1")


class TestFolder(TensorContract):
    """A folder with its weights in another file passes the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        folder = tmp_path_factory.mktemp("folder")
        make_network(folder, external=True)
        return models.request(folder)


class TestCompiled(TensorContract):
    """A file of the runtime's own format, with branches and a loop, and a size that is no batch passes the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = tmp_path_factory.mktemp("compiled") / "model.ort"
        path.write_bytes(onnx_seeds.to_ort(onnx_seeds.branches()))
        return models.request(path)
