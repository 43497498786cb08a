"""The models of the kernel that are of a repository, and of nobody else: made, changed, put back and forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from inferd.core.events import UpdateModel
from inferd.core.ids import ModelName
from inferd.errors import InferdError, ModelBusyError
from inferd.model_names import APART

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.model import Model, ModelSpec
    from inferd.runtime.declaring import Declarations
    from inferd.runtime.driver import Driver

BY: Final = "the model repository"  # who asked for a version, for people; it is kept, and so tells whose a model is

log = structlog.get_logger()


class OwnModels:
    """Has models of the kernel be what a repository says. One writer: `Repository`.

    Args:
        driver: Is told.
        declarations: What is declared is never of a repository.
    """

    def __init__(self, driver: Driver, declarations: Declarations) -> None:
        self._driver = driver
        self._declarations = declarations
        self._made: dict[str, Model] = {}

    def take_up(self) -> None:
        """Those are its own that a kernel before this one made for a repository, whichever that was."""
        for name in self._driver.views.model_names():
            model = self.find(name)
            if model is not None and any(version.by == BY for version in model.versions.values()):
                self._made[name] = model

    def all(self) -> list[str]:
        """The names of all."""
        return [name for name in self._made if self.owns(name)]

    def specs(self, name: str) -> dict[str, ModelSpec]:
        """What the models of a name are now, to go back to."""
        models = [model for each in self.names(name) if (model := self.find(each)) is not None]
        return {model.spec.name: model.spec for model in models if not model.going}

    async def go_back(self, name: str, before: Mapping[str, ModelSpec]) -> None:
        """Have the models of a name be what they were; what is as it was is left alone, and serves on."""
        for each, spec in before.items():
            try:
                await self.make(spec, waits=True)
            except InferdError as error:
                log.warning("a model is not what it was before a load that failed", model=each, why=error.message)
        for each in self.names(name):
            if each not in before:
                self.delete(each)

    async def make(self, spec: ModelSpec, *, waits: bool) -> None:
        """Have a model of the kernel be this.

        Raises:
            InferdError: It cannot be; one that was before is as it was.
        """
        name = spec.name
        known = await self._stays(name, waits=waits)
        if known is None or known.lacks:
            self._made[name] = self._driver.create_model(spec)
        elif (known.spec.wanted, known.spec.file_version) != (spec.wanted, spec.file_version):
            await self._driver.loading.update(UpdateModel(name, spec, by=BY, rests=True))

    async def _stays(self, name: ModelName, *, waits: bool) -> Model | None:
        """A model that is known; one that is going is waited for, or refused.

        Raises:
            ModelBusyError: It is going.
        """
        with self._driver.watchers.models.watch(name) as changed:
            while (known := self._driver.views.find_model(name)) is not None and known.going:
                if not waits:
                    raise ModelBusyError(f"model {name!r} is being unloaded; it is loaded when it is")
                self._driver.check_open()
                await changed.wait(changed.version)
        return known

    def names(self, base: str) -> list[str]:
        """The models of the kernel that are of a name of the repository."""
        return [name for name in self._made if name.partition(APART)[0] == base and self.owns(name)]

    def owns(self, name: str) -> bool:
        """Whether a model of the kernel is of the repository, and not of whoever made another of its name since."""
        made = self._made.get(name)
        return made is not None and self.find(name) is made and name not in self._declarations.entries

    def find(self, name: str) -> Model | None:
        """A model of the kernel, whosever it is."""
        return self._driver.views.find_model(ModelName(name))

    def delete(self, name: str) -> None:
        """Have a model take nothing new, and be forgotten once it is unused; why that cannot be is told."""
        try:
            self._driver.delete_model(ModelName(name), drain=True)
            log.info("a model of the repository goes: it is forgotten once it is unused", model=name)
        except InferdError as error:
            log.warning("a model that has gone from the repository stays", model=name, why=error.message)


def forget_all(driver: Driver, declarations: Declarations) -> None:
    """A kernel without a repository serves nothing of one that a kernel before it had."""
    own = OwnModels(driver, declarations)
    own.take_up()
    for name in own.all():
        own.delete(name)
