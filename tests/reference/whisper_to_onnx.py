"""Folders of a tiny Whisper with random weights, with the graphs that Optimum writes, from a network of transformers.

The layers are written down again here, with keys and values as inputs and outputs, and traced by torch: transformers'
own forward pass is what the result is held against.
"""

import json
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

RATE, MELS, POSITIONS, CONTEXT, VOCABULARY = 16000, 80, 50, 20, 264
END, START, ENGLISH, GERMAN, TRANSCRIBE, TRANSLATE, SILENT = range(256, 263)
CONTROL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>"]
CONTROL += ["<|notimestamps|>"]
TIMES = [f"<|{0.02 * n:.2f}|>" for n in range(POSITIONS + 1)]
"""Tokens of time: a network that has them has one for each position, and one behind."""
SUPPRESS, BEGIN_SUPPRESS = [118, 12, 7], [247, 73, END]  # which the network would write else
CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_mel_bins": MELS,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_source_positions": POSITIONS,
    "max_target_positions": CONTEXT,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "decoder_start_token_id": START,
    "init_std": 0.35,  # wide, so that the best token is rarely a near-tie, and not the same for all sounds
}
GENERATION: dict[str, Any] = {
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "decoder_start_token_id": START,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": ENGLISH, "<|de|>": GERMAN},
    "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    "no_timestamps_token_id": SILENT,
    "return_timestamps": False,
    "suppress_tokens": SUPPRESS,
    "begin_suppress_tokens": BEGIN_SUPPRESS,
    "max_length": CONTEXT,
}


@cache
def make_network(*, timed: bool = False) -> Any:
    """A network whose cross attention matters; one that is timed has tokens of time."""
    torch.manual_seed(5)
    size = SILENT + 1 + len(TIMES) if timed else VOCABULARY
    network = WhisperForConditionalGeneration(WhisperConfig(**CONFIG | {"vocab_size": size})).eval()
    for name, value in (GENERATION | ({"max_initial_timestamp_index": 10} if timed else {})).items():
        setattr(network.generation_config, name, value)
    return network


