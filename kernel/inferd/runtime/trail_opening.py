"""Opening the audit trail of a kernel: its key, and where the kernel before this one left it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from inferd.runtime.audit_key import read_audit_key
from inferd.runtime.kept_trail import TrailBounds, TrailWriter
from inferd.runtime.trail import Trail
from inferd.signatures import public_of

if TYPE_CHECKING:
    from pathlib import Path

    from inferd.audit_settings import Audit
    from inferd.core.ids import TaskId
    from inferd.runtime.driver import Driver

KEY, ANCHOR = "audit.key", "audit.head"


async def opened_trail(settings: Audit, driver: Driver, folder: Path) -> Trail:
    """The trail of a kernel, which is the driver's from now on.

    Args:
        settings: What is configured.
        driver: Of the kernel.
        folder: Where its key lies if the configuration names no other place, and its last checkpoint.

    Raises:
        InvalidFieldError: The key is none, or others may read it.
        StoreUnavailableError: The key cannot be made, or the trail not be read.
    """
    key = await asyncio.to_thread(read_audit_key, settings.key_file or folder / KEY)
    public, keeper = public_of(key), driver.keeper
    writer = TrailWriter(
        TrailBounds(
            every=settings.checkpoint_entries,
            checkpoint_s=settings.checkpoint_s,
            retention_s=settings.retention_s,
            size_bytes=settings.memory_bytes if keeper is None else settings.bytes,
        ),
        public=public,
        sign=key.sign,
        wall=time.time,
        steady=time.monotonic,
        anchor=None if keeper is None else folder / ANCHOR,
    )
    found = [] if keeper is None else await keeper.read(writer.adopt)

    def goes_on(task_id: TaskId) -> bool:
        task = driver.views.find_task(task_id)
        return task is not None and task.detached

    trail = Trail(settings, writer, keeper, public=public, wall=time.time, steady=time.monotonic, goes_on=goes_on)
    driver.trail = trail
    if keeper is not None:
        keeper.trail = trail
    trail.begin(found)
    return trail
