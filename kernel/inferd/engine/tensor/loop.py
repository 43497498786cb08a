"""The loop of the tensor engine: take what belongs together, have it computed, tell each request what is its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from inferd.core.vigil import Doing, Pulse
from inferd.engine.activity import Activity
from inferd.engine.tensor.answers import check_known_size, check_size, refusals, typed
from inferd.engine.tensor.board import Batch, Board
from inferd.engine.tensor.calls import Calls, unwanted
from inferd.engine.tensor.checks import check_inputs, check_outputs, choose_outputs
from inferd.engine.tensor.entry import Entry, named
from inferd.engine.tensor.request import Request, TensorLimits, TensorResult
from inferd.engine.tensor.returns import suspended
from inferd.engine.tensor.sequences import Sequences
from inferd.engine.token.holds import Holds
from inferd.engine.token.output import Ended
from inferd.errors import InferdError, is_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.plugin import LoadedTensorModel, Tensor

_log = logging.getLogger(__name__)

AHEAD: Final = 1
"""Batches that wait while others are computed: so a thread never waits for the kernel."""


class TensorLoop:
    """Runs the tasks of one model of tensors.

    `run` belongs to the thread that loaded the session, and starts `Signature.threads` less one more. `submit`,
    `cancel`, `hold` and `stop` come from any thread. All of the state below is written under one lock; what is told is
    told outside of it.

    Args:
        model: The loaded model.
        limits: Bounds of the kernel's configuration.
        deliver: Called with what was computed, from any of the threads. May block: then that thread waits.
        activity: Told what the thread of `run` is doing.
        now: A monotonic clock, in seconds.

    Attributes:
        signature: Of the model.
        most_batch: Most rows that are computed as one.
        delay_s: Most seconds that a request waits for others.
        places: Tasks that it can have at once, those that are computed and one batch ahead.
        steps: Calls of `predict` so far.
    """

    def __init__(
        self,
        model: LoadedTensorModel,
        limits: TensorLimits,
        deliver: Callable[[TensorResult], None],
        *,
        activity: Activity | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.signature = model.session.signature
        self.most_batch = min(self.signature.most_batch, limits.batch_rows)
        self.delay_s = limits.delay_s(self.signature)
        self.places = self.most_batch * (self.signature.threads + AHEAD)
        self.steps = 0
        self._session = model.session
        self._limits = limits
        self._deliver = deliver
        self._now = now
        self._activities = [activity or Activity(), *(Activity() for _ in range(self.signature.threads - 1))]
        self._sequences = Sequences(self.signature, limits)
        self._board = Board(self._sequences, self.most_batch, self.delay_s)
        self._holds = Holds(rows=self.places, blocks=0)
        self._entries: dict[int, Entry] = {}  # by handle: those that wait or are computed
        self._stopping = False
        self._changed = threading.Condition()
        self._calls = Calls(model.session, self._changed)

    def submit(self, request: Request) -> None:
        """Run a task. Whatever becomes of it, its handle is in `TensorResult.ended` once, unless it is cancelled."""
        try:
            entry = self._accept(request)
            with self._changed:
                self._holds.find(request.lease_id, request.fencing_token)
                if request.sequence is not None:
                    self._sequences.admit(request, request.sequence, self._now())
                self._entries[request.handle] = entry
                self._board.add(entry)
                self._changed.notify()
        except InferdError as error:
            self._deliver(TensorResult(ended=[Ended(handle=request.handle, error=error)]))

    def cancel(self, handle: int, *, again: bool = False) -> None:
        """Forget a task, which may be submitted `again`: what is still computed of it is told to nobody.

        Nobody has the answer of one that has ended: what it did to its sequence is undone.
        """
        with self._changed:
            entry = self._entries.get(handle)
            refused = self._drop(entry, again=again) if entry is not None else self._undo(handle, again=again)
            for each, _ in refused:
                each.dropped = True
                self._forget(each)
            self._calls.stop_unwanted()
        if refused:
            self._deliver(TensorResult(ended=[Ended(handle=each.handle, error=error) for each, error in refused]))

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """Note the grant of a lease, which its tasks must name; the kernel itself leaves their places free.

        Raises:
            ValueError: It is more than there is: a defect of the caller, who was told the bounds.
        """
        if sequences > self.places or kv_tokens:
            raise ValueError(
                f"lease {lease_id} is to hold {sequences} sequences and {kv_tokens} KV tokens; "
                f"the model has {self.places} and 0"
            )
        with self._changed:
            self._holds.change(lease_id, fencing_token, rows=sequences, blocks=0)

    def stop(self) -> None:
        """Let `run` return when what is computed now is done; the rest is forgotten."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def run(self) -> None:
        """Compute until `stop`; sleeps while there is nothing to do."""
        first, *others = self._activities
        threads = [
            threading.Thread(target=self._work, args=(activity,), name=f"predict {n}", daemon=True)
            for n, activity in enumerate(others, start=1)
        ]
        for thread in threads:
            thread.start()
        try:
            self._work(first)
        finally:
            self.stop()
            for thread in threads:
                thread.join()

    def pulse(self) -> Pulse:
        """What the threads are doing: that of those that compute which has done so for longest.

        How long calls of a size last usually is not told: their time is in the values, too, so that a long one after
        short ones is no hang. It has the ceiling.
        """
        if self._calls.any_unwanted:  # it had not begun when it was told to stop
            with self._changed:
                self._calls.stop_unwanted()
        pulses = [activity.pulse(self.steps) for activity in self._activities]
        most = len(pulses)
        place, pulse = max(enumerate(pulses), key=lambda each: (each[1].doing is Doing.STEP, each[1].seconds))
        turn = pulse.turn * most + place
        return Pulse(doing=pulse.doing, turn=turn, seconds=pulse.seconds, usual_s=None, steps=pulse.steps)

    def _drop(self, entry: Entry, *, again: bool) -> list[tuple[Entry, InferdError]]:
        """Forget what waits or is computed; those that must not go before it."""
        step, task_id = entry.request.sequence, entry.request.task_id
        refused: list[tuple[Entry, InferdError]] = []
        if again and step is not None:
            refused = [(each, suspended(step, task_id)) for each in self._sequences.behind(entry, step.key)]
            self._sequences.returns.expect(step.key, task_id, self._now())
        entry.dropped = True
        self._forget(entry)
        return refused

    def _undo(self, handle: int, *, again: bool) -> list[tuple[Entry, InferdError]]:
        """Undo what was computed; those that must not go before it. What goes on is given the states that are left."""
        key, task_id = self._sequences.undo(handle, self._now(), again=again)
        if key is None:
            return []
        behind = self._sequences.behind(None, key)
        if again:
            return [(each, suspended(each.request.sequence, task_id)) for each in behind if each.request.sequence]
        for each in behind[:1]:
            if each.ready and each.request.sequence is not None:
                each.dropped = True
                self._board.remove(each)
                self._entries[each.handle] = anew = self._sequences.exchange(each, each.request.sequence)
                self._board.add(anew, joins=False)
                self._changed.notify_all()
        return []

    def _accept(self, request: Request) -> Entry:
        within = request.sequence is not None
        carried = self._sequences.inputs if within else frozenset()
        if request.prepare is None:
            check_inputs(request.inputs, self.signature, carried=carried)
            request = named(request, self._session)
        wanted = choose_outputs(
            request.outputs, self.signature, carried=self._sequences.outputs if within else frozenset()
        )
        if request.finish is None:  # else it is told something else
            check_known_size(request, wanted, self.signature, self._limits)
        states = self._sequences.outputs.difference(wanted) if within else ()
        return Entry(
            request=request,
            wanted=wanted,
            asked=(*wanted, *sorted(states)),
            arrived=self._now(),
            inputs=dict(request.inputs),
        )

    def _work(self, activity: Activity) -> None:
        """The life of a thread."""
        while (batch := self._next(activity)) is not None:
            if batch.alone:
                self._deliver(TensorResult(alone=batch.entries[0].handle))  # before the worker can die of it
            try:
                self._compute(batch, activity)
            finally:
                with self._changed:
                    self._board.end(batch)
                    self._changed.notify_all()

    def _next(self, activity: Activity) -> Batch | None:
        """Wait for what is to be computed next; None when there will be nothing."""
        while True:
            with self._changed:
                if self._stopping:
                    return None
                now = self._now()
                self._sequences.expire(now)
                batch = self._board.take(now)
                refused, self._board.refused = self._board.refused, []
                for entry, _ in refused:
                    self._forget(entry)
                if batch is not None and not refused:
                    if len(self._board):
                        self._changed.notify()  # another thread may take some of the rest
                    return batch
                if batch is None and not refused:
                    activity.begin(Doing.IDLE)
                    self._changed.wait(self._patience_s(now))
            if refused:
                self._tell(activity, ended=[Ended(handle=entry.handle, error=error) for entry, error in refused])
            if batch is not None:
                return batch

    def _patience_s(self, now: float) -> float | None:
        """How long nothing is due, in seconds; None for ever."""
        dues = [due for due in (self._board.due, self._sequences.next_expiry()) if due is not None]
        return max(0.0, min(dues) - now) if dues else None

    def _compute(self, batch: Batch, activity: Activity) -> None:
        entries = [entry for entry in batch.entries if not entry.dropped]
        if len(entries) > 1 and self._compute_together(entries, activity):
            return
        for entry in entries:
            if not entry.dropped:
                self._compute_alone(entry, batch, activity)

    def _compute_together(self, entries: list[Entry], activity: Activity) -> bool:
        """Compute several requests as one; whether that went well."""
        started = time.perf_counter()
        try:
            with self._calls.running(entries):
                given = self._predict(entries, activity)
            rows = sum(entry.rows for entry in entries)
            parts = self._board.filling.split(
                check_outputs(given, entries[0].asked, rows, signature=self.signature), entries
            )
            shown = [self._show(entry, part) for entry, part in zip(entries, parts, strict=True)]
        except BaseException as error:
            if not is_failure(error):
                raise
            if unwanted(entries):
                return True
            _log.exception("the backend failed with %d requests as one; each is tried alone", len(entries))
            return False
        seconds = time.perf_counter() - started
        with self._changed:
            result = TensorResult(seconds=seconds)
            for entry, part, told in zip(entries, parts, shown, strict=True):
                self._finish(entry, part, told, result)
        self._tell_result(activity, result)
        return True

    def _compute_alone(self, entry: Entry, batch: Batch, activity: Activity) -> None:
        """Compute one request; whatever comes of it is its own."""
        started = time.perf_counter()
        try:
            with self._calls.running([entry]):
                if entry.request.prepare is not None:
                    entry.prepare()
                    check_inputs(entry.inputs, self.signature, carried=frozenset())
                given = self._predict([entry], activity)
                if not isinstance(given, Mapping):
                    self._stream(entry, iter(given), batch, activity)
                    return
            outputs = self._checked(entry, given)
            told = self._show(entry, outputs)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._fail(entry, error, activity)
            return
        with self._changed:
            result = TensorResult(seconds=time.perf_counter() - started)
            self._finish(entry, outputs, told, result)
        self._tell_result(activity, result)

    def _predict(self, entries: list[Entry], activity: Activity) -> Any:
        inputs = self._board.filling.join(entries)
        activity.begin(Doing.STEP)
        try:
            with refusals():
                return self._session.predict(inputs, entries[0].asked)
        finally:
            with self._changed:
                self.steps += 1

    def _checked(self, entry: Entry, given: Any) -> dict[str, Tensor]:
        """What the session gave for one request: of any shape, but states have its rows."""
        carries = entry.request.sequence is not None and self.signature.most_batch > 1
        states = self._sequences.outputs if carries else frozenset()
        return check_outputs(given, entry.asked, None, signature=self.signature, state_rows=entry.rows, states=states)

    def _stream(self, entry: Entry, sets: Iterator[Any], batch: Batch, activity: Activity) -> None:
        """Tell one set of outputs after the other, as they come, until the last one or until nobody waits for more."""
        last: dict[str, Tensor] = {}
        try:
            while not entry.dropped:
                started = time.perf_counter()
                with refusals():
                    given = next(sets, None)
                if given is None:
                    break
                if given == {} and entry.asked:  # nothing yet, and nothing that hangs
                    activity.begin(Doing.STEP)
                    continue
                last = self._checked(entry, given)
                result = TensorResult(seconds=time.perf_counter() - started)
                told = entry.shown(last)
                check_size(told, self._limits)
                with self._changed:
                    self.steps += 1
                    if entry.pass_on():
                        result.outputs.append((entry.handle, told))
                    self._board.told(batch)
                    self._changed.notify_all()
                self._tell_result(activity, result)
                activity.begin(Doing.STEP)
        finally:
            if callable(close := getattr(sets, "close", None)):
                close()
        with self._changed:
            result = TensorResult()
            if not entry.dropped:
                self._conclude(entry, last)
                result.ended.append(Ended(handle=entry.handle))
        self._tell_result(activity, result)

    def _show(self, entry: Entry, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor] | BaseException:
        """What is to be told of a request that was computed, or why nothing can be: that is nobody else's affair."""
        try:
            told = entry.shown(outputs)
            check_size(told, self._limits)
        except BaseException as error:
            if not is_failure(error):
                raise
            return error
        return told

    def _finish(
        self,
        entry: Entry,
        outputs: dict[str, Tensor],
        told: Mapping[str, Tensor] | BaseException,
        result: TensorResult,
    ) -> None:
        """A request was computed: what is told of it, unless nobody waits for it any more."""
        if entry.dropped:
            return
        try:
            if not isinstance(told, BaseException):
                self._conclude(entry, outputs)
        except BaseException as error:
            if not is_failure(error):
                raise
            told = error
        if isinstance(told, BaseException):
            self._forget(entry)
            result.ended.append(Ended(handle=entry.handle, error=typed(told, self._session)))
            return
        if entry.pass_on():
            result.outputs.append((entry.handle, told))
        result.ended.append(Ended(handle=entry.handle))

    def _conclude(self, entry: Entry, outputs: Mapping[str, Tensor]) -> None:
        """A request has succeeded: its sequence goes on from it."""
        step = entry.request.sequence
        if step is not None and (outputs or step.end):
            handle, task_id = entry.handle, entry.request.task_id
            self._sequences.commit(step, outputs, self._now(), handle=handle, task_id=task_id)
        self._forget(entry)

    def _fail(self, entry: Entry, error: BaseException, activity: Activity) -> None:
        if entry.dropped:  # most likely it was stopped
            return
        told = typed(error, self._session)
        with self._changed:
            if entry.dropped:
                return
            self._forget(entry)
        self._tell(activity, ended=[Ended(handle=entry.handle, error=told)])

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.handle]
        self._board.remove(entry)
        if entry.request.sequence is not None:
            self._sequences.leave(entry, entry.request.sequence, self._now())
            self._changed.notify_all()  # it may be the turn of the next one

    def _tell(self, activity: Activity, *, ended: list[Ended]) -> None:
        self._tell_result(activity, TensorResult(ended=ended))

    def _tell_result(self, activity: Activity, result: TensorResult) -> None:
        if result.outputs or result.ended or result.seconds:
            activity.begin(Doing.IDLE)  # the kernel may not read just now
            self._deliver(result)
