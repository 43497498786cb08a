"""How the files of a model advise to sample."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny_models as tiny

from inferd.plugin import LoadError, LoadRequest, SamplingDefaults, read_gguf_sampling, read_hf_sampling
from inferd.plugin.backend import read_settings
from inferd.sampling import NAMES
from inferd_api.v1.sampling_pb2 import SamplingDefaults as Wire
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_cpu.backend import CpuBackend
from inferd_cpu.plugin import SPEC

GGUF = {"temp": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.01, "penalty_repeat": 1.05, "mirostat": 2, "temp_x": 9}


def test_names_are_those_of_the_wire() -> None:
    """What can have a default is the same in the core, in `SamplingDefaults` and in `SamplingParams`."""
    assert tuple(field.name for field in Wire.DESCRIPTOR.fields) == NAMES
    assert {*NAMES} <= {field.name for field in SamplingParams.DESCRIPTOR.fields}


def test_gguf() -> None:
    """The keys that llama.cpp writes are read under our names; `top_k` of -1 means all."""
    values: dict[str, Any] = {f"general.sampling.{name}": value for name, value in GGUF.items()}
    found = read_gguf_sampling("f", values.get)
    assert found == SamplingDefaults(temperature=0.7, top_k=20, top_p=0.8, min_p=0.01, repetition_penalty=1.05)
    assert read_gguf_sampling("f", {"general.sampling.top_k": -1}.get).numbers["top_k"] == 0
    assert read_gguf_sampling("f", {}.get) == SamplingDefaults()


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": 2, "max_length": 20}, {}),
        ({"temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6, "top_p": 0.95}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 0}, {"temperature": 0.6, "top_k": 0}),
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1},
            {"temperature": 0, "repetition_penalty": 1.1}),
        ({"temperature": None, "min_p": 0.1}, {"min_p": 0.1}),
    ],
)  # fmt: skip
def test_hf(configuration: dict[str, Any], expected: dict[str, float]) -> None:
    """A generation_config.json says what transformers would do with it."""
    assert read_hf_sampling("f", configuration).numbers == expected


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("temperature", "hot", "must be a number"),
        ("temperature", True, "must be a number"),
        ("temperature", -0.1, "from 0 to 100"),
        ("temperature", float("nan"), "from 0 to 100"),
        ("top_k", 1.5, "from 0 to 2147483647"),
        ("top_p", 0, "above 0 and at most 1"),
        ("min_p", 1.01, "from 0 to 1"),
        ("repetition_penalty", 0, "from 0.01 to 10"),
    ],
)
def test_wrong_values(key: str, value: Any, words: str) -> None:
    """A value that cannot be is an error that names the file, the key, the value and what is possible."""
    with pytest.raises(LoadError, match=rf"f\.json: '{key}' is .*; it must be.*{words}|f\.json.*{words}"):
        read_hf_sampling("f.json", {key: value})


def test_a_file_through_the_backend(tmp_path: Path) -> None:
    """The cpu backend tells what a real GGUF file advises, and refuses one that advises nonsense before it loads it."""
    path = tiny.write_model(tiny.MODELS["llama"], tmp_path / "m.gguf")
    request = LoadRequest(path=path, device="cpu:0", settings=read_settings(SPEC, {}), capacity_bytes=1 << 30)
    assert CpuBackend().load(request, lambda _: None).sampling == SamplingDefaults()
    for temperature, fine in ((0.25, True), (-1.0, False)):
        advised = rewritten(path, tmp_path / f"advised{fine}.gguf", temperature=temperature)
        if fine:
            model = CpuBackend().load(replace(request, path=advised), lambda _: None)
            assert model.sampling == SamplingDefaults(temperature=0.25, top_k=7)
        else:
            with pytest.raises(LoadError, match=r"'general\.sampling\.temp' is -1\.0"):
                CpuBackend().measure(replace(request, path=advised))


def rewritten(source: Path, target: Path, *, temperature: float) -> Path:
    """A copy of a file with more metadata."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith(("llama.", "tokenizer.")):
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[1] if len(field.types) > 1 else None)
    writer.add_float32("general.sampling.temp", temperature)
    writer.add_int32("general.sampling.top_k", 7)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
