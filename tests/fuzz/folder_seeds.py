"""A sound small Hugging Face folder, and damage to what it says of itself."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY_SIZE, WIDTH, FEED, HEAD = 256, 64, 96, 16
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": WIDTH,
    "intermediate_size": FEED,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32},
    "eos_token_id": [3, 4],
}
WILD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 63, 65, 1 << 16, 1 << 31, 1 << 40, 1 << 63, 1 << 70, -(1 << 40)),
    *(0.0, -0.5, 0.5, 1e-30, 1e30, 1e308, float("nan"), float("inf"), "", "x", "F16", "linear", "llama3", "longrope"),
    *([], [1], [0, 0], [1, "x"], [1 << 62] * 3, {}, {"rope_type": "llama3"}, {"a": {}}),
)
WEIGHTS, SETTINGS = "model.safetensors", "config.json"


def write_folder(folder: Path) -> Path:
    """The folder."""
    folder.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / SETTINGS).write_text(json.dumps(CONFIG), encoding="utf-8")
    rng, header, data = np.random.default_rng(7), {}, b""
    for name, shape in _shapes():
        numbers = rng.normal(size=shape).astype(np.float16).tobytes()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [len(data), len(data) + len(numbers)]}
        data += numbers
    raw = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return folder


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY_SIZE, WIDTH))]
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes += [(f"{at}self_attn.{x}_norm.weight", (HEAD,)) for x in "qk"]
        shapes += [
            (f"{at}self_attn.{x}_proj.weight", (rows * HEAD, WIDTH)) for x, rows in (("q", 4), ("k", 2), ("v", 2))
        ]
        shapes += [(f"{at}self_attn.o_proj.weight", (WIDTH, 4 * HEAD)), (f"{at}mlp.down_proj.weight", (WIDTH, FEED))]
        shapes += [(f"{at}mlp.{x}_proj.weight", (FEED, WIDTH)) for x in ("gate", "up")]
        shapes += [(f"{at}{x}_layernorm.weight", (WIDTH,)) for x in ("input", "post_attention")]
    return [*shapes, ("model.norm.weight", (WIDTH,))]


def damage_folder(sound: Path, folder: Path, rng: np.random.Generator) -> Path:
    """A copy with one to three wounds in its configuration or in the header of its weights."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes((sound / "tokenizer.json").read_bytes())
    weights = (sound / WEIGHTS).read_bytes()
    (size,) = struct.unpack("<Q", weights[:8])
    settings, header = (sound / SETTINGS).read_bytes(), weights[8 : 8 + size]
    wounds = min(3, int(rng.geometric(0.6)))
    if rng.integers(0, 2):
        settings = wound_document(settings, wounds, rng)
    else:
        header = wound_document(header, wounds, rng)
    length = len(header) if rng.integers(0, 8) else int(rng.choice([0, size - 1, size + 1, 1 << 40, (1 << 63) - 1]))
    (folder / SETTINGS).write_bytes(settings)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + header + weights[8 + size :])
    return folder


def wound_document(raw: bytes, wounds: int, rng: np.random.Generator) -> bytes:
    """A document with other bytes, or other values."""
    if rng.integers(0, 4) == 0:
        out = bytearray(raw)
        for _ in range(wounds):
            out[int(rng.integers(0, len(out)))] = int(rng.integers(0, 256))
        return bytes(out[: int(rng.integers(0, len(out)))]) if rng.integers(0, 4) == 0 else bytes(out)
    document = json.loads(raw)
    for _ in range(wounds):
        place = document
        if not place:
            break
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = keys[int(rng.integers(0, len(keys)))]
            if not (isinstance(place[key], dict | list) and place[key]) or rng.integers(0, 3) == 0:
                break
            place = place[key]
        if isinstance(place, dict) and rng.integers(0, 6) == 0:
            del place[key]
        else:
            place[key] = deepcopy(WILD[int(rng.integers(0, len(WILD)))])
    return json.dumps(document).encode()
