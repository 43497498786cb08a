"""What may be done with what holds of a model whichever version serves: its aliases, its labels, its pin."""

from collections.abc import Callable, Iterable

from inferd.core.ids import ModelName
from inferd.core.model import Model
from inferd.core.traits import Aliases, TraitsChange
from inferd.runtime.driver import Driver
from inferd.runtime.shelf import Shelf


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

    async def check(self, name: str, change: TraitsChange, *, may: Callable[[Iterable[str]], None]) -> None:
        """Refuse what `give` would.

        Raises:
            InferdError: As `give`.
        """
        await self._shelf.look_for(name)
        self._driver.views.check_aliases(ModelName(name), change)
        may(self._owners(name, change))

    async def give(self, name: str, change: TraitsChange, *, may: Callable[[Iterable[str]], None]) -> Model:
        """Make something of a known model otherwise, at once, and keep that; `may` refuses to take from models.

        Raises:
            ModelNotFoundError, ModelBusyError: There is none, or it is being deleted.
            ModelExistsError, InvalidFieldError: It cannot have these aliases.
            PermissionDeniedError: The caller may not take them from the models that have them.
            StoreUnavailableError: It cannot be kept: it holds until the kernel ends.
        """
        keeper = self._driver.keeper
        if keeper is not None:
            keeper.check()  # first, so that what is refused has not begun
        owners = self._owners(name, change)
        may(owners)
        self._driver.loading.set_traits(ModelName(name), change)
        model = self._driver.views.model(ModelName(name))
        if keeper is not None:
            for owner in owners:
                keeper.models.put(owner)  # in one write with the model's own
            await keeper.keep_model(model.spec)
        return model

    def _owners(self, name: str, change: TraitsChange) -> tuple[ModelName, ...]:
        """The other models that have aliases which are to come over."""
        owners = (self.aliases.get(alias) for alias in change.aliases)
        return tuple(dict.fromkeys(owner for owner in owners if owner not in (None, name)))
