"""The plugins of this host as a running kernel knows them: looked for anew once something was installed."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferd.core.model import ModelSpec
from inferd.errors import BackendNotFoundError, BackendUnavailableError
from inferd.plugin.registry import BackendReport, BackendState, discover, with_devices
from inferd.runtime.opened_files import nothing_to_open
from inferd.runtime.placement import place

if TYPE_CHECKING:
    from inferd.config import Settings
    from inferd.runtime.opened_files import Opening

MOST_SOURCES = 1 << 12  # files of a plugin that are looked at

Installed = frozenset[tuple[str, int]]


class Plugins:
    """What discovery found last. One writer: itself.

    Args:
        allow: As for `discover`, as the next three.
        modules: See there.
        timeout_s: See there.
        log_dir: See there.
        found: Called with what each later discovery found.
        elsewhere: The devices that backends have on other hosts, as these call them.

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
        elsewhere: Callable[[], Mapping[str, Sequence[str]]] = dict,
    ) -> None:
        self.reports: tuple[BackendReport, ...] = ()
        self._allow, self._modules, self._timeout_s, self._log_dir = allow, modules, timeout_s, log_dir
        self._found = found
        self._elsewhere = elsewhere
        self._installed: Installed | None = None
        self._failed: Installed = frozenset()  # files of plugins that failed
        self._ahead: Plugins | None = None
        self._lock = asyncio.Lock()
        self.opening: Opening = nothing_to_open

    async def refresh(self) -> bool:
        """Look for plugins, if a distribution came, changed or went since, or one that failed; whether that was so."""
        installed = await asyncio.to_thread(read_installed)
        async with self._lock:
            failed = await _sources(self.reports)
            if installed == self._installed and failed == self._failed:
                return False
            ahead, self._ahead = self._ahead, None
            if ahead is not None and await ahead.holds(installed):
                self.reports = ahead.reports
            else:
                self.reports = await discover(
                    allow=self._allow, modules=self._modules, timeout_s=self._timeout_s, log_dir=self._log_dir
                )
            self._installed = installed
            self._failed = await _sources(self.reports)
            await self._found(self.reports)
            return True

    async def holds(self, installed: Installed) -> bool:
        """Whether what was found last is so still, where this is installed."""
        return (self._installed, self._failed) == (installed, await _sources(self.reports))

    def follow(self, ahead: "Plugins | None") -> None:
        """Take what another one has found before, while nothing is installed anew."""
        self._ahead = ahead

    @property
    def of_all_hosts(self) -> tuple[BackendReport, ...]:
        """The reports with the devices that these backends have on other hosts; READY is what works on one of all."""
        elsewhere = self._elsewhere()
        return tuple(with_devices(report, elsewhere.get(report.name, ())) for report in self.reports)

    async def place(self, **wanted: Any) -> ModelSpec:
        """As `inferd.runtime.placement.place`, with a backend that was installed meanwhile, too.

        Raises:
            InvalidFieldError, BackendNotFoundError, BackendUnavailableError: As there.
        """
        async with self.opening(wanted.get("path")):
            try:
                return await asyncio.to_thread(place, self.of_all_hosts, **wanted)
            except (BackendNotFoundError, BackendUnavailableError):
                if not await self.refresh():
                    raise
            return await asyncio.to_thread(place, self.of_all_hosts, **wanted)


async def plugins_ahead(settings: "Settings") -> Plugins:
    """The plugins, looked for before a kernel can tell anybody of them."""

    async def tell(_: object) -> None:
        """Nobody uses them yet."""

    plugins = Plugins(**where_plugins_are(settings), found=tell)
    await plugins.refresh()
    return plugins


def where_plugins_are(settings: "Settings") -> dict[str, Any]:
    """Which plugins there are to be, as `Plugins` takes it."""
    return {
        "allow": settings.backends,
        "modules": settings.plugin_modules,
        "timeout_s": settings.plugin_timeout_s,
        "log_dir": settings.state_dir / "plugins",
    }


def read_installed() -> Installed:
    """The folders that hold installed distributions, each with when a name in it last changed."""
    found = []
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry or os.curdir)
        if folder.is_dir() and any(folder.glob("*.dist-info")):
            found.append((str(folder), folder.stat().st_mtime_ns))
    return frozenset(found)


async def _sources(reports: tuple[BackendReport, ...]) -> Installed:
    return await asyncio.to_thread(_read_sources, reports)


def _read_sources(reports: Iterable[BackendReport]) -> Installed:
    """The files of plugins that failed, each with when it last changed: who mends one changes no distribution."""
    found = set()
    for module in {each.module.partition(".")[0] for each in reports if each.state is BackendState.FAILED}:
        try:
            spec = find_spec(module) if module else None
        except (ImportError, ValueError, AttributeError):  # a module that is none has no files
            spec = None
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        files = chain.from_iterable(Path(folder).rglob("*.py") for folder in folders)
        alone = [Path(spec.origin)] if spec is not None and spec.origin and not folders else []
        for file in islice(chain(alone, files), MOST_SOURCES):
            with suppress(OSError):
                found.add((str(file), file.stat().st_mtime_ns))
    return frozenset(found)
