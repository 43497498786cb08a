"""What may be asked of functions; their calls are tasks."""

from collections.abc import Callable, Sequence

from inferd.core.function import FUNCTION, Function, Package
from inferd.runtime import functions as runtime


class Functions:
    """Tells of functions.

    Args:
        functions: That the kernel knows.
    """

    def __init__(self, functions: runtime.Functions) -> None:
        self._functions = functions

    async def list(self, sees: Callable[[str], bool]) -> tuple[Sequence[tuple[Function, Package]], Sequence[Package]]:
        """The functions that whoever asks `sees`, by name and the highest version first; packages with a fault."""
        packages = await self._functions.packages()
        found = [(each, package) for package in packages for each in package.functions if sees(FUNCTION + each.name)]
        faults = [each for each in packages if each.why and sees(each.model)]
        return sorted(found, key=lambda one: (one[0].name, -one[0].version)), faults

    async def get(self, name: str, version: int) -> tuple[Function, Package]:
        """One version of a function, 0 for the highest, and its package.

        Raises:
            FunctionNotFoundError: There is none.
        """
        packages = await self._functions.packages()  # which looks for them first
        found = await self._functions.find(name, version)
        return found, next(each for each in packages if each.name == found.package)
