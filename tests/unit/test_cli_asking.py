"""How models are asked, as commands tell it: by what lies in their folders, before anything of them is loaded."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inferd.cli import main
from inferd.cli.asking import how_to_ask

SOUND = '[input.sound]\ntakes = "audio"\nrate = 16000\n[input.words]\ntakes = "text"\n'
WORDS = {"tokenizer.json": "{}"}
CAUSAL, POOLED = {"architectures": ["LlamaForCausalLM"]}, {"architectures": ["BertModel"]}


@pytest.mark.parametrize(
    ("files", "name", "command"),
    [
        ({"m.gguf": ""}, "m.gguf", "inferd run m"),
        ({"m.onnx": ""}, "m.onnx", "inferd infer m INPUT=VALUE"),
        (
            {"m.onnx": "", "m.recipe.toml": SOUND, "tokenizer.json": "{}"},
            "m.onnx",
            "inferd infer m sound=@FILE words=TEXT",
        ),
        ({"model.onnx": "", "recipe.toml": SOUND, **WORDS}, "", "inferd infer m sound=@FILE words=TEXT"),
        ({"model.onnx": "", "recipe.toml": "[input"}, "", "inferd infer m INPUT=VALUE"),
        ({"model.onnx": ""}, "", "inferd infer m INPUT=VALUE"),
        ({"model.onnx": "", "genai_config.json": "{}"}, "", "inferd run m"),
        ({"encoder_model.onnx": "", "config.json": "{}"}, "", "inferd infer m audio=@FILE"),
        ({"config.json": json.dumps(CAUSAL)}, "", "inferd run m"),
        ({"config.json": json.dumps(POOLED)}, "", "inferd embed m TEXT"),
        ({"config.json": json.dumps(CAUSAL), "modules.json": "[]"}, "", "inferd embed m TEXT"),
        ({"config.json": "[1"}, "", "inferd run m"),
        ({"config.json": "{}", "classifier.json": "{}", "m.safetensors": ""}, "", "inferd infer m text=TEXT"),
    ],
)
def test_by_what_its_files_say(tmp_path: Path, files: dict[str, str], name: str, command: str) -> None:
    """A model is asked by the command that answers, with the inputs that its recipe names."""
    for each, text in files.items():
        (tmp_path / each).write_text(text)
    assert how_to_ask("m", tmp_path / name) == command


def test_show_and_pull_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_address: str) -> None:
    """A model of tensors is shown, not loaded, with how it is asked and what tells its inputs, and without sampling."""
    monkeypatch.setenv("INFERD_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("INFERD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "recipe.toml").write_text('[input.image]\ntakes = "image"\n')
    runner = CliRunner()
    pulled = runner.invoke(main.app, ["pull", f"file:{folder}"])
    told = " ".join(pulled.stdout.split())
    assert told.endswith("ask it: inferd infer detector image=@FILE"), pulled.output
    shown = " ".join(runner.invoke(main.app, ["show", "detector", "--address", unused_address]).stdout.split())
    assert "ask it inferd infer detector image=@FILE" in shown
    assert "inputs told once it is loaded: inferd load detector" in shown
    assert "temperature" not in shown
