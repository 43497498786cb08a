"""The plugins of this host as a running kernel knows them: looked for anew once something was installed."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from inferd.core.model import ModelSpec
from inferd.errors import BackendNotFoundError, BackendUnavailableError
from inferd.plugin.registry import BackendReport, discover
from inferd.runtime.placement import place

Installed = frozenset[tuple[str, int]]


class Plugins:
    """What discovery found last. One writer: itself.

    Args:
        allow: As for `discover`, as the next three.
        modules: See there.
        timeout_s: See there.
        log_dir: See there.
        found: Called with what each later discovery found.

    Attributes:
        reports: A report for each backend.
    """

    def __init__(
        self,
        *,
        allow: tuple[str, ...] | None,
        modules: tuple[str, ...],
        timeout_s: float,
        log_dir: Path | None = None,
        found: Callable[[tuple[BackendReport, ...]], Awaitable[None]],
    ) -> None:
        self.reports: tuple[BackendReport, ...] = ()
        self._allow, self._modules, self._timeout_s, self._log_dir = allow, modules, timeout_s, log_dir
        self._found = found
        self._installed: Installed | None = None
        self._lock = asyncio.Lock()

    async def refresh(self) -> bool:
        """Look for plugins, if a distribution was installed, changed or removed since; whether that was so."""
        installed = await asyncio.to_thread(_read_installed)
        async with self._lock:
            if installed == self._installed:
                return False
            self.reports = await discover(
                allow=self._allow, modules=self._modules, timeout_s=self._timeout_s, log_dir=self._log_dir
            )
            self._installed = installed
            await self._found(self.reports)
            return True

    async def place(self, **wanted: Any) -> ModelSpec:
        """As `inferd.runtime.placement.place`, with a backend that was installed meanwhile, too.

        Raises:
            InvalidFieldError, BackendNotFoundError, BackendUnavailableError: As there.
        """
        try:
            return await asyncio.to_thread(place, self.reports, **wanted)
        except (BackendNotFoundError, BackendUnavailableError):
            if not await self.refresh():
                raise
        return await asyncio.to_thread(place, self.reports, **wanted)


def _read_installed() -> Installed:
    """The folders that hold installed distributions, each with when a name in it last changed."""
    found = []
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry or os.curdir)
        if folder.is_dir() and any(folder.glob("*.dist-info")):
            found.append((str(folder), folder.stat().st_mtime_ns))
    return frozenset(found)
