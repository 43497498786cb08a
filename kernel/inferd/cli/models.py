"""`inferd models`, `ps`, `load` and `unload`: models and their instances."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from inferd.cli.amounts import size, span
from inferd.cli.catalogue import CATALOGUE
from inferd.cli.changing import Listing
from inferd.cli.kernel import connected, reachable
from inferd.cli.lacking import note_lacking
from inferd.cli.plain import plain
from inferd.cli.wanted import resolved
from inferd.runtime.library import Library
from inferd_api.v1.model_pb2 import InstanceState, Model, ModelState
from inferd_client import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inferd.cli.catalogue import CatalogueEntry
    from inferd.cli.named import Wanted
    from inferd.cli.output import Output
    from inferd.runtime.library import Manifest
    from inferd_api.v1.model_pb2 import Instance
    from inferd_client import Client


NOT_PULLED = "NOT_PULLED"
NO_MODELS = "no models; get one with: inferd pull smollm2"
PLACED = "WHY THIS DEVICE"
INSTANCES = ("INSTANCE", "MODEL", "STATE", "BACKEND", "DEVICE", "PID", "MEMORY", "TASKS", "CONTEXT", "UP", PLACED)


class Row(NamedTuple):
    """A model of the list: `model` is None while no kernel knows it."""

    name: str
    state: str
    size_bytes: int
    backend: str
    settings: Mapping[str, str]
    origin: str
    model: Model | None

    @property
    def fraction(self) -> float:
        """How far its load is, from above 0 to below 1; 0 where none is under way."""
        instances = self.model.instances if self.model is not None else ()
        return max((each.load_fraction for each in instances if 0 < each.load_fraction < 1), default=0.0)

    @property
    def shown(self) -> str:
        """Its name, with its aliases behind it."""
        aliases = ", ".join(self.model.aliases) if self.model is not None else ""
        return f"{self.name} ({aliases})" if aliases else self.name


def list_models(
    output: Output,
    address: str,
    data_dir: Path,
    *,
    with_catalogue: bool,
    labels: Mapping[str, str] | None = None,
    watch: bool = False,
) -> None:
    """List the models of the kernel, where one runs, and of the library; `with_catalogue` adds those not pulled.

    With `labels` only those that the kernel knows with them. `watch` follows those of the kernel, which has to run.
    """
    listing = _listing(f"no model has the label {pairs(labels)}" if labels else NO_MODELS)
    with connected(address) as client:
        if watch:
            listing.follow(output, lambda: known_models(client, Library(data_dir), with_catalogue=False, labels=labels))
        running = reachable(client)
        faults = client.declaration_faults() if running else []
        library = Library(data_dir)
        rows = known_models(client if running else None, library, with_catalogue=with_catalogue, labels=labels)
    names = {row.name for row in rows}
    if labels:  # what is left out says nothing of its labels
        faults = [fault for fault in faults if fault.name in names]
    if output.json:
        found = document(rows, library, kernel=client.address if running else None)
        if labels:
            found["library"] = [each for each in found["library"] if each["name"] in names]
        output.document({**found, "faults": [plain(fault) for fault in faults]})
        return
    for fault in faults:
        of = f", {fault.field}" if fault.field else ""
        output.note(f"a model is left out: {fault.where or fault.name}{of}: {fault.why or 'see its log'}")
    if not running:
        output.note(f"no kernel answers at {client.address}; these are the models of the library")
    listing.tell(output, rows)


def _listing(empty: str) -> Listing[Row]:
    """How models are told."""
    return Listing(
        columns=("NAME", "STATE", "SIZE", "BACKEND", "SETTINGS", "FROM"),
        row=lambda row: (
            row.shown,
            row.state.lower() + (f" {row.fraction:.0%}" if row.fraction else ""),
            size(row.size_bytes),
            row.backend,
            pairs(row.settings),
            row.origin,
        ),
        document=lambda row: {"name": row.name} if row.model is None else plain(row.model),
        empty=empty,
        gives_way="FROM",
        goes=("SETTINGS", "FROM", "BACKEND"),
    )


def document(rows: list[Row], library: Library, *, kernel: str | None) -> dict[str, Any]:
    """For JSON: `models` as in `ListModelsResponse`, and beside them what was pulled and what could be."""
    return {
        "kernel": kernel,
        "models": [plain(row.model) for row in rows if row.model],
        "library": [_written(each) | {"path": str(library.path(each))} for each in library.manifests()],
        "catalogue": [_listed(row.name, CATALOGUE[row.name]) for row in rows if row.state == NOT_PULLED],
    }


def _listed(name: str, entry: CatalogueEntry) -> dict[str, Any]:
    return {"name": name} | _written(entry) | {"sampling": entry.sampling.numbers}


def _written(entry: Manifest | CatalogueEntry) -> dict[str, Any]:
    """For JSON, where numbers of 64 bits are strings."""
    return asdict(entry) | {"size_bytes": str(entry.size_bytes)}


def known_models(
    client: Client | None, library: Library, *, with_catalogue: bool, labels: Mapping[str, str] | None = None
) -> list[Row]:
    """Every model that is known, by name; a kernel's words win over the library's, those over the catalogue's.

    With `labels` only those that the kernel knows with them.

    A pulled file and another file that the kernel knows by the same name are two models.
    """
    pulled = {manifest.name: manifest for manifest in library.manifests()}
    rows = []
    for model in client.list_models(labels=labels) if client else ():
        origin, manifest = model.source, pulled.get(model.name)
        if manifest is not None and is_pulled(model, manifest, library):
            origin = pulled.pop(model.name).source
        settings = dict(model.settings)
        rows.append(Row(model.name, _state(model), model.size_bytes, model.backend, settings, origin, model))
    for name, manifest in pulled.items() if not labels else ():
        settings = dict(manifest.settings)
        rows.append(Row(name, "PULLED", manifest.size_bytes, manifest.backend, settings, manifest.source, None))
    known = {row.name for row in rows}
    for name, entry in CATALOGUE.items() if with_catalogue else ():
        if name not in known:
            rows.append(Row(name, NOT_PULLED, entry.size_bytes, "", {}, entry.source, None))
    return sorted(rows, key=lambda row: row.name)


def is_pulled(model: Model, manifest: Manifest, library: Library) -> bool:
    """Whether a model of the kernel is made of a file of the library."""
    return model.source.removeprefix("file://") == str(library.path(manifest))


def pairs(values: Mapping[str, Any]) -> str:
    """Values by name, for people."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def ps(output: Output, address: str, *, watch: bool = False) -> None:
    """List the instances that hold memory, and models of which none comes up though tasks wait; or follow instances."""
    listing = Listing(
        columns=INSTANCES,
        row=_instance_row,
        document=plain,
        empty="no model is loaded; one loads with: inferd run MODEL",
        gives_way=PLACED,
        goes=(PLACED, "CONTEXT", "PID", "UP", "BACKEND", "DEVICE", "TASKS"),
        moving=("UP", "MEMORY"),
    )
    with connected(address) as client:
        if watch:
            listing.follow(output, lambda: (each for model in client.list_models() for each in model.instances))
        models = list(client.list_models())
    instances = [instance for model in models for instance in model.instances]
    held = {model.name: model.queue_reason for model in models if model.queue_reason}
    if output.json:
        waiting = [{"model": name, "reason": reason} for name, reason in held.items()]
        output.document({"instances": [plain(instance) for instance in instances], "waiting": waiting})
        return
    listing.tell(output, instances)
    for name, reason in held.items():
        output.note(f"tasks wait for {name}: {reason}")


