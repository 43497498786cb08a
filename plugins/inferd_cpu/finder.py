"""Finds the tensors of a file by name, and checks their shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inferd.plugin import LoadError
from inferd_cpu.shapes import Architecture
from inferd_weights.model_file import Tensor


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor, or some of its rows.

    Attributes:
        tensor: Where the rows are.
        rotary_heads: The number of heads in the rows when they must be reordered for the rotation; else 0.
        rotary_from: The first row of a head that is rotated.
        first: The first of the rows.
        rows: How many they are; 0 for all.
        flat: The tensor's numbers are taken as one row.
    """

    tensor: Tensor
    rotary_heads: int = 0
    rotary_from: int = 0
    first: int = 0
    rows: int = 0
    flat: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        if self.flat:
            return (self.tensor.elements,)
        return (self.rows or self.tensor.shape[0], *self.tensor.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One array of the weights.

    Attributes:
        layer: The decoder block that it belongs to; None for the rest of the model.
        field: Its name in `Layer` or `Weights`.
        sources: Tensors with equal columns, whose rows it has one below the other.
        stored: It is one table of which a step takes a few rows: they stay in the file, see `StoredRows`.
    """

    layer: int | None
    field: str
    sources: tuple[Source, ...]
    stored: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        shapes = [source.shape for source in self.sources]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])


class Finder:
    """Takes tensors, each once.

    Args:
        path: The file, for errors.
        architecture: What its tensors are for.
        tensors: Those of the file, by name.
    """

    def __init__(self, path: Path, architecture: Architecture, tensors: dict[str, Tensor]) -> None:
        self._path = path
        self._architecture = architecture
        self._left = tensors

    def _find_matrix(
        self, field: str, name: str, shape: tuple[int, ...], layer: int, *, halves: bool = False
    ) -> Iterator[Part]:
        """A matrix and, where the file has one, its bias. `halves`: as two sources of equally many rows."""
        for ending, some in (("weight", shape), ("bias", shape[:-1])):
            if ending == "weight" or f"{name}.bias" in self._left:
                source = self._take(f"{name}.{ending}", *some)
                half = some[0] // 2
                parts = [Source(source.tensor, first=i * half, rows=half) for i in range(2)] if halves else [source]
                yield self._part(field if ending == "weight" else f"{field}_bias", *parts, layer=layer)

    def _find_norm(self, field: str, name: str, shape: tuple[int, ...], layer: int | None) -> Iterator[Part]:
        """A norm's weights and, where the file has one, its bias."""
        yield self._part(field, self._take(f"{name}.weight", *shape), layer=layer)
        if f"{name}.bias" in self._left:
            yield self._part(f"{field}_bias", self._take(f"{name}.bias", *shape), layer=layer)

    def _take(self, name: str, *shape: int, rotary_heads: int = 0, rotary_from: int = 0) -> Source:
        tensor = self._left.pop(name, None)
        if tensor is None:
            raise LoadError(f"{self._path}: tensor {name!r} of shape {list(shape)} is missing")
        if tensor.shape != shape:
            raise LoadError(
                f"{self._path}: tensor {name!r} has shape {list(tensor.shape)}; the metadata says {list(shape)}"
            )
        return Source(tensor, rotary_heads if self._architecture.family.interleaved else 0, rotary_from)

    @staticmethod
    def _part(field: str, *sources: Source, layer: int | None = None) -> Part:
        return Part(layer=layer, field=field, sources=sources)
