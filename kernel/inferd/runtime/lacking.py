"""Models that a kernel before this one knew and that cannot be loaded now: they stay known, and their tasks wait.

A driver may not be up yet, a plugin be broken, `backends` be mistyped or a disk not be mounted: none of that is a
reason to end what was acknowledged.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from inferd.core.admission import NO_HOST, places_of
from inferd.core.function import LOADER, PACKAGE
from inferd.core.ids import ModelName
from inferd.core.model import ModelSpec
from inferd.core.program import LOADER as PROGRAM
from inferd.errors import InvalidFieldError, words_of
from inferd.plugin.registry import BackendState
from inferd.runtime.library import BrokenManifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from inferd.plugin.registry import BackendReport
    from inferd.runtime.driver import Driver
    from inferd.runtime.functions import Functions
    from inferd.runtime.library import Library
    from inferd.runtime.plugins import Plugins

log = structlog.get_logger()


class Lacking:
    """Knows what such models lack, and looks anew when somebody asks for one or plugins were found. One writer: itself.

    Args:
        driver: Is told.
        plugins: Who may load models.
        library: Where models are that were pulled.
        functions: Of packages, which are known as models.
    """

    def __init__(self, driver: Driver, plugins: Plugins, library: Library, functions: Functions) -> None:
        self._functions = functions
        self._driver = driver
        self._plugins = plugins
        self._library = library

    async def of(self, specs: Iterable[ModelSpec]) -> dict[ModelName, str]:
        """What models lack, of those that lack something, for people."""
        known = tuple(specs)
        reach = {spec.name for spec in known if self._driver.views.reach(spec, most=0)[1]}
        return await asyncio.to_thread(_all_lacks, known, reach, self._plugins.of_all_hosts)

    async def run(self) -> None:
        """See anew what models lack whenever a host has joined, drains no more or is gone, until it is cancelled."""
        changes, seen = self._driver.watchers.hosts, -1
        while True:
            version = changes.version
            if self._driver.views.generation != seen:
                seen = self._driver.views.generation
                await self.look_again()
            await changes.wait(version)

    async def pulled(self, names: Collection[str]) -> dict[ModelName, tuple[ModelSpec, str]]:
        """Models of these names that were pulled and could not be made known, each with why."""
        faults = {}
        for name in names:
            try:
                await self._functions.look_for(name)
            except Exception as error:
                log.exception("a package of functions cannot be made known", model=name)
                faults[name] = words_of(error)
        missing = [name for name in names if self._driver.views.find_model(ModelName(name)) is None]
        return await asyncio.to_thread(self._pulled, missing, faults) if missing else {}

    def _pulled(self, names: Iterable[str], faults: Mapping[str, str]) -> dict[ModelName, tuple[ModelSpec, str]]:
        found = {}
        for name in names:
            if name.startswith(PACKAGE):
                why = faults.get(name) or "no package of this name offers functions here"
                found[ModelName(name)] = (unknown_model(name), why)
                continue
            try:
                entry = self._library.look(name)
            except InvalidFieldError:
                log.warning("something kept names a model that there cannot be: it ends", model=name)
                continue
            match entry:
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


def _all_lacks(
    specs: Iterable[ModelSpec], reach: Collection[ModelName], reports: Sequence[BackendReport]
) -> dict[ModelName, str]:
    by_name = {report.name: report for report in reversed(reports)}  # a name can stand twice
    return {spec.name: why for spec in specs if (why := _lacks(spec, reach, by_name.get(spec.backend)))}


def _lacks(spec: ModelSpec, reach: Collection[ModelName], report: BackendReport | None) -> str:
    if spec.loader == LOADER and spec.name in reach:  # a package of functions needs no backend
        return "" if Path(spec.path).exists() else f"its file {spec.path} is not there"
    if spec.loader == PROGRAM:
        return "it is a program of a model repository: it is run once that has it and repository.programs names it"
    if report is None:
        return f"backend {spec.backend!r} is not there; `inferd plugins` lists those that are"
    if report.state is not BackendState.READY:
        fix = f"; fix: {report.fix}" if report.fix else ""
        return f"backend {spec.backend!r} is {report.state.name}: {report.why}{fix}"
    if spec.name not in reach:
        return f"{NO_HOST}{places_of(spec)} now, and it may use nothing else"
    return "" if spec.tenant or Path(spec.path).exists() else f"its file {spec.path} is not there"
