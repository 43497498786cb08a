"""Adapters that the native library adds in its steps: packed as native/adapters.h takes them."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_int32, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from inferd.plugin import LoadError, ReadAdapter
from inferd_cpu.adapters import Base, read_changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from inferd_cpu.adapters import Change

MOST_RANK: Final = 512  # as kMostRank
PANEL: Final = 16  # outputs that lie together
LINE: Final = 16  # numbers of a line of the cache
SPOTS: Final = {
    **{("qkv", source): source for source in range(3)},
    ("mix", 0): 3,
    ("gate_up", 0): 4,
    ("gate_up", 1): 5,
    ("down", 0): 6,
}
"""The numbers of products, as `Spot` in native/adapters.h, by the part and the source that they are made of."""
SPOT_COUNT: Final = 7
UP: Final = 5


class NativeChange(Structure):
    """What is added to one product; the fields of `Change` in native/adapters.h."""

    _fields_ = (("rank", c_int32), ("outputs", c_int32), ("down", c_void_p), ("up", c_void_p))


class Target(NamedTuple):
    """Rows of a tensor that are the outputs of a product.

    Attributes:
        layer: Of which layer.
        spot: Which product.
        first: The first of the rows.
        rows: How many they are.
        order: Which of them each output is; None where they are in its order.
    """

    layer: int
    spot: int
    first: int
    rows: int
    order: NDArray[np.int32] | None


@dataclass(frozen=True, slots=True)
class Packed:
    """An adapter as the library reads it.

    Attributes:
        table: [layers][SPOT_COUNT].
        numbers: What the table points to.
    """

    table: Any
    numbers: NDArray[np.float32]


class Pointer(NamedTuple):
    """A field of an entry of the table, and the numbers that it is to point to."""

    entry: Any
    field: str
    numbers: NDArray[np.float32]


class NativeAdapters:
    """Reads adapters for one model.

    Args:
        base: The model.
        targets: What becomes of the rows of its tensors, by their names.
    """

    def __init__(self, base: Base, targets: Mapping[str, Iterable[Target]]) -> None:
        self._base = base
        self._targets = targets

    def read(self, path: Path) -> ReadAdapter:
        """Read and pack one.

        Raises:
            LoadError: It cannot be read, is for another model, or changes what is no product of a layer.
        """
        changes = read_changes(self._base, path, most_rank=MOST_RANK)
        table = (NativeChange * (len(self._base.architecture.layers) * SPOT_COUNT))()
        pointers: list[Pointer] = []
        for name, change in changes.items():
            pointers += self._place(path, name, change, table)
        numbers = _together(pointers)
        return ReadAdapter(
            content=Packed(table, numbers),
            rank=max(len(change.down) for change in changes.values()),
            targets=tuple(sorted({name.split(".")[-2] for name in changes})),
            memory_bytes=ctypes.sizeof(table) + numbers.nbytes,
        )

    def _place(self, path: Path, name: str, change: Change, table: Any) -> list[Pointer]:
        targets, rank = self._targets.get(name), len(change.down)
        if targets is None:
            known = ", ".join(sorted({each.split(".")[-2] for each in self._targets}))
            raise LoadError(
                f"{path}: changes {name!r}, which the native engine changes in the weights alone: it adds to {known}"
                " while it serves; load a model with it by --set adapter=PATH, or leave that part out"
            )
        down = np.ascontiguousarray(change.down, np.float32)
        pointers: list[Pointer] = []
        for layer, spot, first, rows, order in targets:
            own = change.up[first : first + rows]
            own = own if order is None else own[order]
            up = np.ascontiguousarray(own.reshape(-1, PANEL, rank).transpose(0, 2, 1), np.float32)
            entry = table[layer * SPOT_COUNT + spot]
            entry.rank, entry.outputs = rank, rows
            pointers += [Pointer(entry, "down", down), Pointer(entry, "up", up)]
        return pointers


def _together(pointers: Iterable[Pointer]) -> NDArray[np.float32]:
    """Put the numbers of an adapter into one piece of memory and point to them there.

    Each begins on a line of the cache, or every read would take two; a large piece has large pages, so that steps of
    many adapters look up hundreds of them in place of tens of thousands.
    """
    arrays = {id(each.numbers): each.numbers for each in pointers}
    ends = np.cumsum([-(-each.size // LINE) * LINE for each in arrays.values()]).tolist()
    starts = dict(zip(arrays, [0, *ends], strict=False))
    whole = np.empty(ends[-1] + LINE, np.float32)
    numbers = whole[-(whole.ctypes.data // whole.itemsize) % LINE :]
    for name, array in arrays.items():
        numbers[starts[name] : starts[name] + array.size] = array.reshape(-1)
    for entry, field, array in pointers:
        setattr(entry, field, numbers.ctypes.data + numbers.itemsize * starts[id(array)])
    return numbers
