"""`inferd rm`: models out of the library, and out of the running kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from inferd.cli.amounts import size
from inferd.cli.fetches import is_fetched
from inferd.cli.kernel import connected, reachable
from inferd.cli.output import CommandError, command_error
from inferd.cli.wanted import not_known
from inferd.errors import present
from inferd.runtime.library import Library
from inferd_client.errors import InferdError, ModelBusyError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_client import Client


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed.

    Attributes:
        freed_bytes: Of its file; None for no file.
        source: Of the model.
        declared: Where it is declared; "" for nowhere.
        aliases: What stood for it, and for nothing now.
    """

    freed_bytes: int | None
    source: str
    declared: str
    aliases: list[str]


def remove(
    output: Output, address: str, data_dir: Path, names: Sequence[str], *, drain: bool = False, force: bool = False
) -> None:
    """Remove models; one that cannot be removed does not spare the others.

    Raises:
        typer.Exit: One of them is in use or not known: exit code 1.
    """
    library, failed = Library(data_dir), False
    with connected(address) as client:
        kernel = client if reachable(client) else None
        for name in names:
            try:
                removed = _remove(kernel, library, name, drain=drain, force=force)
            except (CommandError, InferdError) as error:
                output.error(command_error(error))
                failed = True
                continue
            except OSError as error:
                output.error(CommandError(f"{name} stays: {error.strerror}: {error.filename}", reason="SYSTEM_ERROR"))
                failed = True
                continue
            _tell(output, name, removed)
    if failed:
        raise typer.Exit(1)


def _tell(output: Output, name: str, removed: Removed) -> None:
    """What became of a model, its file and its names."""
    freed_bytes, declared = removed.freed_bytes, removed.declared
    if output.json:
        facts: dict[str, object] = {"name": name, "freed_bytes": None if freed_bytes is None else str(freed_bytes)}
        facts |= {"declared": declared} if declared else {}
        output.line(facts | ({"aliases": removed.aliases} if removed.aliases else {}))
        return
    if freed_bytes is None and removed.source.startswith("blob:"):
        output.text(f"{name} is forgotten; its blobs stay as long as the kernel keeps them: inferd blobs list")
    elif freed_bytes is None and is_fetched(removed.source):
        output.text(f"{name} is forgotten; what was fetched goes with the last version of a model that is of it")
    elif freed_bytes is None:
        output.text(f"{name} is forgotten; its file was not pulled and stays")
    else:
        output.text(f"{name} is removed; {size(freed_bytes)} are freed")
    for alias in removed.aliases:
        output.note(f"its alias {alias} stands for nothing any more")
    if declared:
        back = "it is known again at the kernel's next start or SIGHUP, unless it is taken out there"
        output.note(f"{name} is declared in {declared}: {back}")


def _remove(kernel: Client | None, library: Library, name: str, *, drain: bool, force: bool) -> Removed:
    """Forget a model and all that are made of its file, then remove the file.

    Raises:
        CommandError, InferdError: It is in use, or not known.
    """
    library.check_removable(name)
    manifest = library.find(name)
    pulled = str(library.path(manifest)) if manifest is not None else None
    known, source, declared, aliases = False, "", "", list[str]()
    for model in kernel.list_models() if kernel is not None else ():
        if model.name == name or (pulled is not None and model.source == pulled):
            _forget(present(kernel), model.name, drain=drain, force=force)
            declared = declared or model.declared
            aliases += model.aliases
            known = known or model.name == name
            source = model.source if model.name == name else source
    freed_bytes = library.remove(name)
    if freed_bytes is None and not known:
        raise not_known(library, name, ModelNotFoundError(f"no model {name!r}"))
    return Removed(freed_bytes, source, declared, aliases)


def _forget(kernel: Client, name: str, *, drain: bool, force: bool) -> None:
    try:
        kernel.delete_model(name, drain=drain, force=force)
    except ModelBusyError as error:
        idle = {"tasks": "0", "leases": "0"}.items() <= error.metadata.items()
        if idle and error.metadata.get("instances") != "0":
            kernel.delete_model(name, drain=True)  # it is loaded, and nobody uses it
            return
        fix = f"{error.message}: inferd unload {name}, or inferd rm --drain {name}"
        raise CommandError(fix, reason=error.reason, code=error.code, metadata=error.metadata) from None
