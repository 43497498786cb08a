"""A classifier of texts as an ONNX model with a recipe, asked about what another model is told and says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")

from onnx import TensorProto, helper  # noqa: E402 - behind the checks that its libraries are there
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402 - as above

from inferd.testing.kernel import kernel_process, write_fake_model  # noqa: E402 - as above
from inferd_client import Client  # noqa: E402 - as above
from inferd_client.errors import ModeratedError, ModerationUnavailableError  # noqa: E402 - as above

pytestmark = pytest.mark.e2e
RECIPE = """
[input.text]
takes = "text"
gives = "input_ids"
length = 64

[output.kind]
as = "labels"
takes = "scores"
labels = ["fine", "toxic"]
top = 2
"""
BAD = 1  # id of the word that is toxic


def write_classifier(folder: Path) -> Path:
    """A model that finds a text toxic that has one word."""
    folder.mkdir()
    other = "[UNK]"
    tokenizer = Tokenizer(models.WordLevel({other: 0, "poison": BAD}, unk_token=other))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    nodes = [
        helper.make_node("Equal", ["input_ids", "bad"], ["equal"]),
        helper.make_node("Cast", ["equal"], ["found"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["found", "axes"], ["toxic"], keepdims=1),
        helper.make_node("Sub", ["one", "toxic"], ["fine"]),
        helper.make_node("Concat", ["fine", "toxic"], ["scores"], axis=1),
    ]
    given = [
        helper.make_tensor("bad", TensorProto.INT64, [1], [BAD]),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "toxic",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])],
        given,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A kernel with a model that repeats what it is told, and a classifier that is asked about it."""
    folder = tmp_path_factory.mktemp("toxic")
    classifier = {"model": "toxic", "labels": ["toxic"], "least_score": 0.9, "deadline_s": 60}
    rules: list[dict[str, Any]] = [{"name": "toxic", "models": "fake", "classifier": classifier}]
    environment = {
        "INFERD_BACKENDS": "[]",
        "INFERD_PLUGIN_MODULES": json.dumps(["inferd.testing.plugin", "inferd_onnx.plugin"]),
        "INFERD_MODERATION__RULES": json.dumps(rules),
    }
    with kernel_process(folder, environment=environment) as kernel, Client(kernel.address) as made:
        made.create_model("fake", source=str(write_fake_model(folder)))
        made.create_model("toxic", source=str(write_classifier(folder / "toxic")))
        yield made


def test_a_classifier_of_texts_is_asked(client: Client) -> None:
    """What it finds in the input or the output ends the task; without it nothing passes, and the kernel lives."""
    said = [{"role": "user", "content": "a nice day"}]
    assert client.generate("fake", said, max_tokens=20, temperature=0.0).text == "a nice day"
    with pytest.raises(ModeratedError) as caught:
        client.generate("fake", [{"role": "user", "content": "drink the poison now"}], max_tokens=20)
    assert (caught.value.metadata["rule"], caught.value.metadata["on"]) == ("toxic", "input")
    client.unload_model("toxic", force=True)
    client.delete_model("toxic")
    with pytest.raises(ModerationUnavailableError, match="MODEL_NOT_FOUND"):
        client.generate("fake", said, max_tokens=20)
