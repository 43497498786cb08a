"""What is large of what kept tasks tell: in blobs before the record that names them is written."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

import structlog

from inferd.errors import InferdError, LimitExceededError
from inferd.runtime.event_log import Numbered, cost_bytes
from inferd.runtime.kept_events import CAN_BE_LARGE, contents_of, in_blob
from inferd.shared import can_share
from inferd.store.blob_files import PIECE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.task_events import Elements
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.kept import Kept

log = structlog.get_logger()


class KeptOutputs:
    """Puts outputs into blobs, of each task one after the other. One writer: the keeper.

    Args:
        blobs: Where to.
        back: Told of a task when its outputs are there, or why they cannot be now: then it is tried again.
        retry_s: After so long.
    """

    def __init__(self, blobs: Blobs, back: Callable[[Kept, InferdError | None], None], retry_s: float) -> None:
        self._blobs = blobs
        self._back = back
        self._retry_s = retry_s
        self.underway: set[asyncio.Task[None]] = set()

    def takes(self, kept: Kept) -> bool:
        """Whether it puts some of what a task has told into blobs now; `back` is called after that."""
        if kept.unwritten_bytes <= self._blobs.memories.inline_bytes or kept.inline:
            return False
        due = [each for each in kept.unwritten() if isinstance(each, Numbered) and self._is_due(kept, each)]
        if not due:
            return False
        putting = asyncio.create_task(self._put(kept, due), name="outputs into blobs")
        self.underway.add(putting)
        putting.add_done_callback(self.underway.discard)
        return True

    def _is_due(self, kept: Kept, each: Numbered) -> bool:
        if not isinstance(each.event, CAN_BE_LARGE) or each.sequence in kept.in_blobs:
            return False
        return cost_bytes(each.event) > self._blobs.memories.inline_bytes and can_share()

    async def _put(self, kept: Kept, due: Sequence[Numbered]) -> None:
        task_id, tenant = kept.task.spec.task_id, kept.task.spec.tenant
        why = None
        try:
            for numbered in due:
                contents = await asyncio.to_thread(contents_of, numbered.event)
                digest = await asyncio.to_thread(_digest, contents)
                await self._blobs.put(tenant, digest, contents, f"task {task_id}")
                if digest in kept.outputs:  # it is held once for all
                    self._blobs.let_go(tenant, digest, f"task {task_id}")
                kept.outputs[digest] = contents.size_bytes
                kept.in_blobs[numbered.sequence] = in_blob(numbered, digest, contents.size_bytes)
        except LimitExceededError as error:
            kept.inline = True
            log.warning("outputs go into the store, as no blob can be made of them", task=task_id, why=error.message)
        except InferdError as error:
            why = error
            log.warning("outputs of a task cannot be kept now", task=task_id, why=error.message)
            await asyncio.sleep(self._retry_s)
        self._back(kept, why)

    def stop(self) -> None:
        """Put nothing more there."""
        for each in self.underway:
            each.cancel()


def _digest(contents: Elements) -> str:
    digest = sha256()
    for start in range(0, contents.size_bytes, PIECE_BYTES):
        digest.update(contents.read(start, PIECE_BYTES))
    return digest.hexdigest()
