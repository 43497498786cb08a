"""The rooms of a model's grammars: opened once for all who want them, kept for those who come, bounded in number."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inferd.engine.cause import last_line
from inferd.engine.token.gate import NO_STANDING, Gate, Standing, Ticket
from inferd.errors import InferdError, InternalError, LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.ids import Tenant
    from inferd.engine.token.room import Room
    from inferd.sampling import Grammar

AT_ONCE: Final = 4
"""Grammars that are compiled at the same time; others wait for their turn."""

EACH: Final = 2
"""Those of one tenant."""

_REFUSED: Final = 256  # grammars of which it is kept that they take too long,
_REFUSED_S: Final = 60.0  # for so long: a busy machine may have been to blame

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Guest:
    """Who waits for a room.

    Attributes:
        take: Called once, from any thread, with the room or with why there is none.
        count: How many outputs are to follow the grammar.
        standing: Whose they are.
    """

    take: Callable[[Room | InferdError], None]
    count: int
    standing: Standing = NO_STANDING


class _Turn(Ticket):
    """To open a room."""

    def __init__(self, standing: Standing, opening: _Opening) -> None:
        super().__init__(standing)
        self.opening = opening


class _Opening:
    """A room that is to be opened, and for whom. One writer: `Rooms`.

    Args:
        room: Not open; or taken away, and to be opened again for those who are in it.
        done: Called when it was opened again, or is gone; None for a new one.

    Attributes:
        guests: Who comes into it.
        turns: One for each class and tenant of those who wait, while they wait.
        turn: The one that came first.
    """

    def __init__(self, room: Room, done: Callable[[], None] | None = None) -> None:
        self.room = room
        self.done = done
        self.guests: list[Guest] = []
        self.turns: dict[tuple[int, Tenant], _Turn] = {}
        self.turn: _Turn | None = None


class Rooms:
    """May be called from any thread.

    Few grammars are compiled at once, by class and tenant (`Gate`), each when there is a place for its room. Where all
    places are taken, that of a room which nobody is in is used; then one of a lower class, or, in the same class, of a
    tenant that has more for its weight than whoever wants one. Who was in such a room waits for another place, and goes
    on exactly where he was.

    Args:
        make: A room for a grammar, not open yet.
        most: Most rooms at once.
    """

    def __init__(self, make: Callable[[Grammar], Room], *, most: int) -> None:
        self._make = make
        self._most = most
        self._lock = threading.Lock()
        self._gate: Gate[_Turn] = Gate(most=AT_ONCE, each=EACH)
        self._open: dict[Grammar, Room] = {}  # where guests find the room of a grammar
        self._places: OrderedDict[Room, None] = OrderedDict()  # open ones and those that are opened; used last: last
        self._busy: set[Room] = set()  # those that are opened
        self._openings: dict[Grammar, _Opening] = {}
        self._again: dict[Room, _Opening] = {}  # of rooms that were taken away
        self._users: Counter[Room] = Counter()
        self._standings: dict[Room, Standing] = {}  # the highest of those who are in a room
        self._refused: OrderedDict[Grammar, tuple[float, InferdError]] = OrderedDict()
        self._shut = False

    def enter(self, grammar: Grammar, guest: Guest) -> Callable[[], None]:
        """Give a guest the room of a grammar, now or when it is open, or say why there is none.

        Returns:
            What withdraws the guest; it may be given a room yet.
        """
        with self._lock:
            room: Room | InferdError | None = self._find(grammar)
            if room is None:
                self._wait(grammar, guest)
            elif not isinstance(room, InferdError):
                self._join(room, guest.standing, guest.count)
        if room is not None:
            guest.take(room)
            return _nothing
        self._give_turns()
        return lambda: self._withdraw(grammar, guest)

    def leave(self, room: Room) -> None:
        """One output less follows the grammar of a room."""
        opening = None
        with self._lock:
            self._users[room] -= 1
            if self._users[room]:
                return
            del self._users[room]
            self._standings.pop(room, None)
            if room in self._again and self._drop(self._again[room]):
                opening = self._again.pop(room)
            useless = opening is not None or (room.taken and not room.late)  # else who sees to it finds out
        if useless:
            room.give_up()
        if opening is not None and opening.done is not None:
            opening.done()
        self._give_turns()

    def hear_out(self, room: Room, done: Callable[[], None]) -> None:
        """See to a room that is late, in a thread of its own; `done` is called in the end."""
        try:
            threading.Thread(target=self._hear_out, args=(room, done), name="grammar", daemon=True).start()
        except RuntimeError as error:
            room.fail(InternalError(f"the grammar cannot be followed: {error}"))
            done()

    def shut(self) -> None:
        """Give all up; nobody uses a room any more."""
        with self._lock:
            self._shut = True
            rooms = list(self._places)
            busy = set(self._busy)
            for opening in self._openings.values():
                opening.guests.clear()
        for room in rooms:
            room.abandon()
            if not room.late and room not in busy:  # else who sees to it gives it up
                room.give_up()

    def _find(self, grammar: Grammar) -> Room | InferdError | None:
        until, error = self._refused.get(grammar, (0.0, None))
        if error is not None and time.monotonic() < until:
            return error
        room = self._open.get(grammar)
        if room is not None and room.gone:
            self._forget(room)
            return None
        if room is not None:
            self._places.move_to_end(room)
        return room

    def _join(self, room: Room, standing: Standing, count: int) -> None:
        self._users[room] += count
        before = self._standings.setdefault(room, standing)
        if standing.priority > before.priority:
            self._standings[room] = standing

    def _wait(self, grammar: Grammar, guest: Guest) -> None:
        """Have a guest wait until the room of a grammar is open."""
        opening = self._openings.get(grammar)
        if opening is None:
            opening = self._openings[grammar] = _Opening(self._make(grammar))
        opening.guests.append(guest)
        self._queue(opening, guest.standing)

    def _queue(self, opening: _Opening, standing: Standing) -> None:
        """Have an opening wait in the line of a class and tenant, too."""
        key = _line(standing)
        if opening.turn is None and key not in opening.turns:
            opening.turns[key] = _Turn(standing, opening)
            self._gate.wait(opening.turns[key])

    def _drop(self, opening: _Opening) -> bool:
        """Let an opening wait no longer; False when it has its turn."""
        for turn in opening.turns.values():
            self._gate.withdraw(turn)
        opening.turns.clear()
        return opening.turn is None

    def _withdraw(self, grammar: Grammar, guest: Guest) -> None:
        with self._lock:
            opening = self._openings.get(grammar)
            if opening is None or guest not in opening.guests:
                return
            opening.guests.remove(guest)
            key = _line(guest.standing)
            if key in opening.turns and all(_line(other.standing) != key for other in opening.guests):
                self._gate.withdraw(opening.turns.pop(key))
            if not opening.guests:
                del self._openings[grammar]
                opening.room.abandon()

    def _give_turns(self) -> None:
        """Begin to open rooms, as many as may be opened now."""
        while True:
            with self._lock:
                turn = None if self._shut else self._gate.next(self._fits)
                if turn is None:
                    return
                opening = turn.opening
                opening.turn = turn
                self._drop(opening)
                way = self._make_way(turn.standing)
                self._places[opening.room] = None
                self._busy.add(opening.room)
                self._standings.setdefault(opening.room, turn.standing)
            try:
                threading.Thread(target=self._run, args=(opening, turn, way), name="grammar", daemon=True).start()
            except RuntimeError as error:
                if way is not None:
                    way.give_up()
                self._finish(opening, turn, InternalError(f"the grammar cannot be followed: {error}"))

    def _fits(self, turn: _Turn) -> bool:
        return len(self._places) < self._most or self._victim(turn.standing) is not None

    def _make_way(self, standing: Standing) -> Room | None:
        """Free a place if there is none; a room that nobody was in is to be given up."""
        room = self._victim(standing) if len(self._places) >= self._most else None
        if room is None:
            return None
        self._forget(room)
        if room.gone:
            return None
        room.take_away()  # nobody stays in it from now on
        return None if self._users[room] else room

    def _victim(self, standing: Standing) -> Room | None:
        """Whose place is used for one of this standing; None for no room's."""
        free = [room for room in self._places if room.gone or not (room.late or room in self._busy)]
        idle = next((room for room in free if room.gone or not self._users[room]), None)
        if idle is not None or not free:
            return idle
        counts = Counter(self._standings[room].share.tenant for room in self._places if room in self._standings)

        def rank(room: Room) -> tuple[int, float]:
            share = self._standings[room].share
            return self._standings[room].priority, -counts[share.tenant] / share.weight

        last = min(free, key=rank)
        priority, load = rank(last)
        own = (counts[standing.share.tenant] + 1) / standing.share.weight
        return last if priority < standing.priority or (priority == standing.priority and -load > own) else None

    def _forget(self, room: Room) -> None:
        """A room has no place any more."""
        self._places.pop(room, None)
        if self._open.get(room.grammar) is room:
            del self._open[room.grammar]

    def _run(self, opening: _Opening, turn: _Turn, way: Room | None) -> None:
        if way is not None:
            way.give_up()
        self._finish(opening, turn, self._try_to_open(opening))

    def _finish(self, opening: _Opening, turn: _Turn, found: Room | InferdError) -> None:
        room, grammar = opening.room, opening.room.grammar
        if opening.done is not None and isinstance(found, InferdError) and not room.gone:
            room.fail(found)
        with self._lock:
            self._gate.end(turn)
            self._busy.discard(room)
            self._again.pop(room, None)
            if self._openings.get(grammar) is opening:
                del self._openings[grammar]
            guests = opening.guests
            kept = found is room and not room.gone and bool(guests or self._users[room]) and not self._shut
            if kept:
                self._open.setdefault(grammar, room)
                for guest in guests:
                    self._join(room, guest.standing, guest.count)
            else:  # there is none, or all were withdrawn meanwhile
                self._forget(room)
                if not self._users[room]:
                    self._standings.pop(room, None)
            if isinstance(found, LimitExceededError):
                self._refuse(grammar, found)
        if not kept:
            room.give_up()
        for guest in guests:
            guest.take(found)
        if opening.done is not None:
            opening.done()
        self._give_turns()

    def _try_to_open(self, opening: _Opening) -> Room | InferdError:
        try:
            if opening.done is not None:
                opening.room.restart()
            elif opening.guests:
                opening.room.open()
        except InferdError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the end of a thread: who waits is told
            _log.exception("a grammar could not be opened")
            return InternalError(f"the grammar cannot be followed: {last_line(error)}")
        return opening.room

    def _hear_out(self, room: Room, done: Callable[[], None]) -> None:
        room.hear_out()
        if room.gone or not room.taken:
            done()
            return
        opening = _Opening(room, done)
        with self._lock:
            wanted = bool(self._users[room]) and not self._shut
            if wanted:
                self._again[room] = opening
                self._queue(opening, self._standings[room])
        if not wanted:
            room.give_up()
            done()
        self._give_turns()

    def _refuse(self, grammar: Grammar, error: InferdError) -> None:
        """Keep in mind that a grammar takes too much, so that it is not tried again and again."""
        self._refused[grammar] = (time.monotonic() + _REFUSED_S, error)
        self._refused.move_to_end(grammar)
        if len(self._refused) > _REFUSED:
            self._refused.popitem(last=False)


def _line(standing: Standing) -> tuple[int, Tenant]:
    return standing.priority, standing.share.tenant


def _nothing() -> None:
    """Nothing is to be withdrawn."""