def make_extractor(**changes: Any) -> Any:
    """What makes spectrograms of sounds of a second."""
    return WhisperFeatureExtractor(**{"feature_size": MELS, "chunk_length": 2 * POSITIONS // 100} | changes)


def make_sound(seed: int, seconds: float = 0.9) -> Any:
    """Tones that come and go, with some noise."""
    random = np.random.default_rng(seed)
    times = np.arange(int(RATE * seconds)) / RATE
    tones = [np.sin(2 * np.pi * pitch * times) for pitch in random.uniform(100, 4000, 3)]
    swell = np.abs(np.sin(2 * np.pi * random.uniform(1, 5) * times))
    return (0.2 * swell * sum(tones) + random.normal(0, 0.01, len(times))).astype(np.float32)


def wav(sound: Any) -> bytes:
    """A WAV file of samples as they are, in 32 bits."""
    data = sound.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, RATE, 4 * RATE, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def attend(layer: Any, queries: Any, keys: Any, values: Any, mask: Any = None) -> Any:
    """Attention of heads, (b, heads, tokens, width)."""
    scores = queries @ keys.transpose(2, 3)
    mixed = torch.softmax(scores if mask is None else scores + mask, -1) @ values
    return layer.out_proj(mixed.transpose(1, 2).flatten(2))


def split(layer: Any, states: Any) -> Any:
    """Heads first."""
    return states.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)


class Decoder(nn.Module):
    """What begins a text (no past) or goes on with one."""

    def __init__(self, network: Any, *, past: bool) -> None:
        super().__init__()
        self.decoder, self.head, self.past = network.model.decoder, network.proj_out, past

    def forward(self, ids: Any, *given: Any) -> Any:
        decoder, own, read = self.decoder, [], []
        begin = given[0].shape[2] if self.past else 0
        places = torch.arange(ids.shape[1]) + begin
        states = decoder.embed_tokens(ids) + decoder.embed_positions.weight[places]
        mask = None if self.past else torch.full((ids.shape[1], ids.shape[1]), -1e9).triu(1)
        for number, layer in enumerate(decoder.layers):
            inner = layer.self_attn
            normed = layer.self_attn_layer_norm(states)
            queries = split(inner, inner.q_proj(normed) * inner.scaling)
            keys, values = split(inner, inner.k_proj(normed)), split(inner, inner.v_proj(normed))
            if self.past:
                keys = torch.cat([given[4 * number], keys], 2)
                values = torch.cat([given[4 * number + 1], values], 2)
            own += [keys, values]
            states = states + attend(inner, queries, keys, values, mask)
            cross = layer.encoder_attn
            queries = split(cross, cross.q_proj(layer.encoder_attn_layer_norm(states)) * cross.scaling)
            if self.past:
                keys, values = given[4 * number + 2], given[4 * number + 3]
            else:
                keys, values = split(cross, cross.k_proj(given[0])), split(cross, cross.v_proj(given[0]))
                read += [keys, values]
            states = states + attend(cross, queries, keys, values)
            normed = layer.final_layer_norm(states)
            states = states + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        return (self.head(decoder.layer_norm(states)), *own, *read)


class Encoder(nn.Module):
    """What reads a spectrogram."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder = network.model.encoder

    def forward(self, features: Any) -> Any:
        encoder = self.encoder
        states = nn.functional.gelu(encoder.conv2(nn.functional.gelu(encoder.conv1(features))))
        states = states.permute(0, 2, 1) + encoder.embed_positions.weight
        for layer in encoder.layers:
            inner, normed = layer.self_attn, layer.self_attn_layer_norm(states)
            queries = split(inner, inner.q_proj(normed) * inner.scaling)
            keys, values = split(inner, inner.k_proj(normed)), split(inner, inner.v_proj(normed))
            states = states + attend(inner, queries, keys, values)
            states = states + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
        return encoder.layer_norm(states)


def names(kind: str, layers: int, *, of: tuple[str, ...] = ("decoder", "encoder")) -> list[str]:
    """Of keys and values."""
    return [f"{kind}.{layer}.{each}.{what}" for layer in range(layers) for each in of for what in ("key", "value")]


def export(module: Any, inputs: dict[str, tuple[Any, dict[int, str]]], outputs: list[str], path: Path) -> None:
    """Trace a module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newer exporter needs another package
        torch.onnx.export(
            module,
            tuple(value for value, _ in inputs.values()),
            str(path),
            dynamo=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: axes for name, (_, axes) in inputs.items()} | {name: {0: "b"} for name in outputs},
            opset_version=17,
        )


