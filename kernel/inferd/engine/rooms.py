"""The rooms of a model's grammars: opened once for all who want them, kept for those who come, bounded in number."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.engine.cause import last_line
from inferd.errors import InferdError, InternalError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.task import Grammar
    from inferd.engine.room import Room

AT_ONCE: Final = 4
"""Grammars that are compiled at the same time; others wait."""

_REFUSED: Final = 256  # grammars of which it is kept that they take too long,
_REFUSED_S: Final = 60.0  # for so long: a busy machine may have been to blame

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Guest:
    """Who waits for a room.

    Attributes:
        take: Called once, from any thread, with the room or with why there is none.
        count: How many outputs are to follow the grammar.
    """

    take: Callable[[Room | InferdError], None]
    count: int


@dataclass(slots=True, eq=False)
class _Opening:
    """A room that is being opened, and for whom."""

    room: Room
    guests: list[Guest] = field(default_factory=list)


class Rooms:
    """May be called from any thread.

    Args:
        make: A room for a grammar, not open yet.
        most: Most rooms at once.
    """

    def __init__(self, make: Callable[[Grammar], Room], *, most: int) -> None:
        self._make = make
        self._most = most
        self._changed = threading.Condition()
        self._open: OrderedDict[Grammar, Room] = OrderedDict()  # the one used last is the last
        self._openings: dict[Grammar, _Opening] = {}
        self._users: Counter[Room] = Counter()
        self._refused: OrderedDict[Grammar, tuple[float, InferdError]] = OrderedDict()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._shut = False

    def enter(self, grammar: Grammar, guest: Guest) -> Callable[[], None]:
        """Give a guest the room of a grammar, now or when it is open, or say why there is none.

        Returns:
            What withdraws the guest; it may be given a room yet.
        """
        with self._changed:
            room: Room | InferdError | None = self._find(grammar)
            if isinstance(room, InferdError):
                pass
            elif room is not None:
                self._users[room] += guest.count
            elif (opening := self._openings.get(grammar)) is not None:
                opening.guests.append(guest)
            else:
                opening = self._openings[grammar] = _Opening(self._make(grammar), [guest])
                try:
                    threading.Thread(target=self._run, args=(opening,), name="grammar", daemon=True).start()
                except RuntimeError:
                    del self._openings[grammar]
                    raise
        if room is not None:
            guest.take(room)
            return _nothing
        return lambda: self._withdraw(grammar, guest)

    def stay(self, room: Room) -> bool:
        """Enter a room again that was left; False when it is gone."""
        with self._changed:
            if room.gone:
                return False
            self._users[room] += 1
            return True

    def leave(self, room: Room) -> None:
        """One output less follows the grammar of a room."""
        with self._changed:
            self._users[room] -= 1
            if not self._users[room]:
                del self._users[room]
                self._changed.notify_all()

    def shut(self) -> None:
        """Give all up; nobody uses a room any more."""
        with self._changed:
            self._shut = True
            rooms = list(self._open.values())
            for opening in self._openings.values():
                opening.guests.clear()
                opening.room.abandon()
            self._changed.notify_all()
        for room in rooms:
            room.abandon()
            if not room.late:  # else who sees to it gives it up
                room.give_up()

    def _find(self, grammar: Grammar) -> Room | InferdError | None:
        until, error = self._refused.get(grammar, (0.0, None))
        if error is not None and time.monotonic() < until:
            return error
        room = self._open.get(grammar)
        if room is not None and room.gone:
            del self._open[grammar]
            return None
        if room is not None:
            self._open.move_to_end(grammar)
        return room

    def _withdraw(self, grammar: Grammar, guest: Guest) -> None:
        with self._changed:
            opening = self._openings.get(grammar)
            if opening is None or guest not in opening.guests:
                return
            opening.guests.remove(guest)
            if not opening.guests:
                del self._openings[grammar]
                opening.room.abandon()
                self._changed.notify_all()

    def _run(self, opening: _Opening) -> None:
        room, grammar = opening.room, opening.room.grammar
        with self._turns:
            found = self._try_to_open(opening)
        with self._changed:
            if self._openings.get(grammar) is opening:
                del self._openings[grammar]
            guests = opening.guests
            kept = found is room and bool(guests)  # else there is none, or all were withdrawn meanwhile
            if kept:
                self._open[grammar] = room
                self._users[room] = sum(guest.count for guest in guests)
            elif isinstance(found, LimitExceededError):
                self._refuse(grammar, found)
            self._changed.notify_all()
        if not kept:
            room.give_up()
        for guest in guests:
            guest.take(found)

    def _try_to_open(self, opening: _Opening) -> Room | InferdError:
        try:
            self._make_way(opening)
            if opening.guests:
                opening.room.open()
        except InferdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the end of a thread: who waits is told
            _log.exception("a grammar could not be opened")
            return InternalError(f"the grammar cannot be followed: {last_line(error)}")
        return opening.room

    def _make_way(self, opening: _Opening) -> None:
        """Give up a room that nobody is in if there are too many, or wait for one."""
        with self._changed:
            while opening.guests and len(self._open) >= self._most and not self._evict():
                self._changed.wait()

    def _evict(self) -> bool:
        idle = next((room for room in self._open.values() if room.gone or not (self._users[room] or room.late)), None)
        if idle is None:
            return False
        del self._open[idle.grammar]
        if not idle.gone:
            idle.give_up()
        return True

    def _refuse(self, grammar: Grammar, error: InferdError) -> None:
        """Keep in mind that a grammar takes too much, so that it is not tried again and again."""
        self._refused[grammar] = (time.monotonic() + _REFUSED_S, error)
        self._refused.move_to_end(grammar)
        if len(self._refused) > _REFUSED:
            self._refused.popitem(last=False)


def _nothing() -> None:
    """Nothing is to be withdrawn."""
