"""Structured output: what an output must be, as the tokens that are allowed next.

Grammars are compiled and followed by llguidance (https://github.com/guidance-ai/llguidance), each in a cell of its own.
What a client may make it cost is bounded by its limits, which count work, so that the same grammar is always taken or
always refused; where they do not hold, by time and memory.
"""

from __future__ import annotations

from collections import defaultdict
from time import monotonic
from typing import TYPE_CHECKING, Final

import numpy as np

from inferd.engine.cause import OVER_LIMITS
from inferd.engine.token.gate import NO_STANDING
from inferd.engine.token.room import Constraint, Room
from inferd.engine.token.rooms import Guest, Rooms
from inferd.errors import BackendFailedError, InferdError, LimitExceededError, UnsupportedInputError
from inferd.plugin.channel import ClosedError, LateError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from inferd.engine.cells.cell import Cells
    from inferd.engine.token.gate import Standing
    from inferd.engine.token.limits import GrammarLimits
    from inferd.engine.token.room import Masks
    from inferd.engine.token.sequence import Sequence as EngineSequence
    from inferd.sampling import Grammar

LEXER_FUEL: Final = 1_000_000
"""Most work of compiling one grammar: about 20 ms."""
STEP_LEXER_FUEL: Final = 200_000
"""Most work for one token: about 15 ms, beside the forward pass."""
STEP_ITEMS: Final = 50_000
"""Most parser items of one token: about 3 ms."""
ROW_ITEMS: Final = 2_000
"""Most ways to go on at one place of the output."""
LEXER_STATES: Final = 64_000
"""Most states of the lexer of one grammar: about 100 MB."""
GRAMMAR_SYMBOLS: Final = 500_000
"""Most symbols of the rules of one grammar."""


