"""Speech to text through everything: sounds as files in, text in pieces out."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import transcribe
import whisper_to_onnx as whisper

from inferd.cli import main
from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_client import AsyncClient, Client
from inferd_client.errors import InvalidFieldError, ModelLoadError, UnsupportedInputError

pytestmark = pytest.mark.e2e
RECIPE = f"""
[input.sound]
takes = "audio"
gives = "input_features"
rate = {whisper.RATE}
window = {whisper.RATE}
mels = {whisper.MELS}

[output.words]
as = "written"
start = [{whisper.START}, {whisper.GERMAN}]
begin = [{whisper.TRANSCRIBE}, {whisper.SILENT}]
suppress = {whisper.SUPPRESS}
begin_suppress = {whisper.BEGIN_SUPPRESS}
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that has the backend, whether or not its entry point is installed, and a model "heard"."""
    folder = tmp_path_factory.mktemp("kernel")
    environment = {"INFERD_BACKENDS": "[]", "INFERD_PLUGIN_MODULES": json.dumps(["inferd_onnx.plugin"])}
    with kernel_process(folder, environment=environment) as process, Client(process.address) as client:
        client.create_model("heard", source=str(whisper.write_folder(folder / "whisper")))
        yield process


@pytest.fixture
def inferd(kernel: KernelProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs commands against it."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(main.app, [*arguments, "--address", kernel.address])


def hear(address: str, content: bytearray, **inputs: list[str]) -> list[int]:
    """The tokens of what is written of a file."""
    with Client(address) as client:
        sets = client.infer_stream("heard", {"audio": content, **inputs})
        return [int(number) for each in sets for number in each["text_tokens"]]


def test_a_bad_sound_among_good_ones(kernel: KernelProcess) -> None:
    """Of four files at once, one that is no sound costs its own task; the others are what transformers writes."""
    files = [whisper.as_file(whisper.make_sound(seed)) for seed in range(3)] + [bytearray(b"\x89PNG no sound")]
    with ThreadPoolExecutor(4) as pool:
        heard = [pool.submit(hear, kernel.address, each, language=["en"]) for each in files]
        assert [each.result(60) for each in heard[:3]] == [whisper.write(seed, "en") for seed in range(3)]
        with pytest.raises(InvalidFieldError, match="input 'audio' is no sound that can be read") as error:
            heard[3].result(60)
    assert error.value.field == "spec.infer.inputs[0].data"


def test_a_long_sound(kernel: KernelProcess) -> None:
    """A sound longer than a window is written window by window, each as if it came alone: nothing of it is left out."""
    sound, size = whisper.make_sound(8, 2.5), whisper.RATE
    parts = [sound[begin : begin + size] for begin in range(0, len(sound), size)]
    apart = [hear(kernel.address, whisper.as_file(part), language=["de"]) for part in parts]
    assert hear(kernel.address, whisper.as_file(sound), language=["de"]) == list(chain(*apart))
    assert len(parts) == 3


def test_the_whole_at_once(kernel: KernelProcess) -> None:
    """`infer` of either client waits for the whole text, and gives its pieces as one, with all of its tokens."""
    given = {"audio": whisper.as_file(whisper.make_sound(0)), "language": ["en"]}

    async def ask() -> Any:
        async with AsyncClient(kernel.address) as client:
            return await client.infer("heard", given)

    with Client(kernel.address) as client:
        pieces = list(client.infer_stream("heard", given))
        for whole in (client.infer("heard", given), asyncio.run(ask())):
            assert whole["text"].tolist() == ["".join(each["text"][0] for each in pieces)]
            assert whole["text_tokens"].tolist() == whisper.write(0, "en")
        assert client.infer("heard", given, outputs=["text"]).keys() == {"text"}


def test_from_the_command_line(inferd: Callable[..., Result], kernel: KernelProcess, tmp_path: Path) -> None:
    """`inferd infer` writes the text as text, as the example does; an unknown language is told with the nearest one."""
    (tmp_path / "a.wav").write_bytes(whisper.as_file(whisper.make_sound(1)))
    done = inferd("infer", "heard", f"audio=@{tmp_path / 'a.wav'}", "language=en", "task=transcribe")
    with Client(kernel.address) as client:
        text = "".join(transcribe.hear(client, "heard", tmp_path / "a.wav", language="en"))
        with pytest.raises(UnsupportedInputError, match=r"reads no text; give spec.infer instead"):
            client.generate("heard", "Hello")
    assert done.stdout == text + "\n"
    assert text
    given = ("infer", "heard", f"audio=@{tmp_path / 'a.wav'}", "language=en", "task=transcribe")
    done = inferd(*given, "--save", str(tmp_path / "w.npz"), "-o", "json")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    told = json.loads(line)["outputs"]
    assert (told["text"]["values"], told["text_tokens"]["values"]) == ([text], whisper.write(1, "en"))
    with np.load(tmp_path / "w.npz") as saved:
        assert {name: saved[name].tolist() for name in saved} == {name: told[name]["values"] for name in told}
    wrong = inferd("infer", "heard", f"audio=@{tmp_path / 'a.wav'}", "language=enn")
    assert wrong.exit_code == 1
    assert "input 'language' is 'enn', which the model does not have; did you mean 'en'?" in " ".join(
        wrong.stderr.split()
    )


def test_a_recipe_says_it(kernel: KernelProcess, tmp_path: Path) -> None:
    """A recipe beside the graphs goes before what the folder says; tokens that there are not are refused at load."""
    folder = whisper.write_folder(tmp_path / "own")
    (folder / "recipe.toml").write_text(RECIPE)
    with Client(kernel.address) as client:
        client.create_model("own", source=str(folder))
        given = {"sound": whisper.as_file(whisper.make_sound(2))}
        sets = list(client.infer_stream("own", given, outputs=["words_tokens"]))
        assert [int(number) for each in sets for number in each["words_tokens"]] == whisper.write(2, "de")
        (folder / "recipe.toml").write_text(RECIPE.replace(str(whisper.SUPPRESS), "[1, 9999]"))
        client.create_model("bad", source=str(folder))
        with pytest.raises(ModelLoadError, match="output 'words' names token 9999; the model has 264"):
            client.load_model("bad")
