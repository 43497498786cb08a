from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import tiny_networks as tiny

from inferd.plugin import LoadedModel, LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd_torch import loading
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC
from inferd_torch.spans import attend_spans
from inferd_torch.split import attend_split


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend()


def make_request(name: str, folder: Path) -> LoadRequest:
    tiny.write_network(name, folder)
    settings = read_settings(SPEC, {"block_tokens": "8", "ahead": "true"})
    return LoadRequest(path=folder, device="cpu:0", settings=settings, capacity_bytes=4 << 30)


class TestLlama(BackendContract):
    """A folder of the llama architecture passes the suite."""

    test_takes_no_more_than_measured = None  # of the layers of TestSlidingWindows some see everything, as these do

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request("llama", tmp_path_factory.mktemp("llama"))


class TestSlidingWindows(BackendContract):
    """A network whose layers see a window, or everything, in turn passes the suite."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request("gemma3", tmp_path_factory.mktemp("gemma3"))


class TestBlockTables(BackendContract):
    """The suite passes when rows attend by block tables, single ones in parts and others in tiles, as on CUDA."""

    test_takes_no_more_than_measured = None  # what the patch below does not reach

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return make_request("mistral", tmp_path_factory.mktemp("mistral"))

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, backend: TorchBackend, load_request: LoadRequest, progress: list[float]) -> Iterator[LoadedModel]:
        with pytest.MonkeyPatch.context() as patch:
            make = loading.TorchSession
            attend = (attend_split, attend_spans)
            patch.setattr(loading, "TorchSession", lambda *a, **k: make(*a, **k, attend=attend))
            model = backend.load(load_request, progress.append)
        yield model
        model.session.close()
