"""What ranks do together: sum what each of them has found."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from inferd_torch.spanning.share import ROWS, Share

# Ranks are on one machine, in a network that leads nowhere else, and make no sockets that have a path.
NCCL_SETTINGS = {
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_CUMEM_HOST_ENABLE": "0",
}


class Group:
    """The ranks of one instance, as one of them has them.

    Args:
        path: Of a file that is not there yet, by which they find each other.
        rank: Which this one is.
        ranks: How many there are.
        device: On which it computes.
        timeout_s: For which one waits for the others, where the library sees to it.
        beat: Is called before each sum.
    """

    def __init__(
        self,
        path: Path,
        *,
        rank: int,
        ranks: int,
        device: torch.device,
        timeout_s: float,
        beat: Callable[[], None],
    ) -> None:
        self._beat = beat
        self._rank = rank
        library: Any = dist  # whose types do not name all that it has
        store, timeout = library.FileStore(str(path), ranks), timedelta(seconds=timeout_s)
        self._ranks: Any
        if device.type == "cuda":
            for name, value in NCCL_SETTINGS.items():
                os.environ.setdefault(name, value)
            options = library.ProcessGroupNCCL.Options()
            options._timeout = timeout  # noqa: SLF001 - it has no public name
            self._ranks = library.ProcessGroupNCCL(store, rank, ranks, options)
        else:
            options = library.ProcessGroupGloo._Options()  # noqa: SLF001 - likewise
            options._devices = [library.ProcessGroupGloo.create_device(interface="lo")]  # noqa: SLF001 - likewise
            options._timeout = timeout  # noqa: SLF001 - likewise
            self._ranks = library.ProcessGroupGloo(store, rank, ranks, options)
        self.sum(torch.zeros(1, device=device))  # they are connected when this is done

    def sum(self, part: Tensor) -> Tensor:
        """The sum of what all have, in place of it; all have to call it, in the same order."""
        self._beat()
        self._ranks.allreduce([part]).wait()
        return part

    def close(self) -> None:
        """Wait for nobody any more."""
        with suppress(RuntimeError):  # of gloo, which has nothing to give up
            self._ranks.abort()
        self._ranks = None

    def join(self, network: Any, share: Share) -> None:
        """Have the modules of a network that are divided by rows give the sum of what those of all ranks give."""
        for name, module in network.named_modules():
            if share.style(name) != ROWS:
                continue
            if self._rank and getattr(module, "bias", None) is not None:
                with torch.no_grad():
                    module.bias.zero_()  # it is added once
            module.register_forward_hook(lambda _module, _given, found: self.sum(found))
