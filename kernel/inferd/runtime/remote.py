"""Models that the configuration declares and whose files are elsewhere: fetched beside serving, tried again and again.

Until its files are there such a model is as it was before, or not known; who asks for it is told that they are on their
way, or why they do not come.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from inferd.core.ids import ModelName
from inferd.errors import InferdError, InvalidFieldError, PermissionDeniedError
from inferd.model_declarations import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from inferd.model_declarations import Entry
    from inferd.runtime.declaring import Declarations
    from inferd.runtime.fetching import Fetches

log = structlog.get_logger()


class Remote:
    """Brings them. One writer: `Declaring`.

    Args:
        fetches: Fetches.
        declarations: Tell what is on its way.
        arrived: Is told of each whose files are there.
    """

    def __init__(
        self, fetches: Fetches, declarations: Declarations, arrived: Callable[[Entry], Awaitable[None]]
    ) -> None:
        self._fetches = fetches
        self._declarations = declarations
        self._arrived = arrived
        self._bringing: dict[str, tuple[Entry, asyncio.Task[None]]] = {}

    def keep(self, entries: Iterable[Entry]) -> None:
        """What is declared otherwise now, or no more, is not brought any further."""
        wanted = {entry.model.name: entry.model for entry in entries}
        for name, (entry, task) in tuple(self._bringing.items()):
            if wanted.get(name) != entry.model:
                task.cancel()
                del self._bringing[name]
                self._declarations.on_the_way.pop(name, None)

    async def wants(self, entry: Entry) -> bool:
        """Whether the files of a model are to be brought; it is told when they are there.

        Raises:
            InferdError: They may not be.
        """
        model = entry.model
        if not self._fetches.takes(model.source) or await self._fetches.find(model.source, model.digest) is not None:
            return False
        self._fetches.check(model.source, model.digest)
        if model.name not in self._bringing:
            self._tell(entry, f"its files are being fetched from {model.source}")
            task = asyncio.create_task(self._bring(entry), name=f"files of {model.name}")
            self._bringing[model.name] = (entry, task)
        return True

    async def _bring(self, entry: Entry) -> None:
        name = entry.model.name
        try:
            wait_s: float | None = 0.0
            while wait_s is not None:
                await asyncio.sleep(wait_s)
                wait_s = await self._try(entry)
        finally:
            if self._bringing.get(name, (None,))[0] is entry:
                del self._bringing[name]

    async def _try(self, entry: Entry) -> float | None:
        """Bring the files of a model; None where that is over, or in how many seconds to try again."""
        model = entry.model
        try:
            async with self._fetches.brought(ModelName(model.name), model.source, model.digest):
                self._declarations.on_the_way.pop(model.name, None)
                await self._arrived(entry)
        except (PermissionDeniedError, InvalidFieldError) as error:  # it would be so again
            self._declarations.on_the_way.pop(model.name, None)
            self._declarations.leave_out(entry, error)
        except InferdError as error:
            wait_s = error.retry_after_s or self._fetches.retry_s
            self._tell(entry, f"its files are not there yet, asked for again every {wait_s:g} s: {error.message}")
            log.warning("the files of a declared model do not come", model=model.name, why=error.message)
            return wait_s
        return None

    def _tell(self, entry: Entry, why: str) -> None:
        self._declarations.on_the_way[entry.model.name] = Fault(entry.where, entry.model.name, "source", why)

    async def close(self) -> None:
        """Bring nothing any more."""
        tasks = [task for _, task in self._bringing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
