"""A request that the engine has taken in: what is computed of it, and with which others it can be computed as one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inferd.plugin import Tensor
from inferd.plugin.tensor import ElementType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.engine.tensor.request import Request


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One writer: the loop, under its lock.

    Attributes:
        request: What was asked.
        wanted: The outputs that are told.
        asked: The outputs that the session is asked for: those, and the states of its sequence.
        arrived: When it came, on the loop's clock.
        inputs: What the session is given; with the states of its sequence, once it is its turn there.
        ready: Whether all of `inputs` is there.
        skipped: Sets of outputs that were left out since they had been told before.
        passed: Sets of outputs that were told.
        passed_over: Batches that were taken while it could have been.
        dropped: Nobody waits for it any more.
    """

    request: Request
    wanted: tuple[str, ...]
    asked: tuple[str, ...]
    arrived: float
    inputs: dict[str, Tensor] = field(default_factory=dict)
    ready: bool = False
    skipped: int = 0
    passed: int = 0
    passed_over: int = 0
    dropped: bool = False

    @property
    def handle(self) -> int:
        """Of its task."""
        return self.request.handle

    @property
    def rows(self) -> int:
        """The first dimension of its inputs, where the model batches; 0 where it has none."""
        return next((tensor.shape[0] for tensor in self.request.inputs.values() if tensor.shape), 0)

    def key(self) -> tuple[Any, ...]:
        """Equal for requests that can be computed as one: same names, types, sizes but the first, and outputs."""
        shapes = tuple(sorted((name, t.element_type, t.shape[1:]) for name, t in self.inputs.items()))
        return shapes, frozenset(self.asked)

    def pass_on(self) -> bool:
        """Whether the next set of outputs is to be told, or was told before."""
        if self.skipped < self.request.told:
            self.skipped += 1
            return False
        self.passed += 1
        return True

    def anew(self) -> Entry:
        """The same, as if nothing had been computed of it; what it has told is left out."""
        request = replace(self.request, told=max(self.request.told, self.skipped + self.passed))
        inputs = dict(request.inputs)
        return Entry(request=request, wanted=self.wanted, asked=self.asked, arrived=self.arrived, inputs=inputs)


def can_join(entry: Entry) -> bool:
    """Whether its inputs can be put behind those of others: whole bytes, of as many rows each, and at least one."""
    rows = entry.rows
    each = entry.inputs.values()  # states, too: else one would be given rows of another
    return rows > 0 and all(t.array.shape == t.shape and t.shape[:1] == (rows,) for t in each)


def join(entries: Sequence[Entry]) -> dict[str, Tensor]:
    """The inputs of several requests of one key, one behind the other."""
    if len(entries) == 1:
        return entries[0].inputs
    joined = {}
    for name, first in entries[0].inputs.items():
        array = np.concatenate([entry.inputs[name].array for entry in entries])
        joined[name] = Tensor(element_type=first.element_type, shape=array.shape, array=array)
    return joined


def split(outputs: Mapping[str, Tensor], entries: Sequence[Entry]) -> list[dict[str, Tensor]]:
    """The outputs of each of several requests that were computed as one."""
    parts, begin = [], 0
    for entry in entries:
        end = begin + entry.rows
        parts.append({name: _rows(tensor, begin, end) for name, tensor in outputs.items()})
        begin = end
    return parts


def _rows(tensor: Tensor, begin: int, end: int) -> Tensor:
    if tensor.array.shape != tensor.shape:
        raise ValueError(f"an output of {tensor.element_type.name}, several elements in a byte, cannot be parted")
    array = tensor.array[begin:end]
    return Tensor(element_type=tensor.element_type, shape=array.shape, array=array)


def told_bytes(tensor: Tensor) -> int:
    """What a tensor takes when it is told."""
    if tensor.element_type is ElementType.STRING:
        return sum(len(str(text).encode()) + 4 for text in tensor.array.flat)
    return tensor.array.nbytes
