"""Folders with the graph of a decoder, as ONNX Runtime GenAI and Optimum write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inferd[onnx]'")
pytest.importorskip("torch", reason="torch is not installed: pip install 'inferd[torch]'")

import llama_to_onnx
import tiny_networks
import torch
from onnxruntime.quantization import quantize_dynamic

from inferd.plugin import LoadedModel, LoadedTensorModel, LoadError, LoadRequest, UnsupportedModelError
from inferd.plugin.backend import read_settings
from inferd.testing.batches import Part, compute
from inferd_onnx.backend import OnnxBackend
from inferd_onnx.plugin import SPEC

Change = Callable[[dict[str, Any]], Any]


def load(path: Path, **settings: str) -> LoadedModel | LoadedTensorModel:
    sizes = {} if "serves" in settings else {"kv_tokens": "512", "max_step_tokens": "64"}
    values = read_settings(SPEC, sizes | settings)
    request = LoadRequest(path=path, device="cpu:0", settings=values, capacity_bytes=1 << 30)
    return OnnxBackend().load(request, lambda _: None)


@pytest.mark.parametrize("layout", ["genai", "optimum", "merged"])
def test_the_logits_are_those_of_the_network(layout: str, tmp_path: Path) -> None:
    """All layouts give the logits of the network in transformers, sequences of several lengths in one step."""
    network = llama_to_onnx.write_folder(layout, tmp_path)
    model = load(tmp_path)
    assert isinstance(model, LoadedModel)
    assert model.session.limits.context_tokens == tiny_networks.CONTEXT
    generator = np.random.default_rng(2)
    texts = [generator.integers(tiny_networks.END, size=size).tolist() for size in (30, 5, 17)]
    blocks = [range(4 * n, 4 * n + 4) for n in range(3)]
    compute(model.session, *(Part(token_ids=t[:-1], blocks=b) for t, b in zip(texts, blocks, strict=True)))
    last = [Part(token_ids=t[-1:], begin=len(t) - 1, blocks=b) for t, b in zip(texts, blocks, strict=True)]
    for found, text in zip(compute(model.session, *last), texts, strict=True):
        with torch.inference_mode():
            expected = network(input_ids=torch.tensor([text])).logits[0, -1:].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("layout", ["genai", "optimum", "merged"])
def test_a_quantised_decoder_reads_each_text_alone(layout: str, tmp_path: Path) -> None:
    """Where a graph quantises by a scale of all that it is given, a text beside others gives what it gives alone."""
    llama_to_onnx.write_folder(layout, tmp_path)
    (whole,) = tmp_path.rglob("*.onnx")
    quantize_dynamic(whole.rename(tmp_path / "float.onnx"), whole, extra_options={"DefaultTensorType": 1})
    model = load(tmp_path)
    assert isinstance(model, LoadedModel)
    generator = np.random.default_rng(2)
    texts = [generator.integers(tiny_networks.END, size=size).tolist() for size in (9, 9, 9, 5)]
    parts = [Part(token_ids=text, blocks=range(n, n + 1)) for n, text in enumerate(texts)]
    together = compute(model.session, *parts)
    for found, part in zip(together, parts, strict=True):
        (alone,) = compute(model.session, part)
        np.testing.assert_array_equal(found, alone)
    ones = [Part(token_ids=[n], begin=len(text), blocks=range(n, n + 1)) for n, text in enumerate(texts)]
    together = compute(model.session, *ones)
    for found, part in zip(together, ones, strict=True):
        (alone,) = compute(model.session, part)
        np.testing.assert_array_equal(found, alone)


def test_what_the_folder_says_beside_the_graph(tmp_path: Path) -> None:
    """Of genai_config.json the endings and the advice to sample are taken; with serves=tensors nothing is."""
    llama_to_onnx.write_folder("genai", tmp_path)
    model = load(tmp_path)
    assert isinstance(model, LoadedModel)
    assert model.sampling.numbers == {"temperature": 0.5, "top_k": 7}
    assert model.vocabulary.eos_ids == (tiny_networks.END,)
    assert model.vocabulary.chat_template is not None
    assert isinstance(load(tmp_path, serves="tensors"), LoadedTensorModel)


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (lambda m: m.update(vision={"filename": "vision.onnx"}), UnsupportedModelError, "model.vision is there"),
        (lambda m: m["decoder"].update(sliding_window={"window_size": 8}), UnsupportedModelError, "sliding_window"),
        (lambda m: m["decoder"].update(filename="other.onnx"), LoadError, "decoder.filename is 'other.onnx'"),
        (lambda m: m["decoder"].update(num_hidden_layers=4), LoadError, r"'past_key_values.3.key'.*is missing"),
        (lambda m: m["decoder"].update(num_hidden_layers=2), UnsupportedModelError, r"'past_key_values.2.key' is none"),
        (lambda m: m["decoder"].update(num_key_value_heads=4), LoadError, r"must be \[b, 4, n, 16\]"),
        (lambda m: m["decoder"].update(num_key_value_heads="4"), LoadError, "num_key_value_heads is 4; it must be a"),
        (lambda m: m["decoder"]["outputs"].update(logits="scores"), LoadError, "output 'scores' is missing"),
        (lambda m: m.pop("context_length"), LoadError, "context_length is None"),
    ],
)
def test_what_is_not_sound_is_refused(change: Change, kind: type[Exception], why: str, tmp_path: Path) -> None:
    """A configuration that contradicts the graph, or asks for more than a decoder, is refused by its field."""
    llama_to_onnx.write_folder("genai", tmp_path)
    path = tmp_path / "genai_config.json"
    config = json.loads(path.read_text())
    change(config["model"])
    path.write_text(json.dumps(config))
    with pytest.raises(kind, match=why):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provider", "cuda"),
        ("threads", "2"),
        ("quantization", "4bit"),
        ("compute", "exact"),
        ("pre_tokenizer", "gpt-2"),
    ],
)
def test_what_nothing_of_a_graph_reads_is_refused(name: str, value: str, tmp_path: Path) -> None:
    """A provider, and settings of graphs that are made here, are refused by name for a graph that is there."""
    llama_to_onnx.write_folder("genai", tmp_path)
    with pytest.raises(LoadError, match=f"setting '{name}' is '?{value}'?, but"):
        load(tmp_path, **{name: value})
