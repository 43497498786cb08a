"""What a training takes, counted without taking it: its largest step, on tensors that have shapes and no numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch._subclasses import FakeTensorMode

from inferd.plugin import MemoryNeed, TrainError
from inferd_torch.tally import Tally

LIBRARY_BYTES: Final = 640 << 20
"""What the libraries take when they are loaded and used: measured, with a margin."""
_MOMENTS: Final = 2  # numbers that AdamW keeps of each that is trained
_SPARE: Final = 1.75
"""Of what a step takes: rows of other lengths leave holes in the heap. Measured over 24 steps of SmolLM2: 1.6."""
_KEPT: Final = 3  # of what is trained a checkpoint holds the weights and both moments


@dataclass(frozen=True, slots=True)
class Size:
    """Of a training.

    Attributes:
        weights_bytes: Of the network.
        trained_bytes: Of what is trained of it.
        step_bytes: Most that a step takes beside them, gradients included.
    """

    weights_bytes: int
    trained_bytes: int
    step_bytes: int

    @property
    def need(self) -> MemoryNeed:
        """What it takes in all; what the optimiser keeps counts with the weights."""
        work_bytes = max(int(self.step_bytes * _SPARE), _KEPT * self.trained_bytes)
        return MemoryNeed(
            weights_bytes=self.weights_bytes + _MOMENTS * self.trained_bytes,
            workspace_bytes=LIBRARY_BYTES + work_bytes,
        )


def count(make: Callable[[], tuple[Any, Callable[[], Any]]], *, casting: Any) -> Size:
    """Count a step.

    Args:
        make: Makes the network, and what gives the loss of the largest part of a step; called where tensors have no
            numbers.
        casting: The context that steps are computed in.

    Raises:
        TrainError: The network's shapes depend on numbers, or it cannot be trained.
    """
    with FakeTensorMode():
        network, lose = make()
        try:
            with Tally() as tally:
                with casting:
                    loss = lose()
                loss.backward()
        except Exception as error:  # the edge to the code of an architecture
            kind = network.config.model_type
            raise TrainError(f"{kind} cannot be trained here: {type(error).__name__}: {error}") from error
        parts = list(network.parameters())
        trained = sum(each.nbytes for each in parts if each.requires_grad)
        return Size(sum(each.nbytes for each in parts), trained, tally.peak_bytes)


def choose(plain: Size, again: Callable[[], Size], *, capacity_bytes: int, advice: str) -> tuple[bool, Size]:
    """Whether layers are computed again for the gradients, instead of being kept, and what it then takes.

    That takes a third more time and gives the same numbers, so it is done where the other does not fit.

    Raises:
        TrainError: Neither fits.
    """
    if plain.need.total_bytes <= capacity_bytes:
        return False, plain
    small = again()
    if small.need.total_bytes <= capacity_bytes:
        return True, small
    need = small.need
    raise TrainError(
        f"the training needs {need.total_bytes} bytes of memory (weights and what is kept of them"
        f" {need.weights_bytes}, a step {need.workspace_bytes}), but {capacity_bytes} may be given: {advice}"
    )


def spare(network: Any) -> None:
    """Have layers computed again for the gradients."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def cast(device: torch.device, precision: torch.dtype) -> Any:
    """The context that steps are computed in; one for each time."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)
