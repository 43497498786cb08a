"""By which names models are found besides their own, and what else holds of them whichever version serves."""

from inferd.core.admission import check_staying, find_model
from inferd.core.fleet import Fleet
from inferd.core.ids import ModelName
from inferd.core.traits import Aliases, SetTraits, TraitsChange, TraitsStep
from inferd.errors import InvalidFieldError, ModelExistsError

MOST_ALIASES = 16  # of a model


class Naming:
    """Gives models their traits. One writer: the kernel machine.

    Args:
        fleet: Models.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def check_name(self, name: ModelName) -> None:
        """Refuse to make a model known by a name that stands for another one, or by that of one that is being deleted.

        Raises:
            ModelBusyError: It is.
            ModelExistsError: It does, or is to.
        """
        if (known := self._fleet.models.get(name)) is not None:
            check_staying(known)
        check_held(self._fleet.register.held, name)
        if (owner := self._fleet.register.aliases.get(name)) is not None:
            raise ModelExistsError(
                f"{name!r} is an alias of model {owner!r}; choose another name, or take the alias away first "
                f"(`inferd models alias --rm {name}`)",
                metadata={"model": owner},
                field="model.name",
            ).naming(owner, unnamed=f"{name!r} is an alias of another model; choose another name")

    def set(self, event: SetTraits) -> None:
        """Make something of a model otherwise; aliases that it takes from others go with the same event.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelBusyError: It is being deleted.
            ModelExistsError, InvalidFieldError: As `check_aliases`; or what is to be held is held.
        """
        name, change, register = event.name, event.change, self._fleet.register
        if event.step is TraitsStep.LET_GO:
            for alias in change.aliases:
                register.held.pop(alias, None)
            return
        model = find_model(self._fleet.models, name)
        check_staying(model)
        check_aliases(self._fleet, name, change)
        if event.step is TraitsStep.HOLD:
            for alias in change.aliases:
                check_held(register.held, alias)
            register.held.update(dict.fromkeys(change.aliases, name))
            return
        for alias in change.aliases:
            if (owner := register.aliases.get(alias)) not in (None, name):
                other = self._fleet.models[owner]
                register.give_traits(other, TraitsChange(dropped=(alias,)).of(other.traits))
        register.give_traits(model, change.of(model.traits))
        self._fleet.refresh(model)


def check_held(held: Aliases, alias: str, name: str = "") -> None:
    """Refuse a name that is to become an alias, unless it is one of this model.

    Raises:
        ModelExistsError: It is.
    """
    if (owner := held.get(alias, name)) != name:
        raise ModelExistsError(
            f"{alias!r} becomes an alias of model {owner!r} if its update under way succeeds; choose another name, or"
            " wait for it",
            metadata={"model": owner},
            field="aliases" if name else "model.name",
        ).naming(owner, unnamed=f"{alias!r} becomes an alias of another model; choose another name, or try again later")


def check_aliases(fleet: Fleet, name: ModelName, change: TraitsChange) -> None:
    """Refuse aliases that a model cannot have, or have taken away.

    Raises:
        ModelExistsError: One is the name of a model, or stands for another one and may not be moved or is to.
        InvalidFieldError: One that is to go is none of its own, or it would have too many.
    """
    model, aliases = fleet.models.get(name), fleet.register.aliases
    for alias in change.aliases:
        if alias in fleet.models or alias == name:
            raise ModelExistsError(
                f"{alias!r} is the name of a model, and no alias; choose another one",
                metadata={"model": alias},
                field="aliases",
            )
        check_held(fleet.register.held, alias, name)
        if (owner := aliases.get(ModelName(alias), name)) != name and not change.moves:
            raise ModelExistsError(
                f"alias {alias!r} stands for model {owner!r}; move it (`inferd models alias {alias} {name}`), or"
                " choose another one",
                metadata={"model": owner},
                field="aliases",
            ).naming(owner, unnamed=f"alias {alias!r} stands for another model; choose another one")
    own = () if model is None else model.traits.aliases
    for alias in change.dropped:
        if alias not in own:
            has = ", ".join(own) or "none"
            raise InvalidFieldError(f"{alias!r} is no alias of model {name!r}; it has {has}", field="remove_aliases")
    held = (alias for alias, owner in fleet.register.held.items() if owner == name)
    count = len({*own, *held, *change.aliases} - {*change.dropped})
    if count > MOST_ALIASES:
        raise InvalidFieldError(f"model {name!r} would have {count} aliases; at most {MOST_ALIASES}", field="aliases")
