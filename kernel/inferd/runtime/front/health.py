"""Whether the kernel and its models serve."""

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from inferd.core.ids import ModelName
from inferd.core.model import ModelState
from inferd.errors import InferdError
from inferd.model_names import is_hidden
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import SharedBound
from inferd.runtime.front.caller import Caller
from inferd.runtime.shelf import Shelf
from inferd.runtime.store_state import STORE

KERNEL = ModelName("")
NOBODY = None  # neither the kernel nor a model
Sees = Callable[[str], bool]


class Health:
    """Tells of health, by the state of the kernel. A model serves when it takes tasks without loading first.

    It never names a model that it was not asked for, nor says more of one that cannot be used than of one that is not.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        watchers: Bounds the streams that watch health.
    """

    def __init__(self, driver: Driver, shelf: Shelf, *, watchers: SharedBound) -> None:
        self._driver = driver
        self._shelf = shelf
        self._watchers = watchers

    async def read(self, name: ModelName | None, *, sees: Sees) -> bool | None:
        """Whether a model, or the `KERNEL`, serves; None when there is no such model that the caller `sees`."""
        name = self._own(name)
        await self._look_for(name)
        return self._serves(name, sees)

    async def watch(self, name: ModelName | None, caller: Caller, *, sees: Sees) -> AsyncGenerator[bool | None, None]:
        """The same, now and after each change, until the kernel shuts down.

        Raises:
            LimitExceededError: As many watch as may, or the tenant has its share; all strangers are one.
        """
        name = self._own(name)
        with self._watchers.place(caller.tenant), self._driver.watchers.models.watch(name or KERNEL) as changed:
            await self._look_for(name)
            told: object = self
            while True:
                seen, serves = changed.version, self._serves(name, sees)
                if serves is not told:
                    told = serves
                    yield serves
                if self._driver.closed:
                    return
                await changed.wait(seen)

    def _own(self, name: ModelName | None) -> ModelName | None:
        """The model's own name, where it is an alias now."""
        return None if name is None else self._driver.views.aliases.get(name, name)

    async def _look_for(self, name: ModelName | None) -> None:
        if name == STORE:
            return
        with suppress(InferdError):  # one that cannot be used is not known either
            await self._shelf.look_for(name or KERNEL)

    def _serves(self, name: ModelName | None, sees: Sees) -> bool | None:
        if name == KERNEL:
            return not self._driver.draining
        if name == STORE:
            return None if self._driver.keeper is None else self._driver.keeper.state.writes
        model = self._driver.views.find_model(name) if name is not None and not is_hidden(name) and sees(name) else None
        return None if model is None else model.state is ModelState.READY
