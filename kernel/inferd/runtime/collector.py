"""The garbage collector of the kernel's process, which every call waits for."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from inferd.starts import end_start

FULL_COLLECTIONS = 50  # one for so many of its smaller ones


def spare_collector() -> None:
    """Let the garbage collector stop this process less: every call under way waits for it.

    What was imported, built and restored by now is not looked through any more: that takes 40 ms, and with 10,000
    restored tasks 300 ms. Looking through 1000 retained tasks takes 15 ms, and is done a fifth as often as by default,
    for some MiB of garbage more.
    """
    end_start(full_collections=FULL_COLLECTIONS)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect nothing during the block, which makes very many objects that stay: they count as old ones behind it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # these two make old ones of all, and look at none
                gc.freeze()
                gc.unfreeze()
            gc.enable()
