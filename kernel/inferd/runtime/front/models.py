"""What may be done with models."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from inferd.core.ids import InstanceId, ModelName
from inferd.core.index import Page
from inferd.core.model import Instance, Model, ModelSpec, ModelState
from inferd.core.plan import LoadPlan
from inferd.core.traits import NO_TRAITS, Traits, TraitsChange, whole
from inferd.errors import InferdError, InvalidFieldError, ModelExistsError, StoreUnavailableError, words_of
from inferd.model_names import version_of
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.blobs import Blobs
from inferd.runtime.declaring import Declarations
from inferd.runtime.digests import Digests
from inferd.runtime.driver import Driver
from inferd.runtime.elements import Held
from inferd.runtime.fetching import Fetch
from inferd.runtime.front.adapters import ModelAdapters
from inferd.runtime.front.bounds import SharedBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.exports import Exports
from inferd.runtime.front.plans import shown
from inferd.runtime.front.traits import May, ModelTraits
from inferd.runtime.front.versions import Other, Versions, otherwise
from inferd.runtime.front.writing import Detokenized, Writing
from inferd.runtime.metrics import Counted
from inferd.runtime.model_files import SOURCE, ModelFile, write_list
from inferd.runtime.plugins import Plugins
from inferd.runtime.prefixes import KeptPrefix
from inferd.runtime.shelf import Shelf
from inferd.runtime.sources import Roots
from inferd.runtime.worker import Worker

log = structlog.get_logger()

DEVICES_TOLD = 100  # of those that a model may use
UPLOADING = "a model that is uploaded"  # as the holder of a blob


class Models:
    """Makes models known, loads and unloads them, and tells of them. Models that were pulled meanwhile are known, too.

    Args:
        driver: Of the kernel.
        plugins: Who may load models.
        shelf: Where models are that were pulled.
        watchers: Bounds the streams that watch models.
        exports: Bounds the streams that read models.
        roots: Within which a caller may name files; None for anywhere.
        declarations: What the configuration says of models.
        digests: What is known of what they hold.

    Attributes:
        declarations, digests: See there.
        fetches: Brings models from elsewhere.
        clock: The time of all models.
        exports: Reads them with their files.
        versions: What may be done with their versions.
        traits: What holds of them whichever version serves.
        adapters: What may be done with those that tasks are computed with.
    """

    def __init__(
        self,
        driver: Driver,
        plugins: Plugins,
        shelf: Shelf,
        *,
        watchers: SharedBound,
        exports: SharedBound,
        roots: Callable[[Caller], Roots | None],
        declarations: Declarations,
        digests: Digests,
    ) -> None:
        self.clock = driver.clock
        self.declarations = declarations
        self.digests = digests
        self.fetches = shelf.fetches
        self._driver = driver
        self._plugins = plugins
        self._shelf = shelf
        self._watchers = watchers
        self.versions = Versions(driver, plugins, shelf, roots=roots)
        self.traits = ModelTraits(driver, shelf)
        self.adapters = ModelAdapters(driver, shelf, self.traits, roots=roots)
        self.exports = Exports(driver, plugins, shelf, bound=exports, roots=roots)
        self._roots = roots
        self._updates = set[asyncio.Task[Model]]()

    async def upload(self, caller: Caller, files: Sequence[ModelFile], **wanted: Any) -> Model:
        """Make a model known whose files the tenant has as blobs; `wanted` is as for `create`, but for its source.

        Raises:
            InferdError: As `create`; or the names of the files are wrong, or one is not there.
        """
        data, blobs = write_list(files), self._blobs()
        digest = sha256(data).hexdigest()
        await blobs.put(caller.tenant, digest, Held(data), UPLOADING)
        try:
            return await self.create(caller, source=SOURCE + digest, **wanted)
        finally:
            blobs.let_go(caller.tenant, digest, UPLOADING)

    def why_held(self, name: ModelName) -> str:
        """Why no host takes an instance of a model for which tasks wait; "" where one does, or none waits."""
        machine = self._driver.machine
        return machine.fleet.why_held(name) if machine.tasks.wait_for(name) else ""

    def _blobs(self) -> Blobs:
        if (blobs := blobs_of(self._driver.keeper)) is None:
            raise StoreUnavailableError(
                "this kernel keeps nothing, and so has no models of blobs: its store.url is memory:; name a store",
                metadata={"cause": "memory:"},
            )
        return blobs

    async def create(self, caller: Caller, **wanted: Any) -> Model:
        """Make a model known; `wanted` is as for `inferd.runtime.placement.place`, but for what follows from it.

        Where its file has changed, what was loaded of it goes first. Its `traits` are said besides; none leaves those
        of one that is known.

        Raises:
            PermissionDeniedError: The caller may not name its file.
            InferdError: It cannot be placed, or is in use, or cannot be kept for the kernel after this one.
        """
        if self.fetches.takes(wanted["source"]):
            return await self._create_fetched(caller, **wanted)
        if not wanted["source"].startswith("blob:"):
            return await self._create(roots=self._roots(caller), **wanted)
        models = self._blobs().models
        placed = await models.place(caller.tenant, wanted["source"], wanted["name"], checks=True)
        try:
            return await self._create(path=placed.path, tenant=caller.tenant, roots=self._roots(caller), **wanted)
        finally:
            models.settle(placed, self._driver.views.find_model(ModelName(wanted["name"])))

    async def add_trained(self, **wanted: Any) -> Model:
        """Make a model known that the kernel itself has trained, as `create`: its files may be anywhere."""
        return await self._create(roots=None, **wanted)

    async def _create_fetched(self, caller: Caller, **wanted: Any) -> Model:
        """What would be refused whatever comes is refused first."""
        name, source = ModelName(wanted["name"]), wanted["source"]
        known = self._driver.views.find_model(name)
        if known is not None and known.spec.source != source and not known.lacks:
            message = (
                f"model {name!r} exists and is of {known.spec.source}; give it another version (`inferd models set`)"
            )
            raise ModelExistsError(message, field="model.name")
        self._check_traits(name, wanted.get("traits", NO_TRAITS))
        async with self._driver.closing.cut_short(), self.fetches.brought(name, source, wanted["digest"]) as found:
            return await self._create(path=found.path, roots=self._roots(caller), **wanted)

    @asynccontextmanager
    async def fetched(self, name: str, other: Other) -> AsyncIterator[Other]:
        """What is to be otherwise of a model, with the files of a source that is fetched, which are held meanwhile.

        Raises:
            InferdError: There is no such model, or they may not be fetched, or cannot be.
        """
        if not self.fetches.takes(other.source):
            yield other
            return
        model = await self.get(name)
        fetching = self.fetches.brought(model.spec.name, other.source, other.digest)
        async with self._driver.closing.cut_short(), fetching as found:
            yield replace(other, path=found.path)

    async def sweep(self) -> None:
        """Remove fetched files that no version of a model is of any more."""
        await self.fetches.sweep(self._paths)

    def _paths(self) -> set[Path]:
        """Where the files of all versions of all models are."""
        views = self._driver.views
        models = [model for name in views.model_names() if (model := views.find_model(name)) is not None]
        return {Path(version.spec.path) for model in models for version in model.versions.values()}

    async def _create(self, traits: Traits = NO_TRAITS, **wanted: Any) -> Model:
        spec, keeper = await self._plugins.place(**wanted), self._driver.keeper
        await self.traits.look_for(traits.aliases)
        if keeper is not None:
            keeper.check()  # first, so that a model that is refused is not known
        self._check_traits(spec.name, traits)
        model = self._driver.create_model(spec)
        if traits not in (NO_TRAITS, model.traits):
            self._driver.loading.set_traits(spec.name, whole(traits))
        if keeper is not None:
            await keeper.keep_model(model.spec)
        with self._driver.watchers.models.watch(model.spec.name) as changed:
            while model.state is ModelState.UNLOADING:
                await changed.wait(changed.version)
        return model

    def _check_traits(self, name: ModelName, traits: Traits) -> None:
        """Refuse traits of a model that is to be made known, or that has others.

        Raises:
            ModelExistsError: It has others, or an alias stands for another model.
            InvalidFieldError: It would have too many aliases.
        """
        if traits == NO_TRAITS:
            return
        self._driver.views.check_aliases(name, whole(traits))
        known = self._driver.views.find_model(name)
        if (
            known is not None
            and replace(traits, probe=traits.probe or known.traits.probe, adapters=known.traits.adapters)
            != known.traits
        ):
            raise ModelExistsError(
                f"model {name!r} exists with other labels, aliases, pin, warm or probe; have them changed with"
                " UpdateModel (`inferd models set`)",
                field="model.name",
            )

    async def update(self, name: str, other: Other, change: TraitsChange, caller: Caller, *, may: May) -> Model:
        """Make a model otherwise: all of it or, where its rollout fails, nothing; to the end, though the caller goes.

        Raises:
            InferdError: As `versions.update` and `traits.holding`.
        """
        if (meant := version_of(name)) is not None and other != Other():
            raise InvalidFieldError(
                f"{name!r} is version {meant[1]} of model {meant[0]!r}, which never changes; update {meant[0]!r}, or"
                " roll that version out again (`version`)",
                field="name",
            )
        doing = asyncio.create_task(self._update(name, other, change, caller, may), name=f"update of {name}")
        self._updates.add(doing)
        doing.add_done_callback(self._updated)
        return await asyncio.shield(doing)

    def _updated(self, doing: asyncio.Task[Model]) -> None:
        """An update has ended: why it came to nothing is told here, too, as its caller may have gone."""
        self._updates.discard(doing)
        if not doing.cancelled() and (error := doing.exception()) is not None:
            defect = None if isinstance(error, InferdError) else error
            log.info("a model is not changed", what=doing.get_name(), why=words_of(error), exc_info=defect)

    async def _update(self, name: str, other: Other, change: TraitsChange, caller: Caller, may: May) -> Model:
        async with self._driver.closing.cut_short():
            with self.fetches.held(other.path), self.traits.holding(name, change, may=may):
                if change and other == Other():
                    return await self.traits.give(name, change)
                model = await self.versions.update(name, other, caller)
                model = await self.traits.give(name, change) if change else model
        await self.sweep()
        return model

    async def get(self, name: str) -> Model:
        """The model of this name.

        Raises:
            ModelNotFoundError: There is none, or its folder cannot be used.
        """
        await self._shelf.look_for(name)
        model = self._driver.views.model(ModelName(name))
        self.digests.ask(model.spec)
        return model

    async def list(self, *, after: str | None, size: int) -> Page[Model]:
        """Models by name, behind the name `after`."""
        await self._shelf.read()
        return self._driver.views.models(after=after, size=size)

    async def load(self, name: str, caller: Caller) -> Model:
        """Load a model and wait for it; under a lease, one instance more.

        Raises:
            InferdError: It is refused, or loading failed.
        """
        await self._shelf.look_for(name)
        return await self._driver.loading.load(ModelName(name), caller.tenant, caller.lease_id)

    async def plan(
        self,
        name: str,
        caller: Caller,
        *,
        sees: Callable[[str], bool],
        settings: Mapping[str, str],
        backend: str = "",
        device: str = "",
    ) -> LoadPlan:
        """What a load would take; what is given in place of the model's own is checked as of a new model.

        Told are instances of the models that the caller `sees`, and leases of its tenants; of others how many.

        Raises:
            InferdError: It cannot be placed so, or the backend cannot say what it needs.
        """
        spec = (await self.get(name)).spec
        if settings or backend or device:
            other = Other(settings=settings, backend=backend, device=device)
            spec = await self._plugins.place(roots=self._roots(caller), **otherwise(spec, other))
        return shown(await self._driver.plan_load(spec), self._driver.views, caller, sees=sees)

    async def unload(self, name: str, *, force: bool, instance_id: str = "") -> tuple[Model, int]:
        """Unload a model, or one of its instances, and wait for it; the memory of its workers just before, in bytes.

        Raises:
            InferdError: It is refused.
        """
        self._shelf.check(name)
        chosen = InstanceId(instance_id) if instance_id else None
        returned_bytes = await self._driver.loading.unload(ModelName(name), force=force, instance_id=chosen)
        return self._driver.views.model(ModelName(name)), returned_bytes

    async def delete(self, name: str, *, drain: bool = False, force: bool = False) -> None:
        """Forget a model; the kernel after this one does not know it either when this returns.

        With `drain` it takes nothing new, and what it has comes to its end first; with `force` its tasks are cancelled.

        Raises:
            ModelNotFoundError: There is none, in the store neither.
            ModelBusyError: Something is left of it, or leases hold it that force does not end.
            StoreUnavailableError: It cannot be dropped from the store now.
        """
        self._shelf.check(name)
        keeper = self._driver.keeper
        if keeper is not None:
            keeper.check()
        try:
            model = self._driver.views.find_model(ModelName(name))
            with self._driver.watchers.models.watch(ModelName(name)) as changed:
                self._driver.delete_model(ModelName(name), drain=drain, force=force)
                while self._driver.views.find_model(ModelName(name)) is model is not None:
                    self._driver.check_open()
                    await changed.wait(changed.version)
        finally:
            if keeper is not None:
                await keeper.settled_model(ModelName(name))  # another call may have forgotten it just now
        for each in self._driver.views.model_names():
            if (meant := version_of(each)) is not None and meant[0] == name:  # nothing new comes to them either
                with suppress(InferdError):
                    self._driver.delete_model(each, drain=True)
        await self.sweep()

    async def tokenize(self, name: str, given: object, caller: Caller) -> Sequence[int]:
        """The tokens of a text or a conversation, which only the worker opens; loads the model if need be.

        Raises:
            InferdError: Loading failed, the model cannot take the input, or the answer did not come.
        """
        await self._shelf.look_for(name)
        asked = self._driver.questions
        answer = await asked.query(ModelName(name), given, tenant=caller.tenant, lease_id=caller.lease_id)
        return answer.token_ids

    async def detokenize(self, name: str, given: object, caller: Caller) -> Detokenized:
        """The text of tokens, and what else was asked about them; loads the model if need be.

        Raises:
            InferdError: As `tokenize`.
        """
        await self._shelf.look_for(name)
        asked = self._driver.questions
        answer = await asked.query(ModelName(name), given, tenant=caller.tenant, lease_id=caller.lease_id)
        writing = Writing.of(answer.writing) if answer.HasField("writing") else None
        return Detokenized(answer.text, answer.pieces, writing)

    async def signature(self, name: str, caller: Caller) -> bytes:
        """What a model of tensors takes and gives, as its worker wrote it; loads the model if need be.

        Raises:
            InferdError: Loading failed, or it is a language model.
        """
        await self._shelf.look_for(name)
        return await self._driver.questions.signature(ModelName(name), lease_id=caller.lease_id)

    def counted(self, name: str) -> Counted | None:
        """What was counted of a model; None where it shares its figures with others."""
        return self._driver.metrics.counted(name)

    def worker(self, instance: Instance) -> Worker | None:
        """The worker of an instance, as long as it lives."""
        return self._driver.supervisor.workers.get(instance.instance_id)

    def kept_prefix(self, model: Model) -> KeptPrefix | None:
        """What is kept of the prefix cache of a model that was unloaded."""
        return self._driver.prefixes.of(model.spec.name)

    def devices(self, spec: ModelSpec) -> tuple[Sequence[str], int]:
        """Devices that a model may use now, some of many, and how many there are."""
        return self._driver.views.told_devices(spec, most=DEVICES_TOLD)

    def reserved_bytes(self, instance: Instance) -> int:
        """What is reserved for an instance."""
        return self._driver.views.reserved_bytes(instance.instance_id)

    async def watch(self, name: str, caller: Caller) -> AsyncGenerator[Model | Fetch, None]:
        """A model, now and after each change; what changes while its reader is busy is merged. Never ends by itself.

        Of one that is not known yet, as its files are on their way, these are told.

        Raises:
            ModelNotFoundError: There is none, or it was deleted.
            LimitExceededError: As many are watched as may be, or the tenant has its share.
            ShuttingDownError: The kernel is shutting down.
        """
        known = ModelName(name)
        if self.fetches.of(known) is None:
            known = (await self.get(name)).spec.name
        with self._watchers.place(caller.tenant), self._driver.watchers.models.watch(known) as changed:
            while True:
                self._driver.check_open()
                seen = changed.version
                fetch = self.fetches.of(known) if self._driver.views.find_model(known) is None else None
                yield self._driver.views.model(known) if fetch is None else fetch
                await changed.wait(seen)
