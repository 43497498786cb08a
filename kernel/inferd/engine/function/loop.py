"""The loop of functions: calls wait by class and age, so many run at once, each in a process of its own."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from inferd.core.vigil import Doing
from inferd.engine.activity import Activity
from inferd.engine.cause import last_line
from inferd.engine.cells.cell import CellError
from inferd.engine.function.asked import answered_too_much, read_asked, read_fraction, too_often, unanswered
from inferd.engine.function.call import Call, CallResult
from inferd.engine.function.ends import bound, ended_error, large, missing
from inferd.engine.token.holds import Holds
from inferd.engine.token.output import Ended
from inferd.errors import InferdError, InternalError, LimitExceededError, is_failure
from inferd.function_errors import FunctionFailedError
from inferd.plugin.channel import ClosedError, LargeError, LateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.core.function import CallLimits
    from inferd.core.vigil import Pulse
    from inferd.engine.function.backend import Bounded, FunctionSession
    from inferd.plugin.channel import Channel

SEND_S: Final = 30.0  # until the process of a call has taken its input, which it reads first
ASK_GRACE_S: Final = 60.0  # for what the kernel says of an answer that is late
GONE_S: Final = 0.5  # between two looks whether the process is there that waits for a model
END_BYTES: Final = 256 << 10  # room for how a call ended, beside a piece: its words and its trace, as JSON

_log = logging.getLogger(__name__)


class FunctionLoop:
    """Runs the calls of one package.

    `run` belongs to the thread that loaded the package, and starts as many more as calls run at once; `submit`,
    `cancel`, `hold` and `stop` come from any thread. All of the state below is written under one lock.

    Args:
        session: What calls.
        deliver: Called with what calls give, from any of the threads. May block.
        activity: Told that the thread of `run` waits: a call that takes too long is ended here, and hangs nobody.
        now: A monotonic clock, in seconds.

    Attributes:
        places: Calls that it can have at once.
        calls: That have ended so far.
    """

    def __init__(
        self,
        session: FunctionSession,
        deliver: Callable[[CallResult], None],
        *,
        activity: Activity | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = session.limits.calls
        self.calls = 0
        self._session = session
        self._deliver = deliver
        self._activity = activity or Activity()
        self._now = now
        self._holds = Holds(rows=self.places, blocks=0)
        self._waiting: dict[int, Call] = {}  # by handle, in the order in which they came
        self._running: dict[int, Call] = {}
        self._answered: dict[int, int] = {}  # bytes of answers to what each of these asked last, by handle
        self._stopping = False
        self._changed = threading.Condition()

    def submit(self, call: Call) -> None:
        """Run a task. Whatever becomes of it, its handle is in `CallResult.ended` once, unless it is cancelled."""
        try:
            with self._changed:
                self._holds.find(call.lease_id, call.fencing_token)
                self._waiting[call.handle] = call
                self._changed.notify()
        except InferdError as error:
            self._deliver(CallResult(ended=[Ended(handle=call.handle, error=error)]))

    def cancel(self, handle: int, *, again: bool = False) -> None:  # noqa: ARG002 - of an `Engine`: nothing is kept of it
        """Forget a task: its process is ended."""
        with self._changed:
            call = self._waiting.pop(handle, None) or self._running.get(handle)
            if call is not None:
                call.leash.pull()
            self._changed.notify_all()  # others may have waited for one that was to run alone, or it for a model

    def reply(self, handle: int, number: int, answer: bytes) -> None:
        """A call hears what came of what it asked a model; nothing where it has ended."""
        with self._changed:
            if (call := self._running.get(handle)) is not None:
                size = self._answered[handle] = self._answered.get(handle, 0) + len(answer)
                call.replies[number] = answer if size <= self._session.limits.ask_bytes else b""  # the call fails
                self._changed.notify_all()

    def hold(self, lease_id: str, fencing_token: int, *, sequences: int, kv_tokens: int) -> None:
        """Note the grant of a lease, which its tasks must name; the kernel itself leaves their places free.

        Raises:
            ValueError: It is more than there is: a defect of the caller, who was told the bounds.
        """
        if sequences > self.places or kv_tokens:
            raise ValueError(
                f"lease {lease_id} is to hold {sequences} sequences and {kv_tokens} KV tokens; there are {self.places}"
                " and 0"
            )
        with self._changed:
            self._holds.change(lease_id, fencing_token, rows=sequences, blocks=0)

    def stop(self) -> None:
        """Let `run` return; what runs is ended, the rest forgotten."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            for call in self._running.values():
                call.leash.pull()
            self._changed.notify_all()

    def run(self) -> None:
        """Call until `stop`; sleeps while there is nothing to do."""
        self._activity.begin(Doing.IDLE)
        threads = [
            threading.Thread(target=self._work, name=f"call {n}", daemon=True) for n in range(1, self.places + 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def pulse(self) -> Pulse:
        """That it waits: what a call does, its process does, which is ended when it is late."""
        return self._activity.pulse(self.calls)

    def _work(self) -> None:
        """The life of a thread."""
        while (call := self._next()) is not None:
            began, error = self._now(), None
            try:
                self._run(call)
            except InferdError as refused:
                error = refused
            except BaseException as defect:
                if not is_failure(defect):
                    raise
                _log.exception("a call could not be run")
                error = InternalError(f"the call could not be run: {last_line(defect)}")
            with self._changed:
                del self._running[call.handle]
                self._answered.pop(call.handle, None)
                self.calls += 1
                self._changed.notify_all()
            if not call.leash.cut:
                ended = Ended(handle=call.handle, error=error)
                self._deliver(CallResult(ended=[ended], seconds=self._now() - began))

    def _next(self) -> Call | None:
        """Wait for what is to be run next; None when there will be nothing."""
        with self._changed:
            while not self._stopping:
                if (call := self._choose()) is not None:
                    self._running[call.handle] = self._waiting.pop(call.handle)
                    return call
                self._changed.wait()
            return None

    def _choose(self) -> Call | None:
        """The next one, by class and age. A suspect whose turn it is waits until nothing runs, others wait for it."""
        call = max(self._waiting.values(), key=lambda each: each.priority, default=None)  # of several the first
        if call is None or any(each.alone for each in self._running.values()):
            return None
        return None if call.alone and self._running else call

    def _run(self, call: Call) -> None:
        """Run a call to its end.

        Raises:
            InferdError: It fails.
        """
        function = self._find(call)
        if call.alone:
            self._deliver(CallResult(alone=call.handle))  # before the worker can die of it
        try:
            cell = self._session.spawn(
                function,
                function.memory_bytes + sum(each.memory.held_bytes for each in call.data),
                tuple(each.memory.fileno() for each in call.data),
            )
        except CellError as error:
            raise FunctionFailedError(
                f"there is no process for a call of {function.name!r}: {error}", metadata={"cause": str(error)}
            ) from None
        call.leash.hold(cell)
        limits, how = self._session.limits, ""
        cell.channel.most_bytes = max(_most_bytes(call, limits), limits.ask_bytes) + END_BYTES
        try:
            cell.channel.send(
                {
                    "do": "call",
                    "name": function.name,
                    "version": function.version,
                    "each": {"piece_bytes": limits.piece_bytes, "array_bytes": limits.array_bytes}
                    if call.each
                    else None,
                    "files": dict(limits.files),
                    "ask_bytes": limits.ask_bytes,
                    "data": [[each.start, each.size_bytes] for each in call.data],
                },
                call.given,
                timeout_s=SEND_S,
            )
            self._follow(call, function, cell.channel)
        except ClosedError:
            how = "died"
        except LargeError as error:
            raise large(function, error.size_bytes, limits.piece_bytes) from None
        except LateError:
            raise LimitExceededError(
                f"function {function.name!r} took longer than {function.timeout_s:g} s, which is its timeout_s; give it"
                " less to do, or raise functions.timeouts_s of the kernel",
                metadata=bound("functions.timeout_s", f"more than {function.timeout_s:g}", f"{function.timeout_s:g}"),
            ) from None
        finally:
            call.leash.hold(None)
            status = cell.end()
        if how:
            raise FunctionFailedError(
                f"the process of function {function.name!r} ended before it had answered: {status}",
                metadata={"cause": status},
            )

    def _find(self, call: Call) -> Bounded:
        functions = self._session.functions
        version = call.version or max((v for name, v in functions if name == call.name), default=0)
        found = functions.get((call.name, version))
        if found is None:
            raise missing(call.name, version)
        return found

    def _follow(self, call: Call, function: Bounded, channel: Channel) -> None:
        """Tell what a call gives, until it ends, or its time is over; that stands still while models answer.

        Raises:
            InferdError: It failed.
            LateError, ClosedError: It is late, or its process is gone.
        """
        until, number, total_bytes, limits = self._now() + function.timeout_s, 0, 0, self._session.limits
        while True:
            message, piece = channel.receive(timeout_s=max(0.0, until - self._now()))
            if "ask" in message:
                began = self._now()
                self._ask(call, function, channel, piece)
                until += self._now() - began
                continue
            if "progress" in message:
                self._deliver(CallResult(progress={call.handle: read_fraction(function, message["progress"])}))
                continue
            if message:
                if (error := ended_error(message, function, limits)) is not None:
                    raise error
                return
            if self._now() >= until:  # pieces that are there already are never late by themselves
                raise LateError
            if len(piece) > _most_bytes(call, limits):
                raise large(function, len(piece), limits.piece_bytes)
            total_bytes += len(piece)
            if total_bytes > limits.output_bytes:
                raise LimitExceededError(
                    f"function {function.name!r} gave more than {limits.output_bytes} bytes in all its pieces, which is"
                    " functions.output_bytes; give it less to do, or raise that",
                    metadata=bound("functions.output_bytes", str(total_bytes), str(limits.output_bytes)),
                )
            number += 1
            if number > call.told and not call.leash.cut:
                self._deliver(CallResult(pieces=[(call.handle, piece)]))

    def _ask(self, call: Call, function: Bounded, channel: Channel, written: bytes) -> None:
        """Have models asked, and give a call what came of that.

        Raises:
            LimitExceededError: It has asked as often as it may, or an answer is late, or the answers are too large.
            ClosedError: It has ended.
        """
        limits = self._session.limits
        before = len(call.replies)
        asked = read_asked(function, written)
        most = limits.asks if call.each else min(limits.asks, function.asks)
        if before + len(asked) > most:
            raise too_often(function, before + len(asked), most, each=call.each)
        numbers = range(before, before + len(asked))
        with self._changed:
            self._answered[call.handle] = 0
        for number, each in zip(numbers, asked, strict=True):
            self._deliver(CallResult(asks=[(call.handle, number, each)]))
        answers = list[bytes]()
        with self._changed:
            for number in numbers:
                self._await_reply(call, function, number, channel)
                answers.append(call.replies[number])
                call.replies[number] = b""  # it is counted, and held there no more
        channel.send({}, b"[%s]" % b",".join(answers), timeout_s=SEND_S)

    def _await_reply(self, call: Call, function: Bounded, number: int, channel: Channel) -> None:
        """Wait for an answer, under the lock, as long as the process is there that asked.

        Raises:
            LimitExceededError: There is none in time, or those that came, in whatever order, are too large.
            ClosedError: The call has ended.
        """
        most_s = self._session.limits.ask_timeout_s + ASK_GRACE_S
        until, most = time.monotonic() + most_s, self._session.limits.ask_bytes

        def too_large() -> bool:
            return self._answered[call.handle] > most

        while not self._changed.wait_for(lambda: number in call.replies or call.leash.cut or too_large(), GONE_S):
            if channel.gone:
                raise ClosedError
            if time.monotonic() >= until:
                raise unanswered(function, most_s)
        if call.leash.cut:
            raise ClosedError
        if too_large():
            raise answered_too_much(function, self._answered[call.handle], most)


def _most_bytes(call: Call, limits: CallLimits) -> int:
    """Most that comes at once: a piece, or an array of what it gave for some of its inputs, with its brackets."""
    return max(limits.piece_bytes, limits.array_bytes) + 2 if call.each else limits.piece_bytes
