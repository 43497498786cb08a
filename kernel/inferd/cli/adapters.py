"""`inferd adapters load`, `ls` and `rm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inferd.cli.amounts import size
from inferd.cli.kernel import connected
from inferd.cli.plain import plain
from inferd_api.v1.adapter_service_pb2 import AdapterState

if TYPE_CHECKING:
    from inferd.cli.output import Output
    from inferd_api.v1.adapter_service_pb2 import Adapter

COLUMNS = ("ADAPTER", "STATE", "RANK", "SIZE", "MEMORY", "CHANGES", "PATH")


def load(output: Output, address: str, model: str, name: str, path: str, *, digest: str, replace: bool) -> None:
    """Make an adapter of a model known."""
    with connected(address) as client:
        whole = str(Path(path).absolute())
        adapter = client.load_adapter(model, name, whole, digest=digest, replace=replace)
    if output.json:
        output.document(plain(adapter))
    else:
        later = "" if adapter.rank else "; the model is not loaded, and it is looked at when it is"
        output.text(f"tasks of {adapter.model} may ask for adapter {adapter.name} ({adapter.digest}){later}")


def list_adapters(output: Output, address: str, model: str) -> None:
    """List the adapters of a model."""
    with connected(address) as client:
        adapters = client.list_adapters(model)
    if output.json:
        output.document({"adapters": [plain(each) for each in adapters]})
    else:
        empty = f"no adapters; load one with: inferd adapters load {model} NAME PATH"
        output.table(COLUMNS, map(_row, adapters), empty=empty, gives_way="PATH")


def remove(output: Output, address: str, model: str, name: str) -> None:
    """Take an adapter from a model."""
    with connected(address) as client:
        client.unload_adapter(model, name)
    if output.json:
        output.document({"model": model, "name": name, "unloaded": True})
    else:
        output.text(f"new tasks of {model} do not find adapter {name} any more")


def _row(adapter: Adapter) -> tuple[str, ...]:
    state = AdapterState.Name(adapter.state).removeprefix("ADAPTER_STATE_").lower()
    changes = adapter.error.message if adapter.HasField("error") else ", ".join(adapter.targets)
    return (
        adapter.name,
        state,
        str(adapter.rank or "-"),
        size(adapter.size_bytes),
        size(adapter.memory_bytes) if adapter.memory_bytes else "-",
        changes,
        adapter.path,
    )
