"""What a command is given to read: files and stdin, as text."""

from __future__ import annotations

import select
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, BinaryIO

import typer

from inferd.cli.amounts import size

if TYPE_CHECKING:
    import io
    from pathlib import Path

    from inferd.cli.output import Output

MOST_BYTES = 16 << 20  # of one file, or of stdin: more than any kernel takes as a prompt
SILENCE_S = 2.0  # of stdin, before it is told that it is read


def compose(*parts: str) -> str:
    """One text of several, blank ones left out, an empty line between two."""
    return "\n\n".join(part for part in parts if part.strip())


def read_text(path: Path) -> str:
    """A text file; "-" is no file here.

    Raises:
        typer.BadParameter: It cannot be read, is too long or no UTF-8.
    """
    try:
        with path.expanduser().open("rb") as file:
            return _decode(file, str(path), "--file")
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="--file") from None


def read_image(path: Path) -> str:
    """The file of a picture, as a data URL; what is in it the kernel's worker sees.

    Raises:
        typer.BadParameter: It cannot be read, is empty, or too long.
    """
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint="--image") from None
    if not 0 < len(data) <= MOST_BYTES:
        raise typer.BadParameter(
            f"{path} has {'more than ' if data else ''}{size(min(len(data), MOST_BYTES))}", param_hint="--image"
        )
    return f"data:image/*;base64,{b64encode(data).decode()}"


def read_stdin(output: Output) -> str:
    """All of stdin; where it is silent for long, people are told what is waited for.

    Raises:
        typer.BadParameter: It is too long or no UTF-8.
    """
    stream = sys.stdin.buffer
    try:
        silent = not select.select([stream], [], [], SILENCE_S)[0]
    except (OSError, ValueError):  # no file of the system's
        silent = False
    if silent and not output.json:
        output.note("waiting for stdin to end; leave it out with: < /dev/null")
    return _decode(stream, "stdin", "PROMPT")


def _decode(stream: BinaryIO | io.BufferedIOBase, name: str, parameter: str) -> str:
    data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise typer.BadParameter(f"{name} has more than {size(MOST_BYTES)}", param_hint=parameter)
    try:
        return data.decode("utf-8-sig")  # without the mark that some editors write
    except UnicodeDecodeError as error:
        why = f"{name} is no UTF-8 text: byte {data[error.start]:#04x} at position {error.start}"
        raise typer.BadParameter(why, param_hint=parameter) from None
