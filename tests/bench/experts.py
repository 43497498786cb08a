"""Decoding by a mixture of experts, 2 of 8 for each token, beside a dense model: `experts.b1` and what it is made of.

The model has a billion random weights in the form of SmolLM2's, and its vocabulary. A token's work is what it reads:
attention, the router, the experts that were chosen, and the head.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import engine
import limits
from limits import Figure
from workload import CASES

LAYERS, WIDTH, HEADS, KV_HEADS, FEED, EXPERTS, USED = 16, 1024, 16, 4, 2048, 8, 2
NAMES = ("experts.b1", "experts.b1.of_memory", "experts.dense.of_memory", "experts.ratio")
B1 = next(case for case in CASES if case.name == "b1")


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Tokens a second, the fraction of the memory's speed that it is, and that over the same fraction of `weights`."""
    if not any(name.startswith(only) for name in NAMES):
        return
    (memory,) = limits.measure("limit.memory_read")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experts.gguf"
        write(weights, path)
        rates, details = {}, {}
        for name, file in (("experts", path), ("dense", weights)):
            runner = engine.Runner(file)
            runner.run(B1)  # warm
            seconds = min(runner.run(B1) for _ in range(3))
            runner.close()
            rates[name], details[name] = B1.output_tokens / seconds, runner.detail
        bytes_of = {name: bytes_a_token(file) for name, file in (("experts", path), ("dense", weights))}
    yield Figure(name=NAMES[0], value=round(rates["experts"], 1), unit="output tok/s", detail=details["experts"])
    parts = {name: rates[name] * bytes_of[name] / (memory["value"] * 1e9) for name in rates}
    for figure, name in ((NAMES[1], "experts"), (NAMES[2], "dense")):
        detail = f"{bytes_of[name] / 1e6:.0f} MB of weights a token at {memory['value']} GB/s; {details[name]}"
        yield Figure(name=figure, value=round(parts[name], 4), unit="of limit.memory_read", detail=detail)
    yield Figure(
        name=NAMES[3], value=round(parts["experts"] / parts["dense"], 3), unit="x",
        detail=f"fraction of {USED} of {EXPERTS} experts over that of {weights.name}, best of 3 runs each, one sitting",
    )  # fmt: skip


def bytes_a_token(path: Path) -> float:
    """Bytes of weights that a token reads, as they are stored."""
    from inferd_cpu.gguf import GgufFile  # noqa: PLC0415 - the engine's bench sets the environment

    tensors = GgufFile(path).tensors
    read = [t for t in tensors.values() if t.name != "token_embd.weight" or "output.weight" not in tensors]
    return sum(t.size_bytes * (USED / EXPERTS if "_exps" in t.name else 1.0) for t in read)


def write(like: Path, path: Path) -> None:
    """The file: random blocks of Q4_1, whose weights are about 0.02 in size; the vocabulary of `like`."""
    import gguf  # noqa: PLC0415 - of the tests
    import numpy as np  # noqa: PLC0415 - the engine's bench sets the environment

    form, rng = gguf.GGMLQuantizationType.Q4_1, np.random.default_rng(1)
    ends = np.array([0.005, -0.0375], np.float16).view(np.uint8)  # scale and least value of a block
    block = gguf.GGML_QUANT_SIZES[form][1]

    def matrix(*shape: int) -> np.ndarray:
        blocks = rng.integers(0, 256, (int(np.prod(shape)) // 32, block), dtype=np.uint8)
        blocks[:, : len(ends)] = ends
        return blocks.reshape(*shape[:-1], -1)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    reader = gguf.GGUFReader(like)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[1] if len(field.types) > 1 else None)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    kv_width = WIDTH // HEADS * KV_HEADS
    writer.add_tensor("token_embd.weight", matrix(vocabulary, WIDTH), raw_dtype=form)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{at}{name}.weight", np.ones(WIDTH, np.float32))
        router = rng.normal(0.0, 0.05, (EXPERTS, WIDTH)).astype(np.float32)
        writer.add_tensor(f"{at}ffn_gate_inp.weight", router)
        for name, shape in (
            ("attn_q", (WIDTH, WIDTH)),
            ("attn_k", (kv_width, WIDTH)),
            ("attn_v", (kv_width, WIDTH)),
            ("attn_output", (WIDTH, WIDTH)),
            ("ffn_gate_exps", (EXPERTS, FEED, WIDTH)),
            ("ffn_up_exps", (EXPERTS, FEED, WIDTH)),
            ("ffn_down_exps", (EXPERTS, WIDTH, FEED)),
        ):
            writer.add_tensor(f"{at}{name}.weight", matrix(*shape), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
