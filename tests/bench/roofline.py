"""Served figures as fractions of what the machine allows, with limits measured in the same sitting.

What a case must at least do: read the weights once a step and the keys and values of a sequence once a token, and
multiply each weight with each token. A step of the ideal engine holds 512 tokens of prompts, or one of each sequence;
it takes as long as the slower of the two, and the steps of prompts and outputs add up. That is the limit of a case.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import limits
from limits import Figure
from workload import CASES, Case

STEP_TOKENS = 512
KV_BYTES = {"KV i8": 1, "KV bf16": 2, "KV f32": 4}  # of a stored number
NARROW_BITS = 6  # weights of fewer, scales included, are multiplied as numbers of four bits


@dataclass(slots=True)
class Products:
    """Weights that are multiplied with each token, by how they are multiplied.

    Attributes:
        narrow: Those of four bits.
        wide: All others.
    """

    narrow: int = 0
    wide: int = 0

    def add(self, elements: int, bits: float) -> None:
        """Count so many weights of so many bits each."""
        if bits < NARROW_BITS:
            self.narrow += elements
        else:
            self.wide += elements


class Machine:
    """The limits of the machine, measured when they are first asked for."""

    def __init__(self) -> None:
        self._figures: dict[str, Figure] = {}

    def measure(self, limit: str) -> float | None:
        """A limit in 1e9 a second; None where it cannot be measured."""
        if limit not in self._figures:
            (self._figures[limit],) = limits.measure(limit)
        return self._figures[limit]["value"]

    @property
    def told(self) -> str:
        """The limits that were measured, and how they were reached."""
        some = self._figures.values()
        return "; ".join(f"{one['name']} {one['value']} {one['unit']} ({one['detail']})" for one in some)


class Roofline:
    """The work that a model makes, held against what the machine can do.

    Args:
        weights: The model's file; its matrices are what a step reads.
        bits: Width of the weights where they are not computed as stored, with a scale of 16 bits for each 32.
        machine: What it can do at most.
    """

    def __init__(self, weights: Path, *, machine: Machine, bits: int | None = None) -> None:
        from inferd_cpu.architecture import read_architecture  # noqa: PLC0415 - the engine's bench sets the environment
        from inferd_weights.gguf import GgufFile  # noqa: PLC0415 - as above

        file = GgufFile(weights)
        a: Any = read_architecture(file.metadata)
        embedding = file.tensors["token_embd.weight"]
        head = file.tensors.get("output.weight", embedding)
        self._layers, self._head, self._weights_bytes = Products(), Products(), 0.0
        for tensor in (tensor for tensor in file.tensors.values() if len(tensor.shape) > 1):
            size_bytes = tensor.elements * (bits + 0.5) / 8 if bits else tensor.size_bytes
            of = self._head if tensor is head else self._layers
            if tensor is not embedding or tensor is head:  # of an embedding alone a step reads a few rows
                of.add(tensor.elements, size_bytes * 8 / tensor.elements)
                self._weights_bytes += size_bytes
        self._kv_numbers: int = sum(x.kv_heads * (x.key_width + x.value_width) for x in a.layers)
        self._machine = machine

    def figures(self, figure: Figure, case: Case) -> Iterator[Figure]:
        """`NAME.limit`, and `NAME.of_limit`: the fraction of it that a served figure is, from 0 to 1."""
        limit = self.limit(case, figure["detail"])
        value = round(limit, 1) if limit else None
        yield Figure(name=f"{figure['name']}.limit", value=value, unit=figure["unit"], detail=self._machine.told)
        share = round(figure["value"] / limit, 4) if limit and figure["value"] else None
        name = f"{figure['name']}.of_limit"
        yield Figure(name=name, value=share, unit=f"of {figure['name']}.limit", detail=figure["detail"])

    def limit(self, case: Case, detail: str) -> float | None:
        """What the machine allows, in the unit of the case's figure; None where a limit cannot be measured.

        Args:
            case: What is run.
            detail: Of the figure: which numbers products and the KV pool have.
        """
        memory = self._machine.measure("limit.memory_read")
        rounded = "BF16 activations" in detail
        wide = self._machine.measure("limit.gemm_bf16" if rounded else "limit.gemm_int8")
        narrow = wide if rounded or not self._layers.narrow else self._machine.measure("limit.gemm_int4")
        if not memory or not wide or not narrow:
            return None

        def seconds(read_bytes: float, tokens: int, logits: int) -> float:
            wide_ops = 2.0 * (tokens * self._layers.wide + logits * self._head.wide)
            narrow_ops = 2.0 * (tokens * self._layers.narrow + logits * self._head.narrow)
            return max(read_bytes / memory, wide_ops / wide + narrow_ops / narrow) / 1e9

        kv_bytes = self._kv_numbers * next((size for name, size in KV_BYTES.items() if name in detail), 4)
        prompts, all_s = case.sequences * case.prompt_tokens, 0.0
        for begin in range(0, 0 if case.decodes else prompts, STEP_TOKENS):
            some = min(STEP_TOKENS, prompts - begin)
            all_s += seconds(self._weights_bytes, some, -(-some // case.prompt_tokens))
        for done in range(1, case.output_tokens):
            read_bytes = self._weights_bytes + case.sequences * (case.prompt_tokens + done) * kv_bytes
            all_s += seconds(read_bytes, case.sequences, case.sequences)
        return case.figure[0] / all_s


def shares(figures: Iterator[Figure], weights: Path, *, bits: int | None = None) -> Iterator[Figure]:
    """The served figures, each followed by its limit and its fraction of it; `bits` as `Roofline` takes it."""
    cases = {case.name: case for case in CASES}
    roofline: Roofline | None = None
    for figure in figures:
        yield figure
        case = cases.get(figure["name"].rpartition(".")[2])
        if case is not None:
            roofline = roofline or Roofline(weights, machine=Machine(), bits=bits)
            yield from roofline.figures(figure, case)
