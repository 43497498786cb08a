"""A recipe held against a model: its signature, texts and files that go in, and what is told of outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensor_sessions import floats
from tokenizers import Tokenizer, models, pre_tokenizers

from inferd.engine.recipe.answers import tell
from inferd.engine.recipe.files import read_bytes
from inferd.engine.recipe.limits import RecipeLimits
from inferd.engine.recipe.preparation import Preparation
from inferd.errors import InvalidFieldError
from inferd.plugin import (
    AudioInput,
    BytesInput,
    ElementType,
    ImageInput,
    LabelOutput,
    LoadError,
    PlainOutput,
    Recipe,
    Signature,
    SpelledOutput,
    Tensor,
    TensorInfo,
    TensorState,
    TextInput,
    VectorOutput,
    read_recipe,
)
from inferd.plugin.recipe import RecipeInput, RecipeOutput

LABELS = ("ant", "bee", "cat")


def info(name: str, *shape: int | str, kind: ElementType = ElementType.FLOAT) -> TensorInfo:
    return TensorInfo(name=name, element_type=kind, shape=shape)


def prepare(
    folder: Path,
    *steps: RecipeInput | RecipeOutput,
    inputs: tuple[TensorInfo, ...] = (info("x", "b", 4),),
    outputs: tuple[TensorInfo, ...] = (info("y", "b", 3),),
    **more: Any,
) -> Preparation:
    ins = tuple(step for step in steps if hasattr(step, "gives"))
    outs = tuple(step for step in steps if hasattr(step, "takes"))
    recipe = Recipe(where=str(folder / "recipe.toml"), inputs=ins, outputs=outs)
    signature = Signature(inputs=inputs, outputs=outputs, most_batch=8, **more)
    return Preparation(recipe, signature, RecipeLimits(image_pixels=1000, audio_s=1.0))


def file(content: bytes) -> Tensor:
    array = np.frombuffer(content, np.uint8)
    return Tensor(element_type=ElementType.UINT8, shape=array.shape, array=array)


def texts(*given: str) -> Tensor:
    return Tensor(element_type=ElementType.STRING, shape=(len(given),), array=np.array(given, object))


def write_tokenizer(folder: Path) -> None:
    inner = Tokenizer(models.WordLevel({"?": 0, "one": 1, "two": 2, "three": 3}, unk_token="?"))  # noqa: S106 - a word of the vocabulary
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(folder / "tokenizer.json"))


def test_the_signature_is_the_outer_one(tmp_path: Path) -> None:
    """Clients see the files that they give and the answers that they get; what the recipe leaves is the model's own."""
    steps = (BytesInput(name="file", gives="x", first=4), LabelOutput(name="kind", takes="y", labels=LABELS, top=2))
    states = (TensorState(input_name="before", output_name="after", start_shape=(2,)),)
    inputs = (info("x", "b", 4), info("other", "b"), info("before", "b", 2))
    made = prepare(tmp_path, *steps, inputs=inputs, outputs=(info("y", "b", 3), info("after", "b", 2)), states=states)
    signature = made.signature
    assert [each.name for each in signature.inputs] == ["file", "other", "before"]
    assert (signature.inputs[0].element_type, signature.inputs[0].shape) == (ElementType.UINT8, ("bytes",))
    assert [(each.name, each.shape) for each in signature.outputs] == [
        ("kind", ("b", 2)),
        ("kind_score", ("b", 2)),
        ("after", ("b", 2)),
    ]
    assert made.choose(()) == ("y",)
    assert made.choose(("kind_score",)) == ("y",)
    assert made.choose(("kind", "after")) == ("y", "after")
    with pytest.raises(InvalidFieldError, match=r"no output 'y'.* It has: kind, kind_score, after"):
        made.choose(("y",))
    outputs = {"y": floats([[1, 3, 2]]), "after": floats([[5, 6]])}
    told = made.finish(("after", "kind"), {}, outputs)
    assert list(told) == ["after", "kind"]
    assert told["kind"].array.tolist() == [["bee", "cat"]]


def test_texts_become_rows(tmp_path: Path) -> None:
    """Of one length each, filled up to a multiple, with their mask; in the types that the model takes."""
    write_tokenizer(tmp_path)
    step = TextInput(name="text", gives="ids", mask="mask", types="types", length=6, multiple=4, padding=9)
    inputs = tuple(info(name, "b", "t", kind=ElementType.INT32) for name in ("ids", "mask", "types"))
    made = prepare(tmp_path, step, inputs=inputs)
    given = made.prepare({"text": texts("one two three", "two")}, carried=False)
    assert {name: tensor.array.tolist() for name, tensor in given.items()} == {
        "ids": [[1, 2, 3, 9], [2, 9, 9, 9]],
        "mask": [[1, 1, 1, 0], [1, 0, 0, 0]],
        "types": [[0] * 4] * 2,
    }
    assert given["ids"].array.dtype == np.int32
    assert made.prepare({"text": texts("one " * 5)}, carried=False)["ids"].shape == (1, 6)
    assert made.prepare({"text": texts("")}, carried=False)["ids"].shape == (1, 4)
    for wrong, words in ((texts("one " * 7), "has a text of 7 tokens; the model takes 6"), (texts(), "has 0 texts")):
        with pytest.raises(InvalidFieldError, match=f"input 'text' {words}") as caught:
            made.prepare({"text": wrong}, carried=False)
        assert caught.value.field == "spec.infer.inputs[0].strings"


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b"", [256] * 7),
        (b"ab", [97, 98, 256, 256, 256, 97, 98]),
        (b" ab\n", [97, 98, 256, 256, 256, 97, 98]),
        (b" a  b ", [97, 32, 32, 256, 32, 32, 98]),
        (b"abcdefghij   ", [97, 98, 99, 100, 256, 256, 106]),
    ],
)
def test_ends_of_files(content: bytes, row: list[int]) -> None:
    """The first and the last bytes, without white space at the ends that are looked at."""
    step = BytesInput(name="file", gives="x", first=4, last=3, padding=256, strip=4)
    assert read_bytes(step, content).tolist() == [row]


