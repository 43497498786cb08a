"""`--watch` of lists: what there is, and then each change of it, until Ctrl-C."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from inferd_client.patience import PASSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from inferd.cli.output import Output

T = TypeVar("T")
LOOK_S = 1.0  # between two looks at a list


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[T]):
    """A list of things, and how each of them is told.

    Attributes:
        columns: Heads of the table; the first one names a thing, of which there is one by that name.
        row: A thing as texts, one for each column.
        document: A thing as JSON.
        empty: What is said where there is none.
        gives_way: See `Output.table`.
        goes: As well.
        moving: Columns that change by themselves, as times do: what changes in them alone is not told.
    """

    columns: Sequence[str]
    row: Callable[[T], Sequence[str]]
    document: Callable[[T], dict[str, Any]]
    empty: str
    gives_way: str | None = None
    goes: Sequence[str] = ()
    moving: Sequence[str] = ()

    def show(self, output: Output, read: Callable[[], Iterable[T]], *, name: str, watch: bool) -> None:
        """Write them, in JSON as one document that has them by `name`; or follow them."""
        if watch:
            self.follow(output, read)
        elif output.json:
            output.document({name: [self.document(thing) for thing in read()]})
        else:
            self.tell(output, read())

    def tell(self, output: Output, things: Iterable[T]) -> None:
        """Write them as a table."""
        output.table(self.columns, map(self.row, things), empty=self.empty, gives_way=self.gives_way, goes=self.goes)

    def follow(
        self, output: Output, read: Callable[[], Iterable[T]], *, pause: Callable[[float], object] = time.sleep
    ) -> NoReturn:
        """Tell what there is, then each change: a line for a thing that is new, is otherwise, or is gone.

        A kernel that does not answer any more is told once, and waited for.

        Args:
            output: Where to.
            read: Reads the list as it stands.
            pause: Waits so many seconds between two looks.

        Raises:
            InferdError: The list cannot be read, of which the kernel's absence is none but at the first look.
        """
        things = list(read())
        told = {self.row(thing)[0]: self._still(thing) for thing in things}
        if output.json:
            for thing in things:
                output.line(self.document(thing))
        else:
            self.tell(output, things)
        away = False
        while True:
            pause(LOOK_S)
            try:
                things = list(read())
            except PASSING as error:
                if not away:
                    output.note(f"{error.message}; this goes on once a kernel answers")
                away = True
                continue
            away = False
            now = {self.row(thing)[0]: (self._still(thing), thing) for thing in things}
            for name, (still, thing) in now.items():
                if told.get(name) != still:
                    self._tell_change(output, self.row(thing), self.document(thing))
            for name in told.keys() - now.keys():
                self._tell_change(output, (name, "gone"), {"gone": name})
            told = {name: still for name, (still, _) in now.items()}

    def _still(self, thing: T) -> tuple[str, ...]:
        """What is told of a thing where it has changed."""
        return tuple(
            text for column, text in zip(self.columns, self.row(thing), strict=True) if column not in self.moving
        )

    def _tell_change(self, output: Output, cells: Sequence[str], document: dict[str, Any]) -> None:
        if output.json:
            output.line(document)
        else:
            output.text(" · ".join(each for each in (time.strftime("%H:%M:%S"), *cells) if each))