def write_graphs(network: Any, folder: Path, *, merged: bool = False) -> None:
    """Write the graphs of an encoder and of a decoder, two of it or one."""
    config = network.config
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    features = torch.zeros(2, config.num_mel_bins, 2 * config.max_source_positions)
    ids, states = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, config.max_source_positions, config.d_model)
    own = torch.zeros(2, heads, 3, config.d_model // heads)
    read = torch.zeros(2, heads, config.max_source_positions, config.d_model // heads)
    logits = ["logits"]
    with torch.no_grad():
        given = {"input_features": (features, {0: "b"})}
        export(Encoder(network), given, ["last_hidden_state"], folder / "encoder_model.onnx")
        given = {"input_ids": (ids, {0: "b", 1: "n"}), "encoder_hidden_states": (states, {0: "b"})}
        own_names, read_names = (names("present", layers, of=(each,)) for each in ("decoder", "encoder"))
        export(Decoder(network, past=False), given, logits + own_names + read_names, folder / "decoder_model.onnx")
        given = {"input_ids": (ids[:, :1], {0: "b"})}
        for name in names("past_key_values", layers):
            given[name] = (own, {0: "b", 2: "past"}) if "decoder" in name else (read, {0: "b"})
        export(Decoder(network, past=True), given, logits + own_names, folder / "decoder_with_past_model.onnx")
    if merged:
        merge(folder)


def merge(folder: Path) -> None:
    """Make one graph of both, as `optimum-cli export onnx` does: a branch for each, chosen by an input."""
    paths = [folder / "decoder_with_past_model.onnx", folder / "decoder_model.onnx"]
    graphs = [onnx.load(path).graph for path in paths]
    outputs = [value.name for value in graphs[1].output]
    branches, inputs = [], {}
    for prefix, graph in zip(("next.", "first."), graphs, strict=True):
        given = {value.name: value for value in graph.input}
        inputs |= given
        for node in graph.node:
            for places in (node.input, node.output):
                places[:] = [each if each in given or not each else prefix + each for each in places]
        for weight in graph.initializer:
            weight.name = prefix + weight.name
        nodes = list(graph.node)
        known = {value.name for value in graph.output}
        nodes += [
            helper.make_node("Identity", [name.replace("present", "past_key_values")], [prefix + name])
            for name in outputs
            if name not in known
        ]
        told = [helper.make_tensor_value_info(prefix + name, TensorProto.FLOAT, None) for name in outputs]
        branches.append(helper.make_graph(nodes, prefix, [], told, list(graph.initializer)))
    choose = helper.make_node("If", ["use_cache_branch"], outputs, then_branch=branches[0], else_branch=branches[1])
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    for name, value in inputs.items():
        if name.startswith(("past_", "input_ids")):
            free = {2: "past"} if "decoder" in name else {2: "read"} if "encoder" in name else {1: "n"}
            for place, size in free.items():
                value.type.tensor_type.shape.dim[place].dim_param = size
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([choose], "merged", [*inputs.values(), flag], told)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "decoder_model_merged.onnx",
    )
    for path in paths:
        path.unlink()


def write_tokenizer(folder: Path, *, timed: bool = False) -> None:
    """A token for each byte, and those that control; those of time are no special ones, as in Whisper's own files."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens(TIMES if timed else [])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_folder(folder: Path, *, merged: bool = False, timed: bool = False, **generation: Any) -> Path:
    """Write all that Optimum does; `generation` changes what generation_config.json says."""
    network = make_network(timed=timed)
    folder.mkdir(parents=True, exist_ok=True)
    write_graphs(network, folder, merged=merged)
    write_tokenizer(folder, timed=timed)
    network.config.save_pretrained(folder)
    first = {"max_initial_timestamp_index": 10} if timed else {}
    (folder / "generation_config.json").write_text(json.dumps(GENERATION | first | generation))
    make_extractor().save_pretrained(folder)
    return folder


@cache
def write(seed: int, language: str, task: str = "transcribe") -> list[int]:
    """What transformers writes of the sound of a seed, greedily, behind what every text begins with."""
    features = make_extractor()(make_sound(seed), sampling_rate=RATE, return_tensors="pt").input_features
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the products are small
    try:
        with torch.no_grad():
            found = make_network().generate(features, do_sample=False, num_beams=1, task=task, language=language)
    finally:
        torch.set_num_threads(threads)
    ids: list[int] = found[0].tolist()
    return ids


@cache
def write_times(seed: int, seconds: float = 0.9) -> list[int]:
    """What the timed network writes of a sound in English, with times: one window, by the rules of transformers."""
    network, generation = make_network(timed=True), make_network(timed=True).generation_config
    ids = torch.tensor([[START, ENGLISH, TRANSCRIBE]])
    begin = ids.shape[1]
    rules = [
        SuppressTokensAtBeginLogitsProcessor(BEGIN_SUPPRESS, begin),
        SuppressTokensLogitsProcessor(SUPPRESS),
        WhisperTimeStampLogitsProcessor(generation, begin_index=begin),
    ]
    sound = make_sound(seed, seconds)
    with torch.no_grad():
        features = make_extractor()(sound, sampling_rate=RATE, return_tensors="pt").input_features
        states = network.model.encoder(features).last_hidden_state
        while ids.shape[1] < CONTEXT:
            scores = network(encoder_outputs=(states,), decoder_input_ids=ids).logits[:, -1]
            for rule in rules:
                scores = rule(ids, scores)
            ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
            if int(ids[0, -1]) == END:
                break
    written: list[int] = ids[0, begin:].tolist()
    return [token for token in written if token != END]


def as_file(sound: Any) -> bytearray:
    """A sound as clients give it."""
    return bytearray(wav(sound))
