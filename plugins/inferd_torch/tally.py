"""How many bytes a forward pass has taken at its worst moment, counted without computing it."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inferd_torch.attention import install
from inferd_torch.scoring import Scoring


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types here
    """Counts what operations give for as long as it is held; views cost nothing.

    Attributes:
        peak_bytes: Most that was held at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # as above
        self.peak_bytes = 0
        self._held_bytes = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        given = func(*args, **(kwargs or {}))
        before = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(given):
            if isinstance(each, Tensor) and id(each.untyped_storage()) not in before:
                self._hold(each.untyped_storage())
        return given

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def release(_: Any) -> None:
            del self._known[key]
            self._held_bytes -= size

        self._known[key] = weakref.ref(storage, release)
        self._held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._held_bytes)


def stand_in(layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, scoring: Scoring) -> Tensor:
    """Takes what attention by block tables takes, and computes something else."""
    del layer, scoring
    held = queries.contiguous()
    return values.repeat_interleave(held.shape[1] // keys.shape[1], dim=1)


def count_step(skeleton: Any, *, tokens: int, rows: int) -> int | None:
    """Bytes that a step of so many tokens takes, of which so many want logits; None where numbers decide what it does.

    Args:
        skeleton: The network on the device "meta"; its bytes are those of its own numbers.
        tokens: Of the step.
        rows: At most as many.
    """
    install(skeleton, stand_in)
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    wanted = torch.zeros(min(rows, tokens), dtype=torch.long, device="meta")
    try:
        with torch.inference_mode(), Tally() as tally:
            output = skeleton(input_ids=ids, position_ids=ids, use_cache=False, logits_to_keep=wanted)
            del output
    except Exception:  # noqa: BLE001 - the edge to the code of an architecture: then the step is estimated
        return None
    peak_bytes: int = tally.peak_bytes
    return peak_bytes
