"""How gradients of some rows are computed: in one order of sums, with chance that follows from the number of a step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from inferd.plugin import TrainingRecipe
from inferd_torch.training.memory import cast
from inferd_torch.training.objective import Objective

_MASK: Final = 0x7FFFFFFFFFFFFFFF
_APART: Final = 0x9E3779B97F4A7C15  # between the seeds of two ranks in one step


@contextmanager
def computing(
    recipe: TrainingRecipe, device: torch.device, *, threads: int, number: int, rank: int = 0
) -> Iterator[None]:
    """In this, sums are added in one order, and what is drawn follows from the number of a step and the rank."""
    exact, before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined] # torch has no types
    others = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=others):
        torch.manual_seed((recipe.seed << 32) + number + rank * _APART & _MASK)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # as above
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(exact)
            torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined] # as above
            torch.set_num_threads(before)


def add_gradients(
    objective: Objective,
    examples: Sequence[Any],
    recipe: TrainingRecipe,
    *,
    weight: int,
    device: torch.device,
    precision: torch.dtype,
) -> float:
    """Add the gradients of the losses of some examples, divided by the weight of the step; their loss, likewise."""
    loss = 0.0
    for part in cut(examples, recipe):
        if any(map(objective.weight, part)):
            with cast(device, precision):
                share = objective.loss(part) / weight
            share.backward()  # type: ignore[no-untyped-call] # torch has no types here
            loss += share.item()
    return loss


def cut(examples: Sequence[Any], recipe: TrainingRecipe) -> list[Sequence[Any]]:
    """The rows of a step in parts that are computed one after the other."""
    size = -(-recipe.batch // recipe.accumulate)
    return [examples[at : at + size] for at in range(0, len(examples), size)]
