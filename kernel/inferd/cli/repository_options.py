"""Options of `inferd serve` about a model repository, with the names that Triton's server has for them."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import typer


class Control(StrEnum):
    """When models of a repository come and go."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


REPOSITORY: Final[Any] = typer.Option(
    "--model-repository",
    help="A folder of models with config.pbtxt, as Triton has them, to be served.",
    metavar="DIR",
    exists=True,
    file_okay=False,
)
CONTROL: Final[Any] = typer.Option(
    "--model-control-mode", help="When they come and go: at the start, as the folder changes, or by calls."
)
LOAD: Final[Any] = typer.Option(
    "--load-model", help="One to load at the start where calls say it; * for all; may be repeated.", metavar="NAME"
)


PROGRAMS: Final[Any] = typer.Option(
    "--allow-program", help="A model whose model.py is run, or a pattern of names; may be repeated.", metavar="NAME"
)


def repository_of(
    folder: Path | None, mode: Control | None, load: list[str] | None, programs: list[str] | None
) -> dict[str, Any]:
    """What of the settings of a repository is given."""
    given: dict[str, Any] = {"folder": folder and folder.absolute(), "mode": mode and mode.value}
    given |= {"load": tuple(load or ()), "programs": tuple(programs or ())}
    return {name: value for name, value in given.items() if value}
