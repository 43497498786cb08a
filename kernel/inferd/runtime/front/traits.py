"""What may be done with what holds of a model whichever version serves: its aliases, its labels, its pin."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from inferd.core.ids import ModelName
from inferd.core.model import Model
from inferd.core.traits import Aliases, TraitsChange, TraitsStep
from inferd.runtime.driver import Driver
from inferd.runtime.front.access import Names
from inferd.runtime.shelf import Shelf

May = Callable[[Iterable[str], Names], None]
"""Refuses to give names to a model, or to take them from the models that have them."""


class ModelTraits:
    """Gives models their traits, and keeps them for the kernel after this one.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
    """

    def __init__(self, driver: Driver, shelf: Shelf) -> None:
        self._driver = driver
        self._shelf = shelf

    @property
    def aliases(self) -> Aliases:
        """The models by their aliases, now."""
        return self._driver.views.aliases

    async def check(self, name: str, change: TraitsChange, *, may: May) -> None:
        """Refuse what `holding` and `give` would.

        Raises:
            InferdError: As they.
        """
        await self._shelf.look_for(name)
        may(self.added(name, change.aliases), self._owners(name, change))
        await self.look_for(change.aliases)
        self._driver.views.check_aliases(ModelName(name), change)

    async def look_for(self, aliases: Iterable[str]) -> None:
        """Make models known that were pulled since and have names which are to be aliases.

        Raises:
            InferdError: One was pulled, and cannot be used.
        """
        for alias in aliases:
            if alias not in self.aliases:
                await self._shelf.look_for(alias)

    @contextmanager
    def holding(self, name: str, change: TraitsChange, *, may: May) -> Iterator[None]:
        """Hold the aliases that a known model is to have: until the block ends nobody else gives or takes them.

        Raises:
            ModelNotFoundError, ModelBusyError: There is none, or it is being deleted.
            ModelExistsError, InvalidFieldError: It cannot have these aliases.
            PermissionDeniedError: The caller may not give these names, or take them from the models that have them.
        """
        may(self.added(name, change.aliases), self._owners(name, change))
        set_traits = self._driver.loading.set_traits
        set_traits(ModelName(name), change, TraitsStep.HOLD)
        try:
            yield
        finally:
            set_traits(ModelName(name), change, TraitsStep.LET_GO)

    async def give(self, name: str, change: TraitsChange) -> Model:
        """Make something of a known model otherwise, at once, and keep that; its aliases are held.

        Raises:
            ModelNotFoundError, ModelBusyError: There is none, or it is being deleted.
            StoreUnavailableError: It cannot be kept: it holds until the kernel ends.
        """
        keeper = self._driver.keeper
        if keeper is not None:
            keeper.check()  # first, so that what is refused has not begun
        owners = self._owners(name, change)
        own = self._driver.views.model(ModelName(name)).traits.aliases
        dropped = tuple(alias for alias in change.dropped if alias in own)  # others have gone during a rollout
        self._driver.loading.set_traits(ModelName(name), replace(change, dropped=dropped))
        model = self._driver.views.model(ModelName(name))
        if keeper is not None:
            for owner, _ in owners:
                keeper.models.put(ModelName(owner))  # in one write with the model's own
            await keeper.keep_model(model.spec)
        return model

    def added(self, name: str, aliases: Iterable[str]) -> list[str]:
        """Those of these aliases that a model, known or not, does not have."""
        return [alias for alias in aliases if self.aliases.get(alias) != name]

    def _owners(self, name: str, change: TraitsChange) -> Names:
        """The other models that have aliases which are to come over, each with one of those."""
        owners = {self.aliases[alias]: alias for alias in change.aliases if alias in self.aliases}
        return tuple((owner, alias) for owner, alias in owners.items() if owner != name)
