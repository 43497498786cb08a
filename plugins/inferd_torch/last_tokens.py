"""The tokens of the step that was computed last: they stay on the device, where the next step finds them."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from inferd_torch.sampling import NO_TOKEN


class LastTokens:
    """Room for the tokens of `most` rows of logits, by their places.

    Attributes:
        cells: Shape (most + 1,), int64. The last one is never a token: where a token that is known comes from.
    """

    def __init__(self, most: int, device: torch.device) -> None:
        self.cells = torch.full((most + 1,), NO_TOKEN, dtype=torch.int64, device=device)

    @property
    def nowhere(self) -> int:
        """The origin of a token that is known."""
        return len(self.cells) - 1

    def join(self, known: Tensor, origins: Tensor) -> Tensor:
        """Token ids, shape (T,): those that are known, and for -1 the one of the origin; 0 where that row has none."""
        return torch.maximum(known, self.cells[origins]).clamp_(min=0)

    def fetch(self, count: int) -> Callable[[], NDArray[Any]]:
        """Have the first of them sent to the host as they are now; what waits for them."""
        cells = self.cells[:count]
        if cells.device.type != "cuda":
            copied = cells.numpy().copy()
            return lambda: copied
        there = torch.empty(count, dtype=torch.int64, pin_memory=True)
        there.copy_(cells, non_blocking=True)
        sent = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch has no types here
        sent.record()

        def wait() -> NDArray[Any]:
            sent.synchronize()
            return there.numpy()

        return wait
