"""Recipes as files: what they may say, and that all else is refused with line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from inferd.plugin import (
    AudioInput,
    BytesInput,
    ImageInput,
    LabelOutput,
    LoadError,
    PlainOutput,
    SpelledOutput,
    TextInput,
    VectorOutput,
    read_recipe,
)
from inferd.plugin.recipe_file import MAX_BYTES

WHOLE = """
[input.image]
takes = "image"
gives = "x"
colors = "gray"
resize = 256
crop = [224, 112]
mean = 0.5
layout = "nhw"

[input."a sound"]
takes = "audio"
rate = 16000

[input.text]
takes = "text"
gives = "ids"
mask = "mask"

[input.file]
takes = "file"
first = 4

[output.label]
as = "labels"
takes = "scores"
labels = ["cat", "dog"]
top = 2
activation = "softmax"

[output.line]
as = "spelled"
takes = "steps"
labels = "letters.txt"

[output.vector]
as = "vector"
takes = "states"
mask = "mask"

[output.raw]
as = "tensor"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "letters.txt").write_text("\na\nb\n ", encoding="utf-8")
    (folder / "labels.json").write_text('{"names": ["one", "two"], "more": [1]}')
    return folder


def test_all_that_a_recipe_may_say(tmp_path: Path) -> None:
    """Each kind of input and output is read with its defaults, from a folder and from beside a file."""
    recipe = read_recipe(write(tmp_path, WHOLE))
    assert recipe is not None
    assert recipe.inputs == (
        ImageInput(name="image", gives="x", colors="gray", resize=(256,), crop=(224, 112), mean=(0.5,), layout="nhw"),
        AudioInput(name="a sound", gives="a sound", rate=16000),
        TextInput(name="text", gives="ids", mask="mask"),
        BytesInput(name="file", gives="file", first=4),
    )
    assert recipe.outputs == (
        LabelOutput(name="label", takes="scores", labels=("cat", "dog"), top=2, activation="softmax"),
        SpelledOutput(name="line", takes="steps", labels=("", "a", "b", " ")),
        VectorOutput(name="vector", takes="states", mask="mask"),
        PlainOutput(name="raw", takes="raw"),
    )
    (tmp_path / "recipe.toml").rename(tmp_path / "model.recipe.toml")
    assert read_recipe(tmp_path) is None
    assert read_recipe(tmp_path / "model.onnx") is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[input.image\n", "is no TOML: .*line 1"),
        ("", r"says nothing: it must have a table \[input.NAME\]"),
        ("[inputs.image]\ntakes = 'image'\n", "recipe.toml:1: 'inputs' is not known; did you mean 'input'?"),
        ("input = 3\n", "recipe.toml:1: 'input' must have tables with names"),
        ("[input.x]\n", "recipe.toml:1: 'input.x.takes' is missing; it must be one of image, audio, text, file"),
        ("[input.x]\ntakes = 'imgae'\n", "recipe.toml:2: 'input.x.takes' is 'imgae'.* did you mean 'image'?"),
        ("[input.x]\ntakes = 'image'\n\nresise = 3\n", "recipe.toml:4: 'input.x.resise' .*did you mean 'resize'?"),
        ("[input.x]\ntakes = 'image'\nresize = [0, 0]\n", r"recipe.toml:3: 'input.x.resize' is '\[0, 0\]'"),
        ("[input.x]\ntakes = 'image'\nresize = 99999999\n", "'input.x.resize' is '99999999'; .* to 16384"),
        ("[input.x]\ntakes = 'image'\nresize = true\n", "'input.x.resize' is 'True'"),
        ("[input.x]\ntakes = 'image'\ncrop = [0, 4]\n", r"'input.x.crop' is '\[0, 4\]'; .* from 1 to"),
        ("[input.x]\ntakes = 'image'\nmean = [1, 2]\n", r"'input.x.mean' is '\[1, 2\]'; .*list of 3 numbers"),
        ("[input.x]\ntakes = 'image'\nstd = 0\n", "'input.x.std' is '0'; .*none of them 0"),
        ("[input.x]\ntakes = 'image'\nscale = nan\n", "'input.x.scale' is 'nan'"),
        ("[input.x]\ntakes = 'image'\nlayout = 'nchh'\n", "'input.x.layout' is 'nchh'; it must be the letters 'nchw'"),
        ("[input.x]\ntakes = 'image'\nlayout = 'nhw'\n", "'input.x.layout' is 'nhw'"),
        ("[input.x]\ntakes = 'audio'\n", "'input.x.rate' is missing; it must be a whole number from 1000"),
        ("[input.x]\ntakes = 'audio'\nrate = 192_001\n", "'input.x.rate' is '192001'; .* from 1000 to 192000"),
        ("[input.x]\ntakes = 'audio'\nrate = 16e3\n", "'input.x.rate' is '16000.0'"),
        ("[input.x]\ntakes = 'text'\ntokenizer = '../tokenizer.json'\n", "recipe.toml:3: .*no file in the folder"),
        ("[input.x]\ntakes = 'text'\ntokenizer = 'other.json'\n", "'other.json', which is no file in the folder"),
        ("[input.x]\ntakes = 'file'\n", "'input.x.first' and 'last' are 0"),
        ("[output.y]\nas = 'labels'\ntakes = 'z'\n", "'output.y.labels' is missing; it must be a list of texts"),
        ("[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = []\n", r"'output.y.labels' is '\[\]'"),
        ("[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = 'labels.json:more'\n", r"'output.y.labels' is '\[1\]'"),
        ("[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = 'labels.json:none'\n", "'output.y.labels' is missing"),
        ("[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = '/etc/passwd'\n", "no file in the folder"),
        ("[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = ['a']\ntop = 2\n", "recipe.toml:5: .* from 1 to 1"),
        ("[output.y]\nas = 'vector'\ntakes = 'z'\nnormalize = 1\n", "'output.y.normalize' is '1'; .*true or false"),
        ("[output.y]\nas = 'tensor'\ntakes = 4\n", "'output.y.takes' is '4'; it must be a text"),
        ("#" * (MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes; the limit is {MAX_BYTES}"),
        ("a = " + "[" * 5000, "is no TOML"),
        ("note = '''\n[" + " " * 200_000 + "x\n'''\n[ input.x ]\ntakes = 4\n", "recipe.toml:5: 'input.x.takes' is '4'"),
    ],
)
def test_what_a_recipe_says_wrongly(tmp_path: Path, text: str, words: str) -> None:
    """Each mistake is told with the line, the field and what it must be."""
    with pytest.raises(LoadError, match=words):
        read_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"id2label": {"1": "dog", "0": "cat"}}, ("cat", "dog")),
        ({"id2label": {"dog": 1, "cat": 0}}, ("cat", "dog")),
        ({"id2label": {str(n): f"l{n}" for n in range(12)}}, tuple(f"l{n}" for n in range(12))),
        ({"id2label": {"0": "cat", "2": "dog"}}, None),
        ({"id2label": {"0": "cat", "1": 3}}, None),
        ({"id2label": {}}, None),
    ],
)
def test_numbered_labels(tmp_path: Path, content: dict[str, Any], labels: tuple[str, ...] | None) -> None:
    """Labels by number or numbers by label, as a folder of Hugging Face has them, are in their order; gaps are told."""
    folder = write(tmp_path, "[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = 'config.json:id2label'\n")
    (folder / "config.json").write_text(json.dumps(content))
    if labels is None:
        with pytest.raises(
            LoadError, match=r"'output\.y\.labels' is .*; it must be a list of texts, .*numbered from 0"
        ):
            read_recipe(folder)
        return
    recipe = read_recipe(folder)
    assert recipe is not None
    (output,) = recipe.outputs
    assert isinstance(output, LabelOutput)
    assert output.labels == labels


