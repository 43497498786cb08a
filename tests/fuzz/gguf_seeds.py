"""Sound small GGUF files, one for each stored format and architecture, and where the numbers in their heads stand."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from inferd_weights.quants import FORMATS, Format

VOCABULARY_SIZE = 64
HIDDEN = 256
HEADS = 4
KV_HEADS = 2
NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by GGUF's type of a value
STRING, ARRAY = 8, 9
MAX_READ_BYTES = 1 << 24


class Field(NamedTuple):
    """A number in a file's head: where, and of how many bytes."""

    offset: int
    size: int


class Sound(NamedTuple):
    """An undamaged file.

    Attributes:
        content: Its first bytes, the head among them.
        fields: All counts, lengths, types, dimensions, offsets and plain values in the head.
        end: Where the head ends.
        size_bytes: Of the whole file.
    """

    content: bytes
    fields: list[Field]
    end: int
    size_bytes: int


def read_sound(path: Path) -> Sound:
    """A file; of a large one the head alone."""
    with path.open("rb") as stream:
        content = stream.read(MAX_READ_BYTES)
    fields, end = _find_fields(content)
    size_bytes = path.stat().st_size
    return Sound(content if len(content) == size_bytes else content[:end], fields, end, size_bytes)


def write_seeds(folder: Path) -> list[Path]:
    """A file for each format that is understood, the architectures in turn."""
    architectures = ("llama", "qwen2", "qwen3")
    return [
        write_model(folder / f"{architectures[n % 3]}-{stored.name}.gguf", architectures[n % 3], stored)
        for n, stored in enumerate(FORMATS.values())
    ]


def _find_fields(content: bytes) -> tuple[list[Field], int]:
    walk = _Walk(content)
    walk.number(4)
    tensors, pairs = walk.number(8), walk.number(8)
    for _ in range(pairs):
        walk.string()
        walk.value(walk.number(4))
    for _ in range(tensors):
        walk.string()
        for _ in range(walk.number(4)):
            walk.number(8)
        walk.number(4)
        walk.number(8)
    return walk.fields, walk.at


class _Walk:
    """Reads a sound head from the front and notes each number."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = len(b"GGUF")
        self.fields: list[Field] = []

    def number(self, size: int) -> int:
        self.fields.append(Field(self.at, size))
        self.at += size
        return int.from_bytes(self._content[self.at - size : self.at], "little")

    def string(self) -> None:
        length = self.number(8)
        self.at += length

    def value(self, kind: int) -> None:
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            kind, count = self.number(4), self.number(8)
            for _ in range(count):
                self.value(kind)
        else:
            self.number(NUMBER_BYTES[kind])


def write_model(path: Path, architecture: str, stored: Format, *, parts: int = 1, named: Sequence[str] = ()) -> Path:
    """A model of one layer; K-quants need rows of 256 numbers, the others go with 64. Gives the first of its parts."""
    path.parent.mkdir(exist_ok=True)
    width = max(64, stored.block_elements)
    head = width // HEADS
    names = [*_matrices(width, head), *_vectors(architecture, width, head)]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=-(-len(names) // parts) if parts > 1 else 0)
    _add_metadata(writer, width, head, named)
    if architecture == "qwen2vl":
        writer.add_rope_dimension_sections([head // 2 - 6, 3, 3, 0])
    rng = np.random.default_rng(stored.block_bytes)
    for name, rows, columns in _matrices(width, head):
        kind = gguf.GGMLQuantizationType[stored.name]
        writer.add_tensor(name, _random_blocks(rng, stored, rows, columns), raw_dtype=kind)
    for name, size in _vectors(architecture, width, head):
        writer.add_tensor(name, np.ones(size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if parts == 1 else path.with_name(f"{path.stem}-00001-of-{parts:05}{path.suffix}")


def _random_blocks(rng: np.random.Generator, stored: Format, rows: int, columns: int) -> Any:
    """Blocks of random bits, with the exponents of 16-bit numbers kept low: all numbers are finite."""
    raw = rng.integers(0, 256, (rows, columns // stored.block_elements * stored.block_bytes), np.uint8)
    if stored.name == "MXFP4":  # scales are powers of two, in a byte
        raw.reshape(-1, stored.block_bytes)[:, 0] &= 0x7F
    else:
        raw[:, 1::2] &= 0xBF
    return raw


def _matrices(width: int, head: int) -> Iterator[tuple[str, int, int]]:
    yield "token_embd.weight", VOCABULARY_SIZE, width
    for part, rows in (("q", HEADS * head), ("k", KV_HEADS * head), ("v", KV_HEADS * head)):
        yield f"blk.0.attn_{part}.weight", rows, width
    yield "blk.0.attn_output.weight", width, HEADS * head
    yield "blk.0.ffn_gate.weight", HIDDEN, width
    yield "blk.0.ffn_up.weight", HIDDEN, width
    yield "blk.0.ffn_down.weight", width, HIDDEN


def _vectors(architecture: str, width: int, head: int) -> Iterator[tuple[str, int]]:
    yield "output_norm.weight", width
    yield "blk.0.attn_norm.weight", width
    yield "blk.0.ffn_norm.weight", width
    if architecture == "gemma3":
        yield "blk.0.post_attention_norm.weight", width
        yield "blk.0.post_ffw_norm.weight", width
    if architecture in {"qwen2", "qwen2vl"}:
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"blk.0.attn_{part}.bias", heads * head
    if architecture in {"qwen3", "gemma3"}:
        yield "blk.0.attn_q_norm.weight", head
        yield "blk.0.attn_k_norm.weight", head


def _add_metadata(writer: gguf.GGUFWriter, width: int, head: int, named: Sequence[str]) -> None:
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*(f"t{i}" for i in range(VOCABULARY_SIZE - len(named))), *named])
    writer.add_token_types([1] * VOCABULARY_SIZE)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
