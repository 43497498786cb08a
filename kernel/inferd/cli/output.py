"""How commands speak: tables or JSON on stdout, notes and errors on stderr, and the one edge where errors end."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inferd.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

INTERRUPTED = 130


class Format(StrEnum):
    """What stdout gets."""

    TABLE = "table"
    JSON = "json"


class CommandError(Exception):
    """A command cannot do what it was asked.

    Attributes:
        message: For people, with the fix.
        reason: For programs: a reason of `inferd.v1.ErrorReason`, or a word of the command line itself.
        code: Name of the gRPC status code of a kernel's error, else "".
        metadata: Facts for programs, by name.
    """

    def __init__(self, message: str, *, reason: str, code: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata = dict(metadata or {})


class Output:
    """Where a command writes.

    Attributes:
        json: Whether stdout gets JSON.
        console: Standard error: notes, progress, errors.
    """

    def __init__(self, form: Format) -> None:
        self.json = form is Format.JSON
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def document(self, value: object) -> None:
        """Write one JSON document."""
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))

    def line(self, value: object, *, err: bool = False) -> None:
        """Write one line of JSON; with `err` on stderr, where stdout is another program's."""
        typer.echo(json.dumps(value, ensure_ascii=False), err=err)

    def text(self, text: str) -> None:
        """Write a line for people."""
        typer.echo(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
        """Write a table; `empty` is said instead, on stderr, when there are no rows."""
        table = table_of(columns, rows)
        if table.row_count:
            screen().print(table)
        else:
            self.note(empty)

    @contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show on a terminal what is being waited for; the function given changes it, "" takes it away."""
        if self.json or not self.console.is_terminal:
            yield lambda _: None
            return
        shown = self.console.status("")

        def say(text: str) -> None:
            shown.update(escape(text))
            if text:
                shown.start()
            else:
                shown.stop()

        say(text)
        try:
            yield say
        finally:
            shown.stop()

    def note(self, text: str) -> None:
        """Tell people something that is not the result."""
        self.console.print(text, style="dim", markup=False)

    def error(self, error: CommandError) -> None:
        """Tell an error: one JSON object on stdout, or one red line on stderr."""
        if self.json:
            facts = {name: getattr(error, name) for name in ("reason", "code", "message", "metadata")}
            self.line({"error": facts})
        else:
            self.console.print(f"error: {error.message}", style="red", markup=False)


def screen() -> Console:
    """Standard output for tables; nothing is cut where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of plain texts."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


@contextmanager
def edge(form: Format) -> Iterator[Output]:
    """The edge of a command: expected errors end here as a line and an exit code, never as a traceback."""
    output = Output(form)
    try:
        yield output
    except (CommandError, InferdError) as error:
        output.error(command_error(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of stdout has gone, for example `inferd models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        output.error(CommandError(what, reason="SYSTEM_ERROR"))
        raise typer.Exit(1) from None


def command_error(error: Any) -> CommandError:
    """The same error as a `CommandError`; takes those of the kernel and those of the client."""
    return CommandError(error.message, reason=error.reason, code=error.code, metadata=error.metadata)
