"""The garbage collector of the kernel's process, which every call waits for."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FULL_COLLECTIONS = 50  # one for so many of its smaller ones


def spare_collector() -> None:
    """Let the garbage collector stop this process less: every call under way waits for it.

    What was imported and built lives as long as the process, and looking through it takes 40 ms; looking through 1000
    retained tasks takes 15 ms, and is done a fifth as often as by default, for some MiB of garbage more.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTIONS)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect nothing during the block, which makes very many objects that stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
