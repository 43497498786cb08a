"""Every hook that a plugin can implement.

A plugin package names a module in the entry-point group `inferd.backends`; that module implements hooks with
`hookimpl`. Importing it must load no framework: it runs in a short-lived child only, but at every start of the kernel.
"""

from collections.abc import Iterable

import pluggy

from inferd.plugin.backend import BackendSpec

PROJECT = "inferd"
ENTRY_POINT_GROUP = "inferd.backends"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def inferd_backends() -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """The backends that this plugin offers, as inert data."""
