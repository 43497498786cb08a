"""Arrays at addresses that never change on the device, which one copy of pinned memory fills."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WORD = 8  # bytes at whose multiples arrays begin
KINDS: Mapping[type, torch.dtype] = {np.int64: torch.int64, np.int32: torch.int32, np.float64: torch.float64}
Shapes = Mapping[str, tuple[tuple[int, ...], type]]


class Staging:
    """Some arrays on the device, and twice on the host: one is filled while the other may still be on its way.

    Args:
        shapes: Of each its shape and the type of its numbers, by name.
        device: Where they go.

    Attributes:
        there: The arrays on the device.
        here: Those on the host, twice; the first are the next ones to be sent.
    """

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._words, self.there = _lay_out(shapes, device)
        self._sent: list[tuple[Tensor, Any]] = []
        self.here: list[dict[str, NDArray[Any]]] = []
        for _ in range(2):
            words, arrays = _lay_out(shapes, torch.device("cpu"), pinned=pinned)
            self._sent.append((words, torch.cuda.Event() if pinned else None))  # type: ignore[no-untyped-call]
            self.here.append({name: array.numpy() for name, array in arrays.items()})

    def take(self) -> dict[str, NDArray[Any]]:
        """The arrays to fill next, which were sent the time before the last; waits until they have been copied."""
        event = self._sent[0][1]
        if event is not None:
            event.synchronize()
        return self.here[0]

    def send(self) -> None:
        """Have them copied; what is computed from then on finds them there."""
        words, event = self._sent[0]
        self._words.copy_(words, non_blocking=True)
        if event is not None:
            event.record()
        self._sent.reverse()
        self.here.reverse()


def _lay_out(shapes: Shapes, device: torch.device, *, pinned: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Zeros, as 8-byte words, and the arrays in them."""
    sizes = [int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values()]
    words = torch.zeros(sum(-(-size // WORD) for size in sizes), dtype=torch.int64, device=device, pin_memory=pinned)
    arrays, begin = {}, 0
    for (name, (shape, kind)), size in zip(shapes.items(), sizes, strict=True):
        end = begin + -(-size // WORD)
        arrays[name] = words[begin:end].view(KINDS[kind])[: int(np.prod(shape))].view(shape)
        begin = end
    return words, arrays