class Grammars:
    """The grammars of one model.

    Args:
        cells: Where they are followed.
        ends: Tokens that end a text; allowed where the output is complete.
        vocabulary_size: Number of logits in a row.
        limits: How long what may take, and how many there may be.
    """

    def __init__(self, cells: Cells, *, ends: Collection[int], vocabulary_size: int, limits: GrammarLimits) -> None:
        self._cells = cells
        self._ends = sorted(ends)
        self._mask_words = -(-vocabulary_size // 32)
        self._limits = limits
        self._rooms = Rooms(self._make_room, most=limits.most)

    def open(
        self,
        grammar: Grammar,
        take: Callable[[list[Constraint] | InferdError], None],
        *,
        count: int,
        ignore_ends: bool,
        standing: Standing = NO_STANDING,
    ) -> Callable[[], None]:
        """Have a grammar compiled beside what else goes on; the same one only once. From any thread.

        Args:
            grammar: In one of the languages of `GrammarKind`.
            take: Called once, from any thread, with what follows the grammar through each of `count` outputs, which
                is to be closed in the end, or with why there is nothing: InvalidFieldError, LimitExceededError,
                UnsupportedInputError, BackendFailedError.
            count: How many outputs.
            ignore_ends: Tokens that end a text are not allowed as long as the output can go on.
            standing: Whose the outputs are.

        Returns:
            What withdraws this; `take` may be called yet.
        """
        barred = self._ends if ignore_ends else ()

        def enter(room: Room | InferdError) -> None:
            take([Constraint(room, barred=barred) for _ in range(count)] if isinstance(room, Room) else room)

        if not self._ends:
            enter(UnsupportedInputError("the model has no end-of-text token, which a grammar needs; send none"))
            return lambda: None
        return self._rooms.enter(grammar, Guest(enter, count, standing))

    def close(self, constraint: Constraint) -> None:
        """A constraint is not used any more."""
        if constraint.closed:
            return
        constraint.closed = True
        if not constraint.late:
            constraint.room.forget(constraint)
        self._rooms.leave(constraint.room)

    def hear_out(self, room: Room, done: Callable[[], None]) -> None:
        """See to a room that is late beside what else goes on; `done` is called in the end, from any thread."""
        self._rooms.hear_out(room, done)

    def shut(self) -> None:
        """Give all up."""
        self._rooms.shut()

    def _make_room(self, grammar: Grammar) -> Room:
        message = {
            "kind": grammar.kind.name,
            "source": grammar.source,
            "texts": grammar.texts,
            "limits": {
                "initial_lexer_fuel": LEXER_FUEL,
                "step_lexer_fuel": STEP_LEXER_FUEL,
                "step_max_items": STEP_ITEMS,
                "max_items_in_row": ROW_ITEMS,
                "max_lexer_states": LEXER_STATES,
                "max_grammar_size": GRAMMAR_SYMBOLS,
            },
        }
        return Room(grammar, cells=self._cells, limits=self._limits, message=message, mask_words=self._mask_words)


class Following:
    """The constraints of the steps: their masks, computed beside the forward pass, and what becomes of their tokens.

    Nothing here waits for longer than `wait_s` at once: who is late then is left to `hear_out`, with its whole room.

    One writer: the thread of the steps.

    Args:
        rows: Most rows of a step.
        vocabulary_size: Number of logits in a row.
        wait_s: Most that grammars hold up a step, before its end and behind it.

    Attributes:
        hear_out: Called with a room that is late; it is to call `hear_out` of that from another thread.
    """

    hear_out: Callable[[Room], None]

    def __init__(self, *, rows: int, vocabulary_size: int, wait_s: float) -> None:
        self._masks: Masks = np.empty((rows, -(-vocabulary_size // 32)), np.uint32)
        self._wait_s = wait_s
        self._rows = 0
        self._some: list[tuple[int, Constraint]] = []

    def begin(self, constraints: list[tuple[int, Constraint]], *, rows: int) -> None:
        """Begin with the masks of a step of so many rows, as far as they are not there: of rows with a constraint."""
        self._rows = rows
        self._some = constraints
        if constraints:
            self._ask([c for _, c in constraints if not (c.ready or c.asked or c.complete or c.failed)])

    def finish(self) -> Masks | None:
        """The masks that were begun, shape (R, ceil(V / 32)); bit i of a row, lowest first, allows token i.

        None when no row has a constraint. A row whose grammar failed or is late is 0. Valid until the next `begin`.
        """
        if not self._some:
            return None
        masks = self._masks[: self._rows]
        masks.fill(0xFFFFFFFF)
        until = monotonic() + self._wait_s
        for row, constraint in sorted(self._some, key=lambda each: not each[1].ready):  # who waits may find a room late
            while constraint.asked and self._hear(constraint.room, until):
                pass
            found = constraint.ready and not constraint.late
            masks[row] = constraint.room.mask(constraint) if found else 0
            if found and constraint.barred:
                _bar(masks[row], constraint.barred)
        self._some = []
        return masks

    def advance(self, constraints: Sequence[Constraint | None], token_ids: Sequence[int]) -> None:
        """Outputs have their next tokens; sets whether they are complete, where that is known soon."""
        some = [constraint for constraint in constraints if constraint is not None]
        if not some:
            return
        for constraint, token_id in zip(constraints, token_ids, strict=True):
            if constraint is not None:
                constraint.add(token_id)
        self._catch_up(some)

    def decide(self, constraint: Constraint) -> bool:
        """Whether it is known now if an output is complete, or that it has failed."""
        if constraint.pending and not constraint.failed:
            self._catch_up([constraint])
        return constraint.failed or not constraint.pending

    def _catch_up(self, constraints: Sequence[Constraint]) -> None:
        """Set whether outputs are complete, where that is known soon."""
        self._ask([constraint for constraint in constraints if not constraint.asked])
        until = monotonic() + self._wait_s
        for constraint in constraints:
            while constraint.pending and self._hear(constraint.room, until):
                if not constraint.asked:  # what was answered was asked before its last token
                    self._ask([constraint])

    def _ask(self, constraints: Sequence[Constraint]) -> None:
        """One message to each room that is not late."""
        by_room = defaultdict(list)
        for constraint in constraints:
            if not constraint.late:
                by_room[constraint.room].append(constraint)
        for room, some in by_room.items():
            try:
                room.ask(some)
            except (LateError, ClosedError):
                self._leave_alone(room)

    def _hear(self, room: Room, until: float) -> bool:
        """Take the next answer of a room; False when there is none in time."""
        if room.late or room.gone:
            return False
        try:
            room.read_answer(max(0.0, until - monotonic()))
        except (LateError, ClosedError):
            self._leave_alone(room)
            return False
        return True

    def _leave_alone(self, room: Room) -> None:
        room.late = True
        self.hear_out(room)


def why_stuck(sequence: EngineSequence) -> InferdError:
    """Why a sequence cannot get a next token although its logits are sound."""
    constraint = sequence.constraint
    if constraint is not None and constraint.why is not None:
        return constraint.why
    if constraint is None:
        cause = "bad words, logit bias and min_tokens bar every token"
    elif not constraint.error:
        cause = "bad words, logit bias or min_tokens bar every token that the grammar allows"
    else:
        cause = f"the grammar cannot be followed: {_first_line(constraint.error)}"
        if any(words in cause.lower() for words in OVER_LIMITS):
            return LimitExceededError(f"{cause}; make it simpler", metadata={"cause": cause})
    return BackendFailedError(f"no token is left to choose from: {cause}", metadata={"cause": cause})


def _bar(mask: NDArray[np.uint32], token_ids: Sequence[int]) -> None:
    """Disallow tokens, unless nothing else is allowed."""
    rest = mask.copy()
    for number in token_ids:
        rest[number // 32] &= ~np.uint32(1 << number % 32)
    if rest.any():
        mask[:] = rest


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