def test_what_clients_give_wrongly(tmp_path: Path) -> None:
    """Files that cannot be read, numbers that a type cannot hold and unknown names are told with their field."""
    picture = ImageInput(name="image", gives="x")
    made = prepare(tmp_path, picture, inputs=(info("x", "b", 3, "h", "w"),))
    for given, field, words in (
        ({"image": file(b"none")}, "spec.infer.inputs[0].data", "input 'image' is no picture"),
        (
            {"image": texts("a.png")},
            "spec.infer.inputs[0].element_type",
            "input 'image' is a text; give a picture as the bytes",
        ),
        ({"x": file(b"")}, "spec.infer.inputs[0].name", "no input 'x'.* It has: image"),
        ({}, "spec.infer.inputs", "input 'image' is missing"),
    ):
        with pytest.raises(InvalidFieldError, match=words) as caught:
            made.prepare(given, carried=False)
        assert caught.value.field == field
    padded = BytesInput(name="file", gives="x", first=4, padding=300)
    made = prepare(tmp_path, padded, inputs=(info("x", "b", 4, kind=ElementType.UINT8),))
    with pytest.raises(InvalidFieldError, match="becomes numbers from 97 to 300, which UINT8 cannot hold"):
        made.prepare({"file": file(b"a")}, carried=False)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (BytesInput(name="file", gives="xx", first=4), "'input.file.gives' is 'xx', which is no input .*mean 'x'?"),
        (BytesInput(name="file", gives="x", first=5), r"'input.file.gives' is 'x' of shape \['b', 4\].* is \[1, 5\]"),
        (BytesInput(name="file", gives="t", first=4), "is 't', which is STRING; a recipe gives plain numbers"),
        (BytesInput(name="t", gives="x", first=4), "'input.t' has the name of another input"),
        (
            ImageInput(name="image", gives="x"),
            r"of shape \['b', 4\], and what the recipe makes is \[1, 3, '\?', '\?'\]",
        ),
        (ImageInput(name="i", gives="p", resize=(8, 8)), r"of shape \['b', 3, 8, 16\], .* is \[1, 3, 8, 8\]"),
        (AudioInput(name="sound", gives="x", rate=8000, window=5), r"what the recipe makes is \['\?', 5\]"),
        (TextInput(name="text", gives="x", mask="none"), "'input.text.mask' is 'none', which is no input"),
        (TextInput(name="text", gives="x"), "'input.text' tokenizer.json is no tokenizer"),
        (LabelOutput(name="l", takes="z", labels=LABELS), "'output.l.takes' is 'z', which is no output of the model"),
        (LabelOutput(name="l", takes="y", labels=LABELS[:2]), "'output.l' takes output 'y' of shape .* labels, 2"),
        (SpelledOutput(name="l", takes="y", labels=LABELS), "must have 3 dimensions"),
        (VectorOutput(name="v", takes="y"), "must have 3 dimensions"),
        (VectorOutput(name="v", takes="s", mask="m"), "'output.v.mask' is 'm', which is no input of the model"),
    ],
)
def test_a_recipe_that_does_not_fit(tmp_path: Path, step: RecipeInput | RecipeOutput, words: str) -> None:
    """Is refused when the model is loaded, with the field and what the model has."""
    (tmp_path / "tokenizer.json").write_text("{}")
    inputs = (info("x", "b", 4), info("t", "b", 4, kind=ElementType.STRING), info("p", "b", 3, 8, 16))
    with pytest.raises(LoadError, match=words):
        prepare(tmp_path, step, inputs=inputs, outputs=(info("y", "b", 3), info("s", "b", "t", 4)))


def told(output: RecipeOutput, array: Any, inputs: dict[str, Tensor] | None = None) -> dict[str, Any]:
    return {
        name: each.array.tolist() for name, each in tell(output, {output.takes: floats(array)}, inputs or {}).items()
    }


