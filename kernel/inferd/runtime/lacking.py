"""Models that a kernel before this one knew and that cannot be loaded now: they stay known, and their tasks wait.

A driver may not be up yet, a plugin be broken, `backends` be mistyped or a disk not be mounted: none of that is a
reason to end what was acknowledged.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferd.core.ids import ModelName
from inferd.core.model import ModelSpec
from inferd.plugin.registry import BackendState
from inferd.runtime.library import BrokenManifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from inferd.runtime.driver import Driver
    from inferd.runtime.library import Library
    from inferd.runtime.plugins import Plugins

log = structlog.get_logger()


class Lacking:
    """Knows what such models lack, and looks anew when somebody asks for one or plugins were found. One writer: itself.

    Args:
        driver: Is told.
        plugins: Who may load models.
        library: Where models are that were pulled.
    """

    def __init__(self, driver: Driver, plugins: Plugins, library: Library) -> None:
        self._driver = driver
        self._plugins = plugins
        self._library = library

    async def of(self, specs: Iterable[ModelSpec]) -> dict[ModelName, str]:
        """What models lack, of those that lack something, for people."""
        return await asyncio.to_thread(self._of, tuple(specs), frozenset(self._driver.views.devices))

    def _of(self, specs: Iterable[ModelSpec], devices: Collection[str]) -> dict[ModelName, str]:
        return {spec.name: why for spec in specs if (why := self._why(spec, devices))}

    def _why(self, spec: ModelSpec, devices: Collection[str]) -> str:
        reports = [report for report in self._plugins.reports if report.name == spec.backend]
        if not reports:
            return f"backend {spec.backend!r} is not there; `inferd plugins` lists those that are"
        if reports[0].state is not BackendState.READY:
            fix = f"; fix: {reports[0].fix}" if reports[0].fix else ""
            return f"backend {spec.backend!r} is {reports[0].state.name}: {reports[0].why}{fix}"
        if not any(device_id in devices for device_id in spec.devices):
            return f"the host has no {' and no '.join(spec.devices)} now, and it may use nothing else"
        return "" if spec.tenant or Path(spec.path).exists() else f"its file {spec.path} is not there"

    async def pulled(self, names: Collection[str]) -> dict[ModelName, tuple[ModelSpec, str]]:
        """Models of these names that were pulled and could not be made known, each with why."""
        missing = [name for name in names if self._driver.views.find_model(ModelName(name)) is None]
        return await asyncio.to_thread(self._pulled, missing) if missing else {}

    def _pulled(self, names: Iterable[str]) -> dict[ModelName, tuple[ModelSpec, str]]:
        found = {}
        for name in names:
            match self._library.look(name):
                case None:
                    continue
                case BrokenManifest() as broken:
                    spec, why = unknown_model(name), f"it was pulled, and its folder cannot be used: {broken.why}"
                case manifest:
                    spec = unknown_model(name, str(self._library.path(manifest)), manifest.backend)
                    why = "it was pulled, and no backend here loads it; `inferd doctor` says what is missing"
            found[spec.name] = (spec, why)
        return found

    async def look_again(self, names: Iterable[str] | None = None) -> None:
        """See anew what models lack, those of these names or all; who lacks nothing any more is loaded if need be."""
        views = self._driver.views
        models = [views.find_model(ModelName(name)) for name in (views.model_names() if names is None else names)]
        specs = [model.spec for model in models if model is not None and model.lacks and model.spec.devices]
        if not specs:
            return
        await self._plugins.refresh()
        why = await self.of(specs)
        for spec in specs:
            model = views.find_model(spec.name)
            if model is not None and model.spec is spec and model.lacks != why.get(spec.name, ""):
                self._driver.create_model(spec, kept=True, lacks=why.get(spec.name, ""))
                log.info("a model that was kept: what it lacks has changed", model=spec.name, lacks=why.get(spec.name))


def unknown_model(name: str, source: str = "", backend: str = "") -> ModelSpec:
    """What stands for a model of which only the name is sure, until it is made known anew."""
    return ModelSpec(
        name=ModelName(name), source=source, path=source, format="", size_bytes=0, backend=backend,
        backend_reason="", loader="", devices=(),
    )  # fmt: skip


def tell_lacking(why: Mapping[ModelName, str]) -> None:
    """Tell the log which models wait for what."""
    for name, lacks in why.items():
        log.warning("a model that was kept cannot be loaded now: its tasks wait", model=name, lacks=lacks)
