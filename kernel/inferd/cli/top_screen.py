"""The screen of `inferd top`: what keys do to it, and its lines, as many and as wide as the terminal has room for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from inferd.cli.top_panes import PANES, summary
from inferd.cli.visible import visible_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inferd.cli.top_panes import Look, Pane

GAP: Final = "  "
LEAST_BODY: Final = 3  # lines of the pane that has the keys, its heads among them
MOST_WARNINGS: Final = 3
HELP: Final = (
    "Tab or 1-8 pane · Enter whole screen · s S column to sort by · r turn round · ↑↓ PgUp PgDn Home End scroll"
    " · ←→ columns · Space hold still · q end"
)
SEQUENCES: Final = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[C": "right",
    b"\x1bOC": "right",
    b"\x1b[D": "left",
    b"\x1bOD": "left",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[Z": "back",
}
LETTERS: Final = {
    b"\t": "next",
    b"\r": "zoom",
    b"\n": "zoom",
    b"z": "zoom",
    b" ": "hold",
    b"s": "sort",
    b"S": "sort back",
    b"r": "turn",
    b"k": "up",
    b"j": "down",
    b"h": "left",
    b"l": "right",
    b"g": "home",
    b"G": "end",
    b"q": "quit",
    b"Q": "quit",
    b"?": "help",
    **{str(number).encode(): str(number) for number in range(1, len(PANES) + 1)},
}


def keys_of(typed: bytes) -> Iterator[str]:
    """The keys in what a terminal sent; what none of them is, is left out."""
    at = 0
    while at < len(typed):
        found = next((each for each in SEQUENCES if typed.startswith(each, at)), None)
        if found is not None:
            yield SEQUENCES[found]
            at += len(found)
            continue
        if (key := LETTERS.get(typed[at : at + 1])) is not None:
            yield key
        at += _length(typed, at)


def _length(typed: bytes, at: int) -> int:
    """Of a sequence that is not known, or of a letter."""
    if typed[at : at + 2] != b"\x1b[":
        return 2 if typed[at : at + 2] == b"\x1bO" else 1
    end = at + 2
    while end < len(typed) and not 0x40 <= typed[end] <= 0x7E:  # noqa: PLR2004 - the last of a control sequence
        end += 1
    return end + 1 - at


@dataclass(slots=True)
class _View:
    """How a pane is looked at."""

    column: int | None = None  # that it is sorted by; None for the order in which things come
    falling: bool = False
    first: int = 0  # thing that is shown
    left: int = 0  # columns that are left out behind the first
    things: int = 0
    page: int = 1


@dataclass(slots=True)
class Screen:
    """Its state. One writer: who reads the keys.

    Attributes:
        held: Whether it is to stay as it is.
        ended: Whether it is to end.
    """

    held: bool = False
    ended: bool = False
    _pane: int = 0
    _zoomed: bool = False
    _helps: bool = False
    _views: list[_View] = field(default_factory=lambda: [_View() for _ in PANES])

    def press(self, key: str) -> None:
        """A key was pressed."""
        view, pane = self._views[self._pane], PANES[self._pane]
        match key:
            case "next" | "back":
                self._pane = (self._pane + (1 if key == "next" else -1)) % len(PANES)
            case "zoom":
                self._zoomed = not self._zoomed
            case "hold":
                self.held = not self.held
            case "help":
                self._helps = not self._helps
            case "quit":
                self.ended = True
            case "sort" | "sort back":
                count = len(pane.columns) + 1  # and one for none
                at = 0 if view.column is None else view.column + 1
                at = (at + (1 if key == "sort" else -1)) % count
                view.column, view.first = at - 1 if at else None, 0
            case "turn":
                view.falling, view.first = not view.falling, 0
            case "left" | "right":
                view.left = max(0, min(len(pane.columns) - 2, view.left + (1 if key == "right" else -1)))
            case "up" | "down" | "page up" | "page down" | "home" | "end":
                self._scroll(view, key)
            case _:
                self._pane = int(key) - 1

    @staticmethod
    def _scroll(view: _View, key: str) -> None:
        steps = {"up": -1, "down": 1, "page up": -view.page, "page down": view.page}
        first = {"home": 0, "end": view.things}.get(key, view.first + steps.get(key, 0))
        view.first = max(0, min(first, view.things - view.page))

    def lines(self, look: Look, width: int, height: int) -> list[Text]:
        """The lines of the screen, never more than there is room for."""
        head = [_line(summary(look.told.host), width, "bold")]
        head += [_line(f"! {each}", width, "yellow") for each in [*look.told.host.warnings][:MOST_WARNINGS]]
        foot = [_line(HELP if self._helps else self._state(), width, "dim")]
        head = head[: max(1, height - LEAST_BODY - 1)]
        room = height - len(head) - len(foot)
        if room < 1:
            return [*head, *foot][:height]
        return [*head, *self._body(look, width, room), *foot]

    def _state(self) -> str:
        held = "held · " if self.held else ""
        return f"{held}{PANES[self._pane].title} has the keys · ? help · q end"

    def _body(self, look: Look, width: int, room: int) -> list[Text]:
        """The panes that have a place: the one with the keys first, then as many others as there is room for."""
        rooms = self._rooms(look, room)
        lines: list[Text] = []
        for number, pane in enumerate(PANES):
            if (lines_of := rooms.get(number, 0)) > 0:
                lines += self._pane_lines(number, pane, look, width, lines_of)
        return lines + [Text("")] * (room - len(lines))

    def _rooms(self, look: Look, room: int) -> dict[int, int]:
        """How many lines each pane has: a title, heads and rows."""
        wanted = {number: 2 + len(pane.things(look)) for number, pane in enumerate(PANES)}
        if self._zoomed or room <= LEAST_BODY + 1:
            return {self._pane: room}
        rooms = {self._pane: min(wanted[self._pane], LEAST_BODY)}
        room -= rooms[self._pane]
        for number, pane in enumerate(PANES):  # each with at least a row, as far as they go
            if number != self._pane and len(pane.things(look)) >= pane.least and room >= LEAST_BODY:
                rooms[number] = LEAST_BODY
                room -= LEAST_BODY
        for number in (self._pane, *(each for each in rooms if each != self._pane)):  # then what is left, in turn
            more = min(room, wanted[number] - rooms[number])
            rooms[number] += max(0, more)
            room -= max(0, more)
        return rooms

    def _pane_lines(self, number: int, pane: Pane, look: Look, width: int, room: int) -> list[Text]:
        view, things = self._views[number], pane.things(look)
        has_keys = number == self._pane
        view.things, view.page = len(things), max(1, room - 2)
        view.first = max(0, min(view.first, view.things - view.page))
        shown = pane.sorted(things, view.column, falling=view.falling)[view.first : view.first + view.page]
        title = f"{number + 1} {pane.title} {len(things)}"
        if view.column is not None or view.falling:
            by = "" if view.column is None else f" by {pane.columns[view.column]}"
            title += f", sorted{by} {'↓' if view.falling else '↑'}"
        if view.things > view.page:
            title += f", {view.first + 1} to {view.first + len(shown)}"
        rows = [tuple(map(visible_line, pane.row(each))) for each in shown]
        lines = [_line(title, width, "reverse" if has_keys else "underline")]
        lines += _table(pane, rows, view.left, width)
        return lines[:room]


def _table(pane: Pane, rows: Sequence[Sequence[str]], left: int, width: int) -> list[Text]:
    """Heads and rows, columns beside each other; `left` of those behind the first are left out."""
    places = [0, *range(1 + left, len(pane.columns))]
    widths = {at: max(map(cell_len, (pane.columns[at], *(row[at] for row in rows)))) for at in places}
    if pane.gives_way and (at := pane.columns.index(pane.gives_way)) in widths:
        others = sum(widths.values()) - widths[at] + len(GAP) * (len(places) - 1)
        widths[at] = max(min(widths[at], width - others), cell_len(pane.gives_way))

    def line(cells: Sequence[str], style: str) -> Text:
        return _line(GAP.join(set_cell_size(cells[at], widths[at]) for at in places), width, style)

    return [line(pane.columns, "bold"), *(line(row, "") for row in rows)]


def _line(text: str, width: int, style: str) -> Text:
    """A text of one line, cut where the screen ends."""
    line = Text(visible_line(text), style=style, no_wrap=True, overflow="crop")
    line.truncate(max(1, width), overflow="crop")
    return line
