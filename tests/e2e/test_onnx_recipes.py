"""Recipes of ONNX models through everything: pictures and texts from the command line, bad files among good ones."""

import asyncio
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

import bert_to_onnx  # noqa: E402 - behind the checks that its libraries are there
import onnx  # noqa: E402 - as above
import onnx_models as models  # noqa: E402 - as above
from onnx import TensorProto, helper  # noqa: E402 - as above
from onnx_cases import quiet  # noqa: E402 - as above

from inferd.cli import main  # noqa: E402 - as above
from inferd.testing.kernel import KernelProcess, kernel_process  # noqa: E402 - as above
from inferd_client import AsyncClient, Client  # noqa: E402 - as above
from inferd_client.errors import InvalidFieldError, ModelLoadError, UnsupportedInputError  # noqa: E402 - as above

pytestmark = pytest.mark.e2e
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
PIXELS = np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURE = """
[input.image]
takes = "image"
gives = "data_0"
resize = 256
crop = [224, 224]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[output.label]
as = "labels"
takes = "softmaxout_1"
labels = "labels.txt"
top = 3
"""
TEXT = """
[input.text]
takes = "text"
gives = "input_ids"
mask = "attention_mask"
length = 512

[output.vector]
as = "vector"
takes = "last_hidden_state"
mask = "attention_mask"
"""
BRIGHT = """
[input.image]
takes = "image"
gives = "x"
colors = "gray"
resize = [8, 8]
layout = "nhw"

[output.bright]
as = "tensor"
takes = "mean"
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that has the backend, whether or not its entry point is installed."""
    environment = {"INFERD_BACKENDS": "[]", "INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
    with kernel_process(tmp_path_factory.mktemp("kernel"), environment=environment) as process:
        yield process


@pytest.fixture
def inferd(kernel: KernelProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs commands against it."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main.app, [*arguments, "--address", kernel.address])


def test_text_for_a_model_of_tensors(kernel: KernelProcess, tmp_path: Path) -> None:
    """A folder without a tokenizer says so when it is given text to go on with, to embed, or to make tokens of."""
    models.save_identity(tmp_path / "model.onnx")
    with Client(kernel.address) as client:
        client.create_model("plain", source=str(tmp_path))
        for ask in (client.generate, client.embed, client.tokenize):
            with pytest.raises(
                UnsupportedInputError, match=r"Its folder has no tokenizer\.json, which an encoder's must"
            ):
                ask("plain", "Hello")
        client.unload_model("plain")
        client.delete_model("plain")


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_a_picture_from_the_command_line(inferd: Callable[..., Result], tmp_path: Path) -> None:
    """A classifier of the onnx package is given a picture as ImageNet's are, and gives what the bare runtime gives."""
    folder = tmp_path / "classifier"
    folder.mkdir()
    shutil.copy(LIGHT / "light_squeezenet.onnx", folder / "model.onnx")
    (folder / "recipe.toml").write_text(PICTURE)
    names = [f"label {number}" for number in range(1000)]
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "cat.png").write_bytes(png(PIXELS))
    done = inferd("infer", str(folder), "image=@cat.png", "-o", "json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["outputs"]
    wide = Image.fromarray(PIXELS).resize((341, 256), Image.Resampling.BILINEAR).crop((58, 16, 282, 240))
    row = ((np.asarray(wide) / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    bare = ort.InferenceSession(folder / "model.onnx", quiet(), providers=["CPUExecutionProvider"])
    (scores,) = bare.run(None, {"data_0": row})
    best = np.argsort(-scores.reshape(-1), kind="stable")[:3]
    np.testing.assert_allclose(found["label_score"]["values"], [scores.reshape(-1)[best]], rtol=1e-4)
    assert found["label"]["values"] == [[names[number] for number in best]]
    (tmp_path / "broken.png").write_bytes(png(PIXELS)[:-200])
    done = inferd("infer", str(folder), "image=@broken.png", "-o", "json")
    error = json.loads(done.stdout)["error"]
    assert error["reason"] == "INVALID_FIELD"
    assert "input 'image' is a damaged PNG" in error["message"]


@pytest.mark.model
def test_texts_from_the_command_line(inferd: Callable[..., Result], minilm: Path, tmp_path: Path) -> None:
    """A recipe's pooled vector of a text is the embedding that the model's own folder says."""
    folder = shutil.copytree(minilm, tmp_path / "minilm", ignore=shutil.ignore_patterns("*.safetensors"))
    bert_to_onnx.convert(minilm, folder / "model.onnx", gives="last_hidden_state")
    done = inferd("embed", str(folder), "A cat sits on the mat.", "Kernel", "-o", "json")
    assert done.exit_code == 0, done.stderr
    first, second = json.loads(done.stdout)["embeddings"]
    assert np.dot(first, second) < 0.9
    assert "384" in inferd("embed", str(folder), "Kernel").stdout
    (folder / "recipe.toml").write_text(TEXT)
    done = inferd("infer", str(folder), "text=A cat sits on the mat.", "-o", "json")
    assert done.exit_code == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout)["outputs"]["vector"]["values"], [first], atol=1e-5)


async def test_bad_files_among_good_ones(kernel: KernelProcess, tmp_path: Path) -> None:
    """Of a hundred pictures at once each good one has its own answer, and each bad one its own error."""
    path = models.save(
        tmp_path / "bright.onnx",
        [helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0)],
        [models.value("x", TensorProto.FLOAT, ["batch", 8, 8])],
        [models.value("mean", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    (tmp_path / "bright.recipe.toml").write_text(BRIGHT)
    files = [png(np.full((20 + number, 30), number, np.uint8)) for number in range(100)]
    bad = {number: files[number][: number // 2] if number % 2 else b"\x00" * number for number in range(0, 100, 7)}
    async with AsyncClient(kernel.address) as client:
        await client.create_model("bright", source=str(path))
        given = [bytearray(bad.get(number, file)) for number, file in enumerate(files)]
        told = await asyncio.gather(
            *(client.infer("bright", {"image": each}) for each in given), return_exceptions=True
        )
    for number, each in enumerate(told):
        if number in bad:
            assert isinstance(each, InvalidFieldError), each
            assert "input 'image' is" in str(each)
        else:
            assert not isinstance(each, BaseException), each
            assert each["bright"].tolist() == pytest.approx([number / 255], abs=1e-6)


def test_a_recipe_that_does_not_fit(kernel: KernelProcess, tmp_path: Path) -> None:
    """Is told when the model is loaded, with its line and its field."""
    path = models.save_identity(tmp_path / "small.onnx")
    for text, words in (
        ('[input.image]\ntakes = "image"\ngives = "x"\n', r"small.recipe.toml:3: 'input.image.gives' is 'x' of shape"),
        ('[input.image]\ntakes = "image"\nlayuot = "nhwc"\n', r"small.recipe.toml:3: 'input.image.layuot' .*'layout'"),
    ):
        (tmp_path / "small.recipe.toml").write_text(text)
        with Client(kernel.address) as client:
            name = f"small-{len(text)}"
            client.create_model(name, source=str(path))
            with pytest.raises(ModelLoadError, match=words):
                client.load_model(name)
