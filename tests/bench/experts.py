"""Decoding by a mixture of experts, 2 of 8 for each token, beside a dense model: `experts.b1` and what it is made of.

The model has a billion random weights in the form of SmolLM2's, and its vocabulary. A token's work is what it reads:
attention, the router, the experts that were chosen, and the head. Both models take turns, so that whatever else the
machine does slows both.

Large caches hold the dense model as a whole, and give it faster than memory could; of the other they hold little. So
there are two ratios: `experts.ratio` holds both against the memory, `experts.ratio.own` each against what the machine
reads of as many bytes as its file has.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import engine
import limits
from limits import Figure
from workload import CASES

LAYERS, WIDTH, HEADS, KV_HEADS, FEED, EXPERTS, USED = 16, 1024, 16, 4, 2048, 8, 2
NAMES = ("experts.b1", "experts.b1.of_memory", "experts.dense.of_memory", "experts.ratio", "experts.ratio.own")
B1 = next(case for case in CASES if case.name == "b1")
PAIRS = 9


def figures(weights: Path, *, only: str) -> Iterator[Figure]:
    """Tokens a second, the fraction of the memory's speed that it is, and that over the same fraction of `weights`."""
    if not any(name.startswith(only) for name in NAMES):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experts.gguf"
        write(weights, path)
        files = {"experts": path, "dense": weights}
        bytes_of = {name: bytes_a_token(file) for name, file in files.items()}
        memory, *own = (read_rate(size) for size in (limits.READ_BYTES, *(f.stat().st_size for f in files.values())))
        details, pairs = decode_in_turns(files)
    rates = {name: statistics.median(pair[name] for pair in pairs) for name in files}
    yield Figure(name=NAMES[0], value=round(rates["experts"], 1), unit="output tok/s", detail=details["experts"])
    for figure, name in ((NAMES[1], "experts"), (NAMES[2], "dense")):
        part = rates[name] * bytes_of[name] / (memory * 1e9)
        detail = f"{bytes_of[name] / 1e6:.0f} MB of weights a token at {memory} GB/s; {details[name]}"
        yield Figure(name=figure, value=round(part, 4), unit="of limit.memory_read", detail=detail)
    said = f"{USED} of {EXPERTS} experts over {weights.name}, median of {PAIRS} pairs in turn"
    ratios = [pair["experts"] * bytes_of["experts"] / (pair["dense"] * bytes_of["dense"]) for pair in pairs]
    ratio = statistics.median(ratios)
    detail = f"fraction of limit.memory_read of {said}: {min(ratios):.2f} to {max(ratios):.2f}"
    yield Figure(name=NAMES[3], value=round(ratio, 3), unit="x", detail=detail)
    detail = f"the same, each of what is read of a file as large: {own[0]} and {own[1]} GB/s"
    yield Figure(name=NAMES[4], value=round(ratio * own[1] / own[0], 3), unit="x", detail=detail)


def read_rate(size_bytes: int) -> float:
    """GB/s from all cores, with so many bytes in turn."""
    (figure,) = limits.measure("limit.memory_read", read_bytes=size_bytes)
    if figure["value"] is None:
        raise RuntimeError(figure["detail"])
    return figure["value"]


def decode_in_turns(files: dict[str, Path]) -> tuple[dict[str, str], list[dict[str, float]]]:
    """What is computed with, by model, and tokens a second of each in every pair of runs; the first one alternates."""
    runners = {name: engine.Runner(file) for name, file in files.items()}
    for runner in runners.values():
        runner.run(B1)  # warm
    pairs = []
    for turn in range(PAIRS):
        order = [*runners.items()][:: -1 if turn % 2 else 1]
        pairs.append({name: B1.output_tokens / runner.run(B1) for name, runner in order})
    for runner in runners.values():
        runner.close()
    return {name: runner.detail for name, runner in runners.items()}, pairs


def bytes_a_token(path: Path) -> float:
    """Bytes of weights that a token reads, as they are stored."""
    from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - the engine's bench sets the environment

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
