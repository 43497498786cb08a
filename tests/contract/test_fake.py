import pytest

from inferd.plugin import LoadRequest
from inferd.testing.contract import BackendContract
from inferd.testing.fake import FakeBackend
from inferd.testing.kernel import write_fake_model


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def load_request(tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
    path = write_fake_model(tmp_path_factory.mktemp("fake"), block_tokens=4, blocks=64)
    return LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30)


class TestFake(BackendContract):
    """The fake backend passes the suite, and so shows that it can be passed."""

    tolerance = 0.0
