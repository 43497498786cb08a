"""The onnx backend: what it offers, devices, providers, settings, what it measures."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import onnx_models as models
import onnxruntime as ort
from onnx import helper

from inferd.plugin import Backend, LoadError, LoadRequest
from inferd.plugin.checks import check_backend, check_need, check_probe
from inferd.testing.growth import measure_growth
from inferd_onnx import devices
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC, inferd_backends
from inferd_onnx.providers import check_providers, choose_provider, overheard, provider_list

CPU, CUDA, OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return models.save_identity(tmp_path / "model.onnx")


def save_product(path: Path, width: int) -> Path:
    """A product with a weight of so many numbers squared."""
    raw = np.random.default_rng(1).random((width, width), np.float32).tobytes()
    weight = helper.make_tensor("weight", 1, [width, width], raw, raw=True)
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    x, y = (models.value(name, 1, ["batch", width]) for name in "xy")
    return models.save(path, [node], [x], [y], [weight])


def test_offers_one_inert_backend() -> None:
    """The plugin offers one backend; probing it imports neither the runtime nor numpy."""
    formats = ("onnx", "ort", "gguf", "hf")
    assert [(each.name, each.formats, each.extra) for each in inferd_backends()] == [("onnx", formats, "onnx")]
    assert f"{OnnxBackend.__module__}:{OnnxBackend.__name__}" == SPEC.loader
    code = (
        "import sys, inferd_onnx.backend as b; b.OnnxBackend().probe()\n"
        "print(*sorted({'onnxruntime', 'onnx', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_measuring_needs_no_runtime(path: Path) -> None:
    """What a model needs is read from its file: the runtime is not loaded for it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from inferd.plugin import LoadRequest; from inferd.plugin.backend import read_settings\n"
        "from inferd_onnx.backend import OnnxBackend; from inferd_onnx.plugin import SPEC\n"
        "settings = read_settings(SPEC, {})\n"
        "r = LoadRequest(path=Path(sys.argv[2]), device='cpu:0', settings=settings, capacity_bytes=1 << 30)\n"
        "OnnxBackend().measure(r); print(*sorted({'onnxruntime', 'onnx'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(Path(models.__file__).parent), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime the probe says which module is missing, as the kernel's advice needs it."""
    monkeypatch.setattr(devices, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime is not installed") as caught:
        OnnxBackend().probe()
    assert caught.value.name == "onnxruntime"


def test_probe() -> None:
    """The processor is always among the devices, with memory and cores."""
    backend = OnnxBackend()
    assert isinstance(check_backend(backend, SPEC.loader), Backend)
    processor = check_probe(backend.probe()).devices[-1]
    assert processor.device_id == "cpu:0"
    assert processor.memory_bytes > 1 << 30
    assert processor.cores > 0


@pytest.mark.parametrize(
    ("builds", "wanted"),
    [
        (("onnxruntime-gpu", "onnxruntime"), "'inferd[onnx-gpu]'"),
        (("onnxruntime-openvino", "onnxruntime"), "'onnxruntime-openvino'"),
    ],
)
def test_two_builds_of_the_runtime_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: tuple[str, str], wanted: str
) -> None:
    """Where the build for the processor is installed beside another one, the probe says so and how to mend it."""
    assert (OnnxBackend().probe().why, OnnxBackend().probe().fix) == ("", "")
    for name in builds:
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    probe = OnnxBackend().probe()
    assert probe.why.startswith(f"{' and '.join(builds)} are installed beside each other")
    assert probe.fix == f"pip uninstall -y {' '.join(builds)} && pip install {wanted}"


