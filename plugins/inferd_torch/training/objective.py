"""What a session trains: a network, the loss of some rows, and what evaluation and export make of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from inferd.plugin import ExportKind, Judgement
from inferd_torch.training.rows import Row


class Objective(Protocol):
    """One for each method. `network` has what is trained: its parameters that want gradients."""

    network: nn.Module

    def read(self, row: Row, name: str) -> Any:
        """An example of a row, with `cut`: whether more of it was left out.

        Raises:
            TrainError: The row is none for this method.
        """
        ...

    def weight(self, example: Any) -> int:
        """What the loss is a mean of: its tokens that are learnt, or 1."""
        ...

    def tokens(self, example: Any) -> int:
        """That are read of it."""
        ...

    def loss(self, examples: Sequence[Any]) -> Tensor:
        """The sum of the losses of some examples, computed together."""
        ...

    def judge(self, parts: Sequence[Sequence[Any]]) -> Judgement:
        """Judge by rows that are held back, in parts that are computed together."""
        ...

    def export(self, folder: Path) -> ExportKind:
        """Write what was trained."""
        ...


def pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    """Rows as one tensor (rows, longest), shorter ones filled up behind their ends."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
