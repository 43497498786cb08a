from pathlib import Path
from typing import ClassVar

import pytest
from native_models import find_missing, write_with_letters

from inferd.plugin import LoadRequest
from inferd.plugin.backend import read_settings
from inferd.testing.contract import BackendContract
from inferd_cpu.backend import CpuBackend
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


class TestExact(BackendContract):
    """The fp32 session passes the suite; its numbers for a real model are those of the reference in test_smollm2."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = write_with_letters("llama", tmp_path_factory.mktemp("exact") / "tiny.gguf")
        return make_request(path, compute="exact", max_step_tokens="512")


class Native(BackendContract):
    """The native session: a row's logits have the same bits in any batch, with any chunks."""

    tolerance = 0.0
    settings: ClassVar[dict[str, str]]

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, smollm2: Path) -> LoadRequest:
        return cls.request_for(smollm2)

    @classmethod
    def request_for(cls, path: Path) -> LoadRequest:
        """A request with the settings of the class."""
        if missing := find_missing(cls.settings.get("isa", "auto")):
            pytest.skip(missing)
        return make_request(path, compute="native", **cls.settings)


class TestPlain(Native):
    """The portable path passes, keys and values in 8 bits; a real model would take it two minutes."""

    settings: ClassVar = {"isa": "plain", "max_step_tokens": "104", "kv_format": "i8", "block_tokens": "8"}

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        return cls.request_for(write_with_letters("llama", tmp_path_factory.mktemp("plain") / "tiny.gguf"))


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


class Wide(Native):
    """A few layers as wide as those of a small real model, which would take as long as all other classes together."""

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls, tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
        path = tmp_path_factory.mktemp("wide") / "wide.gguf"
        return cls.request_for(write_with_letters("llama", path, width=576, hidden=1536, head_width=64))


class Test8Bit(Wide):
    """Weights in 8 bits pass, on the best path of this processor, with a pool in bf16."""

    settings: ClassVar = {"quantization": "8bit", "kv_format": "bf16"}


class Test4Bit(Wide):
    """Weights in 4 bits pass, on the best path of this processor, with blocks of several tiles."""

    settings: ClassVar = {"quantization": "4bit", "block_tokens": "32"}
