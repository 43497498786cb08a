"""`inferd plan`: what loading a model would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from inferd.cli.amounts import size
from inferd.cli.kernel import connected_or_private
from inferd.cli.named import Wanted
from inferd.cli.plain import plain
from inferd.cli.wanted import check, resolved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inferd.cli.output import Output
    from inferd_api.v1.model_service_pb2 import LoadPlan

GROWN: Final = 1.25  # times the file: from here on it is told how far weights grow in memory


def plan(output: Output, address: str, wanted: Wanted, *, data_dir: Callable[[], Path]) -> None:
    """Tell what loading one more instance of a model would take, as it is or as it is wanted; none is made known.

    Raises:
        typer.Exit: It does not fit: exit code 1.
    """
    wanted.path()
    named = Wanted(name=wanted.name)
    with (
        connected_or_private(output, address, "", before=lambda: check(wanted, data_dir)) as client,
        resolved(client, named, data_dir, keep=False) as name,
    ):
        file_bytes = client.get_model(name).size_bytes
        found = client.plan_load(name, backend=wanted.backend, device=wanted.device, settings=wanted.settings)
    if output.json:
        output.document(plain(found))
    else:
        for line in explain(found, file_bytes=file_bytes):
            output.text(line)
    if not found.fits:
        raise typer.Exit(1)


def explain(found: LoadPlan, *, file_bytes: int = 0) -> list[str]:
    """A plan for people; where it is known how large the model's files are, with how far its weights grow."""
    need = found.need
    parts = {"weights": need.weights_bytes, "KV pool": need.kv_bytes, "workspace": need.workspace_bytes}
    lines = [found.reason, "needs: " + ", ".join(f"{name} {size(amount)}" for name, amount in parts.items())]
    if need.kv_saved_bytes:
        whole = need.kv_bytes + need.kv_saved_bytes
        lines.append(
            f"KV pool: layers that need the last tokens only save {size(need.kv_saved_bytes)} of {size(whole)}"
            " that all tokens would take"
        )
    if need.paged_bytes:
        lines.append(
            f"experts: {size(need.paged_bytes)} are paged by the operating system from a file in the worker's scratch,"
            " of which workers.scratch_bytes must leave so much"
        )
    if found.device_reason:
        where = " and ".join((found.device_id, *found.devices_beside))
        lines.append(f"why {where}: {found.device_reason}")
    if 0 < file_bytes * GROWN < need.weights_bytes:
        lines.append(f"weights: {size(file_bytes)} in the file become {size(need.weights_bytes)} in memory")
    for words, names in (
        ("idle instances that would be evicted", found.evicted_instances),
        ("busy instances that would have to end first", found.busy_instances),
        ("leases that would have to be released first", found.lease_ids),
    ):
        if names:
            lines.append(f"{words}: {', '.join(names)}")
    return lines
