"""A device that has failed for good ends its process: nothing that it computes later could be trusted.

After an error that stays (an illegal address, a failed assert on the device) each call of CUDA in the process fails;
its context cannot be made anew. The kernel sees a dead worker, and its tasks go on from what they had in another one.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h

_log = logging.getLogger(__name__)


def guard(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """What calls of a device are made in: a failure that stays ends the process, others are passed on."""
    if device.type != "cuda":
        return nullcontext
    return lambda: ending(lambda: torch.cuda.synchronize(device))


@contextmanager
def ending(answer: Callable[[], object], leave: Callable[[int], object] = os._exit) -> Iterator[None]:
    """End the process where what is raised in the block is the device's, or where the device does not answer behind it.

    Too little memory is no such error: the device computes on.

    Args:
        answer: Waits for the device; raises where it has failed.
        leave: Ends the process, whatever other threads do.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        lost = isinstance(error, torch.AcceleratorError)
        if not lost:
            try:  # what other libraries raise for a device, Triton and cuBLAS say, are errors of many types
                answer()
            except Exception:  # noqa: BLE001 - whatever it is, it does not answer
                lost = True
        if lost:
            # The words are those of CUDA about the device: they hold nothing of a task.
            words = " ".join(str(error).split())[:200] if isinstance(error, torch.AcceleratorError) else "no answer"
            _log.critical("the device has failed and the process ends: %s: %s", type(error).__name__, words)
            leave(EXIT_CODE)
        raise
