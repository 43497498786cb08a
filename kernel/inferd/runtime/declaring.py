"""The models that the configuration declares, and those that are to be loaded at the start.

A declaration wins: a model of its name that is otherwise is given a new version, or other traits, and the log tells of
it. What is changed by calls holds until the declarations are read again. An entry that cannot be used is left out: a
model of its name stays as it is, and whoever lists models is told why. Taking an entry out forgets no model.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from inferd.core.events import UpdateModel
from inferd.core.host import check_selector
from inferd.core.ids import DEFAULT_TENANT, NO_LEASE, ModelName
from inferd.core.placement_rules import PlacementRules, PlacementStrategy
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.traits import Traits, TraitsChange, whole
from inferd.errors import BrokenModelError, InferdError, InvalidFieldError, UnsupportedInputError, suggestion
from inferd.model_declarations import Fault, read_entries
from inferd.model_names import AT
from inferd.runtime.probes import with_references
from inferd.runtime.remote import Remote
from inferd.runtime.repository_models import forget_all
from inferd.runtime.room import lacks_room
from inferd.sampling import NAMES, PARAMETERS, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inferd.core.model import Model, ModelSpec
    from inferd.model_declarations import DeclaredModel, Entry
    from inferd.runtime.driver import Driver
    from inferd.runtime.plugins import Plugins
    from inferd.runtime.repository import Repository
    from inferd.runtime.shelf import Shelf
    from inferd.runtime.terms import Terms
    from inferd.runtime.watched import Watched

BY = "the configuration"  # who asked for a version, for people

log = structlog.get_logger()


class Declarations:
    """What the configuration says of models. One writer: `Declaring`.

    Attributes:
        file: Where, for people.
        terms: Reads what new versions have to show.
        entries: Those that can be used.
        faults: Why the others cannot.
        left_out: Why things in the watched folder are no models, by path. One writer: `Watched`.
        in_repository: Why things in the model repository are none, by path. One writer: `Repository`.
        on_the_way: Models whose files are being fetched, and why they are not there yet. One writer: `Remote`.
        why_no_task: Why no task can be of a name that something else has; "" where nothing has it. Of `Repository`.
    """

    def __init__(self, file: str, given: Sequence[Any], terms: Terms) -> None:
        self.file = file
        self.terms = terms
        self.entries: dict[str, Entry] = {}
        self.faults: list[Fault] = []
        self.left_out: dict[str, Fault] = {}
        self.in_repository: dict[str, Fault] = {}
        self.on_the_way: dict[str, Fault] = {}
        self.why_no_task: Callable[[str], str] = lambda _: ""
        self.read(given)

    def read(self, given: Sequence[Any]) -> None:
        """Other entries take the place of all before."""
        entries, self.faults = read_entries(self.file, given)
        self.entries = {entry.model.name: entry for entry in entries}
        for fault in self.faults:
            _tell(fault)

    def leave_out(self, entry: Entry, error: InferdError) -> None:
        """An entry cannot be used."""
        self.entries.pop(entry.model.name, None)
        field = error.field.removeprefix("model.")
        why = error.message.removeprefix(f"{field} ")  # which is told before it
        fault = Fault(entry.where, entry.model.name, field, why)
        self.faults.append(fault)
        _tell(fault)

    def note(self, entry: Entry, error: InferdError) -> None:
        """An entry was used, and what it says does not serve: its model is as it was before."""
        fault = Fault(entry.where, entry.model.name, "", f"its new version does not serve: {error.message}")
        self.faults.append(fault)
        _tell(fault)

    def lack(self, entry: Entry, field: str, error: InferdError) -> None:
        """An entry was used, but for a field of it."""
        fault = Fault(entry.where, entry.model.name, field, error.message)
        self.faults.append(fault)
        _tell(fault)

    @property
    def all_faults(self) -> list[Fault]:
        """Why models are left out of the configuration, the watched folder and the model repository."""
        return [*self.faults, *self.on_the_way.values(), *self.left_out.values(), *self.in_repository.values()]

    def where(self, name: str) -> str:
        """Where a model is declared, for people; "" for nowhere."""
        return entry.where if (entry := self.entries.get(name)) is not None else ""

    def check(self, name: str) -> None:
        """Refuse a model that is declared and cannot be used; one that is not declared is no error here.

        Raises:
            BrokenModelError: It is; says why.
            UnsupportedInputError: It is served, and no task can be of it.
        """
        if why := self.why_no_task(name):
            raise UnsupportedInputError(f"model {name!r} {why}", field="model")
        for fault in self.all_faults:
            if name and fault.name == name:
                message = f"model {name!r} cannot be used: {fault}"
                raise BrokenModelError(message, metadata={"cause": str(fault)}, field="model")


def _tell(fault: Fault) -> None:
    log.warning("a declared model is left out", where=fault.where, field=fault.field, why=fault.why)


class Declaring:
    """Has models be as they are declared, and loads those that are to be warm. One writer: the loop of the kernel.

    Args:
        driver: Is told.
        plugins: Who may load models.
        shelf: Where models come from.
        watched: A folder whose files are models; None for none.
        repository: A repository whose folders are models; None for none.

    Attributes:
        declarations: What the configuration says.
        watched, repository: See there.
        remote: Brings those whose files are elsewhere.
        settled: Set when all was done at the start that there was to do.
    """

    def __init__(
        self,
        driver: Driver,
        plugins: Plugins,
        shelf: Shelf,
        watched: Watched | None = None,
        repository: Repository | None = None,
    ) -> None:
        self.declarations = declarations = shelf.declarations
        self._driver = driver
        self._plugins = plugins
        self._shelf = shelf
        self.remote = Remote(shelf.fetches, declarations, self._arrived)
        self._terms = declarations.terms
        self.watched = watched
        self.repository = repository
        self.settled = asyncio.Event()
        self._later: list[tuple[Entry, ModelSpec]] = []

    async def make_known(self) -> None:
        """Make all known that are declared or in a folder of models. What needs a rollout is left to `run`."""
        entries = tuple(self.declarations.entries.values())
        self.remote.keep(entries)
        for entry in entries:
            try:
                if not await self.remote.wants(entry):
                    await self._declare(entry)
            except InferdError as error:
                self.declarations.leave_out(entry, error)
        if self.watched is not None:
            await self.watched.look(waits=False)
        if self.repository is not None:
            await self.repository.start()
        else:
            forget_all(self._driver, self.declarations)

    async def run(self) -> None:
        """Settle what was left to be done at the start, then watch the folders, if there are some."""
        try:
            await self.settle()
            async with asyncio.TaskGroup() as group:  # what is on its way ends with this
                group.create_task(self._shelf.lacking.run(), name="models that wait for hosts")
                if self.watched is not None:
                    group.create_task(self.watched.run(), name="the watched folder")
                if self.repository is not None:
                    group.create_task(self.repository.run(), name="the model repository")
        finally:
            await self.remote.close()
            if self.repository is not None:
                await self.repository.close()

    async def settle(self) -> None:
        """Roll out what is otherwise than what is loaded, and load what is to be warm; what fails is told."""
        later, self._later = self._later, []
        for entry, spec in later:
            try:
                await self._roll_out(entry, spec)
            except InferdError as error:
                self.declarations.note(entry, error)
        for name in self._driver.views.model_names():
            model = self._driver.views.find_model(name)
            if model is not None and model.traits.warm and not model.shared:
                await self._warm(model)
        if self.repository is not None:
            await self.repository.settle()
        self.settled.set()

    async def read_again(self, given: Sequence[Any]) -> None:
        """Have models be as they are declared now."""
        self.declarations.read(given)
        if (trail := self._driver.trail) is not None:
            faults = len(self.declarations.faults)
            trail.tell("declarations read", models=len(self.declarations.entries), faults=faults)
        await self.make_known()
        await self.settle()

    async def _arrived(self, entry: Entry) -> None:
        """The files of a model have come."""
        try:
            await self._declare(entry)
        except InferdError as error:
            self.declarations.leave_out(entry, error)
        await self.settle()

    async def _declare(self, entry: Entry) -> None:
        spec = await self._place(entry.model)
        name, known = spec.name, self._driver.views.find_model(spec.name)
        before = known.traits if known is not None else Traits()
        traits = replace(_traits_of(entry.model), probe=self._probe(entry.model, before), adapters=before.adapters)
        self._terms.canary(entry.model.canary)  # what is wrong with it is told at once
        change = whole(traits, before, moves=True)
        self._driver.views.check_aliases(name, change)
        if known is None:
            self._driver.create_model(spec, waits=True)
        elif known.lacks and known.spec.wanted == spec.wanted:
            self._driver.create_model(spec, waits=True)  # it can be loaded again
        elif (known.spec.wanted, known.spec.file_version) != (spec.wanted, spec.file_version):
            log.warning(
                "a model is otherwise than it is declared: the declaration wins, as a new version where one is needed",
                model=name,
                where=entry.where,
                version=known.serving.number,
            )
            await self._change(entry, known, spec)
        if before != traits:
            for alias in (alias for alias in traits.aliases if alias not in before.aliases):
                if (owner := self._driver.views.aliases.get(alias)) is not None:
                    log.warning("an alias goes to the model that declares it", alias=alias, model=name, before=owner)
                    self._keep(owner)
            self._driver.loading.set_traits(name, change)
        if known is None or before != traits:
            self._keep(name)
        for alias, number in entry.model.version_aliases.items():
            try:
                await self._point(entry, alias, ModelName(f"{name}{AT}{number}"))
            except InferdError as error:
                self.declarations.lack(entry, f"version_aliases.{alias}", error)

    async def _point(self, entry: Entry, alias: str, name: ModelName) -> None:
        """Have a name stand for a version of a declared model, whichever serves."""
        await self._shelf.look_for(name)
        known, change = self._driver.views.model(name), TraitsChange(aliases=(alias,), moves=True)
        if alias in known.traits.aliases:
            return
        self._driver.views.check_aliases(name, change)
        if (owner := self._driver.views.aliases.get(alias)) is not None:
            log.warning("an alias goes to the model that declares it", alias=alias, model=name, before=owner)
            self._keep(owner)
        self._driver.loading.set_traits(name, change)
        self._keep(name)
        log.info("a name stands for a version", alias=alias, model=name, where=entry.where)

    def _probe(self, model: DeclaredModel, before: Traits) -> str:
        return before.probe if model.probe is None else self._terms.written(model.probe, model.name)

    async def _change(self, entry: Entry, known: Model, spec: ModelSpec) -> None:
        if known.instances or known.rollout is not None or self._probe(entry.model, known.traits):
            self._later.append((entry, spec))
            return
        await self._driver.loading.update(UpdateModel(spec.name, spec, by=BY, rests=True))
        self._keep(spec.name)

    async def _roll_out(self, entry: Entry, spec: ModelSpec) -> None:
        """Have a new version take the tasks: with its probe in any case, by steps where the old one is loaded."""
        loaded = bool((known := self._driver.views.model(spec.name)).instances)
        probe = await with_references(self._driver, spec.name, self._terms.probe(known.traits.probe, spec.name))
        canary = self._terms.canary(entry.model.canary) if loaded else None
        await self._driver.loading.update(
            UpdateModel(spec.name, spec, by=BY, probe=probe, canary=canary, rests=probe is None)
        )
        self._keep(spec.name)

    def _keep(self, name: ModelName) -> None:
        """A model is otherwise than it was: that is told, and kept."""
        if (trail := self._driver.trail) is not None:
            trail.tell("model declared", name=name, version=self._driver.views.model(name).serving.number)
        if (keeper := self._driver.keeper) is not None:
            keeper.keep_model_soon(name)

    async def _place(self, model: DeclaredModel) -> ModelSpec:
        source, backend, settings = model.source, model.backend, dict(model.settings)
        fetched = await self._shelf.fetches.find(source, model.digest) if self._shelf.fetches.takes(source) else None
        if source.startswith("blob:"):
            raise InvalidFieldError("it is of blobs, which belong to a tenant; name a file or a folder", field="source")
        if fetched is None and not source.startswith(("/", "file:")):
            manifest = await asyncio.to_thread(self._shelf.library.find, source)
            if manifest is None:
                raise InvalidFieldError(
                    f"{source!r} is neither an absolute path nor the name of a model that was pulled; get that with:"
                    f" inferd pull {source}",
                    field="source",
                )
            source, backend = str(self._shelf.library.path(manifest)), backend or manifest.backend
            settings = {**manifest.settings, **settings}
        check_selector(model.selector, "selector")
        return await self._plugins.place(
            name=model.name,
            source=source,
            path=None if fetched is None else fetched.path,
            backend=backend,
            device=model.device,
            settings=settings,
            min_instances=model.min_instances,
            max_instances=model.max_instances,
            digest=model.digest,
            sampling=_sampling_of(model),
            rules=_rules_of(model),
        )

    async def _warm(self, model: Model) -> None:
        """Load a model if there is room beside what is loaded; why it is not loaded is told, and ends nothing."""
        name, loading = model.spec.name, self._driver.loading
        try:
            if lacking := await lacks_room(self._driver, model.spec):
                log.warning("a model that is to be warm is not loaded: it has no room", model=name, why=lacking)
                return
            await loading.load(name, DEFAULT_TENANT, NO_LEASE)
        except InferdError as error:
            log.warning("a model that is to be warm is not loaded", model=name, why=error.message)


def _sampling_of(model: DeclaredModel) -> SamplingDefaults:
    """What its tasks take for what they leave unset.

    Raises:
        InvalidFieldError: A name is that of no default, or a number is out of its range.
    """
    numbers = dict[str, float]()
    for name, value in model.sampling_defaults.items():
        field = f"sampling_defaults.{name}"
        if name not in NAMES:
            near = suggestion(name, [*NAMES])
            known = f"did you mean {near!r}?" if near else f"known are {', '.join(NAMES)}"
            raise InvalidFieldError(f"no model has a default of {name[:80]!r}; {known}", field=field)
        is_whole = PARAMETERS[name].form is Form.WHOLE
        if expected := PARAMETERS[name].wrong(value):
            what = "a whole number " if is_whole else ""
            raise InvalidFieldError(f"it is {value:g}; it must be {what}{expected}", field=field)
        numbers[name] = int(value) if is_whole else value
    return SamplingDefaults(**numbers)


def _rules_of(model: DeclaredModel) -> PlacementRules:
    strategy = PlacementStrategy[model.strategy.upper()]
    return PlacementRules(selector=model.selector, strategy=strategy, apart=model.apart)


def _traits_of(model: DeclaredModel) -> Traits:
    wanted = TraitsChange(pin=model.pin, warm=model.warm, labels=model.labels, aliases=model.aliases)
    return wanted.of(Traits())
