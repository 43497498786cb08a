"""`inferd completion`: what a shell is told, so that it completes commands, options and what they may be."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from inferd.cli.output import Output

PROGRAM: Final = "inferd"
VARIABLE: Final = "_INFERD_COMPLETE"
"""By which a shell asks the program for what may come next."""


class Shell(StrEnum):
    """Those that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def script_of(shell: Shell) -> str:
    """What a shell has to read."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415 - no other command needs it

    return get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value)  # nosec B604 - the name of a shell; nothing is run


def tell_script(output: Output, shell: Shell) -> None:
    """Write it to stdout."""
    script = script_of(shell)
    if output.json:
        output.document({"shell": shell.value, "script": script})
    else:
        output.text(script)


def named() -> str | None:
    """What the program is called where a shell asks it what may come next, which it is then ready to answer."""
    if VARIABLE not in os.environ:
        return None
    from typer.completion import completion_init  # type: ignore[attr-defined]  # noqa: PLC0415 - as above

    completion_init()
    return PROGRAM
