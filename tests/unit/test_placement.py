"""From the words of a client to a file or folder and a backend."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferd.errors import BackendUnavailableError, InvalidFieldError, ModelLoadError
from inferd.plugin import BackendSpec, DeviceInfo
from inferd.plugin.backend import Kind, Setting, read_settings
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.kept_records import read_spec, write_spec
from inferd.runtime.placement import advise, place


def report(name: str, rank: int, *formats: str, device: str = "cpu:0") -> BackendReport:
    """A backend; with a device of its own it goes first for folders."""
    spec = BackendSpec(
        name=name, loader="a:B", formats=formats, description="", rank=rank, accelerated={"hf": rank - 150}
    )
    device_info = DeviceInfo(device_id=device, description="", memory_bytes=1)
    return BackendReport(name=name, state=BackendState.READY, spec=spec, devices=(device_info,))


REPORTS = (report("cpu", 100, "gguf"), report("torch", 200, "hf", "gguf"))


def test_a_folder_with_a_configuration_is_a_model(tmp_path: Path) -> None:
    """Such a folder has the format "hf" and the size of its files, whatever its name ends with."""
    folder = tmp_path / "model-1.5.gguf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"12345")
    (folder / "more").mkdir()
    spec = place(REPORTS, name="m", source=str(folder))
    assert (spec.format, spec.backend, spec.path, spec.size_bytes) == ("hf", "torch", str(folder), 7)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["model.onnx"], "onnx"),
        (["model.onnx", "weights.bin"], "onnx"),
        (["model.onnx", "config.json", "tokenizer.json"], "onnx"),
        (["model.onnx", "config.json", "model-00001-of-00002.safetensors"], "hf"),
        (["config.json"], "hf"),
        (["model.safetensors", "model.onnx"], "onnx"),
    ],
)
def test_a_folder_with_an_onnx_model(tmp_path: Path, files: list[str], kind: str) -> None:
    """A folder with a model.onnx is one of ONNX, unless it is a Hugging Face folder with weights of its own."""
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    spec = place((*REPORTS, report("onnx", 100, "onnx")), name="m", source=str(tmp_path))
    assert (spec.format, spec.size_bytes) == (kind, 2 * len(files))
    assert (spec.backend == "onnx") == (kind == "onnx")


def test_a_gguf_file_goes_to_the_lowest_rank(tmp_path: Path) -> None:
    """A GGUF file is loaded by cpu unless torch is asked for by name."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"GGUF....")
    assert place(REPORTS, name="m", source=str(path)).backend == "cpu"
    assert place(REPORTS, name="m", source=str(path), backend="torch").backend == "torch"


def test_a_folder_goes_to_the_device_that_is_there(tmp_path: Path) -> None:
    """On a host without another device folders go to cpu; with one to torch, which is always there by name."""
    (tmp_path / "config.json").write_text("{}")
    both = (report("cpu", 100, "gguf", "hf"), report("torch", 200, "hf", "gguf"))
    assert place(both, name="m", source=str(tmp_path)).backend == "cpu"
    assert place(both, name="m", source=str(tmp_path)).alternatives == ("torch",)
    assert place(both, name="m", source=str(tmp_path), backend="torch").backend == "torch"
    fast = (both[0], report("torch", 200, "hf", "gguf", device="cuda:0"))
    spec = place(fast, name="m", source=str(tmp_path))
    assert (spec.backend, spec.devices) == ("torch", ("cuda:0",))
    assert spec.backend_reason == "lowest rank of the READY backends for hf (torch 50, cpu 100)"
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF....")
    assert place(fast, name="m", source=str(path)).backend == "cpu"


def test_a_refusal_names_backends_that_list_the_architecture(tmp_path: Path) -> None:
    """Of backends that list architectures of the format only those with the model's are named."""
    listed = {"GGUF and Hugging Face architectures": ("llama",), "GGUF architectures, slow": ("qwen2",)}
    onnx = report("onnx", 300, "gguf")
    assert onnx.spec is not None
    onnx = replace(onnx, spec=replace(onnx.spec, supported=listed))
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF")
    spec = place((REPORTS[0], onnx), name="m", source=str(source))
    told = {}
    for architecture in ("llama", "qwen2", "clip", "*"):
        error = advise(ModelLoadError("no", metadata={"unsupported": architecture}), spec)
        told[architecture] = (error.message, error.metadata.get("backends"))
    names = "no. Other backends that load GGUF files: onnx; choose one with --backend, or `Model.backend`"
    assert told == {
        **dict.fromkeys(("llama", "qwen2", "*"), (names, "onnx")),
        "clip": ("no. No other backend that is known here runs 'clip'", None),
    }
    any_backend = place((REPORTS[0], report("any", 200, "gguf")), name="m", source=str(source))
    error = advise(ModelLoadError("no", metadata={"unsupported": "clip"}), any_backend)
    assert error.metadata["backends"] == "any"
    assert read_spec(json.loads(json.dumps(write_spec(spec)))).listed == spec.listed


