"""By which ways what is pulled comes: those of the user, or those that a kernel allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from inferd.cli import pip
from inferd.cli.download import web_client

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx

Dial: TypeAlias = "Callable[[], AbstractContextManager[httpx.Client]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Ways to the files of models.

    Attributes:
        client: Makes a client of HTTP for files and lists of files.
        index_client: One for what was resolved.
        resolve: Finds the wheel that meets a requirement.
        instead: Fetches a wheel where the client may not; None for not at all.
    """

    client: Dial
    index_client: Dial
    resolve: Callable[[str], pip.Found]
    instead: Callable[[str, Path], Path] | None = None


OWN = Network(
    client=web_client,
    index_client=lambda: web_client(any_scheme=True),
    resolve=pip.resolve,
    instead=pip.download,
)
"""Those of the user: its proxy, its authorities, its indexes with their credentials."""