def test_labels() -> None:
    """The likeliest first, of equals the one before, with scores as they are, or as shares of all."""
    output = LabelOutput(name="l", takes="y", labels=LABELS, top=2)
    assert told(output, [[1, 4, 3], [2, 2, 2]]) == {"l": [["bee", "cat"], ["ant", "bee"]], "l_score": [[4, 3], [2, 2]]}
    shares = LabelOutput(name="l", takes="y", labels=LABELS, top=3, activation="softmax")
    assert told(shares, [[1000, 1000, 0]]) == {"l": [["ant", "bee", "cat"]], "l_score": [[0.5, 0.5, 0]]}
    assert told(output, [[[[1]], [[4]], [[3]]]])["l"] == [["bee", "cat"]]
    each = LabelOutput(name="l", takes="y", labels=LABELS, activation="sigmoid")
    assert told(each, [[0, -1e9, -3]]) == {"l": [["ant"]], "l_score": [[0.5]]}
    with pytest.raises(TypeError, match=r"output 'y' has shape \[1, 2\]; its labels are for \['any', 3\]"):
        told(output, [[1, 2]])


@pytest.mark.parametrize("activation", ["none", "softmax", "sigmoid"])
def test_labels_of_no_numbers(activation: Any) -> None:
    """Numbers that are NaN, or become so, have no label; a label that a model rules out is only the last one."""
    output = LabelOutput(name="l", takes="y", labels=LABELS, top=3, activation=activation)
    with pytest.raises(TypeError, match="output 'y' has numbers that are NaN"):
        told(output, [[1, 2, 3], [1, np.nan, 3]])
    if activation == "softmax":
        for row in ([1, np.inf, 3], [-np.inf] * 3):
            with pytest.raises(TypeError, match="make NaN under its activation"):
                told(output, [row])
    assert told(output, [[1, -np.inf, 3]])["l"] == [["cat", "ant", "bee"]]
    with pytest.raises(TypeError, match="output 'y' has numbers that are NaN"):
        told(SpelledOutput(name="t", takes="y", labels=LABELS), [[[1, np.nan, 0]]])


def test_numbers_that_a_type_cannot_hold(tmp_path: Path) -> None:
    """What a recipe makes of a file is a number of the model's type, or an error that names both; never Infinity."""
    step = BytesInput(name="file", gives="x", first=4, padding=70_000)
    half = prepare(tmp_path, step, inputs=(info("x", 1, 4, kind=ElementType.FLOAT16),))
    assert half.prepare({"file": file(b"abcd")}, carried=False)["x"].array.dtype == np.float16
    with pytest.raises(InvalidFieldError, match="becomes numbers up to 70000, which FLOAT16 cannot hold"):
        half.prepare({"file": file(b"abc")}, carried=False)


def test_spelled_texts() -> None:
    """What is said twice in a row is meant once, unless there is nothing between."""
    steps = np.eye(3)[[[1, 1, 0, 1, 2, 2, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]]
    assert told(SpelledOutput(name="t", takes="y", labels=("", "a", "b")), steps) == {"t": ["aab", ""]}


def test_vectors() -> None:
    """Of the tokens that are no padding: their mean, the first or the last one, as long as 1 if wanted."""
    states, mask = [[[3, 4], [1, 0], [9, 9]], [[0, 0], [0, 0], [0, 0]]], {"m": floats([[1, 1, 0], [0, 0, 0]])}

    def vector(**more: Any) -> Any:
        return told(VectorOutput(name="v", takes="y", mask="m", **more), states, mask)["v"]

    assert vector(normalize=False) == [[2, 2], [0, 0]]
    np.testing.assert_allclose(vector(), [[0.5**0.5] * 2, [0, 0]], atol=1e-6)
    np.testing.assert_allclose(vector(pooling="first"), [[0.6, 0.8], [0, 0]], atol=1e-6)
    assert vector(pooling="last")[0] == [1, 0]
    plain = VectorOutput(name="v", takes="y", normalize=False, pooling="last")
    assert told(plain, states)["v"] == [[9, 9], [0, 0]]
    assert told(PlainOutput(name="p", takes="y"), [[1]]) == {"p": [[1]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[input.x]\ntakes = 'file'\nfirst = 4\n\ngives = 'z'\n",
            "recipe.toml:5: 'input.x.gives' is 'z', which is no input",
        ),
        ("\n[input.z]\ntakes = 'file'\nfirst = 4\n", "recipe.toml:2: 'input.z.gives' is 'z', which is no input"),
        ("\n\n[input.x]\ntakes = 'file'\nfirst = 3\n", r"recipe.toml:3: 'input.x.gives' is 'x' of shape"),
        ("[output.raw]\nas = 'tensor'\ntakes = 'w'\n", "recipe.toml:3: 'output.raw.takes' is 'w', which is no output"),
    ],
)
def test_lines_of_what_does_not_fit(tmp_path: Path, text: str, words: str) -> None:
    """What a file says that does not fit the model is told with its line, that of its table where it says nothing."""
    (tmp_path / "recipe.toml").write_text(text)
    recipe = read_recipe(tmp_path)
    assert recipe is not None
    signature = Signature(inputs=(info("x", "b", 4),), outputs=(info("y", "b", 3),))
    with pytest.raises(LoadError, match=words):
        Preparation(recipe, signature, RecipeLimits())
