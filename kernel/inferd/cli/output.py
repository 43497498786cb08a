"""How commands speak: tables or JSON on stdout, notes and errors on stderr, and the one edge where errors end."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inferd.cli.visible import visible, visible_json, visible_line
from inferd.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

INTERRUPTED = 130
NOBODY_READS = 141  # 128 and SIGPIPE, as of programs that the signal ends
MISUSE = 2
CLOSED = 1  # name of a stdout that was closed when the program started, see `open_streams`
WIDE = 10_000  # of lines that are no terminal's
GAP = 2  # between two columns
LEAST_ROOM = 12  # of a column that gives way
STATE = "STATE"  # the column that goes last


CODES: Mapping[str, str] = {
    **dict.fromkeys(("USAGE", "SETTINGS_INVALID", "SOURCE_INVALID", "CREDENTIAL_INVALID"), "INVALID_ARGUMENT"),
    **dict.fromkeys(
        ("MODEL_NOT_FOUND", "MODEL_NOT_PULLED", "PROGRAM_NOT_FOUND", "NO_STORE", "BLOB_NOT_FOUND"), "NOT_FOUND"
    ),
    **dict.fromkeys(("AUTHORITY_NOT_FOUND", "CERTIFICATE_NOT_FOUND", "VERSION_NOT_FOUND"), "NOT_FOUND"),
    **dict.fromkeys(("AUTHORITY_BROKEN", "PACKAGE_MISSING", "FEDERATION_TOO_FEW_CLIENTS"), "FAILED_PRECONDITION"),
    **dict.fromkeys(("MODEL_LOAD_FAILED", "LEASE_LOST", "PROGRAM_NOT_RUN", "STORE_NOT_EMPTY"), "FAILED_PRECONDITION"),
    **dict.fromkeys(
        ("DOWNLOAD_FAILED", "DOWNLOAD_BUSY", "KERNEL_NOT_STARTED", "KERNEL_ENDED", "CLUSTER_UNUSABLE"), "UNAVAILABLE"
    ),
    **dict.fromkeys(("SYSTEM_ERROR", "GUARD_DIED"), "INTERNAL"),
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
    **dict.fromkeys(("ACCESS_DENIED", "PERMISSION_DENIED"), "PERMISSION_DENIED"),
    "CHECKSUM_MISMATCH": "DATA_LOSS",
    **dict.fromkeys(("STORE_DAMAGED", "AUDIT_BROKEN"), "DATA_LOSS"),
    "AUDIT_EMPTY": "FAILED_PRECONDITION",
    "DISK_FULL": "RESOURCE_EXHAUSTED",
    "MODEL_EXISTS": "ALREADY_EXISTS",
    "AUTHORITY_EXISTS": "ALREADY_EXISTS",
    "BLOBS_MISSING": "DATA_LOSS",
    "BUNDLE_DAMAGED": "DATA_LOSS",
    "BUNDLE_UNKNOWN": "INVALID_ARGUMENT",
    **dict.fromkeys(("BUNDLE_BASE_MISSING", "BUNDLE_OLDER"), "FAILED_PRECONDITION"),
    **dict.fromkeys(("BUNDLE_NOT_TRUSTED", "BUNDLE_SEALED"), "PERMISSION_DENIED"),
    **dict.fromkeys(("KEY_EXISTS", "FILE_EXISTS"), "ALREADY_EXISTS"),
    "KEY_INVALID": "INVALID_ARGUMENT",
    "LIMIT_EXCEEDED": "RESOURCE_EXHAUSTED",
}
"""The gRPC status codes of the command line's own reasons."""


class Format(StrEnum):
    """What stdout gets."""

    TABLE = "table"
    JSON = "json"


