"""Names of files that the files of a model say: those that no folder can have are refused like all others."""

import json
from pathlib import Path

import pytest

from inferd.plugin import LoadError, list_hf_weights, read_recipe
from inferd.plugin.hf import read_hf_pooling

NAMES = {
    "long": "a" * 300,
    "long in bytes": "\u4e2d" * 100,
    "nul": "a\0b",
    "half a character": "\ud800",
    "above": "..",
    "itself": ".",
    "elsewhere": "/etc/passwd",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_no_folder_has(tmp_path: Path, name: str) -> None:
    """Poolings, weights and labels with such a name are a fault of the file that says it, and nothing else is read."""
    (tmp_path / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (tmp_path / "model").mkdir()
    folder = tmp_path / "model"
    modules = [{"type": "sentence_transformers.models.Pooling", "path": name}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(LoadError, match=r"modules\.json: module 'sentence_transformers.* no place for it"):
        read_hf_pooling(folder)
    for ending in ("", ".safetensors"):
        weights = {"weight_map": {"x": f"{name}{ending}"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
        if ending and name in ("..", "."):
            assert list_hf_weights(folder) == [folder / f"{name}{ending}"]  # a name like any other
            continue
        with pytest.raises(LoadError, match=r"weight_map names .*, which is no safetensors file of the folder"):
            list_hf_weights(folder)
    if name != NAMES["half a character"]:  # TOML has none
        text = f"[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = {json.dumps(name)}\n"
        (folder / "recipe.toml").write_text(text)
        with pytest.raises(LoadError, match=r"recipe\.toml:4: .* which is no file in the folder of the recipe"):
            read_recipe(folder)
