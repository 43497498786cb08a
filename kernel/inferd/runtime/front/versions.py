"""What may be done with the versions of a model."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferd.core.canary import Canary
from inferd.core.events import UpdateModel
from inferd.core.ids import ModelName
from inferd.core.model import Model, ModelSpec
from inferd.core.placement_rules import PlacementRules
from inferd.core.plan import LoadPlan
from inferd.core.probe import Probe
from inferd.core.rollouts import RolloutLimits, RolloutWay
from inferd.core.sampling_defaults import SamplingDefaults
from inferd.core.version import Version
from inferd.errors import InvalidFieldError
from inferd.runtime.blob_opening import blobs_of
from inferd.runtime.driver import Driver
from inferd.runtime.front.caller import Caller
from inferd.runtime.front.plans import shown
from inferd.runtime.plugins import Plugins
from inferd.runtime.probes import with_references
from inferd.runtime.shelf import Shelf
from inferd.runtime.sources import Roots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from inferd.runtime.model_files import ModelFiles, Placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """What is to be otherwise of a model; "" and None where it stays.

    Attributes:
        settings: Those that change; an empty value takes one away.
        number: The version that it is to be again; all else stays then.
        digest: What its files must hold; "" for what they had to, where they stay where they are.
        probe: What the new version has to answer before it takes a task; None for nothing.
        canary: By which steps it comes to take the tasks; None for all at once.
        rules: Which hosts it may use, in place of what was said before.
        path: Where the files of its source are, once they were fetched; None for where the source says.
    """

    source: str = ""
    backend: str = ""
    device: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    min_instances: int | None = None
    max_instances: int | None = None
    sampling: SamplingDefaults | None = None
    number: int | None = None
    digest: str = ""
    probe: Probe | None = None
    canary: Canary | None = None
    rules: PlacementRules | None = None
    path: Path | None = None


def otherwise(spec: ModelSpec, other: Other) -> dict[str, Any]:
    """The words for `inferd.runtime.placement.place` that make a model otherwise; a new source of blobs left out.

    Another backend has neither the settings nor the device of the one before; another device may take another backend.
    """
    new = other.backend not in ("", spec.backend)
    elsewhere = other.device not in ("", *spec.devices)
    settings = {**({} if new else spec.settings), **other.settings}
    return {
        "name": spec.name,
        "source": other.source or spec.source,
        "backend": other.backend or ("" if elsewhere else spec.backend),
        "device": other.device or ("" if new else spec.device),
        "settings": {key: value for key, value in settings.items() if value},
        "unset": [key for key, value in other.settings.items() if not value and key not in spec.settings],
        "min_instances": spec.min_instances if other.min_instances is None else other.min_instances,
        "max_instances": spec.max_instances if other.max_instances is None else other.max_instances,
        "sampling": spec.sampling if other.sampling is None else other.sampling,
        "path": other.path if other.source else Path(spec.path),
        "accepted": spec.settings,
        "links": spec.links,
        "tenant": spec.tenant if not other.source else "",
        "digest": other.digest or (spec.digest if not other.source else ""),
        "pinned": bool(other.device) or spec.pinned,
        "rules": spec.placement if other.rules is None else other.rules,
    }


def again(spec: ModelSpec, now: ModelSpec) -> dict[str, Any]:
    """The words for `inferd.runtime.placement.place` that look at a version of before anew, where `now` serves.

    Files that serve already may be named on; all others are held to roots, as if they were named now.
    """
    words = {**otherwise(spec, Other()), "accepted": now.settings}
    return words if spec.tenant or spec.path == now.path else {**words, "source": spec.path, "path": None}


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How a rollout would go.

    Attributes:
        way: How the new version finds its place.
        load: What loading it would take; None where none is loaded.
        apart: Whether there is no room because it is to come by steps, for which the old one has to stay.
    """

    way: RolloutWay
    load: LoadPlan | None = None
    apart: bool = False


