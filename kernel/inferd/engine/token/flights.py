"""Steps that were begun and whose tokens are not read yet: one, or two where the session goes on behind the first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from inferd.engine.token.place import WAITING
from inferd.errors import is_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.engine.token.batcher import Batcher
    from inferd.engine.token.forward import Forward, Seen
    from inferd.engine.token.pace import Pace
    from inferd.engine.token.room import Constraint
    from inferd.engine.token.sampler import Ids
    from inferd.engine.token.step import Step


@dataclass(slots=True)
class Flight:
    """A step that was begun. One writer: `Flights`.

    Attributes:
        step: It.
        take: Waits for its tokens, or computes them.
        launched: Whether it is computed already, and another step may be begun behind it.
        began: When it was begun.
        seconds: How long it took, beside what was before it, once it was read.
    """

    step: Step
    take: Callable[[], tuple[Ids, Seen | None]]
    launched: bool = False
    began: float = 0.0
    seconds: float = 0.0


class Flights:
    """Begins steps and reads them, in their order. One writer: the thread of the steps.

    A step is begun before the tokens of the one before are read where nothing but these tokens is missing: they are on
    the device. A sequence that ends with the first step is computed in vain in the second, which nobody is told of. Its
    blocks may be another's then; what was computed in vain is written there before that one writes.

    Args:
        forward: Computes.
        batcher: Schedules.
        pace: Is told how long steps take.
    """

    def __init__(self, forward: Forward, batcher: Batcher, pace: Pace) -> None:
        self._forward = forward
        self._batcher = batcher
        self._pace = pace
        self._read_at = 0.0

    def begin(self, step: Step, *, constrained: bool) -> Flight:
        """Begin a step; where it cannot be launched it is computed when it is read.

        Args:
            step: It.
            constrained: Whether outputs of some of those that are sampled may be bound.
        """
        constraints = _constraints(step) if constrained else []
        flight = None if constraints else self._launch(step)
        if flight is None:
            began = time.perf_counter()
            return Flight(step, partial(self._forward.compute, step, constraints), began=began)
        return flight

    def begin_behind(self, flight: Flight, *, constrained: bool) -> Flight | None:
        """Begin the step behind one that was launched and not read; None where that has to be read before.

        It has where the next one cannot be launched, too: computed later, it would find other rows and blocks.
        """
        step = self._batcher.schedule_behind(flight.step) if flight.launched else None
        if step is None or (constrained and _constraints(step)):
            return None
        return self._launch(step)

    def _launch(self, step: Step) -> Flight | None:
        """A step that was launched, or whose launch failed; None where it is to be computed."""
        began = time.perf_counter()
        try:
            launched = self._forward.launch(step)
        except BaseException as error:
            if not is_failure(error):
                raise
            return Flight(step, partial(_fail, error), began=began)
        if launched is None:
            return None
        self._batcher.advance(step)
        return Flight(step, launched, launched=True, began=began)

    def read(self, flight: Flight) -> tuple[Step, Ids, Seen | None, list[list[int]] | None]:
        """The step without those that ended before it, their tokens, logits if they came, and what drafts gave.

        Raises:
            Exception: It was not computed.
        """
        ids, seen = flight.take()
        step, now = flight.step, time.perf_counter()
        flight.seconds, self._read_at = now - max(flight.began, self._read_at), now
        decode = step.decode_tokens
        self._pace.measure(flight.seconds, decode=decode, prompt=len(step.batch.token_ids) - decode)
        if not flight.launched:
            return step, ids, seen, self._batcher.commit(step, ids)
        gone = {sequence for sequence in step.sampled if sequence.place.row == WAITING}
        if gone:
            ids = ids[[sequence not in gone for sequence in step.sampled]]
            step = step.without(gone)
        return step, ids, seen, self._batcher.settle(step, ids)


def _constraints(step: Step) -> list[tuple[int, Constraint]]:
    """What outputs of those that are sampled must be, by place; asking each of them costs."""
    return [(at, each.constraint) for at, each in enumerate(step.sampled) if each.constraint is not None]


def _fail(error: BaseException) -> tuple[Ids, Seen | None]:
    raise error