class CommandError(Exception):
    """A command cannot do what it was asked.

    Attributes:
        message: For people, with the fix.
        reason: For programs: a reason of `inferd.v1.ErrorReason`, or a word of the command line itself.
        code: Name of the gRPC status code, of the kernel's error or nearest to the command line's own.
        metadata: Facts for programs, by name.
    """

    def __init__(self, message: str, *, reason: str, code: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code or CODES.get(reason, "UNKNOWN")
        self.metadata = dict(metadata or {})


class Screen(Console):
    """Text for people, taken as it is: no markup, no emoji by their names. Who reads it may go."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Leave the end of the command to its edge."""
        raise BrokenPipeError


class Output:
    """Where a command writes.

    What is shown to people is `visible`: no text from elsewhere reaches a terminal as commands to it.

    Args:
        form: What stdout gets.
        errors: Whether JSON goes to stderr, because stdout is another program's.

    Attributes:
        json: Whether JSON is written.
        console: Standard error: notes, progress, errors.
    """

    def __init__(self, form: Format, *, errors: bool = False) -> None:
        self.json = form is Format.JSON
        self.console = Screen(stderr=True, soft_wrap=True)
        self._errors = errors

    def document(self, value: object) -> None:
        """Write one JSON document."""
        self._write(value, indent=2)

    def line(self, value: object) -> None:
        """Write one line of JSON."""
        self._write(value, indent=None)

    def _write(self, value: object, *, indent: int | None) -> None:
        stream = sys.stderr if self._errors else sys.stdout
        plain = not stream.encoding.lower().startswith("utf")  # JSON can say all in ASCII
        stream.write(visible_json(json.dumps(value, indent=indent, ensure_ascii=plain)) + "\n")
        stream.flush()

    def text(self, text: str) -> None:
        """Write a line for people."""
        sys.stdout.write(visible(text) + "\n")
        sys.stdout.flush()

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        empty: str,
        gives_way: str | None = None,
        goes: Sequence[str] = (),
    ) -> None:
        """Write a table; `empty` is said instead, on stderr, when there are no rows.

        Where one column gives way, a terminal without room for all of them has the most important ones, and a note on
        stderr names the others. See `table_of` and `columns_that_fit`.
        """
        shown, cells = screen(), [list(row) for row in rows]
        if not cells:
            self.note(empty)
        elif gives_way is None:
            shown.print(table_of(columns, cells))
        else:
            kept = columns_that_fit(columns, cells, width=shown.width, gives_way=gives_way, goes=goes)
            table = table_of(
                [columns[at] for at in kept],
                ([row[at] for at in kept] for row in cells),
                gives_way=gives_way,
                width=shown.width,
            )
            # Where even the first column has no room the terminal breaks its lines itself: what is in it can be used.
            Screen(width=max(shown.width, Screen(width=WIDE).measure(table).maximum)).print(table)
            if left_out := [column for at, column in enumerate(columns) if at not in kept]:
                self.note(f"no room for {', '.join(left_out)}: a wider window or -o json has them")

    @contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show on a terminal what is being waited for; the function given changes it, "" takes it away."""
        if self.json or not self.console.is_terminal:
            yield lambda _: None
            return
        shown = self.console.status("", spinner="dots" if self.console.encoding.startswith("utf") else "line")

        def say(text: str) -> None:
            shown.update(Text(visible_line(text)))
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
        self.console.print(Text(visible(text), style="dim"))

    def error(self, error: CommandError) -> None:
        """Tell an error: one JSON object where JSON goes, or a red line on stderr, and the path of its log."""
        if self.json:
            facts = {name: getattr(error, name) for name in ("reason", "code", "message", "metadata")}
            self.line({"error": facts})
        else:
            self.console.print(Text(visible(f"error: {error.message}"), style="red"))
            log = error.metadata.get("log", "")
            if log and log not in error.message:
                self.note(f"log: {log}")


def screen() -> Screen:
    """Standard output for tables; nothing is cut where it is no terminal."""
    return Screen(width=None if sys.stdout.isatty() else WIDE)


def table_of(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, gives_way: str | None = None, width: int = WIDE
) -> Table:
    """A table of plain texts.

    Args:
        columns: Their heads.
        rows: A text for each column.
        gives_way: The column that is cut where a line has no room, "…" at its end; the others are whole, so that ids
            can be used. None: texts go on in further lines.
        width: Of a line, in characters.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=gives_way is not None, overflow="fold")
    cells = [[Text(visible_line(cell)) for cell in row] for row in rows]
    if gives_way is not None and gives_way in columns:
        place = columns.index(gives_way)
        heads = [Text(column) for column in columns]
        widths = [max(line[at].cell_len for line in (heads, *cells)) for at in range(len(columns))]
        room = width - sum(widths) + widths[place] - GAP * (len(columns) - 1)
        for line in cells:
            line[place].truncate(max(LEAST_ROOM, len(gives_way), room), overflow="ellipsis")
    for line in cells:
        table.add_row(*line)
    return table


