from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import llama_to_onnx

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC


@pytest.fixture(scope="module")
def backend() -> OnnxBackend:
    return OnnxBackend()


def make_request(layout: str, folder: Path, *, external: bool) -> LoadRequest:
    llama_to_onnx.write_folder(layout, folder, external=external)
    sizes = {"kv_tokens": "512", "max_step_tokens": "100", "max_sequences": "8", "block_tokens": "8"}
    return LoadRequest(path=folder, device="cpu:0", settings=read_settings(SPEC, sizes), capacity_bytes=1 << 30)


class TestInPlace(BackendContract):
    """A folder as ONNX Runtime GenAI's model builder writes it passes the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request("genai", tmp_path_factory.mktemp("genai"), external=True)


class TestJoined(BackendContract):
    """A folder as Optimum writes it, whose keys and values are joined in the graph, passes the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request("optimum", tmp_path_factory.mktemp("optimum"), external=False)
