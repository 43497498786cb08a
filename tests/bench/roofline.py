"""Served figures as fractions of what the machine allows, with limits measured in the same sitting.

What a case must at least do: read the weights once a step and the keys and values of a sequence once a token, and
multiply each weight with each token. A step of the ideal engine holds 512 tokens of prompts, or one of each sequence.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import limits
from limits import Figure
from workload import CASES, Case

STEP_TOKENS = 512
KV_BYTES = {"KV i8": 1, "KV bf16": 2, "KV f32": 4}  # of a stored number


class Roofline:
    """The work that a model makes, and the limits of the machine, measured when they are first asked for.

    Args:
        weights: The model's file; its matrices are what a step reads.
        bits: Width of the weights where they are not computed as stored, with a scale of 16 bits for each 32.
    """

    def __init__(self, weights: Path, *, bits: int | None = None) -> None:
        from inferd_cpu.architecture import read_architecture  # noqa: PLC0415 - the engine's bench sets the environment
        from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - as above

        file = GgufFile(weights)
        a: Any = read_architecture(file.metadata)
        matrices = [tensor for tensor in file.tensors.values() if len(tensor.shape) > 1]
        embedding = file.tensors["token_embd.weight"]
        self._head = file.tensors.get("output.weight", embedding).elements
        self._layers = sum(t.elements for t in matrices if t.name not in {"token_embd.weight", "output.weight"})
        tied = "output.weight" not in file.tensors
        read = [tensor for tensor in matrices if tied or tensor is not embedding]
        self._weights_bytes: float = sum(t.elements * (bits + 0.5) / 8 if bits else t.size_bytes for t in read)
        self._kv_numbers: int = sum(x.kv_heads * (x.key_width + x.value_width) for x in a.layers)
        self._limits: dict[str, float | None] = {}

    def figures(self, figure: Figure, case: Case) -> Iterator[Figure]:
        """`NAME.of_memory` and `NAME.of_arithmetic` of a served figure, each from 0 to 1."""
        tokens, _ = case.figure
        arithmetic = "limit.gemm_bf16" if "BF16 activations" in figure["detail"] else "limit.gemm_int8"
        seconds = tokens / figure["value"] if figure["value"] else 0.0
        for ending, limit, work in (
            ("of_memory", "limit.memory_read", self._read_bytes(case, figure["detail"])),
            ("of_arithmetic", arithmetic, self._operations(case)),
        ):
            rate = self._measure(limit)
            share = round(work / (rate * 1e9) / seconds, 4) if rate and seconds else None
            detail = f"{work / 1e9:.2f} G of work at {limit} {rate}; {figure['detail']}"
            yield Figure(name=f"{figure['name']}.{ending}", value=share, unit=f"of {limit}", detail=detail)

    def _read_bytes(self, case: Case, detail: str) -> float:
        kv_bytes = self._kv_numbers * next((size for name, size in KV_BYTES.items() if name in detail), 4)
        prompts = case.sequences * case.prompt_tokens
        steps = -(-prompts // STEP_TOKENS) + case.output_tokens - 1
        kv_tokens = case.sequences * sum(case.prompt_tokens + n for n in range(1, case.output_tokens))
        return steps * self._weights_bytes + kv_tokens * kv_bytes

    def _operations(self, case: Case) -> float:
        computed = case.sequences * (case.prompt_tokens + case.output_tokens - 1)
        return 2.0 * (computed * self._layers + case.sequences * case.output_tokens * self._head)

    def _measure(self, limit: str) -> float | None:
        if limit not in self._limits:
            (measured,) = limits.measure(limit)
            self._limits[limit] = measured["value"]
        return self._limits[limit]


def shares(figures: Iterator[Figure], weights: Path, *, bits: int | None = None) -> Iterator[Figure]:
    """The served figures, each followed by its fractions; `bits` as `Roofline` takes it."""
    cases = {case.name: case for case in CASES}
    roofline: Roofline | None = None
    for figure in figures:
        yield figure
        case = cases.get(figure["name"].rpartition(".")[2])
        if case is not None:
            roofline = roofline or Roofline(weights, bits=bits)
            yield from roofline.figures(figure, case)
