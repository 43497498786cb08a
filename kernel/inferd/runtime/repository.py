"""A model repository in a running kernel: its folders become models, as the mode of its control says.

With "none" those that are there at the start are served; with "poll" it is looked at again and again, and a folder
counts once it is the same in two looks one after the other; with "explicit" a model is there once it has been loaded by
a call. A folder that cannot be served is told with its reason, and ends nothing. The newest version of a model has the
name of its folder; others that its policy wants are models of their own, NAME:NUMBER. What changes is rolled out as a
new version, and what is gone takes nothing new and is forgotten once it is unused.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from inferd.core.ids import DEFAULT_TENANT, NO_LEASE, ModelName
from inferd.errors import (
    InferdError,
    InvalidFieldError,
    ModelBusyError,
    ModelLoadError,
    words_of,
)
from inferd.model_declarations import Fault
from inferd.model_names import APART
from inferd.repository.config_text import parse_json, read_config
from inferd.repository.folders import Folder, look, scan
from inferd.repository.served import Served, Wanted, served_of
from inferd.runtime.name_locks import NameLocks
from inferd.runtime.repository_book import MOST_DEPTH, UNLOADED, Book, Known, Listed
from inferd.runtime.repository_loads import Asked, DisagreementError, Override, PartDeniedError, UnreadableError, Verify
from inferd.runtime.repository_models import OwnModels
from inferd.runtime.repository_programs import program_spec
from inferd.runtime.room import lacks_room
from inferd.runtime.sources import Roots
from inferd_api.inference.model_config_pb2 import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from inferd.core.ids import LeaseId, Tenant
    from inferd.core.model import ModelSpec
    from inferd.model_settings import Repository as Settings
    from inferd.repository.ensembles import Ensemble
    from inferd.runtime.declaring import Declarations
    from inferd.runtime.driver import Driver
    from inferd.runtime.plugins import Plugins
    from inferd.runtime.repository_files import OverrideFiles


ALL = "*"
PROGRAMS_AT_ONCE = 4
"""Programs of which the beginning is waited for at once."""
MISSING = "it is to be loaded at the start, and the repository has no such folder"

log = structlog.get_logger()


class Repository:
    """Has models be what a repository holds. One writer: the loop of the kernel.

    Args:
        settings: Where it is, and how it is looked at.
        driver: Is told.
        plugins: Who may load models.
        declarations: Go before it, and tell what is left out of it.
        verify: Holds loaded models against their configurations.
        overrides: Where files are that loads give.

    Attributes:
        settings: See there.
        book: What is known of it.
        changing: Held by whoever loads or unloads a name, from the first look at it to the end.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        driver: Driver,
        plugins: Plugins,
        declarations: Declarations,
        verify: Verify,
        overrides: OverrideFiles,
    ) -> None:
        self.settings = settings
        self._root = Path(settings.folder or "").absolute()
        self._driver = driver
        self._plugins = plugins
        self._declarations = declarations
        self._verify = verify
        self._overrides = overrides
        self.book = Book(driver.views)
        self._scanning = asyncio.Lock()
        self._models = OwnModels(driver, declarations)
        self.changing = NameLocks()
        declarations.why_no_task = self.book.why_no_task

    @property
    def explicit(self) -> bool:
        """Whether models are loaded and unloaded by calls alone."""
        return self.settings.mode == "explicit"

    async def start(self) -> None:
        """Make known what is to be served from the start; once."""
        if self.book.last is not None:
            return
        await asyncio.to_thread(self._overrides.clear)
        self._root = await asyncio.to_thread(self._root.resolve)
        self._models.take_up()
        await self.look()
        for name in self._models.all():  # what a kernel before this one served and kept
            if name.partition(APART)[0] not in self.book.known:
                self._models.delete(name)

    async def close(self) -> None:
        """Remove what loads gave: the kernel after this one serves none of it."""
        await asyncio.to_thread(self._overrides.clear)

    async def settle(self) -> None:
        """Load what is known, as far as there is room; why something is not loaded is told, and ends nothing.

        Programs come last, some at once: one takes as long to begin as it likes, and no other model waits for it.
        """
        programs, at_once = [], asyncio.Semaphore(PROGRAMS_AT_ONCE)

        async def begin(name: str) -> None:
            async with at_once, self.changing.held(name):
                await self._load_quietly(name)

        for name in tuple(self.book.known):
            served = self.book.served(name)
            if served is not None and any(each.program is not None for each in served.versions):
                programs.append(name)
                continue
            async with self.changing.held(name):
                await self._load_quietly(name)
        async with asyncio.TaskGroup() as loading:
            for name in programs:
                loading.create_task(begin(name), name=f"load {name}")

    async def run(self) -> None:
        """Look again and again, for ever, where that is its mode."""
        while self.settings.mode == "poll":
            await asyncio.sleep(self.settings.poll_s)
            await self.look(loads=True)

    async def look(self, *, loads: bool = False) -> None:
        """Look once: what has changed and is whole becomes a model, and what is gone is forgotten.

        Args:
            loads: Whether what comes is loaded at once.
        """
        try:
            found = await asyncio.to_thread(scan, self._root, most=self.settings.models)
        except OSError as error:
            self._tell({"": f"it cannot be read: {words_of(error)}"})
            return
        last, self.book.last = self.book.last, found
        for name, folder in found.items():
            if self.explicit and not self._wants(name):
                continue  # calls say the rest
            known = self.book.known.setdefault(name, Known())
            if known.state != folder.state and (last is None or last.get(name) == folder):
                await self._put_quietly(folder, loads=loads)
        for name in [name for name in self.book.known if name not in found and (last is None or name not in last)]:
            if not self.explicit:
                async with self.changing.held(name):
                    self._forget(name)
        self._tell(self.book.whys())

    def _wants(self, name: str) -> bool:
        """Whether a model is to be served from the start, where calls say it else."""
        return name in self.settings.load or ALL in self.settings.load

    async def load(self, name: str, override: Override, asked: Asked, *, within: tuple[str, ...] = ()) -> None:
        """Have a model be what its folder, or what is given in place of it, says now, and load it.

        What was served of it before goes on where this fails. Of an ensemble, which may be `within` others, what it
        needs is loaded, too, if whoever asks may load that.

        Raises:
            PartDeniedError: It is an ensemble of what the caller may not load.
            InferdError: It cannot be served, or not be loaded.
        """
        folder = None
        try:
            async with self.changing.held(name):
                if override.files:
                    self._check_room(name)
                    folder = await self._overrides.write(name, override.files)
                else:
                    folder = await asyncio.to_thread(look, self._root, name)
                served = await self._read(folder, override)
                if served.ensemble is None:
                    await self._take_over(folder, served, asked)
            if served.ensemble is not None:  # what it needs has locks of its own
                await self._load_parts(served.ensemble, (*within, name), asked)
                async with self.changing.held(name):
                    await self._take_over(folder, served, asked)
            asked.done.add(name)
        except InferdError as error:
            if self.book.knows(name):
                self.book.known.setdefault(name, Known()).why = error.message
            raise
        finally:
            if folder is not None:
                await self._overrides.settle(name, folder)
            self._tell(self.book.whys())

    def _check_room(self, name: str) -> None:
        """Refuse files of one model more than a repository may have."""
        names = {*self.book.known, *(self.book.last or {})}
        if name not in names and len(names) >= self.settings.models:
            raise InvalidFieldError(
                f"the repository has {len(names)} models already, as many as repository.models allows: unload one that"
                " was loaded with files of a call",
                field="model_name",
            )

    async def _take_over(self, folder: Folder, served: Served, asked: Asked) -> None:
        """Serve this of a name from now on; what was served before goes on where that fails."""
        before = self._models.specs(served.name)
        try:
            await self._declare(served, waits=True)
            await self._load(served, tenant=asked.tenant, lease_id=asked.lease_id)
        except BaseException:
            await self._models.go_back(served.name, before)
            raise
        self.book.known[served.name] = Known(folder.state, served)
        self._overrides.keep(served.name, folder)

    async def _load_parts(self, ensemble: Ensemble, within: tuple[str, ...], asked: Asked) -> None:
        """Load what an ensemble needs and is not served yet; it may be within others."""
        asked.check_parts(ensemble.models)
        if len(within) > MOST_DEPTH:
            chain = " -> ".join(within)
            raise InvalidFieldError(
                f"ensembles are in one another more than {MOST_DEPTH} deep: {chain}", field="config"
            )
        for each in ensemble.models:
            if each in within:
                chain = " -> ".join((*within, each))
                raise InvalidFieldError(f"circular dependency between ensembles: {chain}", field="model_name")
            if each in asked.done:
                continue
            try:
                if self.book.terms(each) is None and self.book.knows(each):
                    await self.load(each, Override(), asked, within=within)
                elif (parts := self.book.ensemble(each)) is not None:
                    await self._load_parts(parts, (*within, each), asked)
                else:
                    await self._driver.loading.load(ModelName(each), asked.tenant, asked.lease_id)
            except PartDeniedError:
                raise
            except InferdError as error:
                raise ModelLoadError(
                    f"ensemble '{within[-1]}' depends on '{each}' which has no loaded version. Model '{each}' loading"
                    f" failed with error: {error.message}",
                    metadata=error.metadata,
                ) from None
            asked.done.add(each)

    async def whole(self, change: Coroutine[Any, Any, None]) -> None:
        """See a change to its end, or to that of the kernel.

        Raises:
            ShuttingDownError: The kernel ends before.
        """
        async with self._driver.closing.cut_short():
            await change

    def forget(self, name: str) -> tuple[str, ...]:
        """What is served of a model, whose names are returned, is served no more; the caller sees to their end."""
        if self.book.last is not None and name in self.book.last:
            self.book.known[name] = Known(why=UNLOADED)
        else:  # it was but files of a call
            self.book.known.pop(name, None)
        return tuple(self._models.names(name))

    async def drop_files(self, name: str) -> None:
        """Remove what loads gave of a model that is served no more."""
        await self._overrides.drop(name)

    def number(self, spec: ModelSpec) -> str:
        """The number of the version that a model of the kernel is; "" where it is none of the repository's."""
        path = Path(spec.path)
        return path.parent.name if self._models.owns(spec.name) else ""

    async def index(self) -> tuple[list[Listed], set[str]]:
        """All versions, by name; and the names of the models of the kernel that they are.

        Raises:
            UnreadableError: Its folder has gone, or cannot be read.
        """
        if self.explicit:
            async with self._scanning:  # calls take no more than one of the threads
                try:
                    self.book.last = await asyncio.to_thread(scan, self._root, most=self.settings.models)
                except OSError as error:
                    raise UnreadableError(f"the model repository cannot be read: {words_of(error)}") from None
        listed = self.book.listed()
        return listed, {each.model.spec.name for each in listed if each.model is not None}

    async def _put_quietly(self, folder: Folder, *, loads: bool) -> None:
        """Have the models of a folder be known; why not is kept."""
        async with self.changing.held(folder.name):
            known = self.book.known.setdefault(folder.name, Known())
            known.state = folder.state  # once, whatever comes of it
            former, before = known.served, self._models.specs(folder.name)
            try:
                served = await self._read(folder, Override())
                await self._declare(served, waits=False)
            except ModelBusyError as error:
                known.state, known.why = "", error.message  # at the next look
                return
            except InferdError as error:
                known.why = error.message
                return
            known.served, known.why = served, ""
            if loads:
                await self._load_quietly(folder.name, former, before)

    async def _load_quietly(
        self, name: str, former: Served | None = None, before: Mapping[str, ModelSpec] | None = None
    ) -> None:
        """Load what is known of a name; what contradicts its configuration gives way to what was served before."""
        known = self.book.known.get(name)
        if known is None or known.served is None:
            return
        try:
            for each in known.served.versions:
                if lacking := await lacks_room(self._driver, self._driver.views.model(ModelName(each.name)).spec):
                    log.warning("a model of the repository is not loaded: it has no room", model=each.name, why=lacking)
                    return
            await self._load(known.served, tenant=DEFAULT_TENANT, lease_id=NO_LEASE)
        except InferdError as error:
            known.why = error.message
            log.warning("a model of the repository is not loaded", model=name, why=error.message)
            if isinstance(error, DisagreementError):
                known.served = former
                await self._models.go_back(name, before or {} if former is not None else {})

    async def _read(self, folder: Folder, override: Override) -> Served:
        if folder.why:
            raise InvalidFieldError(folder.why, field="model_name")
        return await asyncio.to_thread(self._read_now, folder, override)

    def _read_now(self, folder: Folder, override: Override) -> Served:
        most = self.settings.config_bytes
        given = folder.path.is_relative_to(self._overrides.folder)  # by a call, which gives no programs
        programs, versions = () if given else self.settings.programs, self.settings.versions
        try:
            if override.config:
                config = parse_json(override.config, most_bytes=most)
                own = _own(folder, most) if programs else None
                return served_of(folder, config, most_versions=versions, programs=programs, own=own)
            return served_of(folder, _own(folder, most), most_versions=versions, programs=programs)
        except OSError as error:
            raise InvalidFieldError(f"it cannot be read: {words_of(error)}", field="model_name") from None

    async def _declare(self, served: Served, *, waits: bool) -> None:
        """Have the models of all versions be known, the newest last, and forget those that are not wanted any more."""
        for note in served.notes:
            log.info("not obeyed of a configuration of the repository", model=served.name, what=note)
        for number, why in served.lacking.items():
            log.warning("a version of the repository is left out", model=served.name, version=number, why=why)
        for each in served.versions:
            await self._declare_one(each, waits=waits)
        wanted = {each.name for each in served.versions}
        for gone in self._models.names(served.name):
            if gone not in wanted:
                self._models.delete(gone)

    async def _declare_one(self, wanted: Wanted, *, waits: bool) -> None:
        name, views = ModelName(wanted.name), self._driver.views
        if name in self._declarations.entries:
            raise InvalidFieldError(
                f"{self._declarations.where(name)} declares {name!r}, which goes before", field="name"
            )
        if (known := views.find_model(name)) is not None and not self._models.owns(name):
            raise InvalidFieldError(
                f"a model of its name {name!r} is of {known.spec.path}; delete that, or give the folder another name",
                field="name",
            )
        if wanted.program is not None:
            await self._models.make(await asyncio.to_thread(program_spec, wanted), waits=waits)
            return
        spec = await self._plugins.place(
            name=name,
            source=wanted.source,
            backend=wanted.backend,
            device=wanted.device,
            settings=wanted.settings,
            roots=Roots(
                folders=(self._root, self._overrides.folder), told=True, named=(Path(wanted.source).parent.parent,)
            ),
        )
        await self._models.make(spec, waits=waits)

    async def _load(self, served: Served, *, tenant: Tenant, lease_id: LeaseId) -> None:
        """Load all versions, and hold them against their configuration.

        Raises:
            DisagreementError: One is otherwise than that says.
            ModelLoadError: One cannot be loaded.
        """
        for each in served.versions:
            name, kind = ModelName(each.name), ModelLoadError
            try:
                await self._driver.loading.load(name, tenant, lease_id)
                if served.terms.names_tensors:
                    signature = await self._driver.questions.signature(name, lease_id=lease_id)
                    kind = DisagreementError
                    self._verify(served.terms.config, signature)
            except InferdError as error:
                why = f"version {each.number} is at UNAVAILABLE state: {error.message}"
                raise kind(why, metadata=error.metadata) from None

    def _forget(self, name: str) -> None:
        self.book.known.pop(name, None)
        for each in self._models.names(name):
            self._models.delete(each)

    def _tell(self, whys: Mapping[str, str]) -> None:
        """Keep why folders are not served, and tell the log of what was not so before."""
        faults, there = {}, {*self.book.known, *(self.book.last or {})}
        gone = [name for name in self.settings.load if name != ALL and name not in there]
        for name, why in {**dict.fromkeys(gone, MISSING), **whys}.items():
            where = str(self._root / name) if name else str(self._root)
            faults[where] = fault = Fault(where, name, "", why)
            if self._declarations.in_repository.get(where) != fault:
                log.warning("a model of the repository is left out", path=where, why=why)
        self._declarations.in_repository = faults


def _own(folder: Folder, most_bytes: int) -> ModelConfig:
    return ModelConfig() if folder.config is None else read_config(folder.config, most_bytes=most_bytes)
