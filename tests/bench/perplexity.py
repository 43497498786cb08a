"""How much the arithmetic of the native engine costs in quality: perplexity against fp32 on the same weights.

A text of 50,000 tokens is read in windows; each token is predicted from those before it in its window.

- `native.perplexity`: the file as it is, 4-bit weights computed as they stand;
- `native.perplexity.8bit`, `native.perplexity.4bit`: F16 weights, quantised on loading. Weights that were quantised
  once lie on a grid that a second quantisation would find again without loss. So they are moved off it first, each by
  up to half a step at random, and the fp32 reference is that of the moved weights;
- `native.perplexity.4bit_again`: the same F16 weights, not moved.

`native.agreement…` is how often the likeliest token is that of the reference. References are kept in a cache.

`perplexity.ISA.WEIGHTS` is the same on each instruction set that this processor has, with the KV pool's own format, and
`perplexity.ISA.WEIGHTS.kv_FORMAT` with each, on the best. `TOKENS=2000 make bench ONLY=perplexity.avx2` reads
less: a trial of the way, whose figures are called `trial.…`, for bounds hold of the whole text.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import CACHE, read_corpus
from limits import Figure

from inferd.plugin import LoadRequest, TokenBatch
from inferd.plugin.backend import read_settings

TOKENS = 50_000
WINDOW = 1024
STEP = 512
PIECE = 64  # rows of logits that are worked on at once: they stay in the caches
BLOCK = 32  # weights with a grid of their own
GRID_STEPS = {"Q8_0": 254}  # in the range of a block; of other formats 15, as of those with 4 bits
VARIANTS = {  # by the figure's ending: the quantization asked for, and the weights that it starts from
    "": ("auto", "file"),
    ".8bit": ("8bit", "moved"),
    ".4bit": ("4bit", "moved"),
    ".4bit_again": ("4bit", "f16"),
}
PATHS = ("plain", "avx2", "avx512", "amx", "neon")
POOLS = ("i8", "bf16", "f32")
WEIGHTS = {"file": "", "8bit": ".8bit", "4bit": ".4bit"}  # by what they are called behind a path: their variant


@dataclass(frozen=True, slots=True)
class Score:
    """What a session made of the text: the loss in nats and the likeliest token, at each place."""

    losses: Any
    best: Any
    compute_format: str

    @property
    def perplexity(self) -> float:
        """Of the whole text."""
        import numpy as np  # noqa: PLC0415 - the engine's bench sets what numpy reads when it is imported

        return float(np.exp(self.losses.mean()))


def figures(weights: Path, *, only: str, tokens: int = 0) -> Iterator[Figure]:
    """`native.perplexity*`, the ratio to the reference, `native.agreement*`, from 0 to 1, and `perplexity.*`."""
    tokens = tokens or int(os.environ.get("TOKENS", TOKENS))
    for variant in VARIANTS:
        names = f"native.perplexity{variant}", f"native.agreement{variant}"
        yield from _compare(weights, variant, names, only=only, tokens=tokens)
    for name, variant, settings in _paths(only):
        yield from _compare(weights, variant, (name, ""), only=only, tokens=tokens, **settings)


def _paths(only: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Of each figure of one path its name, its variant, and the settings that choose the path."""
    if not "perplexity.".startswith(only[: len("perplexity.")]):
        return
    from inferd_cpu.native import Native, NativeMissing  # noqa: PLC0415 - as below

    for isa in PATHS:
        if isa == "plain" and not only.startswith("perplexity.plain"):
            continue  # portable C++ takes an hour: it is measured where it is named
        try:
            Native(isa)
        except NativeMissing:
            continue
        for called, variant in WEIGHTS.items():
            yield f"perplexity.{isa}.{called}", variant, {"isa": isa}
    best = Native().isa
    for called, variant in WEIGHTS.items():
        for pool in POOLS:
            yield f"perplexity.{best}.{called}.kv_{pool}", variant, {"isa": best, "kv_format": pool}


def _compare(
    weights: Path, variant: str, names: tuple[str, str], *, only: str, tokens: int, **settings: str
) -> Iterator[Figure]:
    """What the native engine makes of the text, by what fp32 makes of the same weights; with the second name, too."""
    if not any(name and name.startswith(only) for name in names):
        return
    quantization, source = VARIANTS[variant]
    path = weights if source == "file" else make_f16(weights, moved=source == "moved")
    ids = encode(weights, read_corpus())[: tokens + 1]
    truth = reference(path, ids)
    found = score(path, ids, {"compute": "native", "quantization": quantization, **settings}, label=names[0])
    ratio, agreement = found.perplexity / truth.perplexity, float((found.best == truth.best).mean())
    detail = (
        f"{found.perplexity:.4f} against {truth.perplexity:.4f} of fp32, {len(ids) - 1} tokens of Shakespeare in"
        f" windows of {WINDOW}; {path.name}, {found.compute_format}"
    )
    trial = "trial." if tokens < TOKENS else ""  # which has no bound
    if names[0].startswith(only):
        yield Figure(name=trial + names[0], value=round(ratio, 5), unit="of fp32", detail=detail)
    if names[1] and names[1].startswith(only):
        yield Figure(name=trial + names[1], value=round(agreement, 4), unit="of tokens", detail=detail)


