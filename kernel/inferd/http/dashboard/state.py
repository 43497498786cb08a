"""How things stand, as rows by name, and what of it each reader has not seen yet; never more than has a bound."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from inferd.http.streams import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

Row: TypeAlias = "Mapping[str, Any]"
"""What JSON can say of one thing."""
Place: TypeAlias = tuple[str, str]
"""A section, and the id of a row in it."""


class Reader:
    """What one browser has not seen yet. One writer: the loop.

    Args:
        state: What it sees.
        most: So many changes wait for it; who has more of them is given the whole state as it stands then.
    """

    def __init__(self, state: State, most: int) -> None:
        self._state = state
        self._most = most
        self._news = asyncio.Event()
        self._pending: dict[Place, None] = {}
        self._whole = True
        self._error: Exception | None = None
        self._news.set()

    @property
    def waiting(self) -> int:
        """How many changes wait; none where the whole state is to come."""
        return len(self._pending)

    def note(self, place: Place) -> None:
        """A row has changed, or is gone."""
        if not self._whole:
            self._pending[place] = None
            if len(self._pending) > self._most:
                self._whole = True
                self._pending.clear()
        self._news.set()

    def fail(self, error: Exception) -> None:
        """There will be no more, and this is why."""
        self._error = error
        self._news.set()

    async def news(self) -> str:
        """What is new, as JSON, once there is something.

        Raises:
            Exception: That of `fail`.
        """
        await self._news.wait()
        if self._error is not None:
            raise self._error
        self._news.clear()
        whole, self._whole = self._whole, False
        pending, self._pending = self._pending, {}
        return self._state.text(None if whole else pending)


class State:
    """Sections of rows. One writer: the feed that it is of."""

    def __init__(self) -> None:
        self._sections: dict[str, dict[str, Row]] = {}
        self._texts: dict[Place, str] = {}  # of rows that a reader was told, until they change
        self._readers: set[Reader] = set()
        self._error: Exception | None = None

    def __len__(self) -> int:
        """How many rows there are."""
        return sum(map(len, self._sections.values()))

    @property
    def readers(self) -> int:
        """How many read it."""
        return len(self._readers)

    def join(self, most: int) -> Reader:
        """A reader, which is told all that there is first; where there will be no more, why."""
        reader = Reader(self, most)
        self._readers.add(reader)
        if self._error is not None:
            reader.fail(self._error)
        return reader

    def leave(self, reader: Reader) -> None:
        """It reads no more."""
        self._readers.discard(reader)

    def fail(self, error: Exception) -> None:
        """Tell all readers why there is no more, and those that join later."""
        self._error = error
        for reader in self._readers:
            reader.fail(error)

    def rows(self, section: str) -> Mapping[str, Row]:
        """The rows of a section by their ids, the oldest first."""
        return self._sections.get(section, {})

    def put(self, section: str, key: str, row: Row) -> None:
        """A row stands so now."""
        rows = self._sections.setdefault(section, {})
        if rows.get(key) != row:
            rows[key] = row
            self._note(section, key)

    def drop(self, section: str, key: str) -> None:
        """A row is gone, if there was one."""
        if self._sections.get(section, {}).pop(key, None) is not None:
            self._note(section, key)

    def replace(self, section: str, rows: Mapping[str, Row]) -> None:
        """These are the rows of a section, and no others."""
        before = self._sections.get(section, {})
        self._sections[section] = dict(rows)
        for key, row in rows.items():
            if before.get(key) != row:
                self._note(section, key)
        for key in before.keys() - rows.keys():
            self._note(section, key)

    def _note(self, section: str, key: str) -> None:
        self._texts.pop((section, key), None)
        for reader in self._readers:
            reader.note((section, key))

    def text(self, places: Mapping[Place, None] | None) -> str:
        """What stands at some places, or all of it for None, as JSON.

        `{"whole": bool, "set": {section: {id: row}}, "gone": {section: [id]}}`
        """
        found: dict[str, list[str]] = {}
        gone: dict[str, list[str]] = {}
        if places is None:
            for section, rows in self._sections.items():
                found[section] = [self._row(section, key, row) for key, row in rows.items()]
        else:
            for section, key in places:
                row = self._sections.get(section, {}).get(key)
                if row is None:
                    gone.setdefault(section, []).append(key)
                else:
                    found.setdefault(section, []).append(self._row(section, key, row))
        told = ",".join(f"{dumps(section)}:{{{','.join(rows)}}}" for section, rows in found.items())
        return f'{{"whole":{dumps(places is None)},"set":{{{told}}},"gone":{dumps(gone)}}}'

    def _row(self, section: str, key: str, row: Row) -> str:
        """A row behind its id, as JSON; made once for all readers."""
        text = self._texts.get((section, key))
        if text is None:
            text = self._texts[section, key] = f"{dumps(key)}:{dumps(_finite(row))}"
        return text


def _finite(value: Any) -> Any:
    """A value with None for numbers that JSON has not: no browser could read a message with one."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
