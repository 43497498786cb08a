"""Several requests as one call: what belongs together, its inputs joined and filled up, its outputs parted and cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from inferd.plugin import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.engine.tensor.entry import Entry
    from inferd.plugin import Signature

    Key = tuple[Any, ...]


@dataclass(slots=True)
class Extent:
    """How far a batch is filled up, as requests of one key join it.

    Args:
        times: It has at most so many times the elements that they gave.
    """

    times: float
    _rows: int = 0
    _own: int = 0
    _widest: tuple[int, ...] = ()

    def add(self, entry: Entry) -> bool:
        """Take a request in, unless the batch would be filled up too far with it; whether it was taken."""
        rows = self._rows + entry.rows
        own = self._own + entry.rows * _volume(entry.sizes)
        widest = tuple(map(max, self._widest, entry.sizes)) if self._rows else entry.sizes
        if rows * _volume(widest) > self.times * own:
            return False
        self._rows, self._own, self._widest = rows, own, widest
        return True


@dataclass(slots=True)
class Filling:
    """The rules of a signature by which sizes are filled up. It keeps nothing of the requests.

    Args:
        signature: Of the model.
    """

    signature: Signature
    _fills: dict[str, dict[int, tuple[int, Any]]] = field(default_factory=dict)  # by input and dimension: rule, value
    _cuts: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # by output: dimension, rule

    def __post_init__(self) -> None:
        for rule, padding in enumerate(self.signature.batching.paddings):
            for fill in padding.fills:
                self._fills.setdefault(fill.input_name, {})[fill.dimension] = (rule, fill.value)
            for cut in padding.cuts:
                self._cuts.setdefault(cut.output_name, []).append((cut.dimension, rule))

    def measure(self, entry: Entry) -> None:
        """Note the sizes of a request that may be filled up, and what it can be computed with, once it is ready."""
        found: list[set[int]] = [set() for _ in self.signature.batching.paddings]
        for name, places in self._fills.items():
            if name in entry.inputs:
                for dimension, (rule, _) in places.items():
                    found[rule].add(entry.inputs[name].shape[dimension])
        alike = all(len(sizes) == 1 for sizes in found)  # else nobody knows how its outputs are cut
        entry.sizes = tuple(next(iter(sizes)) for sizes in found) if alike else ()
        shapes = tuple(
            (name, tensor.element_type, self._open(name, tensor.shape[1:]) if alike else tensor.shape[1:])
            for name, tensor in sorted(entry.inputs.items())
        )
        entry.key = (alike, shapes, frozenset(entry.asked))

    def join(self, entries: Sequence[Entry]) -> dict[str, Tensor]:
        """The inputs of several requests of one key, one behind the other, the shorter ones filled up."""
        if len(entries) == 1:
            return entries[0].inputs
        joined = {}
        for name, first in entries[0].inputs.items():
            arrays = [entry.inputs[name].array for entry in entries]
            places = self._fills.get(name, {}) if entries[0].sizes else {}
            if places and any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
                array = _fill(arrays, {dimension: value for dimension, (_, value) in places.items()})
            else:
                array = np.concatenate(arrays)
            joined[name] = Tensor(element_type=first.element_type, shape=array.shape, array=array)
        return joined

    def split(self, outputs: Mapping[str, Tensor], entries: Sequence[Entry]) -> list[dict[str, Tensor]]:
        """The outputs of each of several requests that were computed as one.

        Raises:
            TypeError: One does not have the size that its rule says.
            ValueError: One cannot be parted.
        """
        widest = tuple(max(sizes) for sizes in zip(*(entry.sizes for entry in entries), strict=True))
        parts: list[dict[str, Tensor]] = [{} for _ in entries]
        for name, tensor in outputs.items():
            if tensor.array.shape != tensor.shape:
                raise ValueError(
                    f"an output of {tensor.element_type.name}, several elements in a byte, cannot be parted"
                )
            cuts = self._cuts.get(name, []) if widest else []
            for dimension, rule in cuts:
                if len(tensor.shape) <= dimension or tensor.shape[dimension] != widest[rule]:
                    raise TypeError(
                        f"TensorSession.predict gave output {name!r} of shape {list(tensor.shape)} for inputs that are"
                        f" filled up to {widest[rule]}; dimension {dimension} must be that, as a Cut says"
                    )
            begin = 0
            for entry, part in zip(entries, parts, strict=True):
                end = begin + entry.rows
                where = [slice(None)] * tensor.array.ndim
                where[0] = slice(begin, end)
                for dimension, rule in cuts:
                    where[dimension] = slice(entry.sizes[rule])
                array = tensor.array[tuple(where)]
                part[name] = Tensor(element_type=tensor.element_type, shape=array.shape, array=array)
                begin = end
        return parts

    def _open(self, name: str, shape: tuple[int, ...]) -> tuple[int | None, ...]:
        """A shape behind the batch, without the sizes that may be filled up."""
        places = self._fills.get(name)
        if not places:
            return shape
        return tuple(None if place in places else size for place, size in enumerate(shape, start=1))


def _volume(sizes: Sequence[int]) -> int:
    return prod(max(1, size) for size in sizes)


def _fill(arrays: Sequence[Any], values: Mapping[int, Any]) -> Any:
    """Arrays one behind the other, each filled up to the largest."""
    widest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    rows = sum(len(array) for array in arrays)
    joined = np.empty((rows, *widest), arrays[0].dtype)
    begin = 0
    for array in arrays:
        part = joined[begin : begin + len(array)]
        own = tuple(slice(size) for size in array.shape[1:])
        part[(slice(None), *own)] = array
        for dimension, value in values.items():
            beyond = [slice(None)] * part.ndim
            beyond[dimension] = slice(array.shape[dimension], None)
            part[tuple(beyond)] = value
        begin += len(array)
    return joined