def test_what_counts_as_the_same_model(tmp_path: Path) -> None:
    """A recipe beside a file and a model in a folder of the folder change what a source is; sizes are the model's."""
    reports, path = (report("onnx", 100, "onnx"),), tmp_path / "a.onnx"
    path.write_bytes(b"model")
    before = place(reports, name="m", source=str(path))
    (tmp_path / "a.recipe.toml").write_text("[input.x]")
    after = place(reports, name="m", source=str(path))
    assert before.file_version != after.file_version
    assert before.size_bytes == after.size_bytes == 5
    folder = tmp_path / "folder"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"model")
    before = place(reports, name="m", source=str(folder))
    (folder / "onnx" / "model.onnx").write_bytes(b"another")
    after = place(reports, name="m", source=str(folder))
    assert before.file_version != after.file_version
    assert (before.size_bytes, after.size_bytes) == (5, 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [("empty", "folder without a classifier.json, config.json, model.onnx"), ("none", "does not exist")],
)
def test_what_is_no_model(tmp_path: Path, name: str, words: str) -> None:
    """Another folder, and nothing at all, are refused by the field of the source."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFieldError, match=words) as caught:
        place(REPORTS, name="m", source=str(tmp_path / name))
    assert caught.value.field == "model.source"


def test_a_folder_without_a_backend_for_it(tmp_path: Path) -> None:
    """Where no backend loads folders, the error says what the others load."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BackendUnavailableError, match=r"loads folders with a config.json .*: cpu loads GGUF files"):
        place(REPORTS[:1], name="m", source=str(tmp_path))


def test_what_is_no_model_is_told_for_what_it_is(tmp_path: Path) -> None:
    """Weights alone and adapters are refused with what to name instead, other files with what backends load."""
    for folder, mark in (("model", "config.json"), ("adapter", "adapter_config.json"), ("bare", "readme.txt")):
        (tmp_path / folder).mkdir()
        for name in (mark, "x.safetensors", "pytorch_model.bin"):
            (tmp_path / folder / name).write_bytes(b"{}")
    said = {
        "model/x.safetensors": f"weights alone; .* name {tmp_path}/model",
        "model/pytorch_model.bin": f"weights alone; .* name {tmp_path}/model",
        "bare/x.safetensors": "weights alone; .* name that folder",
        "adapter": f"an adapter .* --set adapter={tmp_path}/adapter",
        "adapter/x.safetensors": f"an adapter .* --set adapter={tmp_path}/adapter",
    }
    for name, words in said.items():
        with pytest.raises(InvalidFieldError, match=words):
            place(REPORTS, name="m", source=str(tmp_path / name))
    with pytest.raises(
        BackendUnavailableError,
        match=r"no READY backend loads txt files: .* loads folders with a config.json .Hugging Face., GGUF files",
    ):
        place(REPORTS, name="m", source=str(tmp_path / "bare/readme.txt"))


@pytest.mark.parametrize(
    ("kind", "bounds", "text", "words"),
    [
        ("int", {"minimum": 1}, "0", "setting 'n' is 0; it must be at least 1"),
        ("int", {"maximum": 8}, "9", "setting 'n' is 9; it must be at most 8"),
        ("int", {"minimum": 1, "maximum": 8}, "9", "setting 'n' is 9; it must be from 1 to 8"),
        ("int", {"minimum": 1}, "9" * 20, f"setting 'n' is {'9' * 20}; it must be at most 9223372036854775807"),
        ("int", {}, f"-{'9' * 20}", f"setting 'n' is -{'9' * 20}; it must be at least -9223372036854775808"),
        ("float", {"minimum": 0}, "inf", "setting 'n' is inf; it must be a finite number"),
        ("float", {}, "nan", "setting 'n' is nan; it must be a finite number"),
    ],
)
def test_a_number_that_no_setting_can_be(kind: Kind, bounds: dict[str, Any], text: str, words: str) -> None:
    """It is refused with the one bound that it breaks, which is that of 64 bits where the setting has no other."""
    spec = BackendSpec(
        name="b", loader="a:B", formats=("b",), description="",
        settings=(Setting(name="n", kind=kind, description="", **bounds),),
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"^{words}$"):
        read_settings(spec, {"n": text})
    assert read_settings(spec, {"n": "2"}) == {"n": 2}
