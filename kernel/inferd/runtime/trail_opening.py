"""Opening the audit trail of a kernel: its key, and where the kernel before this one left it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from inferd.core.audit import EntryType, text, time_of
from inferd.runtime.audit_key import keep_half, read_audit_key
from inferd.runtime.kept_trail import FOLLOWED, TrailBounds, TrailWriter
from inferd.runtime.trail import Trail
from inferd.signatures import public_of

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from inferd.audit_settings import Audit
    from inferd.core.audit import Said
    from inferd.core.ids import TaskId
    from inferd.runtime.driver import Driver
    from inferd.runtime.kept_trail import Shelf

KEY, ANCHOR = "audit.key", "audit.head"
KIN = b"inferd audit 1 kin"
"""What the secret is derived for from the pepper by which kernels of one store know each other's checkpoints."""


async def opened_trail(settings: Audit, driver: Driver, folder: Path, *, started: Said, kin: bytes = b"") -> Trail:
    """The trail of a kernel, which is the driver's from now on.

    Args:
        settings: What is configured.
        driver: Of the kernel.
        folder: Where its key lies if the configuration names no other place, and its last checkpoint.
        started: What is told of the kernel's start.
        kin: As of `TrailWriter`.

    Raises:
        InvalidFieldError: The key is none, or others may read it.
        StoreUnavailableError: The key cannot be made, or the trail not be read.
    """
    keeper = driver.keeper
    path = settings.key_file or folder / KEY
    key = await asyncio.to_thread(read_audit_key, path)
    anchor, size_bytes = (None, settings.memory_bytes) if keeper is None else (folder / ANCHOR, settings.bytes)
    writer, public = _writer(settings, key, anchor, size_bytes=size_bytes, kin=kin), public_of(key)
    found = [] if keeper is None else await keeper.read(writer.adopt)
    for said in found:
        if said["event"] == FOLLOWED:  # checks on this host know it from now on
            await asyncio.to_thread(keep_half, path, text(said, "before"))

    def goes_on(task_id: TaskId) -> bool:
        task = driver.views.find_task(task_id)
        return task is not None and task.detached

    trail = Trail(settings, writer, keeper, public=public, wall=time.time, steady=time.monotonic, goes_on=goes_on)
    driver.trail = trail
    driver.watchers.seers.append(trail.see)
    if keeper is not None:
        keeper.trail = trail
    trail.begin(found, started)
    return trail


def tell_of_store(settings: Audit, store: Shelf, folder: Path, said: Said, *, is_own: bool) -> None:
    """Tell, in the trail of a kernel that does not run, what is about to be done to its store; signed at once.

    Args:
        settings: What is configured.
        store: It.
        folder: As for `opened_trail`.
        said: What is done.
        is_own: Whether it is the store of this host's kernel: then its last checkpoint lies in that folder.

    Raises:
        InferdError: It cannot be told.
        OSError: The key cannot be read.
    """
    key = read_audit_key(settings.key_file or folder / KEY, any_owner=True)
    anchor = folder / ANCHOR if is_own else None
    writer = _writer(settings, key, anchor, size_bytes=settings.bytes)
    found: list[Said] = [{"type": EntryType.KERNEL, **each} for each in writer.adopt(store)]
    who: Said = {"type": EntryType.KERNEL, "principal": f"uid:{os.getuid()}", "login": "store"}
    now: Said = {"time": time_of(time.time())}
    store.write(writer.write([*({**each, **now} for each in found), {**who, **said, **now}], seal=True))
    writer.keep_apart()
    if os.geteuid() == 0 and anchor is not None and anchor.exists():  # the kernel's user is to read it
        os.chown(anchor, folder.stat().st_uid, folder.stat().st_gid, follow_symlinks=False)


def _writer(
    settings: Audit, key: Ed25519PrivateKey, anchor: Path | None, *, size_bytes: int, kin: bytes = b""
) -> TrailWriter:
    return TrailWriter(
        TrailBounds(
            every=settings.checkpoint_entries,
            checkpoint_s=settings.checkpoint_s,
            retention_s=settings.retention_s,
            size_bytes=size_bytes,
        ),
        public=public_of(key),
        sign=key.sign,
        wall=time.time,
        steady=time.monotonic,
        anchor=anchor,
        kin=kin,
    )