class Versions:
    """Gives models other versions, and tells of those that they had.

    Args:
        driver: Of the kernel.
        plugins: Who may load models.
        shelf: Where models are that were pulled.
        roots: Within which a caller may name files; None for everywhere.
    """

    def __init__(
        self, driver: Driver, plugins: Plugins, shelf: Shelf, *, roots: Callable[[Caller], Roots | None]
    ) -> None:
        self._roots = roots
        self._driver = driver
        self._plugins = plugins
        self._shelf = shelf

    @property
    def limits(self) -> RolloutLimits:
        """Bounds of rollouts."""
        return self._driver.loading.limits

    async def list(self, name: str) -> Sequence[Version]:
        """The versions of a model that are kept, the latest first.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        await self._shelf.look_for(name)
        return [*reversed(self._driver.views.model(ModelName(name)).versions.values())]

    async def update(self, name: str, other: Other, caller: Caller) -> Model:
        """Have a new version of a model take its tasks, or one that is kept, and wait until it does.

        What changes holds in the kernel after this one, without a version too, and for a model that was only pulled.

        Raises:
            InferdError: It cannot be placed, is refused or could not be rolled out; then the model is as it was.
        """
        keeper = self._driver.keeper
        if keeper is not None:
            keeper.check()  # first, so that what is refused has not begun
        async with self._wanted(name, other, caller) as spec:
            by, before = caller.principal.name, self._driver.views.model(spec.name).spec
            same = (spec.loaded, spec.file_version, None) == (before.loaded, before.file_version, other.number)
            probe = None if same else await with_references(self._driver, spec.name, other.probe)
            event = UpdateModel(spec.name, spec, other.number, by, probe, other.canary)
            model = await self._driver.loading.update(event)
        if keeper is not None and model.spec.wanted != before.wanted:
            await keeper.keep_model(model.spec)
        elif keeper is not None:
            await keeper.settled_model(spec.name)
        return model

    async def plan(
        self, name: str, other: Other, caller: Caller, *, sees: Callable[[str], bool]
    ) -> tuple[Model, RolloutPlan]:
        """How an update would go; nothing changes. Others' instances and leases are told as in `Models.plan`.

        Raises:
            InferdError: It cannot be placed, or the backend cannot say what it needs.
        """
        async with self._wanted(name, other, caller) as spec:
            model = self._driver.views.model(spec.name)
            now = model.spec
            same = spec.loaded == now.loaded and spec.file_version == now.file_version
            if other.number == model.serving.number or same:
                bounds = other.number is None and spec.wanted != now.wanted
                return model, RolloutPlan(RolloutWay.BOUNDS if bounds else RolloutWay.UNCHANGED)
            way, load = self._driver.views.fit(spec.name, await self._driver.plan_load(spec))
            apart = way is RolloutWay.DRAINS and other.canary is not None
            way = RolloutWay.NO_ROOM if apart else way
            return model, RolloutPlan(way, shown(load, self._driver.views, caller, sees=sees), apart)

    @asynccontextmanager
    async def _wanted(self, name: str, other: Other, caller: Caller) -> "AsyncIterator[ModelSpec]":
        """What the new version is; its blobs, if it is of blobs, are held until the block ends, and kept if it is made.

        A version whose rollout fails keeps them for as long as it is listed, so that it can be tried again.
        """
        await self._shelf.look_for(name)
        model = self._driver.views.model(ModelName(name))
        if other.number is not None:
            yield await self._again(model, other.number, self._roots(caller))
            return
        wanted = otherwise(model.spec, other)
        fewest, most = wanted["min_instances"], wanted["max_instances"]
        if fewest > most:
            raise InvalidFieldError(
                f"min_instances would be {fewest} and max_instances {most}; the first must be at most the second",
                field="min_instances",
            )
        if not other.source.startswith("blob:"):
            yield await self._plugins.place(roots=self._roots(caller), **wanted)
            return
        files, placed = await self._place(caller, other.source, name)
        try:
            yield await self._plugins.place(
                roots=self._roots(caller), **{**wanted, "path": placed.path, "tenant": caller.tenant}
            )
        finally:
            files.settle(placed, self._driver.views.find_model(ModelName(name)))

    async def _place(self, caller: Caller, source: str, name: str) -> "tuple[ModelFiles, Placed]":
        if (blobs := blobs_of(self._driver.keeper)) is None:
            raise InvalidFieldError(
                f"source {source[:90]!r} is of blobs, and this kernel keeps none: its store.url is memory:",
                field="source",
            )
        return blobs.models, await blobs.models.place(caller.tenant, source, name, checks=True)

    async def _again(self, model: Model, number: int, roots: Roots | None) -> ModelSpec:
        """A version that is kept, whose files must be as they were, and such as the caller may name."""
        if (version := model.versions.get(number)) is None:
            known = ", ".join(map(str, model.versions))
            message = f"model {model.spec.name!r} has no version {number}; it has {known}"
            raise InvalidFieldError(message, field="version")
        found = await self._plugins.place(roots=roots, **again(version.spec, model.spec))
        if found.file_version != version.spec.file_version:
            raise InvalidFieldError(
                f"the files of version {number} of model {model.spec.name!r} at {version.spec.path} have changed since"
                " it was made; make a new version of them",
                field="version",
            )
        return replace(version.spec, min_instances=model.spec.min_instances, max_instances=model.spec.max_instances)
