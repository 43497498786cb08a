from pathlib import Path
from typing import ClassVar

import pytest

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd_cpu.backend import CpuBackend
from inferd_cpu.native import Native as NativeLibrary
from inferd_cpu.native import NativeMissing
from inferd_cpu.plugin import inferd_backends


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend()


def make_request(path: Path, **settings: str) -> LoadRequest:
    (spec,) = inferd_backends()
    return LoadRequest(
        path=path,
        device="cpu:0",
        settings=read_settings(spec, {"kv_tokens": "8192", "max_step_tokens": "200", **settings}),
        capacity_bytes=4 << 30,
    )


@pytest.mark.model
class TestExact(BackendContract):
    """The fp32 session passes the suite with a real model."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, smollm2: Path) -> LoadRequest:
        return make_request(smollm2, compute="exact")


class Native(BackendContract):
    """The native session: a row's logits have the same bits in any batch, with any chunks."""

    tolerance = 0.0
    settings: ClassVar[dict[str, str]]

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, smollm2: Path) -> LoadRequest:
        try:
            NativeLibrary(cls.settings.get("isa", "auto"))
        except NativeMissing as missing:
            pytest.skip(str(missing))
        return make_request(smollm2, compute="native", **cls.settings)


@pytest.mark.model
class TestPlain(Native):
    """The portable path passes the suite with a real model, keys and values in 8 bits."""

    settings: ClassVar = {"isa": "plain", "max_step_tokens": "104", "kv_format": "i8", "block_tokens": "8"}


@pytest.mark.model
class TestAvx2(Native):
    """The path for AVX2 passes, with a pool in fp32 and blocks that are no whole tiles."""

    settings: ClassVar = {"isa": "avx2", "kv_format": "f32", "block_tokens": "20"}


@pytest.mark.model
class TestAvx512(Native):
    """The path for AVX-512 VNNI passes, with more threads than cores and small blocks."""

    settings: ClassVar = {"isa": "avx512", "threads": "3", "block_tokens": "8"}


@pytest.mark.model
class TestAmx(Native):
    """The path for AMX passes, with steps in which each thread keeps its rows for itself."""

    settings: ClassVar = {"isa": "amx", "threads": "2", "max_step_tokens": "512"}


@pytest.mark.model
class TestNeon(Native):
    """The path for NEON passes."""

    settings: ClassVar = {"isa": "neon"}


@pytest.mark.model
class Test8Bit(Native):
    """Weights in 8 bits pass, on the best path of this processor, with a pool in bf16."""

    settings: ClassVar = {"quantization": "8bit", "kv_format": "bf16"}


@pytest.mark.model
class Test4Bit(Native):
    """Weights in 4 bits pass, on the best path of this processor, with blocks of several tiles."""

    settings: ClassVar = {"quantization": "4bit", "block_tokens": "32"}