def test_cuda_devices_are_what_the_driver_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a build for CUDA and a driver, its devices come first, with name, memory and uuid; without either, none."""

    class Driver:
        def cuInit(self, _flags: int) -> int:  # noqa: N802 - as the driver spells it
            return 0

        def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
            count._obj.value = 2  # type: ignore[attr-defined]
            return 0

        def cuDeviceGet(self, device: object, index: int) -> int:  # noqa: N802
            device._obj.value = index  # type: ignore[attr-defined]
            return 0

        def cuDeviceGetName(self, name: object, _size: int, device: object) -> int:  # noqa: N802
            name.value = f"GPU {device.value}".encode()  # type: ignore[attr-defined]
            return 0

        def cuDeviceTotalMem_v2(self, memory: object, _device: object) -> int:  # noqa: N802
            memory._obj.value = 80 << 30  # type: ignore[attr-defined]
            return 0

        def cuDeviceGetUuid(self, uuid: object, device: object) -> int:  # noqa: N802
            uuid.raw = bytes([device.value]) * 16  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(devices, "find_library", lambda: tmp_path)
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _name: Driver())
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    (tmp_path / devices.CUDA_LIBRARY).touch()
    assert [each.device_id for each in devices.find_devices()] == ["cpu:0"]
    (tmp_path / "version").touch()
    first, second, processor = devices.find_devices()
    assert (first.device_id, first.description, first.memory_bytes) == ("cuda:0", "GPU 0", 80 << 30)
    assert (second.device_id, second.uuid) == ("cuda:1", "GPU-01010101-0101-0101-0101-010101010101")
    assert processor.device_id == "cpu:0"
    (tmp_path / devices.CUDA_LIBRARY).unlink()
    assert [each.device_id for each in devices.find_devices()] == ["cpu:0"]


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this build of the runtime has CUDA")
def test_a_device_that_is_not_there_is_an_error(path: Path) -> None:
    """Another device is never taken in its place, and why there is no CUDA is said, with the way to it."""
    why = r"'cuda:0' is not known; this backend has cpu:0: .* built for the processor; .*install inferd\[onnx-gpu\]"
    for ask in (OnnxBackend().measure, lambda request: OnnxBackend().load(request, lambda _: None)):
        with pytest.raises(LoadError, match=why):
            ask(models.request(path, device="cuda:0"))


@pytest.mark.parametrize(
    ("device", "setting", "available", "chosen"),
    [
        ("cpu:0", "auto", [CPU], "cpu"),
        ("cpu:0", "auto", [CUDA, CPU], "cpu"),
        ("cpu:0", "auto", ["OpenVINOExecutionProvider", CPU], "cpu"),
        ("cpu:0", "openvino", ["OpenVINOExecutionProvider", CPU], "openvino"),
        ("cuda:1", "auto", ["TensorrtExecutionProvider", CUDA, CPU], "cuda"),
        ("cuda:1", "tensorrt", ["TensorrtExecutionProvider", CUDA, CPU], "tensorrt"),
    ],
)
def test_which_provider_computes(device: str, setting: str, available: list[str], chosen: str) -> None:
    """The device decides, and the setting, and nothing else that happens to be installed."""
    assert choose_provider(device, setting, available) == chosen


@pytest.mark.parametrize(
    ("device", "setting", "why"),
    [
        ("cpu:0", "cuda", "'provider' is 'cuda', but on device 'cpu:0' it must be cpu or openvino"),
        ("cuda:0", "cpu", "it must be cuda or tensorrt"),
        ("cuda:0", "auto", "the installed onnxruntime has no CUDAExecutionProvider; it has CPUExecutionProvider"),
        ("cpu:0", "openvino", "the installed onnxruntime has no OpenVINOExecutionProvider"),
    ],
)
def test_a_provider_that_is_not_there_is_an_error(device: str, setting: str, why: str) -> None:
    """What was asked for and cannot be is refused with what there is, never replaced."""
    with pytest.raises(LoadError, match=why):
        choose_provider(device, setting, [CPU])


@pytest.mark.skipif(OPENVINO in ort.get_available_providers(), reason="this build of the runtime has OpenVINO")
def test_openvino_is_asked_for_and_never_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenVINO a load fails with the way to it; a runtime that has it is asked, and its words are told."""

    def load() -> None:
        OnnxBackend().load(models.request(path, provider="openvino"), lambda _: None)

    with pytest.raises(LoadError, match=r"has no OpenVINOExecutionProvider.*then install onnxruntime-openvino"):
        load()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [OPENVINO, CPU])
    with pytest.raises(LoadError, match="Specified provider 'OpenVINOExecutionProvider' is not in available"):
        load()


def test_a_provider_that_fails_at_the_load_is_an_error() -> None:
    """Where the runtime goes on with the processor instead, the load fails with what the runtime said about it."""
    said: list[str] = []
    with overheard(said):
        subprocess.run(["/bin/sh", "-c", "echo '[E:onnxruntime] libcublas.so.12:\n cannot open' >&2"], check=True)
    with pytest.raises(LoadError, match=r"'cuda' cannot be used here: \[E:onnxruntime\] libcublas.so.12: cannot open"):
        check_providers("cuda", [CPU], said[0])
    check_providers("cuda", [CUDA, CPU], "")


def test_providers_stand_behind_each_other() -> None:
    """CUDA takes no more memory than was reserved; behind it stands the processor, for what CUDA does not compute."""
    (cuda, options), (cpu, _) = provider_list("cuda", "cuda:3", limit_bytes=5, available=[CUDA, CPU])
    assert (cuda, cpu, options["device_id"], options["gpu_mem_limit"]) == (CUDA, CPU, "3", "5")
    trt = provider_list("tensorrt", "cuda:0", limit_bytes=5, available=["TensorrtExecutionProvider", CUDA, CPU])
    assert [name for name, _ in trt] == ["TensorrtExecutionProvider", CUDA, CPU]


def test_description(path: Path) -> None:
    """What was loaded is told: the graph, its weights, and which provider computes how much of it."""
    description = models.load(save_product(path, 16)).description
    assert (description.architecture, description.parameters, description.weight_format) == ("small", 256, "FLOAT")
    assert description.compute_format == f"ONNX Runtime {ort.__version__}, cpu 1 operators"
    assert models.load(models.save_identity(path)).description.weight_format == "NONE"


