"""The functions that a running kernel knows: looked for when one is asked for, if anything has changed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from inferd.core.function import LOADER, PACKAGE, Package, function_of
from inferd.core.ids import DeviceId
from inferd.core.model import ModelSpec
from inferd.core.resources import HOST_DEVICE
from inferd.errors import InvalidFieldError, ModelBusyError, suggestion
from inferd.function_errors import FunctionNotFoundError
from inferd.runtime.function_packages import find_packages, source_stamps
from inferd.runtime.plugins import read_installed
from inferd.runtime.shared_work import SharedWork
from inferd.sandbox.state import Access
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.core.function import CallLimits, Function
    from inferd.core.task import TaskSpec
    from inferd.runtime.driver import Driver

BACKEND: Final = "functions"
LABEL: Final = "inferd.function"  # of the task of a call
LOOK_S: Final = 2.0  # between two looks at whether something has changed, and how long one is waited for that may be
_CHANGING: Final = (
    "source",
    "path",
    "values",
    "file_version",
    "access",
    "devices",
    "pinned",
)  # of a package, with its files

log = structlog.get_logger()


class Functions:
    """Finds functions, and makes their packages known to the core, each as a model. One writer: the loop.

    Args:
        driver: Is told.
        limits: Of calls.
        allow, modules, timeout_s, log_dir: As for `find_packages`.
        network: Names of packages whose functions may use the network.
        now: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        driver: Driver,
        limits: CallLimits,
        *,
        allow: tuple[str, ...] | None = None,
        modules: tuple[str, ...] = (),
        timeout_s: float = 20.0,
        log_dir: Path | None = None,
        network: tuple[str, ...] = (),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._limits = limits
        self._allow, self._modules, self._timeout_s, self._log_dir = allow, modules, timeout_s, log_dir
        self._network = network
        self._now = now
        self._packages: tuple[Package, ...] = ()
        self._functions: Mapping[str, dict[int, Function]] = {}
        self._seen: object = None  # what is installed, and files of packages, as they were
        self._stamps: Mapping[str, frozenset[tuple[str, int]]] = {}
        self._looked = -LOOK_S
        self._began = 0.0  # the last look
        self._looking: asyncio.Task[None] | None = None  # the last look: whoever wants it may be gone before it ends

    async def packages(self) -> tuple[Package, ...]:
        """All packages as they are now, those with which something is wrong, too."""
        await self._look(anew=True)
        return self._packages

    async def find(self, name: str, version: int = 0) -> Function:
        """A function; of version 0 the highest.

        Raises:
            FunctionNotFoundError: There is none.
        """
        await self._look(anew=False, may_serve=self._named(name, version) is not None)
        if self._named(name, version) is None:
            await self._look(anew=True)  # it may have been installed just now
        if (found := self._named(name, version)) is None:
            raise self._missing(name, version)
        return found

    async def placed(self, spec: TaskSpec) -> TaskSpec:
        """A task that calls a function, with the package in the place of its model; any other one as it is.

        Its version is settled with that: it stays the same whatever comes later.

        Raises:
            FunctionNotFoundError: There is no such function.
            InvalidFieldError: It calls a model, or does not call a function.
            InferdError: Its package cannot be made known.
        """
        name = function_of(spec.model)
        work = spec.work.work if isinstance(spec.work, SharedWork) else spec.work
        call = work.call if isinstance(work, task_pb2.Work) and work.WhichOneof("kind") == "call" else None
        if name is None and call is None:
            return spec
        if name is None or call is None:
            wrong, fix = ("model", "functions@clean") if name is None else ("call", "{}")
            raise InvalidFieldError(
                f"spec.model is {spec.model[:80]!r} and spec.call is {'given' if call is not None else 'not given'}; a"
                f" function is called by both: give spec.{wrong}, as {fix}",
                field=f"spec.{wrong}",
            )
        found = await self.find(name, call.version)
        package = next(each for each in self._packages if each.name == found.package)
        await self._make_known(package)
        call.name, call.version = found.name, found.version
        labels = {**spec.labels, LABEL: f"{found.name}@{found.version}"}
        return replace(spec, model=package.model, labels=labels)

    async def look_for(self, model: str) -> None:
        """Make the package known that has this name in the place of a model's; nothing where there is none."""
        if model.startswith(PACKAGE):
            await self._look(anew=False, may_serve=any(each.model == model for each in self._packages))
            for package in self._packages:
                if package.model == model and package.functions:
                    await self._make_known(package)

    def _named(self, name: str, version: int) -> Function | None:
        versions = self._functions.get(name, {})
        return versions.get(version or max(versions, default=0))

    def _missing(self, name: str, version: int) -> FunctionNotFoundError:
        if name in self._functions:
            known = ", ".join(map(str, sorted(self._functions[name])))
            return FunctionNotFoundError(
                f"function {name!r} has no version {version}; it has {known}", field="spec.call.version"
            )
        near = suggestion(name, [*self._functions])
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(self._functions) or 'none'}"
        return FunctionNotFoundError(
            f"there is no function {name[:80]!r}; {hint}",
            metadata={"suggestion": near} if near else {},
            field="spec.model",
        )

    async def _look(self, *, anew: bool, may_serve: bool = False) -> None:
        """Look for packages if something was installed, or their files have changed, since the last look.

        One look for all who want it, in a task of its own: a caller whose deadline passes leaves it to the next one.

        Args:
            anew: One that begins after this was called.
            may_serve: What is known may serve while the look takes longer than `LOOK_S`: a package is slow to import.
        """
        going = self._looking if self._looking is not None and not self._looking.done() else None
        if going is None and not anew and self._now() - self._looked < LOOK_S:
            return
        if anew and going is not None:
            await asyncio.wait({going})
            going = self._looking if self._looking is not None and not self._looking.done() else None
        if going is None:
            self._began = self._now()
            going = self._looking = asyncio.create_task(self._look_now())
        # Unlike `await`, this cancels nothing.
        await asyncio.wait({going}, timeout=max(0.0, self._began + LOOK_S - self._now()) if may_serve else None)
        if going.done():
            going.result()

    async def _look_now(self) -> None:
        seen = await asyncio.to_thread(self._read)
        self._looked = self._now()
        if seen == self._seen:
            return
        packages = await find_packages(
            allow=self._allow,
            modules=self._modules,
            limits=self._limits,
            timeout_s=self._timeout_s,
            log_dir=self._log_dir,
        )
        functions: dict[str, dict[int, Function]] = {}
        for package in packages:
            if package.why:
                log.warning("a package of functions cannot be used", package=package.name, why=package.why)
            for each in package.functions:
                functions.setdefault(each.name, {})[each.version] = each
        after = await asyncio.to_thread(source_stamps, packages)
        # What has changed meanwhile is looked at once more: stamps count as they were before.
        self._stamps = {name: seen[1].get(name, stamp) for name, stamp in after.items()}
        self._seen = seen[0], self._stamps
        self._packages, self._functions = packages, dict(sorted(functions.items()))

    def _read(self) -> tuple[object, dict[str, frozenset[tuple[str, int]]]]:
        return read_installed(), source_stamps(self._packages)

    async def _make_known(self, package: Package) -> None:
        """Have the core know it as it is; one that runs as it was goes on so until it has nothing to do."""
        stamps = repr(sorted(self._stamps.get(package.name, ())))
        values = self._limits.written(package.module)
        is_network = package.name in self._network
        what = f"{package.distribution} {package.path} {sorted(values.items())} {is_network} {stamps}"
        version = hashlib.sha256(what.encode()).hexdigest()
        known = self._driver.views.find_model(package.model)
        if known is not None and known.spec.file_version == version and not known.lacks:
            return
        spec = ModelSpec(
            name=package.model,
            source=f"functions:{package.module}",
            path=package.path,
            format=BACKEND,
            size_bytes=0,
            backend=BACKEND,
            backend_reason="it calls functions",
            loader=LOADER,
            devices=(DeviceId(HOST_DEVICE),),
            pinned=True,
            values=values,
            file_version=version,
            access=Access(network=is_network, reads=tuple(self._limits.files.values())),
        )
        if known is not None and known.spec.loader == LOADER:  # its bounds stay, which a client may have changed
            spec = replace(known.spec, **{name: getattr(spec, name) for name in _CHANGING})
        try:
            self._driver.create_model(spec)
        except ModelBusyError:
            log.info(
                "a package of functions has changed, and serves as it was while it is called", package=package.name
            )
