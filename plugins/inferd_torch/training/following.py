"""What the workers of a training compute together: the one that leads and the others do the same with their rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inferd.plugin import TrainError, TrainingRecipe
from inferd_torch.training.computing import add_gradients, computing
from inferd_torch.training.gang import Gang, attend
from inferd_torch.training.objective import Objective


class TorchFollower:
    """One of the other workers: it has the network, and neither rows nor an optimiser.

    Args:
        objective: What is trained.
        recipe: How.
        device: Where.
        threads: Of the processor.
        precision: Of what is computed.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: TrainingRecipe,
        *,
        device: torch.device,
        threads: int,
        precision: torch.dtype,
    ) -> None:
        self._objective: Objective | None = objective
        self._recipe, self._device = recipe, device
        self._threads, self._precision = threads, precision

    def follow(self, rank: int, ranks: int, meeting: str, join_s: float) -> None:
        """Compute the gradients of the rows that the one that leads gives, until that ends.

        Raises:
            RankLostError: It has ended, or another one has.
            TrainError: The follower is closed, or a row is wrong.
        """
        if (objective := self._objective) is None:
            raise TrainError("the follower is closed")
        trained = trained_of(objective.network)
        gang = attend(meeting, rank=rank, ranks=ranks, join_s=join_s)
        while True:
            said = gang.hear()
            gang.share(list(trained.values()))
            number = int(said["step"])
            examples = [objective.read(row, name) for row, name in said["rows"][rank]]
            objective.network.train()
            with computing(self._recipe, self._device, threads=self._threads, number=number, rank=rank):
                loss = add_gradients(
                    objective,
                    examples,
                    self._recipe,
                    weight=int(said["weight"]),
                    device=self._device,
                    precision=self._precision,
                )
            sum_gradients(gang, trained, loss)
            objective.network.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Give all memory back."""
        self._objective = None


def trained_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """What of a network is trained, by name."""
    return {name: each for name, each in network.named_parameters() if each.requires_grad}


def deal(rows: Sequence[Any], ranks: int) -> list[list[Any]]:
    """The rows of a step by rank: all of them, in turn."""
    return [list(rows[rank::ranks]) for rank in range(ranks)]


def sum_gradients(gang: Gang, trained: Mapping[str, nn.Parameter], loss: float) -> float:
    """Have the one that leads have the sums of all gradients, in place of its own; the sum of the losses, there.

    What has a gradient nowhere has none behind it, as in a training of one.
    """
    parameters = list(trained.values())
    told = torch.tensor([loss, *(each.grad is not None for each in parameters)], dtype=torch.float32)
    gradients: list[Tensor] = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    gang.add([told])
    gang.add(gradients)
    for each, gradient, count in zip(parameters, gradients, told[1:].tolist(), strict=True):
        each.grad = gradient if count else None
    return float(told[0].item())
