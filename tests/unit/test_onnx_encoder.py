"""Encoders of texts as ONNX graphs in folders: against transformers, and what of a folder is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import bert_to_onnx  # noqa: E402 - behind the checks that its libraries are there
import onnx_models as models  # noqa: E402 - as above
from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - as above
from onnxruntime.quantization import quantize_dynamic  # noqa: E402 - as above
from tiny_rankers import write as write_ranker  # noqa: E402 - as above

from inferd.plugin import LoadedModel, LoadedTensorModel, LoadError, Pooling, UnsupportedModelError  # noqa: E402
from inferd.testing.batches import Part, make_batch  # noqa: E402 - as above

LENGTHS = (1, 17, 40, 2, 11, 33)
POOLED = {"pooling_mode_mean_tokens": True}


def write_folder(folder: Path, *, gives: str = "last_hidden_state", types: bool = False) -> Any:
    """A folder with a graph and all that is beside it, but for the weights of transformers; the network."""
    network = write_ranker("bert", folder)
    bert_to_onnx.convert(folder, folder / "model.onnx", gives=gives, types=types)
    (folder / "model.safetensors").unlink()
    if gives != "logits":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    return network


def write_pooling(folder: Path, settings: dict[str, bool]) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))


def step(model: LoadedModel, prompts: list[list[int]]) -> np.ndarray:
    """Hidden states of all tokens, of all prompts in one step."""
    blocks, parts = 0, []
    for ids in prompts:
        count = -(-len(ids) // 16)
        parts.append(Part(token_ids=ids, blocks=range(blocks, blocks + count), wanted=[]))
        blocks += count
    batch = make_batch(parts)
    hidden = model.session.step(replace(batch, hidden_rows=np.arange(len(batch.token_ids), dtype=np.int32))).hidden
    assert hidden is not None
    return hidden


def load(folder: Path, **settings: str) -> LoadedModel:
    model = models.load(folder, intra_threads="1", **settings)
    assert isinstance(model, LoadedModel)
    return model


@pytest.mark.parametrize("types", [False, True], ids=["ids", "ids and types"])
def test_hidden_states_are_those_of_transformers(tmp_path: Path, types: bool) -> None:  # noqa: FBT001 - of pytest
    """Of texts of all lengths in one step: padding beside longer ones changes nothing."""
    network = write_folder(tmp_path, types=types).base_model
    model = load(tmp_path)
    assert (model.embedding.pooling, model.session.limits.whole_prompts) == (Pooling.MEAN, True)
    draw = np.random.default_rng(1)
    prompts = [draw.integers(3, 15, size=count).tolist() for count in LENGTHS]
    with torch.inference_mode():
        states = [network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy() for ids in prompts]
    np.testing.assert_allclose(step(model, prompts), np.concatenate(states), atol=1e-4)
    model.session.close()


def test_a_quantised_graph_reads_each_text_alone(tmp_path: Path) -> None:
    """Where a graph quantises by a scale of all that it is given, a text beside others gives what it gives alone."""
    write_folder(tmp_path)
    whole = tmp_path / "model.onnx"
    quantize_dynamic(whole.rename(tmp_path / "float.onnx"), whole)
    model = load(tmp_path)
    draw = np.random.default_rng(1)
    prompts = [draw.integers(3, 15, size=count).tolist() for count in LENGTHS]
    alone = [step(model, [ids]) for ids in prompts]
    np.testing.assert_array_equal(step(model, prompts), np.concatenate(alone))
    assert "one request at a time" in model.description.compute_format
    model.session.close()


def test_a_graph_that_pools_itself(tmp_path: Path) -> None:
    """Its vector is given for each token, by the pooling that the folder names, and no other one."""
    network = write_folder(tmp_path, gives="embedding").base_model
    assert (load(tmp_path).embedding.pooling, load(tmp_path).embedding.pooled) == (Pooling.FIRST, True)
    write_pooling(tmp_path, POOLED)
    model = load(tmp_path)
    assert (model.embedding.pooling, model.embedding.pooled) == (Pooling.MEAN, True)
    with torch.inference_mode():
        mean = network(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0].mean(0)
    expected = np.tile((mean / mean.norm()).numpy(), (3, 1))
    np.testing.assert_allclose(step(model, [[5, 6, 7]]), expected, atol=1e-5)


def test_a_classifier_scores_pairs(tmp_path: Path) -> None:
    """Its logits are the scores, and what is behind the separator is of the second type."""
    network = write_folder(tmp_path, gives="logits", types=True)
    model = load(tmp_path)
    assert (model.embedding.pooling, model.embedding.pooled) == (Pooling.RANK, True)
    ids, kinds = [0, 4, 5, 2, 6, 7, 2], [0, 0, 0, 0, 1, 1, 1]
    with torch.inference_mode():
        expected = network(torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits[0].numpy()
    np.testing.assert_allclose(step(model, [ids])[0], expected, atol=1e-4)


def test_fixed_sizes_are_filled_up(tmp_path: Path) -> None:
    """A graph that takes two texts of eight tokens gives each of five texts what a free one gives."""
    write_folder(tmp_path)
    weights = np.random.default_rng(2).normal(0, 1, (20, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["deep"]),
        helper.make_node("Mul", ["each", "deep"], ["last_hidden_state"]),
    ]
    models.save(
        tmp_path / "model.onnx",
        nodes,
        [models.value(name, TensorProto.INT32, [2, 8]) for name in ("input_ids", "attention_mask")],
        [models.value("last_hidden_state", TensorProto.FLOAT, [2, 8, 6])],
        [numpy_helper.from_array(weights, "table"), numpy_helper.from_array(np.array([2]), "last")],
    )
    model = load(tmp_path)
    assert model.session.limits.context_tokens == 8
    prompts = [[3], [4, 5], [6, 7, 8], [9] * 8, [10]]
    np.testing.assert_array_equal(step(model, prompts), weights[np.concatenate(prompts)])


@pytest.mark.parametrize("size", ["tokens", 8])
def test_a_graph_that_is_not_told_of_padding(tmp_path: Path, size: int | str) -> None:
    """Texts of one length only are computed together; where all must have one size, it is refused."""
    write_folder(tmp_path)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "axis"], ["sum"], keepdims=1),
        helper.make_node("Add", ["numbers", "sum"], ["each"]),
        helper.make_node("Unsqueeze", ["each", "last"], ["last_hidden_state"]),
    ]
    models.save(
        tmp_path / "model.onnx",
        nodes,
        [models.value("input_ids", TensorProto.INT64, ["batch", size])],
        [models.value("last_hidden_state", TensorProto.FLOAT, ["batch", size, 1])],
        [numpy_helper.from_array(np.array([number]), name) for name, number in (("axis", 1), ("last", 2))],
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"pad_token_id": 9}))
    if size == 8:
        with pytest.raises(UnsupportedModelError, match="of 8 tokens and no 'attention_mask'"):
            load(tmp_path)
        return
    prompts = [[3], [4, 5], [6], [7, 8, 9], [1, 2]]
    expected = [float(each + sum(ids)) for ids in prompts for each in ids]
    assert step(load(tmp_path), prompts)[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", "{", "tokenizer.json: it is no tokenizer definition"),
        ("config.json", "[]", "config.json: it holds a list"),
        ("config.json", '{"vocab_size": "many"}', "config.json: 'vocab_size' is many"),
        ("config.json", '{"vocab_size": 0}', "config.json: 'vocab_size' is 0; it must be a whole number from 1"),
        ("config.json", '{"max_position_embeddings": -4}', "'max_position_embeddings' is -4"),
        ("config.json", '{"pad_token_id": [1]}', r"'pad_token_id' is \[1\]"),
        ("config.json", '{"architectures": ["XForSequenceClassification"]}', "no output 'logits'"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]', "modules.json: module"),
    ],
)
def test_what_a_folder_says_wrongly(tmp_path: Path, name: str, content: str, words: str) -> None:
    """Each file that does not say what it must is refused when the model is loaded, with its name and the field's."""
    write_folder(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(LoadError, match=words):
        load(tmp_path)


def test_what_serves_what(tmp_path: Path) -> None:
    """An encoder is a model of tensors when that is asked for; what is no encoder is one, unless it must be none."""
    write_folder(tmp_path)
    assert isinstance(models.load(tmp_path, serves="tensors"), LoadedTensorModel)
    padding = "input_ids:1=0,attention_mask:1=0>last_hidden_state:1"
    for name, value in (("padding", padding), ("batch_delay_ms", "1"), ("preferred_batches", "2")):
        assert isinstance(models.load(tmp_path, **{name: value}), LoadedTensorModel)
        with pytest.raises(LoadError, match=f"setting '{name}' is for models of tensors, and 'serves' is 'embeddings'"):
            models.load(tmp_path, serves="embeddings", **{name: value})
    assert isinstance(models.load(tmp_path, max_batch="4"), LoadedTensorModel)
    with pytest.raises(LoadError, match=r"tokenizer.json is not there|not .*model.onnx, is not there"):
        models.load(tmp_path / "model.onnx", serves="embeddings")
    models.save_identity(tmp_path / "model.onnx")
    assert isinstance(models.load(tmp_path), LoadedTensorModel)
    with pytest.raises(UnsupportedModelError, match="no input 'input_ids'; load it with serves=tensors"):
        models.load(tmp_path, serves="embeddings")
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(LoadError, match=r"'embeddings', but .*recipe.toml is for models of tensors"):
        models.load(tmp_path, serves="embeddings")
    (tmp_path / "recipe.toml").unlink()
    (tmp_path / "tokenizer.json").unlink()
    assert isinstance(models.load(tmp_path), LoadedTensorModel)


@pytest.mark.model
@pytest.mark.parametrize("gives", ["last_hidden_state", "embedding"])
def test_sentences_as_vectors(minilm: Path, tmp_path: Path, gives: str) -> None:
    """MiniLM's hidden states, or its own vectors, are those of transformers."""
    for each in minilm.iterdir():
        if each.is_dir():
            shutil.copytree(each, tmp_path / each.name)
        elif each.suffix == ".json":
            shutil.copy(each, tmp_path)
    bert_to_onnx.convert(minilm, tmp_path / "model.onnx", gives=gives)
    model = load(tmp_path)
    assert model.embedding.pooling is Pooling.MEAN
    assert (model.session.limits.vocabulary_size, model.session.limits.context_tokens) == (30522, 512)
    network = transformers.AutoModel.from_pretrained(minilm, attn_implementation="eager").eval()
    prompts = [[101, 1037, 4937, 102], [101, *range(2000, 2100), 102]]
    with torch.inference_mode():
        states = [network(torch.tensor([ids])).last_hidden_state[0] for ids in prompts]
    if gives == "embedding":
        means = [state.mean(0, keepdim=True) for state in states]
        states = [(mean / mean.norm()).expand(len(ids), -1) for mean, ids in zip(means, prompts, strict=True)]
    np.testing.assert_allclose(step(model, prompts), torch.cat(states).numpy(), atol=1e-4)
