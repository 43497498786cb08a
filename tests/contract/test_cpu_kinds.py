"""The conformance kit over windows in a pool of their own, over states of sequences, and over Hugging Face folders."""

from pathlib import Path

import pytest
from native_models import write_with_letters

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import LIBRARY
from inferd_cpu.plugin import SPEC

WINDOW = {"llama.attention.sliding_window": 20, "llama.attention.sliding_window_pattern": [True, False, True]}
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="the native library is not built")


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend()


def make_request(path: Path, **settings: str) -> LoadRequest:
    sizes = {"kv_tokens": "4096", "max_step_tokens": "112", "max_sequences": "6", "threads": "2"}
    return LoadRequest(
        path=path, device="cpu:0", settings=read_settings(SPEC, {**sizes, **settings}), capacity_bytes=1 << 30
    )


class Windows(BackendContract):
    """A pool of their own for windows."""

    compute: str

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory, backend: CpuBackend) -> LoadRequest:
        request = make_request(
            write_with_letters("llama_linear", tmp_path_factory.mktemp("windows") / "tiny.gguf", WINDOW),
            compute=cls.compute,
        )
        session = backend.load(request, lambda _: None).session
        assert 0 < session.limits.window_blocks < session.limits.blocks
        session.close()
        return request


class TestExactWindows(Windows):
    """The fp32 session passes."""

    compute = "exact"


@needs_library
class TestNativeWindows(Windows):
    """The native session passes, to the bit."""

    tolerance = 0.0
    compute = "native"


class TestStates(BackendContract):
    """Layers that keep a state of each sequence pass: their blocks are shared, copied and found as others are."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory, backend: CpuBackend) -> LoadRequest:
        pytest.importorskip("torch")
        import tiny_networks  # noqa: PLC0415 - it imports torch

        folder = tmp_path_factory.mktemp("states")
        tiny_networks.write_network("qwen3_5", folder)
        request = make_request(folder, compute="exact")
        limits = backend.load(request, lambda _: None).session.limits
        assert limits.forward_only
        assert 0 < limits.window_blocks < limits.blocks
        return request


@needs_library
class TestFolder(BackendContract):
    """A Hugging Face folder passes, to the bit."""

    tolerance = 0.0

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        pytest.importorskip("torch")
        import tiny_networks  # noqa: PLC0415 - it imports torch

        folder = tmp_path_factory.mktemp("folder")
        tiny_networks.write_network("mistral", folder)
        return make_request(folder, compute="native")