def test_settings_are_followed(path: Path) -> None:
    """Each choice of every setting loads a model that computes the same."""
    save_product(path, 16)
    given = {"x": models.tensor(np.ones((3, 16)))}
    expected = models.load(path).session.predict(given, ["y"])["y"].array
    for settings in (
        *({"optimization": level} for level in ("none", "basic", "extended", "all")),
        {"arena": "false", "memory_pattern": "false"},
        {"inter_threads": "2", "intra_threads": "2", "spinning": "true"},
        {"provider": "cpu", "workspace_mib": "1"},
    ):
        found = models.load(path, **settings).session.predict(given, ["y"])["y"].array
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="'optimization' is 'most'; it must be one of none, basic, extended, all"):
        models.load(path, optimization="most")


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("context_tokens", "64", "leave it out"),
        ("kv_tokens", "64", "leave it out"),
        ("max_sequences", "8", "did you mean 'max_batch'?"),
        ("max_step_tokens", "8", "did you mean 'max_batch'?"),
        ("block_tokens", "8", "leave it out"),
        ("quantization", "4bit", "leave it out"),
        ("compute", "exact", "did you mean 'optimization'?"),
        ("pre_tokenizer", "gpt-2", "leave it out"),
    ],
)
def test_settings_of_language_models_are_refused(path: Path, name: str, value: str, hint: str) -> None:
    """A model of tensors that is given a setting of language models names it, and the one that is meant."""
    request = models.request(save_product(path, 16), **{name: value})
    for act in (OnnxBackend().measure, lambda request: OnnxBackend().load(request, lambda _: None)):
        with pytest.raises(LoadError, match=f"setting {name!r} is '?{value}'?, but it is for language models") as error:
            act(request)
        assert str(error.value).endswith(hint)


def test_a_profile_is_written(path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The time of each operator is in a file of the folder that was named, complete when the session is closed."""
    folder = tmp_path / "profiles"
    with pytest.raises(LoadError, match=r"'profile', a folder, is '/.*profiles': there is no such folder; make it"):
        models.load(path, profile=str(folder))
    with pytest.raises(LoadError, match=r"'profile', a folder, is 'profiles': it must be the absolute path of one"):
        models.load(path, profile="profiles")
    folder.mkdir()
    session = models.load(path, profile=str(folder)).session
    session.predict({"x": models.tensor([[1.0, 2.0]])}, ["y"])
    session.close()
    (file,) = folder.iterdir()
    assert any(event["name"] == "model_run" for event in json.loads(file.read_text()))
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", f"profile: {file}\n")


def test_measure(path: Path) -> None:
    """The need is the weights and a workspace that the setting replaces; a load that needs more is refused."""
    need = check_need(OnnxBackend().measure(models.request(save_product(path, 512))))
    assert need.weights_bytes == pytest.approx(512 * 512 * 4, abs=100)
    less = OnnxBackend().measure(models.request(path, workspace_mib="1"))
    assert need.workspace_bytes - less.workspace_bytes == 63 << 20
    again = OnnxBackend().measure(models.request(path, capacity_bytes=1))
    assert again == need
    tight = models.request(path, capacity_bytes=need.total_bytes - 1)
    with pytest.raises(LoadError, match=f"needs {need.total_bytes} bytes .* but {need.total_bytes - 1} may be given"):
        OnnxBackend().load(tight, lambda _: None)


@pytest.mark.parametrize("width", [64, 4096])
def test_a_load_takes_what_was_measured(path: Path, width: int) -> None:
    """A fresh process grows by at most what was measured, the runtime included, and by no less than the weights."""
    request = models.request(save_product(path, width))
    growth = measure_growth(OnnxBackend(), request)
    assert width * width * 4 <= growth.grown_bytes <= growth.need.total_bytes


def test_a_load_reports_progress(path: Path) -> None:
    """Progress begins at 0, rises and ends at 1."""
    told: list[float] = []
    OnnxBackend().load(models.request(path), told.append)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert told == sorted(told)


def test_nothing_is_printed(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Loads and calls that fail say so in their exceptions: nothing reaches standard output, nor fills a log."""
    session = models.load(path).session
    with pytest.raises(ValueError, match="INVALID_ARGUMENT"):
        session.predict({"x": models.tensor([[1.0]])}, ["y"])
    path.write_bytes(b"\x3a\x05hello")
    with pytest.raises(LoadError):
        models.load(path)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="the runtime is not installed")
def test_a_request_for_another_device_is_no_fall_back(path: Path) -> None:
    """A device that no plugin has is refused by its name, whatever its form."""
    for device in ("npu:0", "cpu:1", "cuda"):
        with pytest.raises(LoadError, match=f"device '{device}' is not known"):
            OnnxBackend().measure(
                LoadRequest(path=path, device=device, settings=models.request(path).settings, capacity_bytes=1 << 30)
            )
