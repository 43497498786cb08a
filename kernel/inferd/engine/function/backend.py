"""What a worker loads for a package of functions: not the package itself, but the process that has imported it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.allocator import keep_little
from inferd.core.function import CallLimits
from inferd.engine.cells.cell import START_TIMEOUT_S, CellError, Cells
from inferd.plugin import LoadError, MemoryNeed, ModelDescription
from inferd.plugin.channel import ClosedError, LateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.engine.cells.cell import Cell
    from inferd.plugin import LoadRequest
    from inferd.plugin.backend import ReportProgress

ROLE: Final = "function "  # what the role of its cells begins with, before the module and the function
PACKAGE_BYTES: Final = 128 << 20
"""Of the process that has imported a package: as a worker without a model, reserved beside what its calls may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """A function that can be called, with its bounds as they hold.

    Attributes:
        name: Its name.
        version: Its version.
        timeout_s: How long a call may take, in seconds.
        memory_bytes: How much memory it may take beyond what its package has.
        asks: How often it may ask models, for each of its inputs.
    """

    name: str
    version: int
    timeout_s: float
    memory_bytes: int
    asks: int = 0


class FunctionSession:
    """The process beside the worker from which each call is forked. May be used from any thread.

    Args:
        limits: Of its package.

    Attributes:
        limits: See there.
        functions: What can be called, by name and version.

    Raises:
        LoadError: The package cannot be imported, or offers nothing that can be called.
    """

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        keep_little()  # the worker has no more than what passes through
        self._cells = Cells(None, size=0, memory_bytes=limits.memory_bytes)
        try:
            self.functions: Mapping[tuple[str, int], Bounded] = self._list()
        except BaseException:
            self.close()
            raise

    def _list(self) -> dict[tuple[str, int], Bounded]:
        cell: Cell | None = None
        try:
            cell = self._cells.spawn(ROLE + self.limits.module)
            cell.channel.send({"do": "list"}, timeout_s=START_TIMEOUT_S)
            told, _ = cell.channel.receive(timeout_s=START_TIMEOUT_S)
        except CellError as error:
            raise LoadError(f"the package of functions {self.limits.module!r} cannot be used: {error}") from error
        except (LateError, ClosedError) as error:
            raise LoadError(f"the package of functions {self.limits.module!r} does not say what it offers") from error
        finally:
            if cell is not None:
                cell.end()
        limits = self.limits
        return {
            (each["name"], each["version"]): Bounded(
                name=each["name"],
                version=each["version"],
                timeout_s=limits.timeout_of(each["name"], each["timeout_s"]),
                memory_bytes=limits.memory_of(each["name"], each["memory_bytes"]),
                asks=each["asks"],
            )
            for each in told["functions"]
        }

    @property
    def most_memory_bytes(self) -> int:
        """What the function takes at most that may take most."""
        return max(each.memory_bytes for each in self.functions.values())

    def spawn(self, function: Bounded, memory_bytes: int, descriptors: tuple[int, ...] = ()) -> Cell:
        """A process for one call of a function, for which that is prepared; it is handed these descriptors.

        Raises:
            CellError: There is none.
        """
        files = json.dumps(dict(self.limits.files))
        role = f"{ROLE}{self.limits.module} {function.name} {function.version} {files}"
        return self._cells.spawn(role, descriptors, memory_bytes=memory_bytes)

    def close(self) -> None:
        """End the process, and all calls with it."""
        with suppress(OSError):
            self._cells.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFunctions:
    """What is loaded of a package.

    Attributes:
        session: What calls.
        description: What it is.
    """

    session: FunctionSession
    description: ModelDescription


class FunctionBackend:
    """Loads packages of functions: in the place of a plugin's backend, and none itself."""

    def __init__(self) -> None:
        self._session: FunctionSession | None = None

    def measure(self, request: LoadRequest) -> MemoryNeed:
        """What calls may take that run at once; the package is imported for that, and stays.

        Raises:
            LoadError: It cannot be.
        """
        session = self._session = FunctionSession(CallLimits.read(request.settings))
        return MemoryNeed(
            weights_bytes=0, workspace_bytes=PACKAGE_BYTES + session.limits.calls * session.most_memory_bytes
        )

    def load(self, request: LoadRequest, progress: ReportProgress) -> LoadedFunctions:
        """What was made to measure it, from now on with the memory that it needs."""
        session = self._session or FunctionSession(CallLimits.read(request.settings))
        progress(1.0)
        names = len({each.name for each in session.functions.values()})
        described = ModelDescription(
            architecture=f"{names} functions of {session.limits.module}",
            parameters=0,
            weight_format="",
            compute_format="",
        )
        return LoadedFunctions(session=session, description=described)
