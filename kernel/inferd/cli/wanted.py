"""The model that a command names: a file, a folder, or a name of the kernel, the library or the catalogue."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inferd.cli.catalogue import CATALOGUE
from inferd.cli.named import Wanted, is_known, no_folder
from inferd.cli.output import CommandError
from inferd.errors import suggestion
from inferd.runtime.formats import model_name
from inferd.runtime.library import Library
from inferd_client.errors import InferdError, ModelExistsError, ModelLoadError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inferd_client import Client

TAG_CHARACTERS = 8
NAME_CHARACTERS = 128


def check(wanted: Wanted, data_dir: Callable[[], Path]) -> None:
    """See that a kernel that is only started would find the model.

    Raises:
        CommandError: It would not; the message says how to get it.
    """
    if not is_known(wanted, data_dir):
        raise not_known(Library(data_dir()), wanted.name, no_model(wanted.name))


@contextmanager
def resolved(client: Client, wanted: Wanted, data_dir: Callable[[], Path], *, keep: bool = True) -> Iterator[str]:
    """As `resolve`; a model that is only now made known is forgotten behind the block where it was not loaded.

    Args:
        client: Of the kernel.
        wanted: What a command names.
        data_dir: Where the library is.
        keep: Leave it known where the block ends without an error.
    """
    before = {model.name for model in client.list_models()}
    name = resolve(client, wanted, data_dir)
    try:
        yield name
    except (CommandError, InferdError) as error:
        if name not in before:
            _forget(client, name, failed=error.reason == ModelLoadError.reason)
        raise
    if not keep and name not in before:
        _forget(client, name, failed=False)


def _forget(client: Client, name: str, *, failed: bool) -> None:
    """Leave nothing of a model; one that is loaded, or that somebody else uses meanwhile, stays."""
    with suppress(InferdError):
        if failed:
            client.unload_model(name)  # what is left of the load
        client.delete_model(name)


def resolve(client: Client, wanted: Wanted, data_dir: Callable[[], Path]) -> str:
    """The kernel's name for a model, made known to it where it is a file, was pulled meanwhile, or is to be changed.

    Raises:
        CommandError: There is no such model; the message says how to get it.
    """
    path = wanted.path()
    if path is not None:
        return _create_from_file(client, wanted, path)
    try:
        known = client.get_model(wanted.name)
    except ModelNotFoundError as error:
        library = Library(data_dir())
        manifest = library.find(wanted.name)
        if manifest is None:
            raise not_known(library, wanted.name, error if "/" not in wanted.name else no_model(wanted.name)) from None
        source = str(library.path(manifest))
        own = Wanted(name=wanted.name, backend=manifest.backend, settings=manifest.settings)
        known = client.create_model(own.name, source, backend=own.backend, settings=own.settings)
    own = Wanted(name=known.name, backend=known.backend, device=known.device, settings=known.settings)
    merged = changed(own, wanted)
    if merged == own:
        return known.name
    # What the kernel chose for the known one it chooses again; to name it would say that somebody asked for it.
    chosen = not wanted.backend and not known.backend_reason.startswith("requested by name")
    return _create_variant(client, merged, known.source, backend="" if chosen else merged.backend)


def changed(own: Wanted, wanted: Wanted) -> Wanted:
    """How a model is to be loaded: as wanted, and as its own where nothing is said.

    Another backend has other settings and devices, another device may have another backend.
    """
    other = bool(wanted.backend) and wanted.backend != own.backend
    elsewhere = bool(wanted.device) and wanted.device != own.device
    return replace(
        own,
        backend=wanted.backend or ("" if elsewhere else own.backend),
        device=wanted.device or ("" if other else own.device),
        settings={**({} if other else own.settings), **wanted.settings},
    )


def _create_from_file(client: Client, wanted: Wanted, path: Path) -> str:
    name = model_name(path.name, folder=path.is_dir())
    if wanted.changed:
        return _create_variant(client, replace(wanted, name=name), str(path))
    try:
        return client.create_model(name, str(path)).name
    except ModelExistsError:  # of another file with this stem
        tag = hashlib.sha256(str(path).encode()).hexdigest()[:TAG_CHARACTERS]
        return client.create_model(f"{name[: NAME_CHARACTERS - 1 - TAG_CHARACTERS]}:{tag}", str(path)).name


def _create_variant(client: Client, wanted: Wanted, source: str, *, backend: str | None = None) -> str:
    """A model beside the one of this name, whose own name tells what is other about it."""
    asked = wanted.backend if backend is None else backend
    facts = [source, wanted.backend, wanted.device, dict(sorted(wanted.settings.items()))]
    tag = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:TAG_CHARACTERS]
    name = f"{wanted.name[: NAME_CHARACTERS - 1 - TAG_CHARACTERS]}:{tag}"
    model = client.create_model(name, source, backend=asked, device=wanted.device, settings=dict(wanted.settings))
    return model.name


def no_model(name: str) -> ModelNotFoundError:
    """The error of a name that stands for neither a model nor a file."""
    if "/" in name:
        return ModelNotFoundError(f"there is no file {name}, and no model has that name")
    return ModelNotFoundError(f"no model {name!r}")


def not_known(library: Library, name: str, error: InferdError) -> CommandError:
    """The error of a name that stands for no model: how to get it, or the nearest name."""
    if name in CATALOGUE:
        message = f"{name} is not pulled; get it with: inferd pull {name}"
        return CommandError(message, reason="MODEL_NOT_PULLED")
    if (path := Path(name).expanduser()).is_dir():
        message = f"{error.message}, and the folder of that name is none: {no_folder(path)}"
        return CommandError(message, reason=error.reason, code=error.code, metadata=error.metadata)
    pulled = [manifest.name for manifest in library.manifests()]
    near = "" if "suggestion" in error.metadata else suggestion(name, [*pulled, *CATALOGUE])
    hint = f"; did you mean {near!r}?" if near else ""
    if error.message == f"no model {name!r}" and not near:
        hint = f"; `inferd models` lists the known ones, `inferd pull {next(iter(CATALOGUE))}` gets one to begin with"
    return CommandError(error.message + hint, reason=error.reason, code=error.code, metadata=error.metadata)