def encode(weights: Path, text: str) -> list[int]:
    """The text's token ids."""
    from inferd.engine.text.tokenizer import Tokenizer  # noqa: PLC0415 - as above
    from inferd_cpu.vocabulary import read_vocabulary  # noqa: PLC0415 - as above
    from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - as above

    vocabulary = read_vocabulary(GgufFile(weights).metadata)
    return Tokenizer(vocabulary, size=len(vocabulary.tokens)).encode(text[: TOKENS * 8])


def reference(path: Path, ids: list[int]) -> Score:
    """The score of fp32 arithmetic, from the cache or measured now, which takes minutes."""
    import numpy as np  # noqa: PLC0415 - as above

    settings = {"compute": "exact"}
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    digest.update(json.dumps([ids, WINDOW]).encode())
    kept = CACHE / f"perplexity-{digest.hexdigest()[:16]}.npz"
    if not kept.exists():
        made = score(path, ids, settings, label=f"{path.name} in fp32")
        np.savez(kept, losses=made.losses, best=made.best)
    with np.load(kept, allow_pickle=False) as arrays:
        return Score(arrays["losses"], arrays["best"], "F32")


def score(path: Path, ids: list[int], settings: dict[str, str], *, label: str) -> Score:
    """Read the text with a session of its own."""
    import numpy as np  # noqa: PLC0415 - as above

    from inferd_cpu.backend import CpuBackend  # noqa: PLC0415 - as above
    from inferd_cpu.plugin import SPEC  # noqa: PLC0415 - as above

    sizes = {
        "context_tokens": str(WINDOW),
        "kv_tokens": str(WINDOW),
        "max_sequences": "1",
        "max_step_tokens": str(STEP),
    }
    chosen = read_settings(SPEC, {**sizes, **settings})
    request = LoadRequest(path=path, device="cpu:0", settings=chosen, capacity_bytes=8 << 30)
    model = CpuBackend().load(request, lambda _: None)
    losses, best = [], []
    for begin in range(0, len(ids) - 1, WINDOW):
        window = np.array(ids[begin : begin + WINDOW + 1], np.int32)
        for first in range(0, len(window) - 1, STEP):
            last = min(first + STEP, len(window) - 1)
            logits = model.session.step(_batch(model.session.limits.block_tokens, window, first, last)).logits
            assert logits is not None
            for row in range(0, last - first, PIECE):
                piece = logits[row : row + PIECE]
                targets = window[first + row + 1 : first + row + 1 + len(piece)]
                top = piece.max(axis=1)
                total = np.log(np.exp(piece - top[:, None]).sum(axis=1, dtype=np.float64)) + top
                losses.append(total - piece[np.arange(len(piece)), targets])
                best.append(piece.argmax(axis=1))
        sys.stderr.write(f"\r{label}: {min(begin + WINDOW, len(ids) - 1)} of {len(ids) - 1} tokens ")
        sys.stderr.flush()
    sys.stderr.write("\n")
    model.session.close()
    return Score(np.concatenate(losses), np.concatenate(best), model.description.compute_format)


def _batch(block_tokens: int, window: Any, first: int, last: int) -> TokenBatch:
    """One sequence's tokens from `first` to `last`, the logits of all of them wanted."""
    import numpy as np  # noqa: PLC0415 - as above

    return TokenBatch(
        token_ids=window[first:last],
        positions=np.arange(first, last, dtype=np.int32),
        starts=np.array([0, last - first], np.int32),
        lengths=np.array([last], np.int32),
        block_tables=np.arange(-(-last // block_tokens), dtype=np.int32)[None],
        logit_rows=np.arange(last - first, dtype=np.int32),
    )


def make_f16(weights: Path, *, moved: bool) -> Path:
    """The model as an F16 file, made once; with each matrix moved off the grid that it was quantised to, or not."""
    import gguf  # noqa: PLC0415 - as above
    import numpy as np  # noqa: PLC0415 - as above

    path: Path = CACHE / f"{weights.stem}-f16{'-moved' if moved else ''}.gguf"
    if path.exists():
        return path
    reader = gguf.GGUFReader(weights)
    made = path.with_suffix(".part")
    writer = gguf.GGUFWriter(made, str(reader.fields["general.architecture"].contents()))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in {"general.architecture", "general.file_type"}:
            kinds = field.types
            writer.add_key_value(field.name, field.contents(), kinds[0], kinds[1] if len(kinds) > 1 else None)
    rng = np.random.default_rng(0)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim > 1:
            if moved:
                _move(values.reshape(-1, BLOCK), GRID_STEPS.get(tensor.tensor_type.name, 15), rng)
            values = values.astype(np.float16)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made.rename(path)
    return path


def _move(blocks: Any, grid_steps: int, rng: Any) -> None:
    """Add to each number up to half a step of its block's grid, in place."""
    steps = (blocks.max(axis=1) - blocks.min(axis=1)) / grid_steps
    blocks += (rng.random(blocks.shape, blocks.dtype) - 0.5) * steps[:, None]


if __name__ == "__main__":
    from main import smollm2

    for figure in figures(smollm2(), only="", tokens=int(sys.argv[1]) if len(sys.argv) > 1 else TOKENS):
        print(json.dumps(figure), flush=True)