def test_a_mark_in_front(tmp_path: Path) -> None:
    """Files that an editor put the mark of UTF-8 in front of are read without it: the recipe, and its labels."""
    folder = write(tmp_path, "[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = 'letters.txt'\n")
    for name in ("recipe.toml", "letters.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    recipe = read_recipe(folder)
    assert recipe is not None
    (output,) = recipe.outputs
    assert isinstance(output, LabelOutput)
    assert output.labels == ("", "a", "b", " ")


def test_what_is_no_text(tmp_path: Path) -> None:
    """A file of other bytes, and labels of other bytes, are refused."""
    write(tmp_path, "[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = 'letters.txt'\n")
    (tmp_path / "letters.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match=r"recipe.toml:4: .*'letters.txt', which cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match="is no TOML"):
        read_recipe(tmp_path)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    """Labels, a tokenizer or a recipe that lie elsewhere are refused by name; links within the folder are followed."""
    folder = tmp_path / "model"
    folder.mkdir()
    labels = "[output.y]\nas = 'labels'\ntakes = 'z'\nlabels = 'names.txt'\n"
    (tmp_path / "secret").write_text(labels)
    write(folder, labels)
    (folder / "names.txt").symlink_to("letters.txt")
    assert read_recipe(folder) is not None
    (folder / "names.txt").unlink()
    (folder / "names.txt").symlink_to("../secret")
    with pytest.raises(LoadError, match=r"recipe.toml:4: .*'names.txt', which is a symbolic link out of the folder"):
        read_recipe(folder)
    write(folder, "[input.x]\ntakes = 'text'\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(LoadError, match=r"'tokenizer.json', which is a symbolic link out of the folder"):
        read_recipe(folder)
    for recipe, model in ((folder / "recipe.toml", folder), (folder / "a.recipe.toml", folder / "a.onnx")):
        recipe.unlink(missing_ok=True)
        recipe.symlink_to("../secret")
        with pytest.raises(LoadError, match=f"{recipe.name} is a symbolic link out of the model's folder"):
            read_recipe(model)
    (folder / "recipe.toml").unlink()
    (folder / "recipe.toml").write_text("[output.y]\nas = 'tensor'\n")
    (tmp_path / "linked").symlink_to(folder)
    assert read_recipe(tmp_path / "linked") is not None
