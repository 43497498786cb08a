"""What backends work without, told where it is felt: when a model of theirs is loaded or shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd_api.v1.host_pb2 import BackendState

if TYPE_CHECKING:
    from inferd.cli.output import Output
    from inferd_client import Client


def note_lacking(output: Output, client: Client, backend: str) -> None:
    """Tell what a backend of the kernel works without, as when it computes more slowly for it."""
    for each in client.list_backends():
        if each.name == backend and each.why and each.state == BackendState.BACKEND_STATE_READY:
            output.note(words(backend, each.why, each.fix))


def words(backend: str, why: str, fix: str) -> str:
    """That in a sentence."""
    mend = f"; fix: {fix}, then start the kernel again" if fix else ""
    return f"backend {backend}: {why}{mend}"