def columns_that_fit(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int, gives_way: str, goes: Sequence[str] = ()
) -> list[int]:
    """The places of the columns for which a line has room, the first one always among them.

    What is empty in all rows goes first, then `goes` in its order, then what is furthest right; at last the column that
    gives way, which needs a few characters only, and the state. What went before a wide one is back where it fits.

    Args:
        columns: Their heads.
        rows: A text for each column.
        width: Of a line, in characters.
        gives_way: See `table_of`.
        goes: Columns that matter least, the least one first.
    """
    widths = [max(Text(visible_line(text)).cell_len for text in texts) for texts in zip(columns, *rows, strict=True)]
    needs = [
        min(widths[at], max(LEAST_ROOM, len(column))) if column == gives_way else widths[at]
        for at, column in enumerate(columns)
    ]
    last = (gives_way, STATE)
    names = [*goes, *(each for each in reversed(columns[1:]) if each not in {*goes, *last}), *last]
    places = dict.fromkeys(columns.index(name) for name in names if name in columns[1:])
    said = [any(row[at] for row in rows) for at in range(len(columns))]

    def fits(some: Sequence[int]) -> bool:
        return sum(needs[at] for at in some) + GAP * (len(some) - 1) <= width

    kept, gone = list(range(len(columns))), list[int]()
    for place in sorted(places, key=said.__getitem__):
        if fits(kept):
            break
        kept.remove(place)
        gone.append(place)
    for place in reversed(gone):
        if said[place] and fits([*kept, place]):
            kept.append(place)
    return sorted(kept)


def uncut(table: Table) -> Text:
    """A table as text whose lines a narrow terminal cuts at their ends, where rich would make every column narrower."""
    drawing = Screen(width=WIDE, file=io.StringIO(), force_terminal=True, color_system="standard")
    with drawing.capture() as drawn:
        drawing.print(table)
    text = Text.from_ansi(drawn.get())
    text.rstrip()
    text.no_wrap, text.overflow = True, "crop"
    return text


@contextmanager
def edge(form: Format, *, errors: bool = False) -> Iterator[Output]:
    """The edge of a command: expected errors end here as a line and an exit code, never as a traceback."""
    output = Output(form, errors=errors)
    try:
        try:
            yield output
        finally:
            sys.stdout.flush()  # here, where it may fail
    except (CommandError, InferdError) as error:
        output.error(command_error(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader of stdout has gone, for example `inferd models | head -1`
        forget_stdout()
        raise typer.Exit(NOBODY_READS) from None
    except UnicodeError:  # the wire takes UTF-8 only
        output.error(CommandError(_no_text(sys.argv[1:]), reason="USAGE"))
        raise typer.Exit(MISUSE) from None
    except OSError as error:
        forget_stdout()
        why = error.strerror or str(error)
        what = f"{why}: {error.filename}" if error.filename else why
        output.error(CommandError(what, reason="SYSTEM_ERROR"))
        raise typer.Exit(1) from None


def _no_text(arguments: Sequence[str]) -> str:
    """Why arguments cannot be sent: which of them has bytes that are no UTF-8, as the name of a file may."""
    for each in arguments:
        shown = each.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if shown != each:
            fix = ": rename it, or give it another name with a link (ln -s)" if os.path.lexists(each) else ""
            return f"the argument {shown!r} is no text in UTF-8, and a kernel knows nothing by other names{fix}"
    return "an argument is no text: it has bytes that are not UTF-8"


def forget_stdout() -> None:
    """Where stdout cannot be written, drop what waits for it: the end of the program would try once more."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Make the streams of this process fit for whatever is said: closed ones lead nowhere, and no character fails."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # else a socket would get its number
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, descriptor)
            if nowhere != descriptor:
                os.close(nowhere)
            setattr(sys, name, open(descriptor, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115 - for as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def command_error(error: Any) -> CommandError:
    """The same error as a `CommandError`; takes those of the kernel and those of the client."""
    return CommandError(error.message, reason=error.reason, code=error.code, metadata=error.metadata)