def _instance_row(instance: Instance) -> tuple[str, ...]:
    """An instance, see `INSTANCES`."""
    return (
        instance.instance_id,
        instance.model,
        InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_").lower(),
        instance.backend,
        " ".join((instance.device, *instance.devices_beside)),
        str(instance.pid or ""),
        size(instance.memory_bytes) + (f" (+{size(instance.grown_bytes)})" if instance.grown_bytes else ""),
        f"{instance.running_tasks}/{instance.max_tasks}",
        str(instance.context_tokens or ""),
        span(time.time() - instance.start_time.ToSeconds()),
        instance.device_reason,
    )


def load(
    output: Output, address: str, tenant: str, wanted: Wanted, *, data_dir: Callable[[], Path], lease: str
) -> None:
    """Load a model and show how far it is."""
    wanted.path()
    # The client is for its errors; progress and answer come at once, which takes asyncio.
    with connected(address, tenant) as client, resolved(client, wanted, data_dir) as name:
        model = asyncio.run(_load(output, client.address, tenant, name, lease))
        note_lacking(output, client, model.backend)
    if output.json:
        output.document(plain(model))
        return
    for instance in model.instances:
        took_s = instance.load_duration.ToTimedelta().total_seconds()
        output.text(
            f"{name} is loaded by {instance.backend} on {' and '.join((instance.device, *instance.devices_beside))} in"
            f" {took_s:.1f} s, "
            f"{size(instance.memory_bytes)}: {instance.description}"
        )


def unload(output: Output, address: str, name: str, *, instance_id: str | None, force: bool) -> None:
    """Unload a model, or one of its instances, and tell what the host has back."""
    with connected(address) as client:
        try:
            answer = client.unload_model(name, instance_id=instance_id, force=force)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--instance") from None
    if output.json:
        output.document(plain(answer))
    else:
        kept = answer.kept_prefix_bytes
        less = f", but {size(kept)} of its prefix cache, which stay until it is loaded again" if kept else ""
        output.text(f"{instance_id or name} is unloaded; {size(answer.returned_bytes)} are given back{less}")


async def _load(output: Output, address: str, tenant: str, name: str, lease: str) -> Model:
    with output.status(f"loading {name}") as say:

        async def show(client: AsyncClient) -> None:
            async with aclosing(client.watch_model(name)) as models:
                async for model in models:
                    say(f"loading {name} {max((i.load_fraction for i in model.instances), default=0):.0%}")

        async with AsyncClient(address, tenant=tenant) as client:
            shown = asyncio.create_task(show(client))
            try:
                return await client.load_model(name, lease=lease or None)
            finally:
                shown.cancel()
                await asyncio.gather(shown, return_exceptions=True)


def _state(model: Model) -> str:
    return ModelState.Name(model.state).removeprefix("MODEL_STATE_")
