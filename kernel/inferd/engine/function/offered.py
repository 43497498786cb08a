"""The functions that a module offers, held against what functions may be."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pluggy

from inferd.engine.function.shape import Shape
from inferd.plugin import hookspecs
from inferd.plugin.functions import mark_of
from inferd.plugin.probe import check_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inferd.plugin.functions import Mark

MOST_FUNCTIONS: Final = 256  # of a package, versions of one counted each

Key = tuple[str, int]
"""Name and version."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A function of a package.

    Attributes:
        mark: What it says of itself.
        shape: What it takes and gives.
        call: Itself.
    """

    mark: Mark
    shape: Shape
    call: Callable[..., Any]


def collect(module: str) -> Mapping[Key, Offered]:
    """Import a module and ask it for its functions.

    Raises:
        ValueError: It offers none, or one is not as it must be; the message names it.
        pluggy.PluginValidationError: It implements a hook with arguments.
        Exception: Whatever importing it raises.
    """
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugin = importlib.import_module(module)
    check_hooks(plugins, plugin)
    plugins.register(plugin, module)
    given = [each for offered in plugins.hook.inferd_functions() for each in offered]
    if not given:
        raise ValueError(
            f"{module} offers no functions: implement the hook `inferd_functions` with `@hookimpl` in {plugin.__file__}"
        )
    if len(given) > MOST_FUNCTIONS:
        raise ValueError(f"{module} offers {len(given)} functions; at most {MOST_FUNCTIONS}: make two packages of it")
    found: dict[Key, Offered] = {}
    for each in given:
        mark = mark_of(each)
        key = mark.name, mark.version
        if key in found:
            raise ValueError(f"{module} offers function {mark.name!r} twice with version {mark.version}")
        found[key] = Offered(mark, Shape(each), each)
    return found
