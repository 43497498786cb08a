"""Every hook that a plugin can implement.

A plugin package names a module in the entry-point group `inferd.backends`; that module implements hooks with
`hookimpl`. Importing it must load no framework: it runs in a short-lived child only, but at every start of the kernel.
A package of functions names one in the group `inferd.functions`: that is imported when a function is asked for.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from inferd.plugin.backend import BackendSpec

PROJECT = "inferd"
ENTRY_POINT_GROUP = "inferd.backends"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def inferd_backends() -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """The backends that this plugin offers, as inert data."""


@hookspec
def inferd_functions() -> Iterable[Callable[..., Any]]:  # type: ignore[empty-body]
    """The functions that this package offers, each with `@function()`."""
