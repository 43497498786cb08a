from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import tiny_models as tiny

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd.testing.fake import VOCABULARY
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC


@pytest.fixture(scope="module")
def backend() -> OnnxBackend:
    return OnnxBackend()


def make_request(path: Path, **settings: str) -> LoadRequest:
    values = read_settings(SPEC, {"kv_tokens": "2048", "max_step_tokens": "200", **settings})
    return LoadRequest(path=path, device="cpu:0", settings=values, capacity_bytes=4 << 30)


def write_tiny(name: str, folder: Path) -> Path:
    """A tiny model, with letters that make a tokenizer."""
    letters = [*VOCABULARY.tokens[: tiny.VOCABULARY_SIZE - 1], "HI"]
    more = {"tokenizer.ggml.tokens": letters, "tokenizer.ggml.merges": ["H I"]}
    return tiny.write_model(tiny.MODELS[name], folder / "tiny.gguf", more)


class TestExact(BackendContract):
    """A file of the llama architecture passes the suite where nothing is rounded."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request(write_tiny("llama3", tmp_path_factory.mktemp("llama")), compute="exact")


class TestHeadNorms(BackendContract):
    """One with norms of heads passes with few places, which sequences take from each other."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = write_tiny("qwen3", tmp_path_factory.mktemp("qwen3"))
        return make_request(path, compute="exact", max_sequences="5", block_tokens="5", kv_tokens="100")


@pytest.mark.model
class TestRounded(BackendContract):
    """A real file passes: weights, and what is multiplied with them, in 8 bits, which makes of last bits more."""

    tolerance: ClassVar[float] = 2.0  # of logits that differ by ten from one text to another

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, smollm2: Path) -> LoadRequest:
        return make_request(smollm2)
