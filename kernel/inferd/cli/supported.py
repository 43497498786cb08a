"""`inferd models --supported`: what files may hold, as the installed backends say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.cli.plugins import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.cli.output import Output
    from inferd.config import Settings


def list_supported(output: Output, settings: Callable[[], Settings]) -> None:
    """A table of kinds and names for each backend that is installed here, whether a kernel runs or not."""
    specs = [report.spec for report in find(settings()) if report.spec is not None]
    if output.json:
        output.document({spec.name: {kind: list(names) for kind, names in spec.supported.items()} for spec in specs})
        return
    rows = []
    for spec in specs:
        rows += [(spec.name, kind, ", ".join(names)) for kind, names in spec.supported.items()]
        if not spec.supported:
            rows.append((spec.name, ", ".join(spec.formats), spec.description))
    output.table(("BACKEND", "WHAT", "NAMES"), rows, empty="no plugins are installed")
