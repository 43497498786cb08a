"""What may be done with what holds of a model whichever version serves: its aliases, its labels, its pin."""

from collections.abc import Callable, Iterable

from inferd.core.ids import ModelName
from inferd.core.model import Model
from inferd.core.traits import Aliases, TraitsChange
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
        """Refuse what `give` would.

        Raises:
            InferdError: As `give`.
        """
        await self._shelf.look_for(name)
        may(self.added(name, change.aliases), self._owners(name, change))
        self._driver.views.check_aliases(ModelName(name), change)

    async def give(self, name: str, change: TraitsChange, *, may: May) -> Model:
        """Make something of a known model otherwise, at once, and keep that.

        Raises:
            ModelNotFoundError, ModelBusyError: There is none, or it is being deleted.
            ModelExistsError, InvalidFieldError: It cannot have these aliases.
            PermissionDeniedError: The caller may not give these names, or take them from the models that have them.
            StoreUnavailableError: It cannot be kept: it holds until the kernel ends.
        """
        keeper = self._driver.keeper
        if keeper is not None:
            keeper.check()  # first, so that what is refused has not begun
        owners = self._owners(name, change)
        may(self.added(name, change.aliases), owners)
        self._driver.loading.set_traits(ModelName(name), change)
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
