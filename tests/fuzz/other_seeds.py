"""Sound models of several files, and adapters, and damage to one of their files.

A model in GGUF shards; a Hugging Face folder in shards, with all documents that are read beside it; an adapter of each
sort on a model that is sound; and so a projector of each kind.
"""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np
from folder_seeds import FEED, HEAD, WEIGHTS, WIDTH, wound_document, write_folder
from gguf_seeds import read_sound, write_model
from gguf_wounds import damaged
from projector_seeds import KINDS, write_projector

from inferd_weights.quants import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANK, DAMAGED = 4, "damaged"
PEFT: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": RANK,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "down_proj"],
    "lora_dropout": 0.0,
    "bias": "none",
    "use_rslora": False,
}
DOCUMENTS: dict[str, Any] = {
    "generation_config.json": {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [3, 4]},
    "tokenizer_config.json": {"bos_token": None, "eos_token": "a", "add_bos_token": False, "chat_template": "{{ 1 }}"},
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
}


class Case(NamedTuple):
    """A model, and the adapter or the projector that it is loaded with, if any."""

    path: Path
    adapter: Path | None = None
    projector: Path | None = None


class Others:
    """All of them, written below a folder.

    Attributes:
        sound: Each undamaged, by its name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        form = FORMATS[0]
        self.sound = {
            "shards": Case(write_model(folder / "shards" / "tiny.gguf", "qwen3", form, parts=2)),
            "sharded folder": Case(_write_sharded(folder / "sharded")),
            "adapter": Case(write_model(folder / "adapted" / "tiny.gguf", "llama", form), _write_adapter(folder)),
            "peft": Case(write_folder(folder / "plain"), _write_peft(folder / "peft")),
        }
        for name, kind in KINDS.items():
            self.sound[name] = Case(
                write_model(folder / f"{name} model" / "tiny.gguf", kind.architecture, form, named=kind.tokens),
                projector=write_projector(folder / name / "mmproj.gguf", name),
            )

    def damage(self, rng: np.random.Generator) -> Case:
        """A copy of one of them with one damaged file."""
        name = str(rng.choice(sorted(self.sound)))
        case, target = self.sound[name], self._folder / DAMAGED
        shutil.rmtree(target, ignore_errors=True)
        hurt = case.adapter or case.projector or case.path
        kept = hurt if hurt.is_dir() else hurt.parent
        shutil.copytree(kept, target)
        file = sorted(path for path in target.rglob("*") if path.is_file())
        _damage(file[int(rng.integers(0, len(file)))], rng)
        moved = target if hurt.is_dir() else target / hurt.name
        if case.projector:
            return Case(case.path, projector=moved)
        return Case(case.path, moved) if case.adapter else Case(moved)


def _damage(path: Path, rng: np.random.Generator) -> None:
    """One to three wounds; of weights in their header. Now and then the file is gone, or empty."""
    if rng.integers(0, 40) == 0:
        path.unlink()
    elif rng.integers(0, 40) == 0:
        path.write_bytes(b"")
    elif path.suffix == ".gguf":
        path.write_bytes(damaged(read_sound(path), rng))
    elif path.suffix == ".safetensors":
        raw = path.read_bytes()
        (size,) = struct.unpack("<Q", raw[:8])
        header = wound_document(raw[8 : 8 + size], int(rng.integers(1, 4)), rng)
        path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + size :])
    else:
        path.write_bytes(wound_document(path.read_bytes(), int(rng.integers(1, 4)), rng))


def write_safetensors(path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """A file of them, in half precision."""
    header, data = {}, b""
    for name, numbers in tensors.items():
        raw = numbers.astype(np.float16).tobytes()
        header[name] = {"dtype": "F16", "shape": list(numbers.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    described = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(described)) + described + data)


def _write_sharded(folder: Path) -> Path:
    """The folder of `folder_seeds` with its weights in two files, and the documents that may be beside it."""
    write_folder(folder)
    whole = folder / WEIGHTS
    raw = whole.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    tensors = {
        name: np.frombuffer(raw[8 + size :][slice(*each["data_offsets"])], np.float16).reshape(each["shape"])
        for name, each in json.loads(raw[8 : 8 + size]).items()
    }
    whole.unlink()
    names, places = list(tensors), {}
    for part in range(2):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in names[part::2]})
        places |= dict.fromkeys(names[part::2], file)
    documents = {**DOCUMENTS, "model.safetensors.index.json": {"metadata": {"total_size": 1}, "weight_map": places}}
    documents["1_Pooling/config.json"] = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    for name, document in documents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder


def _pair(shape: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The two matrices that change one of this shape: `down` and `up`."""
    rng = np.random.default_rng(3)
    make: Callable[..., np.ndarray[Any, Any]] = rng.normal
    return make(scale=0.1, size=(RANK, shape[1])), make(scale=0.1, size=(shape[0], RANK))


def _write_adapter(folder: Path) -> Path:
    """One for the model of `gguf_seeds`, whose width is 64."""
    path = folder / "adapter" / "adapter.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name in ("attn_q", "attn_v", "attn_output"):
        rows = 32 if name == "attn_v" else 64
        for letter, numbers in zip("ab", _pair((rows, 64)), strict=True):
            writer.add_tensor(f"blk.0.{name}.weight.lora_{letter}", numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_peft(folder: Path) -> Path:
    """One for the folder of `folder_seeds`."""
    folder.mkdir()
    tensors = {}
    for module, shape in (("self_attn.q_proj", (4 * HEAD, WIDTH)), ("mlp.down_proj", (WIDTH, FEED))):
        for letter, numbers in zip("AB", _pair(shape), strict=True):
            tensors[f"base_model.model.model.layers.0.{module}.lora_{letter}.weight"] = numbers
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(PEFT), encoding="utf-8")
    return folder
