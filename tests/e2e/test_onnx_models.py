"""Real ONNX models through a kernel: the examples find what is in their inputs, and streams keep their states apart."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")

import file_types
import melody
import onnx_fuzz
import onnx_models as models
import onnxruntime as ort
import real_onnx as real
import speech
from onnx import TensorProto, helper
from onnx_cases import quiet

from inferd.plugin.tensor import BITS, size_bytes
from inferd.plugin.tensor import ElementType as Kind
from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.tensor_pb2 import StringElements, Tensor
from inferd_client import AsyncClient, Client, InferSequence
from inferd_client.errors import SequenceNotFoundError
from inferd_client.tensors import to_array

pytestmark = [pytest.mark.e2e, pytest.mark.model]

Packaged = Callable[[str, str], Path]
LINES = ("inferd reads 16 models", "Hello, World!", "capacity 42 GiB")
WINDOWS = int(os.environ.get("STREAM_WINDOWS", "6"))
OF_THE_INTERPRETER = 128 << 20  # and of what a worker imports, which is no need of a model
EXAMPLES = Path(file_types.__file__).parent


@pytest.fixture(scope="module")
def onnx_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that has the backend, whether or not its entry point is installed."""
    environment = {"INFERD_BACKENDS": "[]", "INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
    with kernel_process(tmp_path_factory.mktemp("kernel"), environment=environment) as process:
        yield process


@pytest.fixture(scope="module")
def client(onnx_kernel: KernelProcess) -> Iterator[Client]:
    with Client(onnx_kernel.address) as client:
        yield client


@pytest.fixture(scope="module")
def silero(client: Client, packaged: Packaged) -> str:
    path = packaged("silero-vad", "6.2.3") / "silero_vad/data/silero_vad.onnx"
    client.create_model("silero-vad", source=str(path), settings=speech.SETTINGS)
    return "silero-vad"


def write_sound(path: Path, sound: np.ndarray, rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


def run_example(kernel: KernelProcess, name: str, *arguments: Path) -> list[str]:
    """The lines that an example prints, run as its first lines say."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "INFERD_ADDRESS": kernel.address},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_types_of_files(onnx_kernel: KernelProcess, packaged: Packaged, tmp_path: Path) -> None:
    """The classifier magika, given files by its recipe, names the types of twelve, and an empty one is told as that."""
    folder = shutil.copytree(packaged("magika", "1.0.3") / "magika/models/standard_v3_3", tmp_path / "magika")
    shutil.copy(EXAMPLES / "recipes" / "magika.toml", folder / "recipe.toml")
    paths = []
    for name, content in real.files_of_ten_types().items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    paths.append(tmp_path / "empty")
    paths[-1].touch()
    lines = run_example(onnx_kernel, "file_types.py", folder, *paths)
    assert [line.split()[1] for line in lines] == [path.name for path in paths]


@pytest.mark.parametrize("rate", [22050, 48000])
def test_notes_of_a_melody(client: Client, packaged: Packaged, tmp_path: Path, rate: int) -> None:
    """basic-pitch hears the notes that are played in a file of any rate, in their order and at their time."""
    path = packaged("basic-pitch", "0.4.0") / "basic_pitch/saved_models/icassp_2022/nmp.onnx"
    shutil.copy(path, tmp_path / "nmp.onnx")
    shutil.copy(EXAMPLES / "recipes" / "basic-pitch.toml", tmp_path / "nmp.recipe.toml")
    client.create_model(f"basic-pitch-{rate}", source=str(tmp_path / "nmp.onnx"))
    numbers = [60, 64, 67, 72]
    sound = write_sound(tmp_path / "tune.wav", real.melody(numbers, rate), rate)
    heard = melody.hear(client, f"basic-pitch-{rate}", sound.read_bytes())
    assert [number for _, number in heard] == numbers
    np.testing.assert_allclose([begin_s for begin_s, _ in heard], 0.05 + 0.45 * np.arange(4), atol=0.1)


def test_text_of_a_picture(onnx_kernel: KernelProcess, packaged: Packaged, tmp_path: Path) -> None:
    """Three models of rapidocr find, turn and read the lines that were drawn, one of them upside down."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    drawing, fonts = pytest.importorskip("PIL.ImageDraw"), pytest.importorskip("PIL.ImageFont")
    picture = pillow.new("RGB", (640, 320), "white")
    for place, line in enumerate(LINES):
        strip = pillow.new("RGB", (640, 80), "white")
        drawing.Draw(strip).text((40, 10), line, fill="black", font=fonts.load_default(40))
        picture.paste(strip.rotate(180) if place == 1 else strip, (0, 20 + 95 * place))
    picture.save(tmp_path / "letter.png")
    folder = shutil.copytree(packaged("rapidocr", "3.10.0") / "rapidocr/models", tmp_path / "models")
    assert run_example(onnx_kernel, "read_text.py", folder, tmp_path / "letter.png") == list(LINES)


@pytest.mark.parametrize("rate", speech.RATES)
def test_speech_in_a_stream(onnx_kernel: KernelProcess, packaged: Packaged, tmp_path: Path, rate: int) -> None:
    """silero-vad, whose state the kernel carries, tells when speech begins and ends."""
    path = write_sound(tmp_path / "talk.wav", real.speech(rate), rate)
    silent = write_sound(tmp_path / "silent.wav", np.zeros(rate), rate)
    model = packaged("silero-vad", "6.2.3") / "silero_vad/data/silero_vad.onnx"
    (began, what), (ended, then) = (line.split(" s  ") for line in run_example(onnx_kernel, "speech.py", model, path))
    assert (what, then) == ("speech", "silence")
    np.testing.assert_allclose([float(began), float(ended)], real.SPEECH_S, atol=0.15)
    assert run_example(onnx_kernel, "speech.py", model, silent) == [f"nobody speaks in {silent}"]


def make_streams(count: int, windows: int) -> list[tuple[int, np.ndarray]]:
    """The rates and windows of speech, of both rates in turn, each from another place on and of another loudness."""
    spoken = {rate: real.speech(rate) for rate in speech.RATES}
    made = []
    for number in range(count):
        rate = speech.RATES[number % 2]
        size = 576 * rate // 16000
        sound = np.resize(spoken[rate][(rate + number * 37) % len(spoken[rate]) :], windows * size)
        made.append((rate, (sound * np.float32(0.5 + number / count)).reshape(windows, 1, size)))
    return made


def hear_alone(session: ort.InferenceSession, rate: int, sound: np.ndarray) -> list[float]:
    """What the bare runtime says of a stream, window by window."""
    told, state = [], np.zeros((2, 1, 128), np.float32)
    for window in sound:
        output, state = session.run(None, {"input": window, "state": state, "sr": np.array(rate)})
        told.append(output.item())
    return told


async def test_a_hundred_streams(onnx_kernel: KernelProcess, client: Client, silero: str) -> None:
    """A hundred streams at once, of both rates and all different, have each the answers that it has alone.

    STREAM_WINDOWS=500 listens for longer.
    """
    streams = make_streams(100, WINDOWS)

    async def listen(client: AsyncClient, number: int) -> list[float]:
        rate, sound = streams[number]
        told = []
        for place, window in enumerate(sound):
            here = InferSequence(id=f"stream {number}", start=place == 0, end=place == len(sound) - 1)
            outputs = await client.infer(silero, {"input": window, "sr": np.array(rate)}, sequence=here)
            told.append(outputs["output"].item())
        return told

    async with AsyncClient(onnx_kernel.address) as together:
        found = np.array(await asyncio.gather(*(listen(together, number) for number in range(len(streams)))))
    path = client.get_model(silero).source
    session = ort.InferenceSession(path, quiet(), providers=["CPUExecutionProvider"])
    alone = np.array([hear_alone(session, rate, sound) for rate, sound in streams])
    np.testing.assert_allclose(found, alone, atol=1e-6)
    others = np.abs(alone[:, None] - alone[None]).max(2) + np.eye(len(streams))
    assert others.min() > 1e-5, "two streams are alike, so that one could stand for the other"


def test_a_stream_whose_worker_dies(client: Client, silero: str) -> None:
    """The next window of a stream whose worker has died is refused by name; begun anew, it is as it was at first."""
    ((rate, sound),) = make_streams(1, 2)
    window = {"input": sound[0], "sr": np.array(rate)}
    first = client.infer(silero, window, sequence=InferSequence(id="dies", start=True))["output"]
    (instance,) = client.get_model(silero).instances
    os.kill(instance.pid, signal.SIGKILL)
    with pytest.raises(SequenceNotFoundError, match=r"worker.*; send its first request with start again") as told:
        client.infer(silero, {"input": sound[1], "sr": np.array(rate)}, sequence=InferSequence(id="dies"))
    assert told.value.metadata["sequence"] == "dies"
    again = client.infer(silero, window, sequence=InferSequence(id="dies", start=True, end=True))["output"]
    assert again.tobytes() == first.tobytes()


def test_memory_is_measured_and_given_back(client: Client, tmp_path: Path) -> None:
    """What a model needs is read off its file, its worker's most is told, and unloading tells what it gives back."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [4096, 4096], bytes(64 << 20), raw=True)
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    x, y = (models.value(name, TensorProto.FLOAT, ["rows", 4096]) for name in "xy")
    client.create_model("large", source=str(models.save(tmp_path / "large.onnx", nodes, [x], [y], [weight])))
    planned = client.plan_load("large").need
    assert 64 << 20 <= planned.weights_bytes < 65 << 20
    (instance,) = client.load_model("large").instances
    client.infer("large", {"x": np.ones((1, 4096), np.float32)})
    assert instance.need == planned
    assert client.get_model("large").instances[0].peak_bytes >= 64 << 20
    given_back = client.unload_model("large").returned_bytes
    assert 64 << 20 <= given_back <= instance.reserved_bytes + OF_THE_INTERPRETER
    assert not psutil.pid_exists(instance.pid)


def test_a_profile_is_whole_when_the_model_is_unloaded(client: Client, tmp_path: Path) -> None:
    """The file with the time of each operator is complete when UnloadModel answers; two calls at once share it."""
    folder, path = tmp_path / "profiles", models.save_identity(tmp_path / "model.onnx")
    folder.mkdir()
    client.create_model("profiled", source=str(path), settings={"profile": str(folder), "threads": 2})
    assert client.model_signature("profiled").threads == 2
    client.infer("profiled", {"x": np.ones((1, 2), np.float32)})
    client.unload_model("profiled")
    (file,) = folder.iterdir()
    assert any(event["name"] == "model_run" for event in json.loads(file.read_text()))


def test_every_type_goes_through_the_kernel(client: Client, tmp_path: Path) -> None:
    """A tensor of every type that the runtime has comes back from a model as it went: each bit, texts, and shapes."""
    missing = {Kind.COMPLEX64, Kind.COMPLEX128, Kind.FLOAT4E2M1, Kind.FLOAT8E8M0}  # the runtime gives none back
    kinds, shape = [kind for kind in Kind if kind not in missing], (5, 3)
    nodes, given = [], {}
    random = np.random.default_rng(1)
    for kind in kinds:
        tensor = Tensor(element_type=int(kind), shape=shape)
        if kind is Kind.STRING:
            tensor.strings.CopyFrom(StringElements(values=["", "zwölf", "🗼", *"abcdefghijkl"]))
        else:
            raw = random.integers(0, 2 if kind is Kind.BOOL else 256, size_bytes(kind, shape), np.uint8)
            raw[-1] &= 0x03 if BITS[kind] < 8 else 0xFF  # behind the last element are zeros
            tensor.data = raw.tobytes()
        given[f"in {kind.name}"] = tensor
        if BITS.get(kind, 8) < 8:  # the runtime has no Identity for those
            nodes.append(helper.make_node("Cast", [f"in {kind.name}"], [f"wide {kind.name}"], to=TensorProto.INT8))
            nodes.append(helper.make_node("Cast", [f"wide {kind.name}"], [f"out {kind.name}"], to=int(kind)))
        else:
            nodes.append(helper.make_node("Identity", [f"in {kind.name}"], [f"out {kind.name}"]))
    inputs, outputs = (
        [models.value(f"{side} {kind.name}", int(kind), ["rows", 3]) for kind in kinds] for side in ("in", "out")
    )
    client.create_model("types", source=str(models.save(tmp_path / "types.onnx", nodes, inputs, outputs)))
    found = client.infer("types", given)
    assert len(found) == len(kinds) == 22
    for kind in kinds:
        expected = to_array(given[f"in {kind.name}"])
        assert found[f"out {kind.name}"].dtype == expected.dtype
        assert found[f"out {kind.name}"].tolist() == expected.tolist()


def test_damaged_files_through_a_kernel(tmp_path: Path) -> None:
    """A kernel refuses damaged files with typed errors that name them, and computes afterwards as before."""
    tally = onnx_fuzz.through_a_kernel(tmp_path, seed=3, cases=6)
    assert not tally.findings, "\n".join(tally.findings)
    assert tally.cases == 6
    assert 0 < tally.outcomes["loaded"] < 6
