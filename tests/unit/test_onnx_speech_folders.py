"""Folders with an encoder and a decoder: what is wrong in one is refused before anything is loaded, with its cause."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import shutil

import whisper_to_onnx as whisper

from inferd.plugin import LoadError, LoadRequest, UnsupportedModelError
from inferd.plugin.backend import read_settings
from inferd.runtime.formats import folder_format
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC
from inferd_onnx.speech.folder import read_speech_folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing is wrong."""
    return whisper.write_folder(tmp_path_factory.mktemp("whisper"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def measure(folder: Path, **settings: str) -> Any:
    request = LoadRequest(path=folder, device="cpu:0", settings=read_settings(SPEC, settings), capacity_bytes=1 << 32)
    return OnnxBackend().measure(request)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_where_graphs_may_be(folder: Path) -> None:
    """The graphs are found beside the configurations or in `onnx`; either is a folder of the format "onnx"."""
    beside = measure(folder)
    assert folder_format(folder) == "onnx"
    (folder / "onnx").mkdir()
    for graph in folder.glob("*.onnx"):
        graph.rename(folder / "onnx" / graph.name)
    assert folder_format(folder) == "onnx"
    assert measure(folder) == beside


@pytest.mark.parametrize(
    ("file", "values", "kind", "words"),
    [
        ("config.json", {"model_type": "t5"}, UnsupportedModelError, "model_type is 't5'"),
        ("config.json", {"num_mel_bins": 128}, LoadError, "feature_size is 80, but config.json has num_mel_bins 128"),
        ("config.json", {"decoder_layers": 3}, LoadError, r"the input 'past_key_values\.2\.decoder\.key' is missing"),
        (
            "preprocessor_config.json",
            {"chunk_length": 30},
            LoadError,
            "a window has 3000 columns, but config.json has max_source_positions 50, which takes 100",
        ),
        ("preprocessor_config.json", {"dither": 0.1}, UnsupportedModelError, "dither is 0.1"),
        ("preprocessor_config.json", {"feature_size": 1 << 19}, LoadError, "feature_size is 524288; .* 1 to 1024"),
        ("preprocessor_config.json", {"n_fft": 1 << 21}, LoadError, "n_fft is 2097152; .* from 1 to 16384"),
        ("preprocessor_config.json", {"chunk_length": 1 << 20}, LoadError, "chunk_length is 1048576; .* 1 to 600"),
        ("preprocessor_config.json", {"hop_length": 50}, LoadError, "feature_size is 80; .* at most hop_length, 50"),
        ("generation_config.json", {"num_beams": 5}, UnsupportedModelError, "num_beams is 5"),
        ("generation_config.json", {"suppress_tokens": "all"}, LoadError, "suppress_tokens is all; it must be a list"),
        ("generation_config.json", {"language": "german"}, UnsupportedModelError, "write its code: en, de"),
        (
            "generation_config.json",
            {"lang_to_id": None, "forced_decoder_ids": [[1, None], [2, whisper.TRANSCRIBE]]},
            UnsupportedModelError,
            "forced_decoder_ids leave the language open, and there is no lang_to_id",
        ),
    ],
)
def test_what_is_refused(folder: Path, file: str, values: dict[str, Any], kind: type[LoadError], words: str) -> None:
    """What contradicts the graphs, or would have other text written than is written here, is refused by its name."""
    change(folder / file, **values)
    with pytest.raises(kind, match=words):
        measure(folder)


def test_where_sounds_are_said(folder: Path) -> None:
    """What a processor of transformers 5 saves is read: the same settings, as an object in another file."""
    before = measure(folder)
    sound = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": sound}))
    assert measure(folder) == before
    change(folder / "processor_config.json", feature_extractor=sound | {"dither": 0.1})
    with pytest.raises(UnsupportedModelError, match=r"processor_config.json: dither is 0\.1"):
        measure(folder)


def test_what_is_missing(folder: Path) -> None:
    """A folder without a decoder that goes on is refused with the names that it may have, and unread settings are."""
    with pytest.raises(LoadError, match="setting 'kv_tokens' is 64"):
        measure(folder, kv_tokens="64")
    with pytest.raises(LoadError, match="setting 'context_tokens' is 21, but the model serves 20"):
        measure(folder, context_tokens="21")
    (folder / "decoder_with_past_model.onnx").unlink()
    with pytest.raises(LoadError, match="but no decoder_with_past_model"):
        measure(folder)


def test_models_of_one_language(folder: Path) -> None:
    """Where a model knows one language, forced tokens begin its texts, and a preset language is not asked for."""
    change(folder / "generation_config.json", is_multilingual=False, forced_decoder_ids=[[1, whisper.SILENT]])
    written = read_written(folder)
    assert (written.start, written.begin, written.languages, written.tasks) == (
        (whisper.START,),
        (whisper.SILENT,),
        (),
        (),
    )
    change(folder / "generation_config.json", is_multilingual=True, language="<|de|>", task="translate")
    written = read_written(folder)
    assert (written.start, written.languages) == ((whisper.START, whisper.GERMAN), ())
    assert written.tasks[0] == ("translate", whisper.TRANSLATE)


def test_where_generation_is_said(folder: Path) -> None:
    """What generation_config.json leaves out is not done, whatever config.json says; it counts where that is alone."""
    change(folder / "config.json", begin_suppress_tokens=[5], suppress_tokens=[6])
    change(folder / "generation_config.json", begin_suppress_tokens=None, suppress_tokens=[-1])
    written = read_written(folder)
    assert (written.begin_suppress, written.suppress) == ((), ())
    (folder / "generation_config.json").unlink()
    written = read_written(folder)
    assert (written.start, written.begin_suppress, written.suppress) == ((whisper.START,), (5,), (6,))


def read_written(folder: Path) -> Any:
    return read_speech_folder(folder, folder).recipe.written
