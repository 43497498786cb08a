"""A folder that is watched: files and folders that appear in it become models, and those that go are forgotten.

It is looked at again and again. What is there counts once it is whole: the same, by names, sizes and times, in two
looks one after the other. A model is called as `inferd run FILE` would call it. When its files change it is given a new
version, rolled out where it is loaded; when they are gone it takes nothing new, and is forgotten once it is unused. A
model of its name that is of other files is left alone; one that somebody has deleted stays so until its files change.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from inferd.content import part_names
from inferd.core.events import UpdateModel
from inferd.core.ids import ModelName
from inferd.errors import InferdError, words_of
from inferd.model_declarations import Fault
from inferd.runtime.formats import file_format, folder_format, model_name
from inferd.runtime.placement import stat_files
from inferd.runtime.probes import with_references
from inferd.runtime.sources import files_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from inferd.core.model import Model, ModelSpec
    from inferd.runtime.declaring import Declarations
    from inferd.runtime.driver import Driver
    from inferd.runtime.plugins import Plugins

BY = "the watched folder"  # who asked for a version, for people

log = structlog.get_logger()


class Found(NamedTuple):
    """What could be a model.

    Attributes:
        path: Of its file, or of its folder.
        state: Differs when its files have changed.
        changed: When one of them was changed last, in Unix time.
    """

    path: Path
    state: str
    changed: float


class Watched:
    """Has models be what is in a folder. One writer: the loop of the kernel.

    Args:
        folder: It.
        poll_s: Time between two looks.
        driver: Is told.
        plugins: Who may load models.
        declarations: Go before it, and tell what is left out of it.
    """

    def __init__(
        self, folder: Path, poll_s: float, *, driver: Driver, plugins: Plugins, declarations: Declarations
    ) -> None:
        self._folder = folder.absolute()
        self._poll_s = poll_s
        self._driver = driver
        self._plugins = plugins
        self._declarations = declarations
        self._last: dict[str, Found] | None = None
        self._done: dict[str, str] = {}  # the state of what was made of each name last

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def look(self, *, waits: bool = True) -> None:
        """Look once: what is as it was in the look before is made known, given a new version, or forgotten.

        Where it may not wait, rollouts are left to the next look.
        """
        formats = {each for report in self._plugins.reports if report.spec is not None for each in report.spec.formats}
        try:
            found, faults = await asyncio.to_thread(_scan, self._folder, formats)
        except OSError as error:
            self._tell({str(self._folder): Fault(str(self._folder), "", "", f"it cannot be read: {words_of(error)}")})
            return
        last, self._last = self._last, found
        old = time.time() - self._poll_s
        for name, each in found.items():
            whole = last.get(name) == each if last is not None else each.changed <= old
            if whole and name not in self._declarations.entries and self._done.get(name) != each.state:
                faults |= await self._put(ModelName(name), each, waits=waits)
            elif (fault := self._declarations.left_out.get(str(each.path))) is not None:
                faults[str(each.path)] = fault  # it is as it was
        for model in self._own():
            name = model.spec.name
            if name not in found and (last is None or name not in last) and not model.going:
                self._forget(name)
        self._tell(faults)

    async def _put(self, name: ModelName, found: Found, *, waits: bool) -> dict[str, Fault]:
        """Have a model be what was found; why it is not, by path."""
        known = self._driver.views.find_model(name)
        if known is not None and known.instances and not waits:
            return {}
        self._done[name] = found.state  # once, whatever comes of it
        if known is not None and known.spec.path != str(found.path):
            why = f"a model of its name {name!r} is of {known.spec.path}; delete that, or give the file another name"
            return {str(found.path): Fault(str(found.path), name, "name", why)}
        try:
            spec = await self._plugins.place(name=name, source=str(found.path), **_kept(known))
            if known is None or known.lacks:
                self._driver.create_model(spec)
                log.info("a model has come into the watched folder", model=name, path=spec.path)
            elif known.spec.file_version != spec.file_version:
                probe = self._declarations.terms.probe(known.traits.probe, name)
                probe = await with_references(self._driver, name, probe)
                event = UpdateModel(name, spec, by=BY, probe=probe, rests=probe is None)
                await self._driver.loading.update(event)
                log.info("a model has changed in the watched folder", model=name, version=known.serving.number)
        except InferdError as error:
            return {str(found.path): Fault(str(found.path), name, error.field, error.message)}
        return {}

    def _own(self) -> list[Model]:
        """The known models that are of files of the folder, and called as it calls them."""
        models = (self._driver.views.find_model(name) for name in self._driver.views.model_names())
        return [model for model in models if model is not None and self._is_own(model.spec)]

    def _is_own(self, spec: ModelSpec) -> bool:
        path = Path(spec.path)
        names = (model_name(path.name), model_name(path.name, folder=True))
        return path.parent == self._folder and spec.name in names and spec.name not in self._declarations.entries

    def _forget(self, name: ModelName) -> None:
        self._done.pop(name, None)
        try:
            self._driver.delete_model(name, drain=True)
            log.info("a model has gone from the watched folder: it is forgotten once it is unused", model=name)
        except InferdError as error:
            log.warning("a model that has gone from the watched folder stays", model=name, why=error.message)

    def _tell(self, faults: dict[str, Fault]) -> None:
        """Keep what is left out, and tell the log of what was not before."""
        for path, fault in faults.items():
            if self._declarations.left_out.get(path) != fault:
                log.warning("something in the watched folder is left out", path=path, why=fault.why)
        self._declarations.left_out = faults


def _kept(known: Model | None) -> dict[str, object]:
    """What stays of a model that is given a new version."""
    if known is None:
        return {}
    spec = known.spec
    return {
        "settings": spec.settings,
        "min_instances": spec.min_instances,
        "max_instances": spec.max_instances,
        "sampling": spec.sampling,
        "digest": spec.digest,
    }


def _scan(folder: Path, formats: Collection[str]) -> tuple[dict[str, Found], dict[str, Fault]]:
    """What is in a folder that a backend loads, by name, and what has a name that it cannot have, or that another has.

    Raises:
        OSError: The folder cannot be read.
    """
    found, faults = dict[str, Found](), dict[str, Fault]()
    for path in sorted(folder.iterdir()):
        try:
            if path.name.startswith(".") or not _is_model(path, formats):
                continue
            name = model_name(path.name, folder=path.is_dir())
            if (shown := _shown(path)) != str(path):
                faults[shown] = Fault(shown, name, "name", "its name is no UTF-8; rename it")
                continue
            size_bytes, state = stat_files(path)
            changed = max((each.stat().st_mtime for each in files_of(path)), default=0.0)
        except (OSError, InferdError):
            continue  # it goes just now, or is not whole
        if name in found:
            why = f"{found[name].path.name} has the same name {name!r} already; rename one of them"
            faults[str(path)] = Fault(str(path), name, "name", why)
        elif size_bytes:
            found[name] = Found(path, state, changed)
    return found, faults


def _shown(path: Path) -> str:
    """A path as messages and logs can have it: other bytes than those of UTF-8 become U+FFFD."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _is_model(path: Path, formats: Collection[str]) -> bool:
    if path.is_dir():
        return folder_format(path) in formats
    parts = part_names(path.name)
    whole = parts[0] == path.name and all(path.with_name(part).is_file() for part in parts)
    return path.is_file() and whole and file_format(path) in formats
