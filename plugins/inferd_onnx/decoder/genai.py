"""Folders with the graph of a decoder, as ONNX Runtime GenAI's model builder and Optimum write them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferd.plugin import (
    LoadError,
    LoadRequest,
    SamplingDefaults,
    UnsupportedModelError,
    Vocabulary,
    read_hf_json,
    read_hf_sampling,
    read_hf_vocabulary,
)
from inferd.plugin.recipe_file import find_recipe
from inferd_onnx.decoder.shape import Shape
from inferd_onnx.model_file import ModelFile, find_file
from inferd_onnx.signature import find_tensor_settings

GENAI, CONFIG, GENERATION, TOKENIZER = "genai_config.json", "config.json", "generation_config.json", "tokenizer.json"
MERGED = "use_cache_branch"  # of Optimum's merged decoders: whether there are past keys and values
PAST = re.compile(r"past_key_values\.\d+\.(key|value)|past_(key|value)s?_\d+|past_key_values_\d+_(key|value)")
NAMES = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "position_ids": "position_ids",
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
    "logits": "logits",
    "present_key_names": "present.%d.key",
    "present_value_names": "present.%d.value",
}
"""As the model builder and Optimum name inputs and outputs where genai_config.json does not say otherwise."""
OTHER_PARTS = ("encoder", "vision", "speech", "embedding", "joiner", "vad")  # of genai_config.json's `model`
REFUSED = ("pipeline", "sliding_window", "compress_ratios", "layer_types")  # of its `decoder`


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderFolder:
    """What a folder says beside its graph.

    Attributes:
        path: The folder.
        shape: Of the network, as far as a session must know it.
        names: Of inputs and outputs, by what they are; those of layers with %d for their number.
        vocabulary: Of its tokens.
        sampling: How it advises to sample.
    """

    path: Path
    shape: Shape
    names: Mapping[str, str]
    vocabulary: Vocabulary
    sampling: SamplingDefaults

    def layers(self, kind: str) -> list[str]:
        """The names of keys and values of all layers, in turn; `kind` is "past" or "present"."""
        parts = (self.names[f"{kind}_key_names"], self.names[f"{kind}_value_names"])
        return [part.replace("%d", str(layer)) for layer in range(self.shape.layers) for part in parts]


def is_decoder_folder(request: LoadRequest, file: ModelFile) -> bool:
    """Whether a folder's graph takes past keys and values, and a tokenizer is there: then it is a language model."""
    serves = request.settings["serves"]
    if serves != "auto" or find_tensor_settings(request.settings) or find_recipe(request.path).is_file():
        return False
    named = (request.path / GENAI).is_file() or any(PAST.fullmatch(name) for name in file.inputs)
    return named and (request.path / TOKENIZER).is_file()


def read_folder(path: Path, file: ModelFile) -> DecoderFolder:
    """Read all of a folder but its graph.

    Raises:
        UnsupportedModelError: It has more than a decoder of text.
        LoadError: A file is missing, damaged or contradicts the graph.
    """
    genai = read_hf_json(path / GENAI, required=False)
    where = path / GENAI if genai else path / CONFIG
    model = _object(genai.get("model")) if genai else read_hf_json(path / CONFIG)
    decoder = _object(model.get("decoder")) if genai else model
    if genai:
        _refuse_others(where, model, decoder)
        if decoder.get("filename") != find_file(path).name:
            raise LoadError(f"{where}: decoder.filename is {str(decoder.get('filename'))[:80]!r}, not model.onnx")
    names = NAMES | {
        name: str(value)
        for group in ("inputs", "outputs")
        for name, value in (_object(decoder.get(group)) if genai else {}).items()
        if name in NAMES
    }
    generation = read_hf_json(path / GENERATION, required=False)
    search = _object(genai.get("search")) if genai and not generation else generation
    folder = DecoderFolder(
        path=path,
        shape=_read_shape(where, model, decoder),
        names=names,
        vocabulary=read_hf_vocabulary(path, model, generation),
        sampling=read_hf_sampling(str(where), search),
    )
    known = {*folder.layers("past"), *(names[name] for name in ("input_ids", "attention_mask", "position_ids")), MERGED}
    needed = {*folder.layers("past"), names["input_ids"], names["attention_mask"]}
    for name in sorted(needed - set(file.inputs)):
        raise LoadError(f"{file.path}: the input {name!r}, which {where.name} asks for, is missing")
    for name in file.inputs:
        if name not in known:
            raise UnsupportedModelError(f"{file.path}: the input {name[:80]!r} is none that a decoder of text is given")
    return folder


def _refuse_others(where: Path, model: Mapping[str, Any], decoder: Mapping[str, Any]) -> None:
    for name in OTHER_PARTS:
        if model.get(name):
            raise UnsupportedModelError(f"{where}: model.{name} is there: only decoders of text are supported")
    for name in REFUSED:
        if decoder.get(name):
            raise UnsupportedModelError(f"{where}: decoder.{name} is there, which is not supported")


def _read_shape(where: Path, model: Mapping[str, Any], decoder: Mapping[str, Any]) -> Shape:
    def size(name: str, default: Any = None, of: Mapping[str, Any] = decoder) -> int:
        value = of.get(name)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            raise LoadError(f"{where}: {name} is {str(value)[:80]}; it must be a whole number above 0")
        return value

    heads = size("num_attention_heads")
    genai = "decoder" in model
    window = None if genai else decoder.get("sliding_window")
    context = size("context_length", of=model) if genai else size("max_position_embeddings")
    return Shape(
        architecture=str(model.get("type" if genai else "model_type", "decoder")),
        layers=size("num_hidden_layers"),
        width=size("hidden_size"),
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_width=size("head_size" if genai else "head_dim", size("hidden_size") // heads or None),
        inner=4 * size("hidden_size"),
        vocabulary_size=size("vocab_size", of=model),
        context_tokens=min(context, window) if isinstance(window, int) and window > 0 else context,
        epsilon=1.0,
        window=window if isinstance(window, int) and 0 < window < context else 0,
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
