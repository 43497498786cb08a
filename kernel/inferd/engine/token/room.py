"""One grammar in a cell of its own, and the outputs that follow it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.engine.cells.board import BOARD_BYTES
from inferd.engine.cells.cell import OUT_OF_MEMORY, Cell, CellError
from inferd.engine.cells.shared import SharedMemory
from inferd.errors import (
    BackendFailedError,
    InferdError,
    InvalidFieldError,
    LimitExceededError,
    OutputInvalidError,
    present,
    words_of,
)
from inferd.plugin.channel import ClosedError, LateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from inferd.engine.cells.cell import Cells
    from inferd.engine.token.limits import GrammarLimits
    from inferd.sampling import Grammar

    Masks = NDArray[np.uint32]

FIELD: Final = "spec.sampling.grammar"

OUTPUTS: Final = 4096
"""Most outputs that follow one grammar at once; the memory of their masks is taken when it is written."""

_LONGEST_CAUSE: Final = 1000  # characters; a schema's own words may be in it
_MOST_DEATHS: Final = 2  # of cells while they were at the same output, or at nothing in particular


class Constraint:
    """Follows one output through its grammar. One writer: the thread of the steps, or what has the room meanwhile.

    Args:
        room: Where its grammar is.
        barred: Tokens that are not allowed as long as others are.

    Attributes:
        tokens: What the output has so far.
        told: How many of them the cell was told.
        number: Its place in the room; `NOWHERE` where the cell does not know it.
        asked: The ticket of what was asked of the cell and is not answered; 0 for nothing.
        pending: It is not known whether the last token completed the output.
        ready: The mask of the next token is there.
        complete: The output is complete, and nothing can follow.
        error: Why it cannot be followed any further; "" while it can.
        given_up: As what its task is to fail, where that is no matter of tokens.
        closed: Nobody wants to know any more.
        deaths: How often the cell died while it was at this output.
    """

    __slots__ = (
        "asked",
        "barred",
        "closed",
        "complete",
        "deaths",
        "error",
        "given_up",
        "number",
        "pending",
        "ready",
        "room",
        "tokens",
        "told",
    )

    def __init__(self, room: Room, *, barred: Sequence[int] = ()) -> None:
        self.room = room
        self.barred = barred
        self.tokens: list[int] = []
        self.number = NOWHERE
        self.told = self.asked = 0
        self.pending = self.ready = self.complete = self.closed = False
        self.error = ""
        self.given_up: InferdError | None = None
        self.deaths = 0

    def forget(self) -> None:
        """The cell knows nothing of it."""
        self.number = NOWHERE
        self.told = self.asked = 0
        self.ready = False

    def add(self, token_id: int) -> None:
        """The output has a new token."""
        self.tokens.append(token_id)
        self.ready, self.pending = False, True

    @property
    def late(self) -> bool:
        """Whether it cannot be asked now: others than the thread of the steps see to its room."""
        return self.room.late or self.room.gone

    @property
    def refuted(self) -> bool:
        """Whether it was given up by itself, with its last token or before."""
        return self.given_up is not None

    @property
    def failed(self) -> bool:
        """Whether it cannot be followed any further."""
        return bool(self.error) or self.why is not None

    @property
    def why(self) -> InferdError | None:
        """As what its task is to fail, by itself or with its whole room; None where that is a matter of tokens."""
        return self.given_up or self.room.why


NOWHERE: Final = -1


class Room:
    """The cell of one grammar. One user at a time: who opens it, the thread of the steps, or who sees to it when late.

    Args:
        grammar: What is followed.
        cells: Starts the cell.
        limits: How long what may take.
        message: The grammar as the cell is told it.
        mask_words: Words of a mask.

    Attributes:
        grammar: As given.
        late: The cell did not answer in time, or died: the thread of the steps leaves it alone.
        taken: Its place is another's: it has no cell until it is restarted.
        gone: It was given up for good.
        checked: Outputs are looked at when they are complete: the grammar does not follow all that they must be.
        why: As what all that follow the grammar are to fail, those too that the cell was not told of; None for nothing.
    """

    def __init__(
        self, grammar: Grammar, *, cells: Cells, limits: GrammarLimits, message: dict[str, Any], mask_words: int
    ) -> None:
        self.grammar = grammar
        self.late = False
        self.taken = False
        self.gone = False
        self.checked = False
        self.why: InferdError | None = None
        self._cells = cells
        self._limits = limits
        self._unfollowed: list[str] = []  # what outputs are checked for, for people
        self._message = message | {"mask_bytes": 4 * mask_words}
        self._mask_words = mask_words
        self._memory: SharedMemory | None = None  # from the first cell until the room is given up
        self._cell: Cell | None = None
        self._abandoned = False
        self._outputs: dict[int, Constraint] = {}
        self._free: list[int] = []
        self._over: list[int] = []  # numbers that the cell is still to be told of
        self._tickets = 0
        self._due: deque[tuple[bool, list[tuple[Constraint, int]]]] = deque()  # answers: whether of masks, and to what
        self._deaths = 0  # of cells that were at nothing in particular

    def open(self) -> None:
        """Start the cell and compile the grammar.

        Raises:
            InvalidFieldError: The grammar is wrong, uses what is not supported, or is too large.
            LimitExceededError: Compiling takes too long, or too much memory.
            BackendFailedError: The cell did not start, or ended by itself.
        """
        limit_s = self._limits.compile_s
        try:
            channel = self._start().channel
            channel.send(self._message, timeout_s=limit_s)
            answer, _ = channel.receive(timeout_s=limit_s)
            if answer["error"]:
                raise self._invalid(answer["error"])
            self.checked, self._unfollowed = answer["checked"], answer["unfollowed"]
        except LateError:
            self._end_cell()
            raise self._exceeded("compiling it took", "workers.grammar_compile_s", f"{limit_s:g}", unit="s") from None
        except ClosedError:
            raise self._explain(self._end_cell(), "compiling it takes") from None
        except InferdError:
            self._end_cell()
            raise

    def abandon(self) -> None:
        """Nobody waits for `open` any more; from any thread."""
        self._abandoned = True
        if self._cell is not None:
            self._cell.kill()

    def take_away(self) -> None:
        """End its cell for another room; whoever asks finds it late. From any thread."""
        self.taken = True
        cell = self._cell
        if cell is not None:
            cell.kill()

    def restart(self) -> None:
        """Go on in a new place, as `hear_out`."""
        how, self.taken = self._end_cell(), False
        self._reopen(how)
        self.hear_out()

    def fail(self, error: InferdError) -> None:
        """Give up all that follow the grammar, and the room."""
        self.why = error
        self.give_up()

    def give_up(self) -> None:
        """End the cell for good, and free what the room holds, at once: nobody waits for a collection of garbage."""
        self.gone = True
        self._end_cell()
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def ask(self, constraints: Sequence[Constraint]) -> None:
        """Tell the cell the tokens of outputs that it does not know, and ask for what follows.

        Raises:
            LateError: The cell does not read.
            ClosedError: It has ended.
        """
        entries, tickets = [], []
        for constraint in constraints:
            new = constraint.number == NOWHERE
            if new and not self._admit(constraint):
                continue
            tokens = constraint.tokens[constraint.told :]
            constraint.told += len(tokens)
            constraint.ready, constraint.pending = False, constraint.pending or bool(tokens)
            self._tickets += 1
            constraint.asked = self._tickets
            tickets.append((constraint, self._tickets))
            entries.append((constraint.number, new, tokens))
        over, self._over = self._over, []
        self._free += over
        self._due += [(False, tickets), (True, tickets)]
        if self._cell is None or self.taken:
            raise ClosedError
        self._cell.channel.send((over, entries), timeout_s=self._limits.step_s)

    def read_answer(self, timeout_s: float) -> None:
        """Wait for the next answer.

        Raises:
            LateError: There is none in time.
            ClosedError: The cell has ended.
        """
        if self._cell is None or self.taken:
            raise ClosedError
        answers, _ = self._cell.channel.receive(timeout_s=timeout_s)
        of_masks, tickets = self._due.popleft()
        for (constraint, ticket), answer in zip(tickets, answers, strict=True):
            if constraint.asked != ticket:
                continue  # it was told something since, or rests
            if of_masks:
                constraint.asked = 0
                constraint.ready = not answer and not (constraint.complete or constraint.given_up)
                constraint.error = answer
            else:
                constraint.complete = answer is True
                if isinstance(answer, dict):
                    constraint.given_up = self._refuted(answer)
                constraint.pending = constraint.told < len(constraint.tokens)

    def mask(self, constraint: Constraint) -> Masks:
        """The mask of a constraint that is ready and not late, shape (ceil(V / 32),)."""
        memory = present(self._memory)  # a mask that is ready came from there
        at = BOARD_BYTES + constraint.number * 4 * self._mask_words
        row: Masks = np.frombuffer(memory.read(at, 4 * self._mask_words), np.uint32)
        return row

    def forget(self, constraint: Constraint) -> None:
        """Let the cell forget an output."""
        if constraint.number != NOWHERE:
            self._outputs.pop(constraint.number, None)
            self._over.append(constraint.number)
        constraint.forget()

    def hear_out(self) -> None:
        """See to a room that is late until all that was asked is answered, in a thread that may wait.

        An output that the cell is at for too long, or again when it dies, is given up. A cell that had to be killed or
        died is started again, and told the tokens of all others. That of a room that was taken away is not.
        """
        while not (self.gone or self.taken):
            try:
                self._answer_all()
            except LateError:
                how = self._end_cell()
                self._blame(how, late=True)
            except ClosedError:
                if self.taken:
                    return
                lived = self._cell is not None
                how = self._end_cell()
                if lived:
                    self._blame(how, late=False)
            else:
                return
            self._reopen(how)

    def sweep(self) -> None:
        """Let the cell forget what was closed while the room was late."""
        for constraint in [each for each in self._outputs.values() if each.closed]:
            self.forget(constraint)

    def _answer_all(self) -> None:
        beats, _ = self._at()
        while self._due:
            try:
                self.read_answer(self._limits.step_s)
            except LateError:
                before, (beats, _) = beats, self._at()
                if beats == before:  # else it was long, but at one after the other
                    raise

    def _blame(self, how: str, *, late: bool) -> None:
        """Give the output up that the cell was at, if it was late, or died there again."""
        _, number = self._at()
        culprit = self._outputs.get(number)
        if culprit is None:
            self._deaths += 1
            return
        culprit.deaths += 1
        if late:
            limit_s = self._limits.step_s
            culprit.given_up = self._exceeded("one token took", "workers.grammar_step_s", f"{limit_s:g}", unit="s")
        elif culprit.deaths == _MOST_DEATHS or OUT_OF_MEMORY in how:
            culprit.given_up = self._explain(how, "following it takes")

    def _reopen(self, how: str) -> None:
        """Begin anew with a new cell, for all that still can be followed; `how` the one before ended."""
        self._due.clear()
        some = [each for each in self._outputs.values() if not (each.failed or each.closed)]
        for constraint in self._outputs.values():
            constraint.forget()
        self._outputs, self._free, self._over = {}, [], []
        if not (some or self._abandoned):
            if self._memory is not None:
                self._memory.board.clear()
            return  # without a cell, until one asks
        error: InferdError = self._explain(how, "following it takes")
        while self._deaths < _MOST_DEATHS and not self._abandoned:
            try:
                self.open()
                self.ask(some)
            except BackendFailedError as failed:
                error = failed
                self._deaths += 1
            except InferdError as failed:
                error = failed
                break
            except (LateError, ClosedError):
                return  # found out again by what is due
            else:
                return
        self.fail(error)

    def _at(self) -> tuple[int, int]:
        """How often the cell began with something, and for which output it does; -1 for none."""
        return (0, -1) if self._memory is None else self._memory.board.read()

    def _start(self) -> Cell:
        try:
            if self._memory is None:
                self._memory = SharedMemory(BOARD_BYTES + OUTPUTS * 4 * self._mask_words)
            self._memory.board.clear()
            self._cell = self._cells.spawn("grammar", (self._memory.descriptor,))
        except (CellError, OSError) as error:
            raise BackendFailedError(
                f"the grammar cannot be followed: {words_of(error)}", metadata={"cause": words_of(error)}
            ) from None
        if self._abandoned:
            self._cell.kill()
        return self._cell

    def _end_cell(self) -> str:
        cell, self._cell = self._cell, None
        return "" if cell is None else cell.end()

    def _admit(self, constraint: Constraint) -> bool:
        """Give an output a place; False when there are too many."""
        number = self._free.pop() if self._free else len(self._outputs) + len(self._over)
        if number >= OUTPUTS:
            constraint.given_up = LimitExceededError(
                f"{OUTPUTS} outputs follow this grammar; wait for one to end",
                metadata={"bound": "outputs of a grammar", "limit": str(OUTPUTS)},
            )
            return False
        self._outputs[number] = constraint
        constraint.number = number
        return True

    def _exceeded(self, what: str, bound: str, limit: str, *, unit: str) -> InferdError:
        cause = f"{what} longer than {limit} {unit}" if unit == "s" else f"{what} more than {limit} {unit}"
        return LimitExceededError(
            f"the grammar ({self._kind}) is too complex: {cause} ({bound}); make it simpler",
            field=FIELD,
            metadata={"bound": bound, "limit": limit, "cause": cause},
        )

    def _explain(self, how: str, what: str) -> InferdError:
        """Why the cell ended by itself."""
        if OUT_OF_MEMORY in how:
            return self._exceeded(
                what, "workers.cell_memory_bytes", str(self._cells.memory_bytes), unit="bytes of memory"
            )
        cause = f"the process that follows the grammar ({self._kind}) ended: {how}"
        return BackendFailedError(cause, field=FIELD, metadata={"cause": cause})

    def _refuted(self, fault: dict[str, str]) -> OutputInvalidError:
        """Why an output that is complete is none: nothing of what it says."""
        cause = f"at {fault['path'] or 'its root'} it is against {fault['keyword']!r}"
        return OutputInvalidError(
            f"the output is complete, and is not as its grammar ({self._kind}) wants it: {cause}; ask again, with"
            " another seed, or make the grammar simpler",
            metadata=fault | {"cause": cause, "unfollowed": "; ".join(self._unfollowed)[:_LONGEST_CAUSE]},
        )

    def _invalid(self, cause: str) -> InvalidFieldError:
        cause = cause.strip()[:_LONGEST_CAUSE]
        return InvalidFieldError(
            f"the grammar ({self._kind}) is refused: {cause}", field=FIELD, metadata={"cause": cause}
        )

    @property
    def _kind(self) -> str:
        return self.grammar.kind.name.lower()
