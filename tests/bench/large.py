"""Loading a file of 4 GB with the native engine, without a second copy: `large.load_s` and what was resident at most.

The file has random weights, the same in all layers, and the vocabulary of the model that is given. It is deleted.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import loads
from limits import Figure


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Llama model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feed: int


LARGE = Shape(36, 4096, 32, 8, 11008)
SHAPES = {"1b": Shape(16, 2048, 32, 8, 8192), "3b": Shape(28, 3072, 24, 8, 8192)}
"""Those of Llama 3.2, with the vocabulary of SmolLM2 in place of one that is 2.6 times as large."""
NAMES = ("large.load_s", "large.resident_ratio", "large.peak_ratio")


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Seconds to load, and memory of the process over the size of the file: after a step, and at most."""
    if not any(name.startswith(only) for name in NAMES):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.gguf"
        write(weights, path, LARGE)
        size = path.stat().st_size
        run = loads.run(path)
    detail = f"one process, file just written; {size / 1e9:.2f} GB, {run['compute_format']}"
    yield Figure(name=NAMES[0], value=round(run["seconds"], 2), unit="s", detail=detail)
    for name, key in zip(NAMES[1:], ("resident", "peak"), strict=True):
        gigabytes = f"{run[key] / 1e9:.2f} GB, mapped pages of the file among them; {detail}"
        yield Figure(name=name, value=round(run[key] / size, 3), unit="of the file", detail=gigabytes)


def write(like: Path, path: Path, shape: Shape) -> None:
    """A file with random weights, in Q4_1, and the vocabulary of another one."""
    import gguf  # noqa: PLC0415 - of the tests
    import numpy as np  # noqa: PLC0415 - the engine's bench sets the environment

    form, rng = gguf.GGMLQuantizationType.Q4_1, np.random.default_rng(1)
    ends = np.array([0.005, -0.0375], np.float16).view(np.uint8)  # scale and least value of a block

    def matrix(rows: int, columns: int) -> np.ndarray:
        blocks = rng.integers(0, 256, (rows * columns // 32, gguf.GGML_QUANT_SIZES[form][1]), dtype=np.uint8)
        blocks[:, : len(ends)] = ends
        return blocks.reshape(rows, -1)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    reader = gguf.GGUFReader(like)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[1] if len(field.types) > 1 else None)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    narrow = shape.width // shape.heads * shape.kv_heads
    shapes = {
        "attn_q": (shape.width, shape.width),
        "attn_k": (narrow, shape.width),
        "attn_v": (narrow, shape.width),
        "attn_output": (shape.width, shape.width),
        "ffn_gate": (shape.feed, shape.width),
        "ffn_up": (shape.feed, shape.width),
        "ffn_down": (shape.width, shape.feed),
    }
    made = {name: matrix(*shape) for name, shape in shapes.items()}  # held once
    norm = np.ones(shape.width, np.float32)
    writer.add_tensor("token_embd.weight", matrix(vocabulary, shape.width), raw_dtype=form)
    writer.add_tensor("output_norm.weight", norm)
    for layer in range(shape.layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", norm)
        for name, blocks in made.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", blocks, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
