"""Refusals of models that another backend may run: each says what the model is, so that the others can be named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferd.plugin import LoadRequest, UnsupportedModelError
from inferd.plugin.backend import read_settings
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC as CPU
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC as ONNX
from inferd_torch.backend import TorchBackend
from inferd_torch.plugin import SPEC as TORCH

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from network_to_gguf import make_network, write_network
from tiny_families import FAMILIES
from tiny_folders import save

BACKENDS: dict[str, tuple[Any, Any]] = {
    "cpu": (CpuBackend, CPU),
    "onnx": (OnnxBackend, ONNX),
    "torch": (TorchBackend, TORCH),
}


def ask(backend: str, path: Path) -> UnsupportedModelError:
    """The refusal, which is the same whether a model is measured or loaded."""
    made, spec = BACKENDS[backend]
    request = LoadRequest(path=path, device="cpu:0", settings=read_settings(spec, {}), capacity_bytes=1 << 30)
    with pytest.raises(UnsupportedModelError) as measured:
        made().measure(request)
    with pytest.raises(UnsupportedModelError) as loaded:
        made().load(request, lambda _: None)
    assert measured.value.architecture == loaded.value.architecture
    return measured.value


def write_folder(folder: Path, family: str, **changes: Any) -> Path:
    return save(make_network(FAMILIES[family], 0.3), folder, **changes)


def write_file(folder: Path, family: str) -> Path:
    write_network(family, folder / "tiny.gguf")
    return folder / "tiny.gguf"


CASES: dict[str, tuple[str, Callable[[Path], Path], str, str]] = {
    "cpu, a folder": ("cpu", lambda f: write_folder(f, "llama", model_type="mamba"), "mamba", "'model_type'"),
    "onnx, a folder": ("onnx", lambda f: write_folder(f, "gemma2"), "gemma2", "supported are llama"),
    "onnx, a file": ("onnx", lambda f: write_file(f, "gemma2"), "gemma2", "supported are llama"),
    "torch, a folder": ("torch", lambda f: write_folder(f, "lfm2"), "lfm2", "layer_types has"),
    "torch, packed weights": (
        "torch",
        lambda f: write_folder(f, "gpt_oss", quantization_config={"quant_method": "mxfp4"}),
        "gpt_oss",
        "'mxfp4' is not supported",
    ),
    "torch, a type that it does not know": (
        "torch",
        lambda f: write_folder(f, "llama", model_type="minicpm"),
        "minicpm",
        "minicpm",
    ),
    "torch, a file with scaled rotations": ("torch", lambda f: write_file(f, "llama_yarn"), "llama", "scales the rot"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_says_what_the_model_is(tmp_path: Path, case: str) -> None:
    """So that the kernel names those of the other backends that have it on their list, and no others."""
    backend, write, architecture, words = CASES[case]
    error = ask(backend, write(tmp_path))
    assert error.architecture == architecture
    assert words in str(error)


def test_a_model_that_says_nothing_is_refused_as_that(tmp_path: Path) -> None:
    """A configuration without a type names none; its refusal stays one."""
    folder = write_folder(tmp_path, "gemma2")
    settings = json.loads((folder / "config.json").read_text()) | {"model_type": None}
    (folder / "config.json").write_text(json.dumps(settings))
    assert not ask("cpu", folder).architecture
