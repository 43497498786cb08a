"""Sequences of requests: their order, and the state that is carried from one to the next."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inferd.engine.tensor.checks import AT, zeros
from inferd.errors import InvalidFieldError, LimitExceededError, SequenceNotFoundError
from inferd.plugin import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.ids import Tenant
    from inferd.engine.tensor.entry import Entry
    from inferd.engine.tensor.request import SequenceStep, TensorLimits
    from inferd.plugin import Signature

    Key = tuple[Tenant, str]

REMEMBERED: Final = 1024  # sequences that ended, of which it is known why


@dataclass(slots=True)
class _Kept:
    """A sequence that was started: its states by input, and when its last request ended."""

    states: dict[str, Tensor]
    used_at: float


@dataclass(slots=True)
class Sequences:
    """The sequences of one instance. One writer: the loop, under its lock.

    Args:
        signature: Of the model.
        limits: How many there may be, and for how long they may be idle.
    """

    signature: Signature
    limits: TensorLimits
    _kept: OrderedDict[Key, _Kept] = field(default_factory=OrderedDict)  # the one that was used last is the last
    _lines: dict[Key, deque[Entry]] = field(default_factory=dict)  # those that wait or are computed, in their order
    _gone: OrderedDict[Key, str] = field(default_factory=OrderedDict)  # why

    @property
    def inputs(self) -> frozenset[str]:
        """Inputs that are carried."""
        return frozenset(state.input_name for state in self.signature.states)

    @property
    def outputs(self) -> frozenset[str]:
        """Outputs that are carried."""
        return frozenset(state.output_name for state in self.signature.states)

    def join(self, entry: Entry, step: SequenceStep) -> None:
        """A request waits behind those of its sequence that came before."""
        self._lines.setdefault(step.key, deque()).append(entry)

    def is_first(self, entry: Entry, step: SequenceStep) -> bool:
        """Whether it is the turn of a request in its sequence."""
        return self._lines[step.key][0] is entry

    def states(self, entry: Entry, step: SequenceStep) -> Mapping[str, Tensor]:
        """The states that a request, whose turn it is, is given, by input.

        Raises:
            SequenceNotFoundError: Its sequence is not kept.
            InvalidFieldError: It has other rows than the sequence.
            LimitExceededError: It would be one too many.
        """
        kept = self._kept.get(step.key)
        if step.start:
            if kept is None and len(self._kept) >= self.limits.sequences:
                most = self.limits.sequences
                raise LimitExceededError(
                    f"{len(self._kept)} sequences are kept and workers.sequences is {most}; end some, or wait until"
                    f" some have been idle for {self.limits.sequence_idle_s:g} s",
                    metadata={"bound": "workers.sequences", "value": str(len(self._kept)), "limit": str(most)},
                )
            return self._start(entry.rows)
        if kept is None:
            why = self._gone.get(step.key, "it was not started here; it may have gone with its worker")
            raise SequenceNotFoundError(
                f"sequence {step.name[:80]!r} is not there: {why}; send its first request with start again",
                metadata={"sequence": step.name[:80], "why": why},
            )
        self._check_rows(entry.rows, kept, step)
        return kept.states

    def commit(self, step: SequenceStep, outputs: Mapping[str, Tensor], now: float) -> None:
        """A request was computed: what it gave is the state of the next one."""
        if step.end:
            self._kept.pop(step.key, None)
            self._remember(step.key, "it has ended")
            return
        states = {state.input_name: _copy(outputs[state.output_name]) for state in self.signature.states}
        self._kept[step.key] = _Kept(states, now)
        self._kept.move_to_end(step.key)

    def leave(self, entry: Entry, step: SequenceStep, now: float) -> None:
        """A request has ended, or was dropped."""
        line = self._lines[step.key]
        line.remove(entry)
        if not line:
            del self._lines[step.key]
        if (kept := self._kept.get(step.key)) is not None:
            kept.used_at = now
            self._kept.move_to_end(step.key)

    def expire(self, now: float) -> None:
        """Give up those that were idle for too long."""
        idle_s = self.limits.sequence_idle_s
        for key in [key for key, kept in self._kept.items() if now - kept.used_at >= idle_s]:
            if key not in self._lines:
                del self._kept[key]
                self._remember(key, f"it was idle for {idle_s:g} s (workers.sequence_idle_s)")

    def next_expiry(self) -> float | None:
        """When one may have been idle for too long; None while nothing is kept that is idle."""
        idle = [kept.used_at for key, kept in self._kept.items() if key not in self._lines]
        return min(idle) + self.limits.sequence_idle_s if idle else None

    def _start(self, rows: int) -> dict[str, Tensor]:
        kinds = {info.name: info.element_type for info in self.signature.inputs}
        batch = (rows,) if self.signature.most_batch > 1 else ()
        return {
            state.input_name: zeros(kinds[state.input_name], (*batch, *state.start_shape))
            for state in self.signature.states
        }

    def _check_rows(self, rows: int, kept: _Kept, step: SequenceStep) -> None:
        """Each row of a state belongs to a row of the inputs: the model must not get one without the other."""
        if self.signature.most_batch == 1:
            return
        for name, state in kept.states.items():
            if state.shape[:1] != (rows,):
                have = state.shape[0] if state.shape else 0
                raise InvalidFieldError(
                    f"the request has {rows} rows and sequence {step.name[:80]!r} has {have}, in its state {name!r}; "
                    "send as many as at its start, or start it again",
                    field=AT,
                )

    def _remember(self, key: Key, why: str) -> None:
        self._gone[key] = why
        self._gone.move_to_end(key)
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)


def _copy(tensor: Tensor) -> Tensor:
    """A part of a batch would keep the whole batch, and a session may use its memory again."""
    return Tensor(element_type=tensor.element_type, shape=tensor.shape, array=tensor.array.copy())
