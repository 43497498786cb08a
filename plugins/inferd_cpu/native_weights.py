"""The weights of a file as the native library takes them: packed matrices and fp32 vectors.

What has 4 bits in the file is packed as it is, and so is what has fewer and at most 16 numbers for each scale: codes of
a table take 4.5 bits a weight, or 5 where 16 inputs have a scale. Of the rest "4bit" quantises two kinds of matrices,
`QUANTISED`, with what the library's inputs.h says of inputs that count more, and gives 8 bits to the others. Perplexity
of SmolLM2-135M over that of fp32 says why (16,384 tokens of tests/bench/perplexity.py; weights that lie on no grid of 4
bits; each kind alone at 4 bits, the rest at 8):

| at 4 bits | all inputs alike | inputs weighed | share of the decoder blocks' weights |
| --- | --- | --- | --- |
| queries, keys, values | +32 % (values alone +18 %) | 0.0 % | 16 % |
| gate and up | +3.3 % | +1.8 % | 50 % |
| attention's output | +1.5 % | | 9 % |
| down | +3.0 % | | 25 % |
| head and embedding | +6.8 % | | |
| queries, keys, values, gate, up | | +1.8 %; over 50,000 tokens +2.7 % | 66 % |
| all of the decoder blocks | +35 % | +6.1 %; over 50,000 tokens +6.8 % | 100 % |

With another draw of the noise that moves the weights off their grid the last two rows are +3.2 % and +3.5 %: a figure
is good to one or two percent. How often the likeliest token is that of fp32 is steadier: 80 % and 74 %, with the other
draw 83 % and 73 %. The decoder blocks take 6.2 bits a weight; all of them at 4 bits would take 5, and "8bit" takes 8.5.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inferd.plugin import LoadError
from inferd_cpu.finder import Part, Source
from inferd_cpu.inventory import Inventory, Parts
from inferd_cpu.native import (
    EXPERT_PARTS,
    LAYER_PARTS,
    MAX_GROUPS,
    NOT_FINITE,
    PARTS,
    THREE_FORMATS,
    VECTORS,
    W4,
    W4M,
    W8,
    Native,
)
from inferd_cpu.native_adapters import SPOTS, UP, Target
from inferd_cpu.shapes import Architecture
from inferd_cpu.weights import DIVISORS, compute_frequencies, order_rotary, rows_of
from inferd_weights.model_file import ModelFile, Tensor
from inferd_weights.quants import FORMATS

QKV: Final = 3  # sources
BLOCK: Final = 32  # inputs that share a scale
QUANTISED: Final = ("qkv", "gate_up")
"""Parts that "4bit" quantises to 4 bits; others get 8, unless the file has them in 4."""
LANES: Final = 16  # numbers of a head that are worked on at once
_QKV: Final = 3  # pieces of that part
_UNGATED: Final = {"up": "gate_up", "up_bias": "gate_up_bias"}  # where there are no gates ups are all of that part
_EXPERTS: Final = {"expert_gate": "expert_gate_up", "expert_up": "expert_gate_up"}
_EXPERT_BIASES: Final = {"expert_gate_bias": "expert_gate_up_bias", "expert_up_bias": "expert_gate_up_bias"}
TYPES: Final = {form.name: number for number, form in FORMATS.items()}


def find_obstacle(architecture: Architecture, inventory: Inventory, native: Native) -> str:
    """Why the library cannot run this model, as a clause; "" when it can."""
    a, layer = architecture, architecture.layers[0]
    if why := _find_unknown(a, inventory):
        return why
    routing = a.routing
    for what, size, step in (
        ("width", a.width, BLOCK),
        ("feed-forward width", max(layer.feed_width for layer in a.layers), BLOCK),
        ("width inside an expert", routing.feed_width if routing else 0, BLOCK),
        ("width of shared experts", routing.shared_width if routing else 0, BLOCK),
        ("width of all heads' values", layer.mixed_width, BLOCK),
        ("width of a key", layer.key_width, LANES),
        ("width of a value", layer.value_width, LANES),
    ):
        if size % step:
            return f"the {what} is {size}, which is not a multiple of {step}"
    return find_unpackable([part for part in inventory.parts if part.field in {*PARTS, *_EXPERTS}], native)


def find_unpackable(matrices: Iterable[Part], native: Native) -> str:
    """A tensor of these parts that the library cannot pack, as a clause; "" when it can pack all."""
    for part in matrices:
        for source in part.sources:
            if not native.library.inferd_can_pack(TYPES[source.tensor.format.name]):
                return f"tensor {source.tensor.name!r} is {source.tensor.format.name}, which cannot be packed"
    return ""


def _find_unknown(a: Architecture, inventory: Inventory) -> str:
    """What of the architecture the library does not compute, as a clause."""
    known = {*PARTS, *VECTORS, *DIVISORS, *_UNGATED, *_EXPERTS, *_EXPERT_BIASES}
    pieces = [part for part in inventory.parts if part.field == "qkv" and len(part.sources) != _QKV]
    fields = [part.field for part in inventory.parts] + ["qkv in other pieces than three" for _ in pieces]
    if (unknown := next((field for field in fields if field not in known), None)) is not None:
        return f"the library has no {unknown.replace('_', ' ')}"
    if a.slope_bias or (a.routing and a.routing.gating == "mixer"):
        return f"it has {'slopes of scores' if a.slope_bias else 'SparseMixer'}, which the library does not know"
    if a.family.encodes:
        return "its tokens see those behind them, which the library does not know"
    same = {replace(layer, window=0, rope=0, routed=False, feed_width=0) for layer in a.layers}
    if len(same) > 1 or len({layer.feed_width for layer in a.layers if not layer.routed}) > 1:
        return "heads or widths differ from layer to layer"
    if a.routing and a.routing.groups > MAX_GROUPS:
        return f"it has {a.routing.groups} groups of experts; the library knows up to {MAX_GROUPS}"
    return ""


def _join_experts(parts: Sequence[Part]) -> list[Part]:
    """The parts, with gates and ups of experts as one, and so their biases."""
    joined: dict[tuple[str, int | None], Part] = {}
    for part in parts:
        field = {**_EXPERTS, **_EXPERT_BIASES}.get(part.field, part.field)
        before = joined.get((field, part.layer))
        sources = (*(before.sources if before else ()), *part.sources)
        joined[field, part.layer] = replace(part, field=field, sources=sources)
    return list(joined.values())


class NativeWeights:
    """Which packed format each matrix of a model gets, and the packing.

    Args:
        file: The file.
        architecture: Its shape.
        inventory: Its tensors.
        native: The library.
        quantization: "auto", "8bit" or "4bit".
        wide: Layers whose matrices stay as wide as they are in the file, though `quantization` is "4bit".

    Attributes:
        size_bytes: What the weights take.
        experts_bytes: What experts take of that.
    """

    def __init__(
        self,
        file: ModelFile,
        architecture: Architecture,
        inventory: Parts,
        native: Native,
        *,
        quantization: str,
        wide: frozenset[int] = frozenset(),
    ) -> None:
        self._wide = wide
        self._file = file
        self._architecture = architecture
        self._inventory = inventory
        self._native = native
        matrices, parts = {*PARTS, "up"}, _join_experts(inventory.parts)
        self._matrices = {self._place(part): part for part in parts if part.field in matrices}
        self._formats = {place: self._choose(part, quantization) for place, part in self._matrices.items()}
        self._apart = {
            place: formats
            for place, part in self._matrices.items()
            if quantization == "auto" and (formats := self._divide(part)) is not None
        }
        self._vectors = [part for part in parts if part.field not in matrices]
        packed = {place: self._measure(place, part) for place, part in self._matrices.items()}
        self.size_bytes: int = sum(packed.values()) + 4 * self.vector_floats
        self.experts_bytes: int = sum(size for (part, _), size in packed.items() if part in EXPERT_PARTS)

    def _measure(self, place: tuple[str, int], part: Part) -> int:
        """Bytes of a matrix, or of as many as there are experts."""
        shapes = [source.shape for source in part.sources]
        rows, count = sum(shape[-2] for shape in shapes), shapes[0][0] if part.field in EXPERT_PARTS else 1
        if place in self._apart:
            sizes = zip(self._apart[place], (shape[-2] for shape in shapes), strict=True)
            return sum(self._packed_bytes(form, rows, shapes[0][-1]) for form, rows in sizes)
        return count * self._packed_bytes(self._formats[place], rows, shapes[0][-1])

    def _packed_bytes(self, form: int, rows: int, columns: int) -> int:
        size_bytes: int = self._native.library.inferd_packed_bytes(self._native.kernels, form, rows, columns)
        return size_bytes

    @property
    def feed_biased(self) -> bool:
        """Whether gates and ups have biases."""
        return any(part.field in ("gate_up_bias", "up_bias") for part in self._vectors)

    @property
    def vector_floats(self) -> int:
        """Numbers of all vectors."""
        return sum(prod(part.shape) for part in self._vectors) + sum(rope.width for rope in self._architecture.ropes)

    def formats(self) -> NDArray[np.int32]:
        """The format of each matrix as `inferd_open` takes them: parts of layers, then head and embedding, or -1."""
        layers = range(len(self._architecture.layers))
        places = [(part, layer) for part in LAYER_PARTS for layer in layers]
        places += [(part, 0) for part in PARTS[len(LAYER_PARTS) :]]
        return np.array([self._format(place) for place in places], np.int32)

    def _format(self, place: tuple[str, int]) -> int:
        if place not in self._apart:
            return self._formats.get(place, -1)
        return THREE_FORMATS + sum(form << 8 * index for index, form in enumerate(self._apart[place]))

    def _divide(self, part: Part) -> tuple[int, ...] | None:
        """The formats of queries, keys and values where none would hold all three as they are; else None."""
        if part.field != "qkv" or len(part.sources) != QKV or self._natural(part) <= {W4, W4M}:
            return None
        formats = tuple(self._natural(replace(part, sources=(source,))).pop() for source in part.sources)
        return formats if len({*formats}) > 1 else None

    def describe(self) -> str:
        """How wide the packed weights of the decoder blocks are."""
        formats = [self._apart.get(place, (form,)) for place, form in self._formats.items() if place[0] in LAYER_PARTS]
        widths = {8 if form == W8 else 4 for each in formats for form in each}
        return " and ".join(f"{width}-bit" for width in sorted(widths))

    def targets(self) -> dict[str, list[Target]]:
        """What the rows of tensors become in products that adapters may change, by the tensors' names."""
        found: dict[str, list[Target]] = {}
        for (field, layer), part in self._matrices.items():
            ungated = field == "gate_up" and len(part.sources) == 1
            for index, source in enumerate(part.sources):
                spot = UP if ungated else SPOTS.get((field, index))
                if spot is not None:
                    target = Target(layer, spot, source.first, source.shape[0], self._order(source))
                    found.setdefault(source.tensor.name, []).append(target)
        return found

    def pack(self, model: int | None, report: Callable[[float], None]) -> None:
        """Pack all weights into an open model; `report` gets the part that is done, rising to 1.

        Raises:
            LoadError: A weight is not a finite number.
        """
        divisors = {}
        for part in self._vectors:
            sources = list(self._decode(part))
            if part.field in (
                "gate_up_bias",
                "expert_gate_up_bias",
            ):  # a block of gates, then one of ups, as the matrix is packed
                sources = [np.stack([each.reshape(-1, BLOCK) for each in sources], axis=1).reshape(-1)]
            numbers = np.concatenate(sources)
            if part.field in DIVISORS:
                divisors[part.field] = numbers
            else:
                self._set(model, _UNGATED.get(part.field, part.field), part.layer or 0, numbers)
        short, long = compute_frequencies(self._file, self._architecture, divisors)
        self._set(model, "frequencies", 0, np.concatenate([*short, *long]))
        done, all_weights = 0, self._inventory.parameters
        for place, part in self._matrices.items():
            counts = self._weigh_inputs(model, place)
            for index, source in enumerate(part.sources):
                self._pack_source(model, place, index, source, counts)
                done += prod(source.shape)
                report(min(done / all_weights, 1.0))
        report(1.0)

    def _place(self, part: Part) -> tuple[str, int]:
        """The matrix that a part becomes. An embedding that is the head as well is packed once."""
        tied = part.field == "embedding" and all(other.field != "head" for other in self._inventory.parts)
        return "head" if tied else _UNGATED.get(part.field, part.field), part.layer or 0

    def _choose(self, part: Part, quantization: str) -> int:
        if quantization == "8bit" or (quantization == "4bit" and part.layer is None):
            return W8  # what is lost in the output matrix shows in every token
        natural = self._natural(part)
        if len(natural) == 1 and natural != {W8}:
            return natural.pop()
        if quantization == "4bit" and part.layer not in self._wide:
            return W8 if W8 in natural and part.field not in QUANTISED else W4M
        return W4M if natural == {W4, W4M} else W8  # no other two formats of 4 bits have one that holds both

    def _natural(self, part: Part) -> set[int]:
        """The packed formats that hold the part's tensors best."""
        return {self._native.library.inferd_natural_weight(TYPES[source.tensor.format.name]) for source in part.sources}

    def _weigh_inputs(self, model: int | None, place: tuple[str, int]) -> NDArray[np.float32] | None:
        """How much each input counts when the matrix is quantised to 4 bits; None where all count the same."""
        part = self._matrices[place]
        if self._formats[place] != W4M or part.field not in QUANTISED or self._natural(part) == {W4M}:
            return None
        source = part.sources[-1]  # values, or up: their weights tell more than those of the others
        tensor, counts = source.tensor, np.empty(source.shape[1], np.float32)
        blocks = rows_of(self._file, source)
        error = self._native.library.inferd_weigh_inputs(
            model,
            TYPES[tensor.format.name],
            blocks.ctypes.data,
            *source.shape,
            counts.ctypes.data,
        )
        self._file.release(tensor)
        self._check(error, tensor)
        return counts

    def _pack_source(
        self,
        model: int | None,
        place: tuple[str, int],
        index: int,
        source: Source,
        counts: NDArray[np.float32] | None,
    ) -> None:
        tensor, order = source.tensor, self._order(source)
        experts = source.shape[0] if place[0] in EXPERT_PARTS else 1
        shares = self._file.shares(tensor, experts) if experts > 1 else [rows_of(self._file, source)]
        for expert, blocks in enumerate(shares):
            error = self._native.library.inferd_pack(
                model,
                PARTS.index(place[0]),
                place[1],
                index,
                expert,
                TYPES[tensor.format.name],
                blocks.ctypes.data,
                None if order is None else order.ctypes.data,
                None if counts is None else counts.ctypes.data,
            )
            if error == NOT_FINITE:
                raise self._not_finite(source)
            self._check(error, tensor)
        self._file.release(tensor)

    def _check(self, error: int, tensor: Tensor) -> None:
        if error:
            raise LoadError(
                f"{self._file.path}: tensor {tensor.name!r} ({tensor.format.name}):"
                f" {self._native.library.inferd_pack_message(error).decode()}"
            )

    def _order(self, source: Source) -> NDArray[np.int32] | None:
        order = order_rotary(source, self._architecture)
        return None if order is None else order.astype(np.int32)

    def _decode(self, part: Part) -> Iterator[NDArray[np.float32]]:
        for source in part.sources:
            with np.errstate(invalid="ignore", over="ignore"):  # told below
                numbers = source.tensor.format.decode(rows_of(self._file, source)).reshape(-1)
            if not np.isfinite(numbers).all():
                raise self._not_finite(source)
            order = self._order(source)
            yield numbers if order is None else numbers[order]

    def _set(self, model: int | None, vector: str, layer: int, numbers: NDArray[np.float32]) -> None:
        numbers = np.ascontiguousarray(numbers, np.float32)
        data = numbers.ctypes.data_as(ctypes.c_void_p)
        self._native.library.inferd_set_vector(model, VECTORS.index(vector), layer, data, numbers.size)

    def _not_finite(self, source: Source) -> LoadError:
        tensor = source.tensor
        return LoadError(
            f"{self._file.path}: tensor {tensor.name!r} ({tensor.format.name}, at byte {tensor.offset}) has weights"
            " that are not finite: the file is corrupt; fetch it again"
        )
