"""Models on their way into the store: of each only what was said last is written, and all who wait hear of that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.runtime.kept_records import write_model
from inferd.store.store import NO_TENANT, Drop, Kind, Put

if TYPE_CHECKING:
    from inferd.core.ids import ModelName
    from inferd.core.model import ModelSpec


@dataclass(slots=True, eq=False)
class DueModel:
    """What is to be written of a model.

    Attributes:
        write: It.
        dropped: Whether the model was forgotten since it was last written, and perhaps made again.
        waiting: Who waits for it.
    """

    write: Put | Drop
    dropped: bool
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class KeptModels:
    """The models that are kept, and what is to be written of them. One writer: the keeper."""

    def __init__(self) -> None:
        self._due: dict[ModelName, DueModel] = {}
        self._known: set[ModelName] = set()

    def __bool__(self) -> bool:
        return bool(self._due)

    def adopt(self, name: ModelName) -> None:
        """A model is kept: it is dropped when it is forgotten."""
        self._known.add(name)

    def put(self, spec: ModelSpec) -> None:
        """A model is to be kept."""
        self.adopt(spec.name)
        self._say(spec.name, Put(NO_TENANT, Kind.MODEL, spec.name, write_model(spec)))

    def forget(self, name: ModelName) -> bool:
        """A model is known no longer; whether it was kept, so that there is something to be written."""
        if name not in self._known:
            return False
        self._known.remove(name)
        self._say(name, Drop(NO_TENANT, Kind.MODEL, name))
        return True

    def _say(self, name: ModelName, write: Put | Drop) -> None:
        dropped = isinstance(write, Drop)
        if (due := self._due.get(name)) is None:
            self._due[name] = DueModel(write, dropped)
        else:
            due.write, due.dropped = write, due.dropped or dropped

    def wait(self, name: ModelName) -> asyncio.Future[None] | None:
        """Ends when what is to be written of a model is, or is not; None where nothing is to be."""
        due = self._due.get(name)
        if due is None:
            return None
        future = asyncio.get_running_loop().create_future()
        due.waiting.append(future)
        return future

    def take(self) -> dict[ModelName, DueModel]:
        """All that is to be written now."""
        due, self._due = self._due, {}
        return due

    def put_back(self, failed: dict[ModelName, DueModel]) -> None:
        """Nothing of that was written: who is forgotten is to be dropped yet; of other models their clients know."""
        again = {
            name: DueModel(Drop(NO_TENANT, Kind.MODEL, name), dropped=True)
            for name, each in failed.items()
            if each.dropped and name not in self._due
        }
        for name, due in self._due.items():
            due.dropped = due.dropped or (name in failed and failed[name].dropped)
        self._due = {**again, **self._due}
