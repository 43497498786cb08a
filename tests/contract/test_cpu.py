from pathlib import Path

import pytest

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import inferd_backends


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend()


@pytest.fixture(scope="module")
def load_request(smollm2: Path) -> LoadRequest:
    (spec,) = inferd_backends()
    return LoadRequest(
        path=smollm2, device="cpu:0", settings=read_settings(spec, {"kv_tokens": "8192"}), capacity_bytes=4 << 30
    )


@pytest.mark.model
class TestCpu(BackendContract):
    """The cpu backend passes the suite with a real model."""
