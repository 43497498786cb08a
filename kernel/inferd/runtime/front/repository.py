"""What may be done with a model repository: its models are listed, loaded and unloaded, where its mode allows it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from inferd.errors import (
    InferdError,
    ModelLoadError,
    ModelNotFoundError,
    UnsupportedInputError,
    words_of,
)
from inferd.runtime.repository_loads import Asked, PartDeniedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from inferd.core.model import Model
    from inferd.repository.ensembles import Ensemble
    from inferd.repository.terms import Terms
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.models import Models
    from inferd.runtime.repository import Repository
    from inferd.runtime.repository_book import Listed
    from inferd.runtime.repository_loads import Check, Override

log = structlog.get_logger()
CONFIG = "config"
"""The field of refusals of a configuration that cannot be read."""


class ControlError(UnsupportedInputError):
    """The mode of a repository's control allows no loads and no unloads by calls."""

    code = "UNAVAILABLE"


class LoadRefusedError(ModelLoadError):
    """A model of a repository cannot be loaded as it is."""

    code = "INVALID_ARGUMENT"
    outside = ""


class NotPolledError(ModelNotFoundError):
    """A repository has no such model."""

    code = "INTERNAL"  # as clients of Triton are told it


class ModelRepository:
    """The use cases of a repository.

    Args:
        repository: It.
        models: Ends what is unloaded.
    """

    def __init__(self, repository: Repository, models: Models) -> None:
        self._repository = repository
        self._models = models
        self._changes = set[asyncio.Task[None]]()

    async def index(self) -> tuple[list[Listed], set[str]]:
        """All versions of its models, and the names of the models of the kernel that they are."""
        return await self._repository.index()

    def knows(self, name: str) -> bool:
        """Whether a model is one of it, or would be one: by calls all names are, but for those that others have."""
        return self._repository.book.knows(name)

    async def load(self, name: str, override: Override, caller: Caller, check: Check) -> None:
        """Have a model be what its folder says now, or what is given in place of that, and load it.

        Raises:
            ControlError: Its mode allows no loads by calls.
            NotPolledError: It has no such model.
            PartDeniedError: It is an ensemble of what `check` refuses.
            LoadRefusedError: That cannot be served, or not be loaded; what was served before is.
        """
        self._check_control()
        if not override.files and not self.knows(name):
            await self._repository.index()  # it may have come just now
            if not self.knows(name):
                raise NotPolledError(f"failed to load '{name[:128]}', failed to poll from model repository")
        asked = Asked(caller.tenant, caller.lease_id, check)
        try:
            await self._to_its_end(self._repository.load(name, override, asked))
        except PartDeniedError:
            raise
        except InferdError as error:
            why = f"load failed for model '{name[:128]}'"
            if error.field == CONFIG:  # which nobody could read, so that there was nothing to load
                why = f"failed to load '{name[:128]}', failed to poll from model repository"
            raise LoadRefusedError(f"{why}: {error.message}", metadata=error.metadata, field=error.field) from None

    async def unload(self, name: str, check: Check, *, dependents: bool = False) -> None:
        """Serve a model no more: what it has comes to its end first. One that is not served is none already.

        Args:
            name: Of it.
            check: Refuses what the caller may not unload.
            dependents: Whether what an ensemble needs goes, too.

        Raises:
            ControlError: Its mode allows no unloads by calls.
            PermissionDeniedError: What it needs would go, too, and the caller may not unload that.
            InferdError: It cannot be unloaded.
        """
        self._check_control()
        ensemble = self._repository.book.ensemble(name)
        parts = ensemble.models if ensemble is not None and dependents else ()
        check(parts)
        for each in (name, *(part for part in parts if self._repository.book.terms(part) is not None)):
            await self._to_its_end(self._unload(each))

    async def _unload(self, name: str) -> None:
        async with self._repository.changing.held(name):
            await self._end(self._repository.forget(name))
            await self._repository.drop_files(name)

    async def _to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Have a change done whole, though the caller goes meanwhile; it ends before its time with the kernel alone."""
        doing = asyncio.create_task(self._repository.whole(change), name="a change of the model repository")
        self._changes.add(doing)
        doing.add_done_callback(self._changed)
        await asyncio.shield(doing)

    def _changed(self, doing: asyncio.Task[None]) -> None:
        """A change has ended: why it came to nothing is told here, too, as its caller may have gone."""
        self._changes.discard(doing)
        if not doing.cancelled() and (error := doing.exception()) is not None:
            defect = None if isinstance(error, InferdError) else error
            log.info("a model of the repository is not changed", why=words_of(error), exc_info=defect)

    async def _end(self, names: Iterable[str]) -> None:
        for each in names:
            with suppress(ModelNotFoundError):  # another call was quicker
                await self._models.delete(each, drain=True)

    def terms(self, name: str) -> Terms | None:
        """What holds of requests to a model; None for one that it does not serve."""
        return self._repository.book.terms(name)

    def ensemble(self, name: str) -> Ensemble | None:
        """What an ensemble is that it serves; None for what is none."""
        return self._repository.book.ensemble(name)

    def lacks(self, ensemble: Ensemble) -> str:
        """A model that an ensemble needs and that does not take requests; "" where all do."""
        return self._repository.book.lacks(ensemble)

    def versions(self, name: str) -> tuple[str, ...]:
        """The numbers of all versions of a model that it serves."""
        return self._repository.book.versions(name)

    def model_of(self, name: str, version: str) -> str | None:
        """The model of the kernel that is a version, "" being the newest; None where that is not served."""
        return self._repository.book.model_of(name, version)

    def number(self, model: Model, version: int) -> str:
        """The number in the repository of what a version of a model of the kernel is; "" where it is none of it."""
        kept = model.versions.get(version)
        return self._repository.number(model.spec if kept is None else kept.spec)

    def _check_control(self) -> None:
        if not self._repository.explicit:
            mode = self._repository.settings.mode
            raise ControlError(
                "explicit model load / unload is not allowed if polling is enabled; the mode of this repository is"
                f" {mode!r}: start the kernel with --model-control-mode explicit"
            )
