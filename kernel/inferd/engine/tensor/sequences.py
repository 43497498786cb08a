"""Sequences of requests: their order, and the state that is carried from one to the next."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from inferd.engine.tensor.checks import AT, zeros, zeros_bytes
from inferd.engine.tensor.ledger import Ledger, kept_bytes
from inferd.engine.tensor.returns import Returns, remember
from inferd.errors import InvalidFieldError, SequenceNotFoundError
from inferd.plugin import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.ids import Tenant
    from inferd.engine.tensor.entry import Entry
    from inferd.engine.tensor.request import Request, SequenceStep, TensorLimits
    from inferd.plugin import Signature

    Key = tuple[Tenant, str]

UNDONE: Final = 64  # sequences that ended, of which the last request may be undone


@dataclass(slots=True)
class _Kept:
    """A sequence that was started: its states by input, and when its last request ended.

    Attributes:
        handle: Of the request that changed it last; 0 when that was undone.
        before: The states before that; None where there were none.
    """

    states: Mapping[str, Tensor]
    used_at: float
    handle: int = 0
    before: Mapping[str, Tensor] | None = None


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
    _done: OrderedDict[int, tuple[Key, str]] = field(default_factory=OrderedDict)  # the last ones, by handle
    _ended: OrderedDict[Key, _Kept] = field(default_factory=OrderedDict)  # by their last request, which may be undone
    returns: Returns = field(init=False)
    _ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is kept yet."""
        self._ledger = Ledger(self.limits)
        self.returns = Returns(self.limits.sequence_idle_s)

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
            LimitExceededError: It would be one too many, or too large.
        """
        kept = self._kept.get(step.key)
        if step.start:
            return self._start(entry, step)
        if kept is None:
            why = self._gone.get(step.key, "it was not started here; it may have gone with its worker")
            raise SequenceNotFoundError(
                f"sequence {step.name[:80]!r} is not there: {why}; send its first request with start again",
                metadata={"sequence": step.name[:80], "why": why},
            )
        self._check_rows(entry.rows, kept, step)
        return kept.states

    def behind(self, entry: Entry | None, key: Key) -> list[Entry]:
        """Those of a sequence that come behind one, or all, up to one that starts it anew."""
        line = list(self._lines.get(key, ()))
        rest = line[line.index(entry) + 1 :] if entry is not None else line
        return list(takewhile(lambda each: each.request.sequence is None or not each.request.sequence.start, rest))

    def exchange(self, entry: Entry, step: SequenceStep) -> Entry:
        """Put another entry for the same request in the place of one, as if nothing had been computed of it."""
        line, anew = self._lines[step.key], entry.anew()
        line[line.index(entry)] = anew
        return anew

    def undo(self, handle: int, now: float, *, again: bool) -> tuple[Key | None, str]:
        """What a request did is undone: nobody has its answer. No key where it did nothing, or where that is too late.

        The kernel forgets a task that it suspends, cancels or lets expire, and drops an answer that is under way.
        """
        key, task_id = self._done.pop(handle, (None, ""))
        if key is None:
            return None, task_id
        last = self._kept.get(key) or self._ended.get(key)
        if last is None or last.handle != handle:
            if again:
                self.returns.miss(task_id)
            return None, task_id
        self._kept.pop(key, None)
        self._ended.pop(key, None)
        self._ledger.drop(key)
        if last.before is None:
            self._remember(key, "its first request was cancelled or suspended")
        else:
            self._ledger.put(key, sum(kept_bytes(tensor) for tensor in last.before.values()), force=True)
            self._kept[key] = _Kept(last.before, now)
        if again:
            self.returns.expect(key, task_id, now)
        return key, task_id

    def commit(
        self, step: SequenceStep, outputs: Mapping[str, Tensor], now: float, *, handle: int = 0, task_id: str = ""
    ) -> None:
        """A request was computed: what it gave is the state of the next one.

        Raises:
            LimitExceededError: The state is larger than a bound; nothing has changed.
        """
        last = self._kept.get(step.key)
        before = None if last is None else last.states
        if step.end:
            self._kept.pop(step.key, None)
            self._ledger.drop(step.key)
            self._remember(step.key, "it has ended")
            remember(self._done, handle, (step.key, task_id))
            self._keep_ended(step.key, _Kept({}, now, handle, before))
            return
        given = {state.input_name: outputs[state.output_name] for state in self.signature.states}
        size = sum(kept_bytes(tensor) for tensor in given.values())
        self._ledger.check_one(size)
        states = {name: _copy(tensor) for name, tensor in given.items()}
        self._ledger.put(step.key, size)
        self._ended.pop(step.key, None)
        self._kept[step.key] = _Kept(states, now, handle, before)
        self._kept.move_to_end(step.key)
        remember(self._done, handle, (step.key, task_id))

    def leave(self, entry: Entry, step: SequenceStep, now: float) -> None:
        """A request has ended, or was dropped."""
        line = self._lines[step.key]
        first = line[0] is entry
        line.remove(entry)
        if not line:
            del self._lines[step.key]
        if (kept := self._kept.get(step.key)) is not None:
            kept.used_at = now
            self._kept.move_to_end(step.key)
        elif first:
            self._ledger.drop(step.key)  # it did not begin

    def admit(self, request: Request, step: SequenceStep, now: float) -> None:
        """A request comes.

        Raises:
            TaskStateError: Its sequence has gone on without it, or waits for another task.
        """
        if request.moved:
            self._leave_behind(step.key)
        self.returns.check(request, step, now)

    def _leave_behind(self, key: Key) -> None:
        """A sequence went on elsewhere: its state here is old."""
        if self._kept.pop(key, None) is not None:
            self._ledger.drop(key)
        self._ended.pop(key, None)
        self._remember(key, "it went on in another worker, which may be gone")

    def expire(self, now: float) -> None:
        """Give up those that were idle for too long."""
        idle_s = self.limits.sequence_idle_s
        for key in list(takewhile(lambda key: now - self._kept[key].used_at >= idle_s, self._kept)):
            if key not in self._lines:
                del self._kept[key]
                self._ledger.drop(key)
                self._remember(key, f"it was idle for {idle_s:g} s (workers.sequence_idle_s)")

    def next_expiry(self) -> float | None:
        """When one may have been idle for too long; None while nothing is kept that is idle."""
        idle = next((kept.used_at for key, kept in self._kept.items() if key not in self._lines), None)
        return None if idle is None else idle + self.limits.sequence_idle_s

    def _start(self, entry: Entry, step: SequenceStep) -> dict[str, Tensor]:
        """Zeros. One that is to be kept has its place from now on: several that begin at once do not get the same."""
        kinds = {info.name: info.element_type for info in self.signature.inputs}
        batch = (entry.rows,) if self.signature.most_batch > 1 else ()
        shapes = {state.input_name: (*batch, *state.start_shape) for state in self.signature.states}
        size = sum(zeros_bytes(kinds[name], shape) for name, shape in shapes.items())
        self._ledger.check_one(size)
        if not step.end and step.key not in self._kept:
            self._ledger.put(step.key, size)
        return {name: zeros(kinds[name], shape) for name, shape in shapes.items()}

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

    def _keep_ended(self, key: Key, ended: _Kept) -> None:
        """Keep what may be undone of sequences that ended: of a few, and as much as one may have."""
        self._ended[key] = ended
        self._ended.move_to_end(key)
        sizes = [sum(kept_bytes(t) for t in (each.before or {}).values()) for each in self._ended.values()]
        while len(sizes) > UNDONE or sum(sizes) > self.limits.sequence_bytes:
            self._ended.popitem(last=False)
            del sizes[0]

    def _remember(self, key: Key, why: str) -> None:
        remember(self._gone, key, why)


def _copy(tensor: Tensor) -> Tensor:
    """A part of a batch would keep the whole batch, and a session may use its memory again."""
    return Tensor(element_type=tensor.element_type, shape=tensor.shape, array=tensor.array.copy())
