"""Files of trainings that were deleted, whose results models still have: they go once no model has them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inferd.errors import ShuttingDownError

if TYPE_CHECKING:
    from collections.abc import Collection

    from inferd.runtime.driver import Driver
    from inferd.runtime.front.training_outcome import TrainingOutcome
    from inferd.runtime.training_files import TrainingFiles


class TrainingLeavings:
    """Keeps results as long as they are used. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        outcome: Who knows which models have their files there.
        files: Of trainings.
    """

    def __init__(self, driver: Driver, outcome: TrainingOutcome, files: TrainingFiles) -> None:
        self._driver = driver
        self._outcome = outcome
        self._files = files
        self._waiting: dict[str, asyncio.Task[None]] = {}  # by id of the training

    async def close(self, training_id: str) -> None:
        """Remove what a training has left behind: what models have only once they do not any more."""
        used = bool(self._outcome.users(training_id))
        await self._files.close(training_id, keeps_result=used)
        if used:
            self._outlive(training_id)

    async def adopt(self, known: Collection[str]) -> None:
        """Do so of what kernels before this one have left, beside the trainings that are known; once models are.

        What no model has stays: one that has it may be declared later.
        """
        for training_id in await self._files.others(known):
            if self._outcome.users(training_id):
                self._outlive(training_id)

    def end(self) -> None:
        """Remove nothing any more: the next kernel does."""
        for each in self._waiting.values():
            each.cancel()

    def _outlive(self, training_id: str) -> None:
        if training_id not in self._waiting:
            task = asyncio.create_task(self._remove_unused(training_id), name="a result that models have")
            self._waiting[training_id] = task
            task.add_done_callback(lambda _: self._waiting.pop(training_id, None))

    async def _remove_unused(self, training_id: str) -> None:
        try:
            async with self._driver.closing.cut_short():
                while users := self._outcome.users(training_id):
                    with self._driver.watchers.models.watch(*users) as changed:
                        await changed.wait(changed.version)
        except ShuttingDownError:
            return
        await self._files.close(training_id, keeps_result=False)
