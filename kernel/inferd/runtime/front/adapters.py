"""What may be done with the adapters of models."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from inferd.core.adapter import Adapter
from inferd.core.ids import ModelName
from inferd.core.traits import TraitsChange
from inferd.errors import InvalidFieldError, LimitExceededError, ModelExistsError
from inferd.runtime.adapters import find_adapter
from inferd.runtime.sources import check_setting

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.adapter_settings import Adapters as Bounds
    from inferd.core.adapter import AdapterState
    from inferd.core.model import Model
    from inferd.runtime.adapters import Told
    from inferd.runtime.driver import Driver
    from inferd.runtime.front.caller import Caller
    from inferd.runtime.front.traits import ModelTraits
    from inferd.runtime.shelf import Shelf
    from inferd.runtime.sources import Roots

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class ModelAdapters:
    """Loads adapters, takes them away, and tells of them.

    Args:
        driver: Of the kernel.
        shelf: Where models are that were pulled.
        traits: By which they are kept.
        roots: Within which a caller may name files; None for anywhere.
    """

    def __init__(
        self, driver: Driver, shelf: Shelf, traits: ModelTraits, *, roots: Callable[[Caller], Roots | None]
    ) -> None:
        self._driver = driver
        self._shelf = shelf
        self._traits = traits
        self._roots = roots
        self._changing = asyncio.Lock()

    async def load(
        self, caller: Caller, model_name: str, name: str, path: str, *, digest: str, replace: bool
    ) -> tuple[Model, Adapter]:
        """Make an adapter of a model known, once all its loaded instances hold it; to the end, though the caller goes.

        Raises:
            InferdError: It is refused, and nothing has changed.
        """
        if not NAME.fullmatch(name):
            rule = "1 to 128 of letters, digits, '.', '_' and '-', and begin with none of '.' and '-'"
            raise InvalidFieldError(f"name is {name[:140]!r}; it must have {rule}", field="name")
        if not Path(path).is_absolute():
            raise InvalidFieldError(f"path is {path[:200]!r}; it must be absolute, on the kernel's host", field="path")
        if (roots := self._roots(caller)) is not None:
            await asyncio.to_thread(check_setting, "adapter", path, roots)
        await self._shelf.look_for(model_name)
        self._driver.views.model(ModelName(model_name))
        work = self._load(model_name, name, path, digest, replace, roots)
        loading = asyncio.create_task(work, name=f"adapter {name}")
        loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(loading)

    async def add_trained(self, model_name: str, name: str, path: str, *, replace: bool) -> tuple[Model, Adapter]:
        """Make an adapter known that the kernel itself has trained, as `load`: its files may be anywhere."""
        return await self._load(model_name, name, path, "", replace, None)

    async def _load(  # noqa: PLR0917 - as above
        self,
        model_name: str,
        name: str,
        path: str,
        digest: str,
        replace: bool,  # noqa: FBT001
        roots: Roots | None,
    ) -> tuple[Model, Adapter]:
        adapters = self._driver.adapters
        async with self._driver.closing.cut_short(), self._changing:
            files = await adapters.read(Path(path), roots)  # links may have come since they were looked at
            if digest and files.digest != digest:
                raise InvalidFieldError(
                    f"the files of {path} have the digest {files.digest}, and digest is {digest}", field="digest"
                )
            wanted = Adapter(name=name, path=path, digest=files.digest, size_bytes=sum(files.sizes))
            model = self._driver.views.model(ModelName(model_name))
            others = tuple(each for each in model.traits.adapters if each.name != name)
            known = next((each for each in model.traits.adapters if each.name == name), None)
            if known is not None and known.digest == wanted.digest:
                wanted = Adapter(name=name, path=path, digest=known.digest, size_bytes=wanted.size_bytes)
            elif known is not None and not replace:
                raise ModelExistsError(
                    f"model {model.spec.name!r} has an adapter {name!r} of {known.path} ({known.digest}); choose"
                    " another name, or have it replaced (inferd adapters load --replace)",
                    metadata={"adapter": name},
                    field="name",
                )
            _check_bounds((*others, wanted), adapters.bounds, model_name)
            await adapters.hold(model.spec.name, wanted, files)
            model = await self._give(model, (*others, wanted))
        return model, wanted

    async def unload(self, model_name: str, name: str) -> None:
        """Take an adapter from a model.

        Raises:
            ModelNotFoundError, AdapterNotFoundError: There is none.
            StoreUnavailableError: That cannot be kept.
        """
        await self._shelf.look_for(model_name)
        async with self._changing:
            model = self._driver.views.model(ModelName(model_name))
            gone = find_adapter(model, name, "name")
            await self._give(model, tuple(each for each in model.traits.adapters if each is not gone))

    async def list(self, model_name: str) -> list[tuple[Model, Adapter]]:
        """The adapters of a model by name.

        Raises:
            ModelNotFoundError: There is none.
        """
        await self._shelf.look_for(model_name)
        model = self._driver.views.model(ModelName(model_name))
        return [(model, each) for each in sorted(model.traits.adapters, key=lambda each: each.name)]

    def of(self, model: Model, adapter: Adapter) -> tuple[Told, AdapterState]:
        """What is known of one, and where it stands."""
        return self._driver.adapters.of(model.spec.name, adapter)

    async def _give(self, model: Model, adapters: tuple[Adapter, ...]) -> Model:
        try:
            return await self._traits.give(model.spec.name, TraitsChange(adapters=adapters))
        finally:
            self._driver.adapters.change(model.spec.name)


def _check_bounds(adapters: tuple[Adapter, ...], bounds: Bounds, model_name: str) -> None:
    for bound, value, limit, what in (
        ("adapters.of_model", len(adapters), bounds.of_model, "adapters"),
        ("adapters.model_bytes", sum(each.size_bytes for each in adapters), bounds.model_bytes, "bytes of adapters"),
    ):
        if value > limit:
            raise LimitExceededError(
                f"model {model_name!r} would have {value} {what} and {bound} is {limit}; unload others first",
                metadata={"bound": bound, "value": str(value), "limit": str(limit)},
            )
