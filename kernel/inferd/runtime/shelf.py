"""Models that were pulled, as a running kernel knows them: from its start on, and those that come later."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from inferd.core.ids import ModelName
from inferd.core.model import BOUNDS
from inferd.errors import BrokenModelError, InferdError, InvalidFieldError, ModelBusyError, ModelNotFoundError
from inferd.model_names import AT, MOST_NAME, is_hidden, version_of
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.declaring import Declarations
from inferd.runtime.driver import Driver
from inferd.runtime.fetching import Fetches
from inferd.runtime.functions import Functions
from inferd.runtime.lacking import Lacking
from inferd.runtime.library import BrokenManifest, Library, Manifest
from inferd.runtime.placement import stat_files
from inferd.runtime.plugins import Plugins

log = structlog.get_logger()


class Shelf:
    """Makes pulled models known to the kernel. One writer: itself; it keeps what it has warned of.

    Args:
        library: Where they lie.
        plugins: Who may load them.
        driver: Is told of them.
        declarations: What the configuration says of models.
        fetches: Brings those that come from elsewhere.
        functions: Of packages, which are known as models.

    Attributes:
        fetches: See there.
        functions: See there.
        library: See there.
        lacking: What models that were known before lack now.
        folders: Where the library is, and what was fetched.
        declarations: The configuration goes before the library: models of the same name are left to that.
    """

    def __init__(
        self,
        library: Library,
        plugins: Plugins,
        driver: Driver,
        declarations: Declarations,
        fetches: Fetches,
        *,
        functions: Functions,
    ) -> None:
        self.fetches = fetches
        self.functions = functions
        self.library = library
        self.lacking = Lacking(driver, plugins, library, functions)
        self.folders = (library.root, fetches.root)
        self.declarations = declarations
        self._plugins = plugins
        self._driver = driver
        self._seen: frozenset[tuple[str, int]] | None = None
        self._warned: set[tuple[str, str]] = set()
        self._lock = asyncio.Lock()

    async def read(self, but: Collection[str] = ()) -> None:
        """Make known what was pulled since; a model that cannot be used is warned of, once, and left out.

        Those of the names `but` are left to the next time: they are kept, and yet to be restored.
        """
        await self.lacking.look_again()
        async with self._lock:
            seen = await asyncio.to_thread(self.library.changes)
            if seen == self._seen:
                return
            broken, manifests = await asyncio.to_thread(lambda: (self.library.broken(), self.library.manifests()))
            self._seen = seen
            self._warn((str(folder.path), folder.why) for folder in broken)
            for manifest in manifests:
                if manifest.name in self.declarations.entries:
                    continue
                if manifest.name in but:
                    self._seen = None
                    continue
                try:
                    await self._make_known(manifest)
                except ModelBusyError:
                    self._seen = None  # pulled again while it runs: next time
                except InferdError as error:
                    self._warn([(manifest.name, error.message)])

    async def look_for(self, name: str) -> None:
        """Make a model known that was pulled since; one that never was is no error here.

        Raises:
            ModelNotFoundError: The name stands for what is no model to clients.
            BrokenModelError: It was pulled or is declared, and cannot be used; says why.
            InferdError: It was pulled, and cannot be placed.
        """
        self.check(name)
        await self.functions.look_for(name)
        known = self._driver.views.find_model(ModelName(name))
        if known is not None and known.lacks:
            await self.lacking.look_again([name])
        if not name or (known is not None and not known.lacks):
            return
        async with self._lock:
            if (meant := version_of(name)) is not None:
                await self._make_version_known(ModelName(name), ModelName(meant[0]), meant[1])
                return
            try:
                entry = await asyncio.to_thread(self.library.look, name)
            except InvalidFieldError:
                return  # no name at all: the one who looks for it says so
            if isinstance(entry, BrokenManifest):
                message = f"model {name!r} was pulled and cannot be used: {entry.why}"
                raise BrokenModelError(message, metadata={"cause": entry.why}, field="model")
            if entry is not None:
                await self._make_known(entry)
            else:
                self.declarations.check(name)

    def check(self, name: str) -> None:
        """Refuse a name that stands for what the kernel has in the place of a model: to clients it is none.

        Raises:
            ModelNotFoundError: It does.
        """
        if is_hidden(name):
            raise ModelNotFoundError(
                f"model {name[:MOST_NAME]!r} is not known; what the kernel has under a name with {AT!r} is none to"
                " clients",
                field="model",
            )

    async def _make_version_known(self, name: ModelName, base: ModelName, number: int) -> None:
        """Make a version of a model known as a model of its own, which stays that whatever the other one becomes.

        Raises:
            ModelNotFoundError: The model has no such version.
            BrokenModelError: The files of that version have changed since.
            InferdError: It cannot be made known.
        """
        views = self._driver.views
        if views.find_model(name) is not None or (model := views.find_model(base)) is None:
            return
        if (version := model.versions.get(number)) is None:
            known = ", ".join(map(str, model.versions))
            raise ModelNotFoundError(f"model {base!r} has no version {number}; it has {known}", field="model")
        spec = replace(version.spec, name=name, min_instances=0)
        blobs = blobs_of(self._driver.keeper) if spec.tenant else None
        placed = None if blobs is None else await blobs.models.place(spec.tenant, spec.source, name, checks=False)
        try:
            _, now = await asyncio.to_thread(stat_files, Path(spec.path))
            if now != spec.file_version:
                why = f"the files of version {number} at {spec.path} have changed since it was made"
                raise BrokenModelError(f"{name!r} cannot be used: {why}", metadata={"cause": why}, field="model")
            self._driver.create_model(spec)
        finally:
            if blobs is not None and placed is not None:
                blobs.models.settle(placed, views.find_model(name))

    async def _make_known(self, manifest: Manifest) -> None:
        known = self._driver.views.find_model(ModelName(manifest.name))
        if known is not None and known.serving.by:
            return  # it was given another version since
        wanted: dict[str, Any] = {"settings": manifest.settings}
        if known is not None:  # its bounds may be others since, without another version
            settings = {key: value for key, value in manifest.settings.items() if key not in BOUNDS}
            settings |= {key: value for key, value in known.spec.settings.items() if key in BOUNDS}
            bounds = {"min_instances": known.spec.min_instances, "max_instances": known.spec.max_instances}
            wanted = {"settings": settings, **bounds}
        source = str(self.library.path(manifest))
        self._driver.create_model(
            await self._plugins.place(name=manifest.name, source=source, backend=manifest.backend, **wanted)
        )

    def _warn(self, problems: Iterable[tuple[str, str]]) -> None:
        for what, why in problems:
            if (what, why) not in self._warned:
                self._warned.add((what, why))
                log.warning("a pulled model was left out", model=what, why=why)
