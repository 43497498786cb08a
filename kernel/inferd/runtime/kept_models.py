"""Models on their way into the store: of each only what was said last is written, and all who wait hear of that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.core.changes import ModelChanged, ModelForgotten, VersionChanged, VersionForgotten
from inferd.runtime.model_records import write_model
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from inferd.core.changes import Change
    from inferd.core.ids import ModelName
    from inferd.core.views import Views
    from inferd.runtime.blobs import Blobs
    from inferd.runtime.clock import Clock


@dataclass(slots=True, eq=False)
class DueModel:
    """What is to be written of a model.

    Attributes:
        write: It.
        waiting: Who waits for it.
    """

    write: Put | Drop
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class KeptModels:
    """The models that are kept, and what is to be written of them. One writer: the keeper.

    One of which there are versions is kept, wherever it came from; so is one that an update gave other bounds.
    """

    def __init__(self, views: Views, clock: Clock) -> None:
        self._views = views
        self._clock = clock
        self._due: dict[ModelName, DueModel] = {}
        self._writing: dict[ModelName, DueModel] = {}
        self._known: set[ModelName] = set()
        self._stored: set[ModelName] = set()  # the store has them

    def __bool__(self) -> bool:
        return bool(self._due)

    def adopt(self, name: ModelName) -> None:
        """A model is kept: it is dropped when it is forgotten."""
        self._known.add(name)
        self._stored.add(name)

    def put(self, name: ModelName) -> bool:
        """A model is to be kept as it stands; whether it is known."""
        if (model := self._views.find_model(name)) is None:
            return False
        self._known.add(name)
        self._say(name, Put(NO_TENANT, Kind.MODEL, name, write_model(model, self._clock)))
        return True

    def note(self, change: Change, blobs: Blobs | None) -> bool:
        """Something has changed; whether something is to be written for it."""
        match change:
            case ModelForgotten(name):
                if blobs is not None:
                    blobs.models.forget(name)
                return self._forget(name)
            case VersionForgotten(name) if blobs is not None and (model := self._views.find_model(name)) is not None:
                blobs.models.keep_listed(model)
                return self._put_if_kept(name)
            case ModelChanged(name) if name in self._known:  # one that is to go is so for the next kernel, too
                return (model := self._views.find_model(name)) is not None and model.going and self.put(name)
            case VersionChanged(name) | VersionForgotten(name):
                return self._put_if_kept(name)
        return False

    def _put_if_kept(self, name: ModelName) -> bool:
        """A model has other versions; one that was only pulled is kept from when somebody asks for one."""
        model = self._views.find_model(name)
        asked = model is not None and any(version.by for version in model.versions.values())
        return (asked or name in self._known) and self.put(name)

    def _forget(self, name: ModelName) -> bool:
        """A model is known no longer; whether it was kept, so that there is something to be written."""
        if name not in self._known:
            return False
        self._known.remove(name)
        self._say(name, Drop(NO_TENANT, Kind.MODEL, name))
        return True

    def _say(self, name: ModelName, write: Put | Drop) -> None:
        if (due := self._due.get(name)) is None:
            self._due[name] = DueModel(write)
        else:
            due.write = write

    def wait(self, name: ModelName) -> asyncio.Future[None] | None:
        """Ends when what is to be written of a model is, or is not; None where nothing is to be."""
        due = self._due.get(name) or self._writing.get(name)
        if due is None:
            return None
        future = asyncio.get_running_loop().create_future()
        due.waiting.append(future)
        return future

    def take(self) -> dict[ModelName, DueModel]:
        """All that is to be written now."""
        self._writing, self._due = self._due, {}
        return self._writing

    def wrote(self, written: dict[ModelName, DueModel]) -> None:
        """The store has that."""
        self._writing = {}
        for name, each in written.items():
            if isinstance(each.write, Put):
                self._stored.add(name)
            else:
                self._stored.discard(name)
        for future in waiting_for(written):
            if not future.done():
                future.set_result(None)

    def failed(self, failed: dict[ModelName, DueModel]) -> list[ModelName]:
        """Whether that was written is not known: it is due again. Which models are to be given up, if they can be.

        Those are the ones that the store never had; of whom somebody has made use meanwhile they stay due.
        """
        self._writing = {}
        again = {name: DueModel(each.write) for name, each in failed.items() if name not in self._due}
        self._due = {**again, **self._due}
        return [name for name, each in again.items() if isinstance(each.write, Put) and name not in self._stored]


def waiting_for(models: dict[ModelName, DueModel]) -> list[asyncio.Future[None]]:
    """Who waits for the writes of models."""
    return [future for due in models.values() for future in due.waiting]
